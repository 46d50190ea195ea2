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
from django.db.models import F

from accounts.models import Cluster
from jobs.backends.base import SchedulerUnavailable, SubmissionRejected
from jobs.models import EventKind, Job, JobSegment
from jobs.services import launching
from jobs.services.chain import next_limit_minutes
from jobs.services.clusters import backend_of, record_failure
from jobs.services.lifecycle import StaleJob, record_event, transition
from jobs.spec import InvalidSpec
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
        except Exception:
            # One broken job must not keep the others waiting; it is tried again when its lease has run out.
            logger.exception("job %s could not be handed over", claim.job.pk)
    return accepted


@transaction.atomic
def claim_due_jobs(*, at: datetime, lease_s: int, limit: int) -> list[Claim]:
    """Lease jobs that are due: QUEUED ones, and DISPATCHING ones whose lease ran out."""
    due = list(Job.objects.due_for_dispatch(at).with_names().select_for_update(skip_locked=True, of=("self",))[:limit])
    current = JobSegment.objects.filter(job__in=due, number=F("job__segment_number"))
    tried = {segment.job_id: segment for segment in current}
    new = JobSegment.objects.bulk_create(
        JobSegment(
            job=job,
            number=job.segment_number,
            cluster=job.partition.cluster,
            key=launching.segment_key(job, job.segment_number),
            time_limit_minutes=next_limit_minutes(job) if job.is_chain else job.time_limit_minutes,
            first_attempt_at=at,
        )
        for job in due
        if job.pk not in tried
    )
    segments = tried | {segment.job_id: segment for segment in new}
    for job in due:
        lease: dict[str, Any] = {"lease_token": uuid.uuid4(), "lease_expires_at": at + timedelta(seconds=lease_s)}
        attempts = job.dispatch_attempts + 1
        if job.state == JobState.QUEUED:
            transition(job, JobState.DISPATCHING, at=at, dispatch_attempts=attempts, **lease)
        else:
            Job.objects.filter(pk=job.pk).update(dispatch_attempts=attempts, **lease)
            job.lease_token = lease["lease_token"]
        job.lease_expires_at = lease["lease_expires_at"]
    return [Claim(job, segments[job.pk], was_tried=job.pk in tried) for job in due]


def _hand_over(claim: Claim, *, now: Callable[[], datetime]) -> bool:
    job, segment = claim.job, claim.segment
    backend = backend_of(job.partition.cluster.code)
    native_id = backend.find(segment.key) if claim.was_tried else None
    if native_id is None:
        if job.cancel_requested_at is not None:
            transition(job, JobState.CANCELLED, at=now(), reason="cancelled", actor=job.cancel_requested_by)
            return False
        if not job.partition.cluster.is_enabled:
            transition(job, JobState.QUEUED, at=now())  # the cluster hasn't got it and takes no new ones
            return False
        if job.lease_expires_at is None or now() >= job.lease_expires_at:
            raise StaleJob(f"lease of {job.pk} ran out before the call")
        try:
            spec = launching.build_job_spec(job, segment)
            native_id = backend.submit(spec, key=segment.key)
        except SubmissionRejected as error:
            transition(job, JobState.REJECTED, at=now(), reason="scheduler", detail={"words": str(error)[:500]})
            return False
        except InvalidSpec as error:
            # What the job was admitted with has changed since: its owner's Unix user, the partition's GRES.
            detail = {"field": error.field, "allowed": error.allowed}
            transition(job, JobState.REJECTED, at=now(), reason="invalid", detail=detail)
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
        # Why is the administrators' business (Cluster.last_error): the error names paths and hosts.
        record_event(claim.job, EventKind.DISPATCH_DELAYED, at=at, reason="cluster_down")
    _postpone(claim, at=at)


def _postpone(claim: Claim, *, at: datetime) -> None:
    """End the lease now: whoever comes after the cluster's pause asks for the key before anything else."""
    Job.objects.filter(pk=claim.job.pk, state=JobState.DISPATCHING, lease_token=claim.job.lease_token).update(
        lease_expires_at=at
    )
