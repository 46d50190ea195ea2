"""Asking a scheduler's accounting: for the usage of segments that have ended, and for those that its queue lacks.

There is no watermark to keep, so none that a late row could slip under: whatever has no usage yet is asked about, from
the oldest end on, until it has.
"""

import logging
from datetime import datetime, timedelta
from typing import Final

from django.db.models import Exists, OuterRef, QuerySet

from accounts.models import Cluster
from jobs.backends.base import SchedulerBackend, UsageRow
from jobs.models import Job, JobSegment
from jobs.services.lifecycle import StaleJob
from jobs.services.settlement import account_segment, settle_job

logger = logging.getLogger(__name__)

Usage = dict[tuple[str, str], UsageRow]

CLOCK_SLACK: Final = timedelta(minutes=10)
"""Accounting is asked from this much before the end that the queue named, for clocks that differ."""

_LATE_AFTER: Final = timedelta(hours=1)
"""What is still owed by then is asked for from its first hand-over on, whatever end accounting thinks it had."""


def ended_segments(cluster: Cluster) -> QuerySet[JobSegment]:
    """Segments that have ended and whose usage is still to be recorded."""
    return JobSegment.objects.filter(cluster=cluster, ended_at__isnull=False, accounted_at__isnull=True)


def fetch_usage(backend: SchedulerBackend, owed: list[JobSegment], missing: list[JobSegment], *, at: datetime) -> Usage:
    """Usage by key and id, in one call that reaches back as far as these segments need. Raises SchedulerUnavailable."""
    since = min([_owed_since(segment, at) for segment in owed] + [segment.first_attempt_at for segment in missing])
    awaited = [(segment.native_id, segment.key) for segment in (*owed, *missing)]
    return {(row.key, row.native_id): row for row in backend.usage(since - CLOCK_SLACK, awaited=awaited)}


def usage_of(segment: JobSegment, rows: Usage) -> UsageRow | None:
    """What accounting has of a segment; never of an earlier job that the scheduler lost, which has the same key."""
    return rows.get((segment.key, segment.native_id))


def _owed_since(segment: JobSegment, at: datetime) -> datetime:
    if segment.ended_at is None or at - segment.ended_at > _LATE_AFTER:
        return segment.first_attempt_at
    return max(segment.ended_at, segment.first_attempt_at)


def account_ended_segments(owed: list[JobSegment], rows: Usage, *, at: datetime) -> int:
    """Record what accounting has of the segments that have ended. Returns how many were recorded."""
    done = 0
    for segment in owed:
        row = usage_of(segment, rows)
        if row is None:
            continue
        try:
            done += account_segment(segment, row, at=at)
        except StaleJob:
            logger.debug("job %s was changed by another worker", segment.job_id)
        except Exception:
            # One job that can't be charged must not keep the others from it.
            logger.exception("job %s could not be charged", segment.job_id)
    return done


def settle_between_segments(cluster: Cluster, *, at: datetime) -> int:
    """Charge jobs that ended while no segment of theirs was with the scheduler: a chain cancelled in between, say."""
    done = 0
    owes = JobSegment.objects.filter(job=OuterRef("pk"), accounted_at__isnull=True).exclude(native_id="")
    for job in Job.objects.unsettled(cluster.pk).exclude(Exists(owes)):
        try:
            done += settle_job(job, at=at)
        except Exception:
            logger.exception("job %s could not be charged", job.pk)
    return done
