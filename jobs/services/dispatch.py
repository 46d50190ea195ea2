"""From QUEUED to the scheduler, without loss or doubling.

1. A short transaction claims rows (`SKIP LOCKED`), writes a lease and the segment with its key.
2. Outside any transaction the scheduler is called, for several jobs at a time. If a segment was tried before (a worker
   died, a call timed out), the scheduler is asked for the key first: found, it is adopted; surely not there, it is
   submitted.
3. A guarded apply (state *and* lease) stores the scheduler's id. A worker whose lease was taken over writes nothing;
   its successor finds the job by key.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Case, F, IntegerField, When

from accounts.models import Cluster
from jobs.backends.base import SchedulerBackend, SchedulerUnavailable, SubmissionRejected
from jobs.models import EventKind, Job, JobSegment
from jobs.querysets import JobQuerySet
from jobs.services import fair_share, launching, lending
from jobs.services.chain import next_limit_minutes
from jobs.services.clusters import backend_of, record_failure
from jobs.services.lifecycle import StaleJob, record_event, transition
from jobs.spec import InvalidSpec, JobSpec
from jobs.states import JobState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """A job leased by this worker, and the segment to hand over."""

    job: Job
    segment: JobSegment
    was_tried: bool


class _Postponed(Exception):
    """Not called: the same scheduler has just failed."""


def dispatch_queued_jobs(*, now: Callable[[], datetime], lease_s: int, limit: int = 20) -> int:
    """Hand up to `limit` jobs to each cluster's scheduler. Returns how many the schedulers have accepted."""
    return sum(
        dispatch_cluster(code, now=now, lease_s=lease_s, limit=limit) for code in clusters_with_due_jobs(at=now())
    )


def clusters_with_due_jobs(*, at: datetime) -> list[str]:
    """Codes of the clusters for which there is something to do now."""
    codes = Job.objects.due_for_dispatch(at).order_by().values_list("partition__cluster__code", flat=True)
    return sorted(set(codes.distinct()))


def dispatch_cluster(cluster_code: str, *, now: Callable[[], datetime], lease_s: int, limit: int) -> int:
    """Hand up to `limit` jobs to one cluster's scheduler. Returns how many it has accepted."""
    claims = claim_due_jobs(at=now(), lease_s=lease_s, limit=limit, cluster_code=cluster_code)
    if not claims:
        return 0
    accepted = 0
    has_failed = False
    for claim, result in _call_scheduler(claims, now=now):
        try:
            accepted += _write_result(claim, result, at=now())
        except SchedulerUnavailable as error:
            if not has_failed:
                _record_unavailable(claim, error, at=now())
            has_failed = True
            _postpone(claim, at=now())
        except _Postponed:
            _postpone(claim, at=now())
        except StaleJob:
            logger.info("job %s was taken over; the segment is found by its key", claim.job.pk)
        except Exception:
            # One broken job must not keep the others waiting; it is tried again when its lease has run out.
            logger.exception("job %s could not be handed over", claim.job.pk)
    return accepted


