"""What both Slurm backends do alike: identity, doubt, adoption, accounting. How Slurm is asked is a `SlurmClient`'s."""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

from jobs.backends.base import (
    Inventory,
    JobStatus,
    OutputChunk,
    OutputFile,
    PartitionInfo,
    SchedulerBackend,
    SchedulerUnavailable,
    SubmissionRejected,
    UsageRow,
)
from jobs.backends.checks import Check
from jobs.backends.slurm.checks import SlurmChecks
from jobs.backends.slurm.commands import CommandRunner
from jobs.backends.slurm.directories import METRICS_FILE, STDOUT_FILE, Attempt, JobDirectories
from jobs.backends.slurm.errors import DuplicateSubmission
from jobs.backends.slurm.options import SlurmOptions
from jobs.backends.slurm.probes import Probe
from jobs.backends.slurm.records import SlurmJob, add_up_runs, choose_adopted
from jobs.backends.slurm.states import is_end
from jobs.backends.slurm.text import count_devices
from jobs.spec import JobSpec
from jobs.states import JobState

CLOCK_SLACK: Final = timedelta(minutes=10)
"""Accounting is asked from this much before the first attempt, for clocks that differ."""

SUBMISSION_SLACK: Final = timedelta(minutes=1)
"""A job was submitted at most this much before or after the portal's attempts at it, as Slurm's clock has it."""

FORGOTTEN_AFTER: Final = timedelta(days=30)
"""How far back accounting is searched for a job of which the portal has no record of its own."""

LOOK_UP_S: Final = 30.0
"""For how long which job an id belongs to is kept: pages that follow a log must not each ask Slurm."""

_FILE_NAMES: Final[Mapping[str, str]] = {"stdout": STDOUT_FILE, "metrics": METRICS_FILE}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job on its way to Slurm: the researcher it runs as, where, and with which variables."""

    spec: JobSpec
    user: str
    home: str
    shell: str
    directory: str
    environment: Mapping[str, str]


class SlurmClient(ABC):
    """One way of talking to Slurm. All methods raise SchedulerUnavailable."""

    @abstractmethod
    def ping(self) -> None:
        """Return if the controller answers."""

    @abstractmethod
    def submit(self, submission: Submission) -> int:
        """Submit and return the job's id. Raises SubmissionRejected too, in Slurm's words."""

    @abstractmethod
    def list_queue(self, job_ids: Collection[int] | None) -> list[SlurmJob]:
        """What the controller has in memory, ended jobs included: all jobs, or at least these."""

    @abstractmethod
    def list_accounting(
        self, *, job_ids: Collection[int] = (), since: datetime | None = None, user: str = ""
    ) -> list[SlurmJob]:
        """Every run in accounting of these jobs, or of those that were alive at or after `since`, oldest first."""

    @abstractmethod
    def cancel(self, job_id: int, *, user: str) -> None:
        """End a job as its owner; one that has ended is no error."""

    @abstractmethod
    def signal(self, job_id: int, signal_name: str, *, user: str) -> None:
        """Send a job's batch script a signal as its owner; one that doesn't run is no error."""

    @abstractmethod
    def partitions(self) -> list[PartitionInfo]:
        """All partitions."""

    @abstractmethod
    def inventory(self) -> Inventory:
        """Nodes, reservations and QOS."""

    @abstractmethod
    def forecast(self, submission: Submission) -> datetime | None:
        """When such a job would start; None if it never would, or nobody can tell."""

    @abstractmethod
    def open_probe(self) -> Probe:
        """What it can tell of the cluster's configuration and rights."""


