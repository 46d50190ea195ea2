"""Segments of which a scheduler knows nothing, neither in its queue nor in its accounting.

A controller that dies within a second of its answer forgets what it had accepted. A segment that never started is
given to it again, under the same key; one that was seen running is an alarm (LOST) for people to look at: its
processes may still be there.
"""

import logging
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction

from jobs.backends.base import SchedulerBackend, SchedulerUnavailable
from jobs.models import Job, JobSegment
from jobs.services.lifecycle import StaleJob, transition
from jobs.states import JobState

logger = logging.getLogger(__name__)

MAX_RESUBMISSIONS: Final = 3
"""A scheduler that forgets a job more often needs an administrator."""


def handle_missing(segment: JobSegment, backend: SchedulerBackend, *, at: datetime, lost_after_s: int) -> bool:
    """Note that the scheduler doesn't know a segment; once it has been missing for long, act on it.

    Returns whether the job changed its state. What can't be known now is asked again with the next round: one job in
    doubt must not keep the others of its cluster from being charged.
    """
    job = segment.job
    if job.missing_since_at is None:
        Job.objects.filter(pk=job.pk, state=job.state).update(missing_since_at=at)
        return False
    if at - job.missing_since_at < timedelta(seconds=lost_after_s):
        return False
    try:
        if _has_started(segment, backend) or segment.resubmissions >= MAX_RESUBMISSIONS:
            return _declare_lost(job, at=at)
        return _find_or_resubmit(segment, backend, at=at)
    except SchedulerUnavailable as error:
        logger.warning("whether job %s is still there can't be known now: %s", job.pk, error)
        return False
    except StaleJob:
        return False


def _has_started(segment: JobSegment, backend: SchedulerBackend) -> bool:
    if segment.started_at is not None or segment.job.state in (JobState.RUNNING, JobState.COMPLETING):
        return True
    # Its output file is made when it starts: it may have run to its end, unseen, before the next poll.
    return backend.read_log(segment.native_id, 0, key=segment.key, limit=1) is not None


def _declare_lost(job: Job, *, at: datetime) -> bool:
    if job.state == JobState.LOST:
        return False
    transition(job, JobState.LOST, at=at, reason="lost")
    logger.error("job %s is lost: neither queue nor accounting of its cluster knows it", job.pk)
    return True


def _find_or_resubmit(segment: JobSegment, backend: SchedulerBackend, *, at: datetime) -> bool:
    """The id may have gone to another job while ours has a new one; only a key that is nowhere is submitted again."""
    native_id = backend.find(segment.key)
    if native_id == segment.native_id:
        return False  # it is there after all: the next poll says how it stands
    job = segment.job
    with transaction.atomic():
        if native_id is not None:
            JobSegment.objects.filter(pk=segment.pk).update(native_id=native_id)
            Job.objects.filter(pk=job.pk, state=job.state).update(missing_since_at=None)
            return False
        transition(job, JobState.QUEUED, at=at, reason="forgotten", missing_since_at=None, expected_start_at=None)
        JobSegment.objects.filter(pk=segment.pk).update(
            native_id="", accepted_at=None, resubmissions=segment.resubmissions + 1
        )
    logger.warning("job %s was forgotten by its cluster before it started; it is submitted again", job.pk)
    return True