@transaction.atomic
def claim_due_jobs(*, at: datetime, lease_s: int, limit: int, cluster_code: str) -> list[Claim]:
    """Lease jobs that are due: QUEUED ones, and DISPATCHING ones whose lease ran out."""
    gate = lending.open_gate(cluster_code, at=at)
    jobs = gate.let_through(Job.objects.due_for_dispatch(at).filter(partition__cluster__code=cluster_code))
    due = _choose_due(jobs.with_names(), at=at, limit=limit)
    current = JobSegment.objects.filter(job__in=due, number=F("job__segment_number"))
    tried = {segment.job_id: segment for segment in current}
    new = JobSegment.objects.bulk_create(
        JobSegment(
            job=job,
            number=job.segment_number,
            cluster=job.partition.cluster,
            key=launching.segment_key(job, job.segment_number),
            time_limit_minutes=next_limit_minutes(job),
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


def _choose_due(jobs: JobQuerySet, *, at: datetime, limit: int) -> list[Job]:
    """Lock up to `limit`: first those that the scheduler may have already, then the others by fair share."""
    unlocked = jobs.select_for_update(skip_locked=True, of=("self",))
    due = list(unlocked.filter(state=JobState.DISPATCHING)[:limit])
    room = limit - len(due)
    if room <= 0:
        return due
    queued = unlocked.filter(state=JobState.QUEUED)
    if jobs.filter(state=JobState.QUEUED).order_by()[room : room + 1].exists():
        # More than there is room for. Twice as many as needed: another worker may have locked the first.
        wanted = fair_share.order(jobs.filter(state=JobState.QUEUED), at=at)[: 2 * room]
        place = {pk: number for number, pk in enumerate(wanted)}
        queued = queued.filter(pk__in=wanted).order_by(
            Case(*(When(pk=pk, then=number) for pk, number in place.items()), output_field=IntegerField())
        )
    return due + list(queued[:room])


def _call_scheduler(
    claims: list[Claim], *, now: Callable[[], datetime]
) -> Iterator[tuple[Claim, "Future[str | None]"]]:
    """Ask the scheduler to take each job, as many at a time as it stands; results come as they are there.

    The threads call the scheduler and nothing else: whatever is read from or written to the database is so here.
    """
    failed = threading.Event()
    try:
        backend = backend_of(claims[0].job.partition.cluster.code)
    except SchedulerUnavailable as error:
        for claim in claims:
            yield claim, _failed(error)
        return
    calls: list[tuple[Claim, _Call]] = []
    for claim in claims:
        try:
            spec = _describe(claim)
        except Exception as error:
            yield claim, _failed(error)
        else:
            lease = claim.job.lease_expires_at
            calls.append((claim, _Call(backend, claim.segment.key, spec, claim.was_tried, lease, failed, now)))
    threads = min(backend.concurrent_submits, len(calls))
    if threads <= 1:
        for claim, call in calls:
            yield claim, _run_here(call)
        return
    with ThreadPoolExecutor(max_workers=threads) as pool:
        futures = {pool.submit(call): claim for claim, call in calls}
        for future in as_completed(futures):
            yield futures[future], future


def _describe(claim: Claim) -> JobSpec | None:
    """What to submit; None if nothing is to be, and the scheduler is only asked whether it has the job."""
    if claim.job.cancel_requested_at is not None or not claim.job.partition.cluster.is_enabled:
        return None
    try:
        return launching.build_job_spec(claim.job, claim.segment)
    except InvalidSpec:
        # What the job was admitted with has changed since. It may be with the scheduler all the same.
        if claim.was_tried:
            return None
        raise


def _run_here(call: "_Call") -> "Future[str | None]":
    future: Future[str | None] = Future()
    try:
        future.set_result(call())
    except Exception as error:
        future.set_exception(error)
    return future


def _failed(error: Exception) -> "Future[str | None]":
    future: Future[str | None] = Future()
    future.set_exception(error)
    return future


@dataclass(frozen=True, slots=True)
class _Call:
    """Find or submit one segment. Returns the scheduler's id; None if it has none and there is nothing to submit."""

    backend: SchedulerBackend
    key: str
    spec: JobSpec | None
    was_tried: bool
    lease_expires_at: datetime | None
    failed: threading.Event
    now: Callable[[], datetime]

    def __call__(self) -> str | None:
        if self.failed.is_set():
            raise _Postponed
        try:
            native_id = self.backend.find(self.key) if self.was_tried else None
            if native_id is not None or self.spec is None:
                return native_id
            if self.lease_expires_at is None or self.now() >= self.lease_expires_at:
                raise StaleJob(f"the lease of {self.key} ran out before the call")
            return self.backend.submit(self.spec, key=self.key)
        except SchedulerUnavailable:
            self.failed.set()
            raise


def _write_result(claim: Claim, result: "Future[str | None]", *, at: datetime) -> bool:
    """Write what the scheduler said of a job. Returns whether it has accepted it."""
    job = claim.job
    try:
        native_id = result.result()
        if native_id is None:
            _write_not_there(claim, at=at)
            return False
    except SubmissionRejected as error:
        transition(job, JobState.REJECTED, at=at, reason="scheduler", detail={"words": str(error)[:500]})
        return False
    except InvalidSpec as error:
        # What the job was admitted with has changed since: its owner's Unix user, the partition's GRES.
        detail = {"field": error.field, "allowed": error.allowed}
        transition(job, JobState.REJECTED, at=at, reason="invalid", detail=detail)
        return False
    _apply(claim, native_id, at=at)
    return True


def _write_not_there(claim: Claim, *, at: datetime) -> None:
    """The scheduler surely hasn't got the job, and was not given it. Raises InvalidSpec if it can't be described."""
    job = claim.job
    if job.cancel_requested_at is not None:
        transition(job, JobState.CANCELLED, at=at, reason="cancelled", actor=job.cancel_requested_by)
    elif not job.partition.cluster.is_enabled:
        transition(job, JobState.QUEUED, at=at)  # the cluster takes no new ones
    else:
        launching.build_job_spec(job, claim.segment)


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


def _postpone(claim: Claim, *, at: datetime) -> None:
    """End the lease now: whoever comes after the cluster's pause asks for the key before anything else."""
    Job.objects.filter(pk=claim.job.pk, state=JobState.DISPATCHING, lease_token=claim.job.lease_token).update(
        lease_expires_at=at
    )