class SlurmBackend(SchedulerBackend):
    """Jobs run as the researcher's own Unix user, in a directory of their own under JOBS_DIRECTORY.

    A job's identity is its key, in the name of its working directory and in its comment, and its owner: ids are used
    again when the controller dies within a second of its answer.
    """

    supports_expected_start: ClassVar[bool] = True
    supports_inventory: ClassVar[bool] = True

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        self._options = self._read_options(options)
        self._clock = time.time
        self._runner = self._make_runner()
        self._directories = JobDirectories(self._options, self._runner, clock=lambda: self._clock())
        self._client = self._make_client()
        self._looked_up: dict[int, tuple[float, SlurmJob, str]] = {}
        self._lock = threading.Lock()

    @abstractmethod
    def _read_options(self, options: Mapping[str, Any]) -> SlurmOptions: ...

    @abstractmethod
    def _make_client(self) -> SlurmClient: ...

    def _make_runner(self) -> CommandRunner:
        options = self._options
        return CommandRunner(
            run_as=options.run_as, environment=self._environment(), timeout_s=options.timeout_s, min_uid=options.min_uid
        )

    def _environment(self) -> dict[str, str]:
        """What commands on this machine get; never the portal's own environment."""
        return {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}

    def ping(self) -> None:
        self._client.ping()

    def submit(self, spec: JobSpec, *, key: str) -> str:
        if key != spec.key:
            raise ValueError(f"key: {key!r} is not the key of the spec, {spec.key!r}")
        submission = self._prepare(spec)
        if not self._directories.begin_attempt(spec):
            found = self.find(key)  # raises while nobody can know
            if found is not None:
                return found
            self._directories.renew_attempt(key)
        self._directories.make(self._runner.find_user(spec.unix_user), key)
        try:
            return str(self._client.submit(submission))
        except DuplicateSubmission:
            return self._find_known(key)
        except SubmissionRejected:
            self._directories.forget(key, user=submission.user)
            raise

    def _find_known(self, key: str) -> str:
        """The job that Slurm refused to take a second time; the portal may have lost its memory of the first.

        Raises DuplicateSubmission: it can't be seen.
        """
        attempt = self._directories.read_attempt(key)
        if attempt is not None:
            found = self._adopt(self._client.list_queue(None), key, replace(attempt, first_at=0.0))
            if found is not None:
                return str(found.job_id)
        raise DuplicateSubmission(f"Slurm says that it has job {key}, but it isn't in the queue.")

    def find(self, key: str) -> str | None:
        attempt = self._directories.read_attempt(key)
        found = self._adopt(self._client.list_queue(None), key, attempt)
        if found is None:
            since = attempt.first_tried_at if attempt else datetime.fromtimestamp(self._clock(), UTC) - FORGOTTEN_AFTER
            runs = self._client.list_accounting(since=since - CLOCK_SLACK, user=attempt.user if attempt else "")
            # Accounting may hold a job for ever that the controller lost: only an end is believed.
            found = self._adopt((run for run in runs if is_end(run.state)), key, attempt)
        if found is None and attempt is not None:
            if 0 <= self._clock() - attempt.last_at < self._options.settle_s:
                raise SchedulerUnavailable(f"It is not yet certain whether Slurm has taken job {key}.")
            # The controller has answered since. A submission that it had not worked off yet by then has it now.
            found = self._adopt(self._client.list_queue(None), key, attempt)
        return None if found is None else str(found.job_id)

    def _adopt(self, jobs: Iterable[SlurmJob], key: str, attempt: Attempt | None) -> SlurmJob | None:
        carrying = [job for job in jobs if job.key_under(self._directories.root) == key]
        return choose_adopted(
            carrying,
            user=attempt.user if attempt else "",
            not_before=attempt.first_tried_at if attempt else None,
        )

    def poll(self, native_ids: Collection[str]) -> dict[str, JobStatus]:
        wanted = {number for number in map(_read_id, native_ids) if number is not None}
        statuses = {}
        for job, key in self._look_up(wanted).values():
            status = job.to_status(key)
            if status is None:
                logger.warning("Slurm says %r of job %d, which no known release does", job.word, job.job_id)
            else:
                statuses[status.native_id] = status
        return statuses

    def _look_up(self, wanted: set[int]) -> dict[int, tuple[SlurmJob, str]]:
        """The portal's jobs among these ids, with their keys."""
        if not wanted:
            return {}
        found = self._keep_own(job for job in self._client.list_queue(wanted) if job.job_id in wanted)
        missing = wanted - set(found)
        if missing:
            try:
                runs = self._client.list_accounting(job_ids=missing)
            except SchedulerUnavailable as error:
                # Unknown is not wrong; what the controller knows must not wait for accounting.
                logger.warning("accounting of %s can't say anything of %d jobs: %s", self.alias, len(missing), error)
                return found
            # What accounting has as unfinished and the controller doesn't know was lost by it.
            last = {run.job_id: run for run in runs if run.job_id in missing}
            found |= self._keep_own(run for run in last.values() if is_end(run.state))
        return found

    def _keep_own(self, jobs: Iterable[SlurmJob]) -> dict[int, tuple[SlurmJob, str]]:
        keyed = [(job, key) for job in jobs if (key := job.key_under(self._directories.root))]
        attempts = self._directories.owners_of({key for _, key in keyed})
        own = {}
        for job, key in keyed:
            attempt = attempts.get(key)
            # Somebody else may name the directory of a job; only its owner's job is it.
            if attempt is None or attempt.user == job.user:
                own[job.job_id] = (job, key)
        return own

    def usage(self, since: datetime, *, awaited: Collection[tuple[str, str]] = ()) -> list[UsageRow]:
        runs_of = self._group_runs(self._client.list_accounting(since=since), awaited)
        attempts = self._directories.owners_of({key for _, key in runs_of})
        first_tries = [attempt.first_tried_at for attempt in attempts.values()]
        if runs_of and min(first_tries, default=since) < since:
            # A run before the last one may have ended before `since`; it is to be paid for as well.
            ids = {job_id for job_id, _ in runs_of}
            runs_of = self._group_runs(self._client.list_accounting(job_ids=ids), awaited)
        rows = []
        for (_, key), runs in runs_of.items():
            attempt = attempts.get(key)
            if attempt is not None and attempt.user != runs[-1].user:
                continue
            if attempt is None and runs[-1].was_refused:
                continue  # the trace of a submission that was answered with an error
            row = add_up_runs(runs, key=key, devices=_count_devices(runs[-1], attempt))
            if row is not None and row.ended_at >= since:
                rows.append(row)
        return sorted(rows, key=lambda row: (row.ended_at, row.native_id))

    def _group_runs(
        self, runs: Iterable[SlurmJob], awaited: Collection[tuple[str, str]]
    ) -> dict[tuple[int, str], list[SlurmJob]]:
        groups: dict[tuple[int, str], list[SlurmJob]] = defaultdict(list)
        keys_of: dict[str, list[str]] = defaultdict(list)
        for native_id, key in awaited:
            keys_of[native_id].append(key)
        for run in runs:
            key = run.key_under(self._directories.root) or self._recognise(run, keys_of.get(str(run.job_id), []))
            if key:
                groups[run.job_id, key].append(run)
        return dict(groups)

    def _recognise(self, run: SlurmJob, keys: Collection[str]) -> str:
        """Which of these jobs a record is that has neither directory nor comment; "" for none, or more than one.

        Slurmdbd knows only the end of a job of whose start it never heard, since its controller died before it told.
        """
        if run.work_directory or run.comment or run.submitted_at is None:
            return ""
        fitting = []
        for key in keys:
            attempt = self._directories.read_attempt(key)
            if attempt is not None and attempt.user == run.user:
                last = datetime.fromtimestamp(attempt.last_at, UTC)
                if attempt.first_tried_at - SUBMISSION_SLACK <= run.submitted_at <= last + SUBMISSION_SLACK:
                    fitting.append(key)
        return fitting[0] if len(fitting) == 1 else ""

    def cancel(self, native_id: str, *, key: str = "") -> None:
        job_id = _read_id(native_id)
        if job_id is None:
            return
        found = self._look_up({job_id}).get(job_id)
        if found is not None and key in ("", found[1]) and not is_end(found[0].state):
            self._client.cancel(job_id, user=found[0].user)

    def signal(self, native_id: str, signal_name: str, *, key: str = "") -> None:
        job_id = _read_id(native_id)
        if job_id is None:
            return
        found = self._look_up({job_id}).get(job_id)
        if found is not None and key in ("", found[1]) and found[0].state is JobState.RUNNING:
            self._client.signal(job_id, signal_name, user=found[0].user)

    def partitions(self) -> list[PartitionInfo]:
        return self._client.partitions()

    def inventory(self) -> Inventory:
        return self._client.inventory()

    def expected_start(self, job: JobSpec | str) -> datetime | None:
        if isinstance(job, JobSpec):
            try:
                return self._client.forecast(self._prepare(job))
            except SubmissionRejected:
                return None
        job_id = _read_id(job)
        if job_id is None:
            return None
        found = self._look_up({job_id}).get(job_id)
        if found is None or found[0].state is not JobState.PENDING:
            return None
        return found[0].started_at

    def read_log(
        self, native_id: str, offset: int, *, key: str = "", limit: int = 65536, file: OutputFile = "stdout"
    ) -> OutputChunk | None:
        """As the contract says. With `key` nothing is asked of Slurm if the job was handed over from here."""
        name = _FILE_NAMES.get(file)
        job_id = _read_id(native_id)
        if name is None or job_id is None:
            return None
        attempt = self._directories.owner_of(key) if key else None
        if attempt is not None:
            return self._directories.read_output(key, name, offset, limit=limit, user=attempt.user)
        found = self._look_up_for_reading(job_id)
        if found is None or key not in ("", found[1]):
            return None
        job, own_key = found
        return self._directories.read_output(own_key, name, offset, limit=limit, user=job.user)

    def _look_up_for_reading(self, job_id: int) -> tuple[SlurmJob, str] | None:
        now = self._clock()
        with self._lock:
            kept = self._looked_up.get(job_id)
            if kept is not None and 0 <= now - kept[0] < LOOK_UP_S:
                return kept[1], kept[2]
        found = self._look_up({job_id}).get(job_id)
        if found is not None:
            with self._lock:
                if len(self._looked_up) >= 10_000:
                    self._looked_up.clear()
                self._looked_up[job_id] = (now, *found)
        return found

    def check(self, *, as_user: str, poll_interval_s: float) -> Iterator[Check]:
        """Every right and version that the portal needs; see the contract."""
        checks = SlurmChecks(
            options=self._options,
            client=self._client,
            runner=self._runner,
            directories=self._directories,
            probe=self._client.open_probe(),
            poll_interval_s=poll_interval_s,
        )
        return checks.run(as_user=as_user)

    def _prepare(self, spec: JobSpec) -> Submission:
        """Raises SubmissionRejected: the owner has no account here."""
        account = self._runner.find_user(spec.unix_user)
        directory = self._directories.path_of(spec.key)
        return Submission(
            spec=spec,
            user=account.pw_name,
            home=account.pw_dir,
            shell=account.pw_shell,
            directory=directory,
            environment={
                **self._options.environment,
                "PORTAL_JOB_KEY": spec.key,
                "PORTAL_METRICS_FILE": f"{directory}/{METRICS_FILE}",
            },
        )


def _count_devices(run: SlurmJob, attempt: Attempt | None) -> int:
    """Devices that a job held: what accounting says, or what was asked for where accounting doesn't count them."""
    tres = run.tres or {}
    if attempt is not None and attempt.gres_name == "cpu":
        return tres.get("cpu", attempt.devices)
    counted = count_devices(tres)
    return counted if counted or attempt is None else attempt.devices


def _read_id(native_id: str) -> int | None:
    """The number of a job; None for text that is no id of Slurm's."""
    is_number = native_id.isascii() and native_id.isdigit() and len(native_id) <= 10 and native_id[0] != "0"
    return int(native_id) if is_number else None
