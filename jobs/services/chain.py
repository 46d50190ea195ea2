"""Runs longer than the scheduler lets a job be: a chain of segments, each resumed from the last one's checkpoint.

A segment asks for its successor by its exit status (`jobs.launch.chain`), or is ended by the scheduler: at its limit,
by a failing node, by preemption. It gets one if the job has time left and the chain gets on. What a chain has used is
known from accounting alone, so the next segment waits for the last one's usage.
"""

import signal
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Max, Sum

from jobs.backends.base import JobStatus
from jobs.launch import CONTINUE_EXIT_CODE, NO_PROGRESS_EXIT_CODE
from jobs.models import Job, JobSegment, UsageRecord
from jobs.services.lifecycle import transition
from jobs.states import JobState

PREEMPTED = "preempted"
"""Reason of a job whose segment gave its accelerators back to their owner, and which goes on when some are idle."""

NO_PROGRESS = "no_progress"
"""Reason of a job that was ended because its last segment got nowhere."""

SEGMENT_ENDED = "segment_ended"
"""Reason of a job between two segments."""

_INTERRUPTED = frozenset({JobState.NODE_FAIL, JobState.PREEMPTED})
"""Ends that are not the job's doing. One without progress is forgiven: it may have come right after the start."""

_TOLD_BY = frozenset({signal.SIGUSR1, signal.SIGTERM})
"""What a job dies of that was told to make room before it could set a trap."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a segment's end means for the job: it goes on, or ends in `state` for `reason`."""

    goes_on: bool
    state: JobState
    reason: str


def judge_end(job: Job, segment: JobSegment, status: JobStatus, *, last_step: int | None) -> Verdict:
    """Whether the end of a chain's segment is the job's end. `last_step` is what its metrics have reached, if any."""
    as_it_is = Verdict(goes_on=False, state=status.state, reason=status.reason)
    asks_for_more = status.state == JobState.FAILED and status.exit_code == CONTINUE_EXIT_CODE
    if segment.preempt_requested_at is not None and _was_taken_back(status):
        if job.cancel_requested_at is not None:
            return Verdict(goes_on=False, state=JobState.CANCELLED, reason="cancelled")
        return Verdict(goes_on=True, state=JobState.PREEMPTED, reason=PREEMPTED)
    if status.state == JobState.FAILED and status.exit_code == NO_PROGRESS_EXIT_CODE:
        return Verdict(goes_on=False, state=JobState.TIMEOUT, reason=NO_PROGRESS)
    if not (asks_for_more or status.state == JobState.TIMEOUT or status.state in _INTERRUPTED):
        return as_it_is
    if job.cancel_requested_at is not None:
        return Verdict(goes_on=False, state=JobState.CANCELLED, reason="cancelled")
    goes_on = Verdict(goes_on=True, state=status.state, reason=SEGMENT_ENDED)
    if last_step is None:
        # Without metrics only the script itself can tell: it asks for more when there is a new checkpoint.
        has_progress = asks_for_more
    else:
        earlier = job.segments.filter(number__lt=segment.number).aggregate(step=Max("last_step"))["step"]
        has_progress = earlier is None or last_step > earlier
    if has_progress:
        return goes_on
    if status.state in _INTERRUPTED and not _was_interrupted_before(segment):
        return goes_on
    if status.state in _INTERRUPTED:
        return as_it_is
    return Verdict(goes_on=False, state=JobState.TIMEOUT, reason=NO_PROGRESS)


def _was_interrupted_before(segment: JobSegment) -> bool:
    before = JobSegment.objects.filter(job=segment.job_id, number=segment.number - 1).first()
    return before is not None and before.end_state in _INTERRUPTED and before.preempt_requested_at is None


def _was_taken_back(status: JobStatus) -> bool:
    """Is this how a job ends that was told to make room? With or without a checkpoint, it is not the job's failure."""
    if status.state in (JobState.CANCELLED, JobState.PREEMPTED):
        return True
    stopped = status.exit_code in (CONTINUE_EXIT_CODE, NO_PROGRESS_EXIT_CODE) or status.exit_signal in _TOLD_BY
    return status.state == JobState.FAILED and stopped


def next_limit_minutes(job: Job) -> int:
    """Time limit of the job's next segment; 0 if less than a minute is left. Never more than what is held."""
    remaining_minutes = (job.time_limit_minutes * 60 - job.elapsed_before_s) // 60
    return max(min(job.segment_time_limit_minutes or job.time_limit_minutes, remaining_minutes), 0)


def go_on(job: Job, *, at: datetime) -> None:
    """From COMPLETING to the next segment, or to the end: of the job's time, or on request.

    Raises:
        StaleJob: another worker was first.
    """
    usage = UsageRecord.objects.filter(segment__job=job)
    job.elapsed_before_s = int(usage.aggregate(total=Sum("elapsed_s"))["total"] or 0)
    ran: dict[str, Any] = {"elapsed_before_s": job.elapsed_before_s, "segment_started_at": None}
    if job.cancel_requested_at is not None:
        transition(job, JobState.CANCELLED, at=at, reason="cancelled", actor=job.cancel_requested_by, **ran)
    elif next_limit_minutes(job) < 1:
        transition(job, JobState.TIMEOUT, at=at, reason="TimeLimit", **ran)
    else:
        # queued_at stays: a run that has begun goes before those that came later.
        reason = PREEMPTED if job.state_reason == PREEMPTED else SEGMENT_ENDED
        transition(job, JobState.QUEUED, at=at, reason=reason, segment_number=job.segment_number + 1, **ran)
