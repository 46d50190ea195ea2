"""One job as Slurm has it, wherever that was read: the queue or accounting, by text or by REST."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from jobs.backends.base import JobStatus, SchedulerUnavailable, UsageRow
from jobs.backends.slurm.states import describe_end, describe_wait, is_end, read_state
from jobs.backends.slurm.text import expand_hosts
from jobs.states import JobState

COMMENT_PREFIX: Final = "portal:"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmJob:
    """A record of the queue, or one run of a job in accounting (a requeued job has several runs).

    `word` and `reason` are Slurm's own. `exit_code` and `exit_signal` are None where Slurm's answer doesn't hold them.
    """

    job_id: int
    user: str
    word: str
    work_directory: str
    comment: str
    submitted_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    reason: str = ""
    nodes: str = ""
    exit_code: int | None = None
    exit_signal: int | None = None
    elapsed_s: int = 0
    tres: dict[str, int] | None = None
    max_rss_bytes: int | None = None
    cpu_s: float | None = None
    time_limit_minutes: int | None = None

    @property
    def state(self) -> JobState | None:
        """The portal's word; None if Slurm's isn't known."""
        return read_state(self.word)

    @property
    def was_refused(self) -> bool:
        """Whether this is only the trace of a submission that Slurm answered with an error.

        Slurm keeps a record of some: FAILED without ever having had a node.
        """
        return self.word == "FAILED" and not self.nodes

    def key_under(self, root: str) -> str:
        """The portal's key, which is the name of the working directory; "" if this is no job of the portal's.

        The directory can't be changed once a job is submitted. The comment can, by its owner, and accounting has
        it only after the end: it must not name another key, but may be missing.
        """
        parent, _, name = self.work_directory.rpartition("/")
        if parent != root or not name:
            return ""
        is_other = self.comment.startswith(COMMENT_PREFIX) and self.comment != COMMENT_PREFIX + name
        return "" if is_other else name

    def to_status(self, key: str) -> JobStatus | None:
        """What the portal wants to know; None if Slurm's state isn't known.

        Raises:
            SchedulerUnavailable: the nodes are no list of hosts.
        """
        state = self.state
        if state is None:
            return None
        has_ended = is_end(state)
        has_started = bool(self.nodes) and state is not JobState.PENDING
        reason = (
            describe_end(self.word, exit_code=self.exit_code or 0, exit_signal=self.exit_signal)
            if has_ended
            else describe_wait(self.word, self.reason)
        )
        return JobStatus(
            native_id=str(self.job_id),
            key=key,
            state=state,
            reason=reason,
            started_at=self.started_at if has_started else None,
            ended_at=self.ended_at if has_ended else None,
            exit_code=self.exit_code if has_ended else None,
            exit_signal=self.exit_signal if has_ended else None,
            nodes=_expand(self.nodes) if has_started else (),
            expected_start_at=self.started_at if state is JobState.PENDING else None,
            time_limit_minutes=self.time_limit_minutes,
        )


def _expand(nodes: str) -> tuple[str, ...]:
    try:
        return expand_hosts(nodes)
    except ValueError as error:
        raise SchedulerUnavailable(f"Slurm's list of nodes {nodes[:80]!r} can't be read: {error}") from error


def choose_adopted(jobs: Iterable[SlurmJob], *, user: str, not_before: datetime | None) -> SlurmJob | None:
    """The job to adopt of those that carry a key: its owner's, submitted since the first attempt, the oldest of them.

    A job that goes on is preferred to one that has ended. A clock that differs by up to a minute is allowed for.
    """
    fitting = [
        job
        for job in jobs
        if not job.was_refused
        and (not user or job.user == user)
        and (not_before is None or job.submitted_at is None or job.submitted_at >= not_before - timedelta(minutes=1))
    ]
    return min(fitting, key=lambda job: (is_end(job.state), job.job_id), default=None)


def add_up_runs(runs: Sequence[SlurmJob], *, key: str, devices: int) -> UsageRow | None:
    """What all runs of one job used together; None while it is not at its end.

    A requeued job keeps its id and holds its devices once in each run. `runs` are in the order of their submission.
    """
    last = runs[-1]
    state = last.state
    if state is None or not is_end(state) or last.ended_at is None:
        return None
    starts = [run.started_at for run in runs if run.started_at is not None and run.nodes]
    sizes = [run.max_rss_bytes for run in runs if run.max_rss_bytes is not None]
    times = [run.cpu_s for run in runs if run.cpu_s is not None]
    return UsageRow(
        native_id=str(last.job_id),
        key=key,
        state=state,
        devices=devices,
        elapsed_s=sum(run.elapsed_s for run in runs),
        started_at=min(starts, default=None),
        ended_at=last.ended_at,
        exit_code=last.exit_code,
        exit_signal=last.exit_signal,
        max_rss_bytes=max(sizes, default=None),
        cpu_s=sum(times) if times else None,
    )
