"""From QUEUED to the scheduler, without loss or doubling.

1. A short transaction claims rows (`SKIP LOCKED`), writes a lease and the segment with its key.
2. Outside any transaction the scheduler is called. If the segment was tried before (a worker died, a call timed
   out), the scheduler is asked for the key first: found, it is adopted; surely not there, it is submitted.
3. A guarded apply (state *and* lease) stores the scheduler's id. A worker whose lease was taken over writes nothing;
   its successor finds the job by key.
"""

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from accounts.models import Cluster
from jobs.backends.base import SchedulerUnavailable, SubmissionRejected
from jobs.models import EventKind, Job, JobSegment
from jobs.services import launching
from jobs.services.clusters import backend_of, record_failure
from jobs.services.lifecycle import StaleJob, record_event, transition
from jobs.states import JobState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """A job leased by this worker, and the segment to hand over."""

    job: Job
    segment: JobSegment
    was_tried: bool


def dispatch_queued_jobs(*, now: Callable[[], datetime], lease_s: int, limit: int = 20) -> int:
    """Hand up to `limit` jobs to their schedulers. Returns how many the schedulers have accepted."""
    accepted = 0
    skipped: set[int] = set()
    for claim in claim_due_jobs(at=now(), lease_s=lease_s, limit=limit):
        if claim.job.partition.cluster_id in skipped:
            _postpone(claim, at=now())  # its scheduler has just failed: don't wait for it again
            continue
        try:
            accepted += _hand_over(claim, now=now)
        except SchedulerUnavailable as error:
            skipped.add(claim.job.partition.cluster_id)
            _record_unavailable(claim, error, at=now())
        except StaleJob:
            logger.info("job %s was taken over; the segment is found by its key", claim.job.pk)
    return accepted


@transaction.atomic
def claim_due_jobs(*, at: datetime, lease_s: int, limit: int) -> list[Claim]:
    """Lease jobs that are due: QUEUED ones, and DISPATCHING ones whose lease ran out."""
    due = Job.objects.due_for_dispatch(at).with_names().select_for_update(skip_locked=True, of=("self",))[:limit]
    claims = []
    for job in due:
        lease: dict[str, Any] = {"lease_token": uuid.uuid4(), "lease_expires_at": at + timedelta(seconds=lease_s)}
        attempts = job.dispatch_attempts + 1
        if job.state == JobState.QUEUED:
            transition(job, JobState.DISPATCHING, at=at, dispatch_attempts=attempts, **lease)
        else:
            Job.objects.filter(pk=job.pk).update(dispatch_attempts=attempts, **lease)
            job.lease_token = lease["lease_token"]
        job.lease_expires_at = lease["lease_expires_at"]
        segment, is_new = JobSegment.objects.get_or_create(
            job=job,
            number=1,
            defaults={
                "cluster": job.partition.cluster,
                "key": launching.segment_key(job, 1),
                "first_attempt_at": at,
            },
        )
        claims.append(Claim(job, segment, was_tried=not is_new))
    return claims


def _hand_over(claim: Claim, *, now: Callable[[], datetime]) -> bool:
    job, segment = claim.job, claim.segment
    backend = backend_of(job.partition.cluster.code)
    native_id = backend.find(segment.key) if claim.was_tried else None
    if native_id is None:
        if job.cancel_requested_at is not None:
            transition(job, JobState.CANCELLED, at=now(), reason="cancelled", actor=job.cancel_requested_by)
            return False
        if job.lease_expires_at is None or now() >= job.lease_expires_at:
            raise StaleJob(f"lease of {job.pk} ran out before the call")
        try:
            spec = launching.build_job_spec(job, segment_number=segment.number)
            native_id = backend.submit(spec, key=segment.key)
        except SubmissionRejected as error:
            transition(job, JobState.REJECTED, at=now(), reason="scheduler", detail={"words": str(error)[:500]})
            return False
    _apply(claim, native_id, at=now())
    return True


@transaction.atomic
def _apply(claim: Claim, native_id: str, *, at: datetime) -> None:
    transition(claim.job, JobState.PENDING, at=at, missing_since_at=None)
    JobSegment.objects.filter(pk=claim.segment.pk).update(native_id=native_id, accepted_at=at)


@transaction.atomic
def _record_unavailable(claim: Claim, error: SchedulerUnavailable, *, at: datetime) -> None:
    cluster = Cluster.objects.select_for_update().get(pk=claim.job.partition.cluster_id)
    record_failure(cluster, error, at=at)
    if claim.job.dispatch_attempts <= 1:
        record_event(
            claim.job, EventKind.DISPATCH_DELAYED, at=at, reason="cluster_down", detail={"words": str(error)[:500]}
        )
    _postpone(claim, at=at)


def _postpone(claim: Claim, *, at: datetime) -> None:
    """End the lease now: whoever comes after the cluster's pause asks for the key before anything else."""
    Job.objects.filter(pk=claim.job.pk, state=JobState.DISPATCHING, lease_token=claim.job.lease_token).update(
        lease_expires_at=at
    )
