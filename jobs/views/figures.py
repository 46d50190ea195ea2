"""Figures of a job that its row and its page show."""

from dataclasses import dataclass
from datetime import datetime

from jobs.models import Job
from jobs.presentation import describe_advice, describe_reason
from jobs.states import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A job with how far it is."""

    job: Job
    elapsed_s: float | None
    time_limit_s: int
    reason: str
    advice: str

    @property
    def share(self) -> float | None:
        """Of the time limit; None for a job that never ran."""
        return None if self.elapsed_s is None else min(self.elapsed_s / self.time_limit_s, 1.0)

    @property
    def is_running(self) -> bool:
        return self.job.state in (JobState.RUNNING, JobState.COMPLETING)

    @property
    def held_s(self) -> int | None:
        """What the ledger holds for it now; None if nothing."""
        is_before_hold = self.job.state in (JobState.DRAFT, JobState.SUBMITTED, JobState.HELD)
        return None if is_before_hold or self.job.settled_at is not None else self.job.reserved_s


def describe_progress(job: Job, *, now: datetime) -> Progress:
    """A row of a list."""
    elapsed_s = None
    since = job.segment_started_at if job.is_chain else job.started_at
    if job.started_at is not None:
        # What a chain waited between its segments is no part of it.
        current_s = max(((job.ended_at or now) - since).total_seconds(), 0.0) if since is not None else 0.0
        elapsed_s = job.elapsed_before_s + current_s
    return Progress(
        job=job,
        elapsed_s=elapsed_s,
        time_limit_s=job.time_limit_minutes * 60,
        reason=describe_reason(job.state_reason, job.state_detail),
        advice=describe_advice(job.state_reason),
    )
