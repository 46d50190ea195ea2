"""Following jobs: one bulk query per cluster maps what the scheduler says onto all its active jobs."""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from accounts.models import Cluster
from jobs.backends.base import JobStatus, SchedulerBackend, SchedulerUnavailable, UsageRow
from jobs.models import Job, JobSegment
from jobs.services.clusters import backend_of, record_failure, record_success
from jobs.services.lifecycle import StaleJob, transition
from jobs.services.settlement import settle_segment
from jobs.states import IN_SCHEDULER, TERMINAL, TRANSITIONS, JobState

logger = logging.getLogger(__name__)

_CLOCK_SLACK = timedelta(minutes=10)
"""Accounting is asked from this much before the first hand-over, for clocks that differ."""

_FOLLOWED_COLUMNS = tuple(
    f"job__{name}"
    for name in (
        *("state", "state_reason", "cancel_requested_at"),
        *("expected_start_at", "missing_since_at", "started_at"),
    )
)
"""What is compared with the scheduler's answer."""


def reconcile_clusters(*, now: Callable[[], datetime], lost_after_s: int) -> int:
    """Reconcile every cluster that may be asked. Returns how many jobs changed or were charged."""
    changed = 0
    for cluster in Cluster.objects.askable(now()):
        try:
            changed += reconcile_cluster(cluster, backend_of(cluster.code), now=now, lost_after_s=lost_after_s)
        except SchedulerUnavailable as error:
            record_failure(cluster, error, at=now())
        except Exception as error:
            # One cluster must not keep the others waiting; the breaker shows it to everybody.
            logger.exception("cluster %s could not be reconciled", cluster.code)
            record_failure(cluster, error, at=now())
        else:
            record_success(cluster, at=now())
    return changed


def reconcile_cluster(
    cluster: Cluster, backend: SchedulerBackend, *, now: Callable[[], datetime], lost_after_s: int
) -> int:
    """Bring all active jobs of one cluster up to date, and charge those that have ended.

    One `poll`, and one `usage` if there is something to charge or a job is missing; a `cancel` for each job
    whose end was asked for.

    Raises:
        SchedulerUnavailable: what was applied before stays.
    """
    active = _active_segments(cluster)
    seen = list(active.values_list("pk", "key", "native_id", *_FOLLOWED_COLUMNS, named=True))
    statuses = backend.poll([row.native_id for row in seen]) if seen else {}
    states = {row.pk: row.job__state for row in seen if _is_news(row, statuses.get(row.native_id))}
    changed = 0
    missing = []
    for segment in active.filter(pk__in=states).select_related("job") if states else ():
        if segment.job.state != states[segment.pk]:
            continue  # moved on since before the poll, whose answer may be older than that
        status = statuses.get(segment.native_id)
        if status is None or status.key != segment.key:
            missing.append(segment)  # absent is unknown; another key is another's job under a re-used id
            continue
        changed += _apply_guarded(segment, status, at=now())
        job = segment.job
        if job.cancel_requested_at is not None and job.state in IN_SCHEDULER:
            backend.cancel(segment.native_id, key=segment.key)
    return changed + _account(cluster, backend, missing, at=now(), lost_after_s=lost_after_s)


def _active_segments(cluster: Cluster) -> QuerySet[JobSegment]:
    return (
        JobSegment.objects.filter(cluster=cluster, ended_at__isnull=True, job__state__in=IN_SCHEDULER)
        .exclude(native_id="")
        .order_by("pk")
    )


def _is_news(row: Any, status: JobStatus | None) -> bool:
    """Is there anything to do for a segment? Mostly not, and then its models are never made."""
    if status is None or status.key != row.key or row.job__cancel_requested_at is not None:
        return True
    facts = _facts_of(status) | {"state": status.state, "state_reason": status.reason}
    return any(getattr(row, f"job__{name}") != value for name, value in facts.items())


def _account(
    cluster: Cluster, backend: SchedulerBackend, missing: list[JobSegment], *, at: datetime, lost_after_s: int
) -> int:
    """Charge ended jobs, and see whether accounting knows of the missing ones."""
    unsettled = list(
        JobSegment.objects.filter(job__in=Job.objects.unsettled(cluster.pk)).select_related("job").order_by("pk")
    )
    if not unsettled and not missing:
        return 0
    since = min(segment.first_attempt_at for segment in (*unsettled, *missing)) - _CLOCK_SLACK
    rows = {row.key: row for row in backend.usage(since)}
    changed = 0
    for segment in missing:
        row = rows.get(segment.key)
        if row is not None:
            changed += _apply_guarded(segment, _status_from(row), at=at)
        else:
            changed += _mark_missing(segment.job, at=at, lost_after_s=lost_after_s)
    for segment in unsettled:
        row = rows.get(segment.key)
        if row is not None:
            changed += _settle_guarded(segment, row, at=at)
    return changed


def _apply_guarded(segment: JobSegment, status: JobStatus, *, at: datetime) -> bool:
    try:
        return _apply(segment, status, at=at)
    except StaleJob:
        logger.debug("job %s was changed by another worker", segment.job_id)
        return False
    except Exception:
        # One job of which the scheduler says something impossible must not keep the others from their ends.
        logger.exception("what the scheduler says of job %s could not be written", segment.job_id)
        return False


def _settle_guarded(segment: JobSegment, row: UsageRow, *, at: datetime) -> bool:
    try:
        return settle_segment(segment, row, at=at)
    except Exception:
        logger.exception("job %s could not be charged", segment.job_id)
        return False


def _apply(segment: JobSegment, status: JobStatus, *, at: datetime) -> bool:
    """Write what the scheduler says of a segment. Returns whether the job's state changed."""
    job = segment.job
    facts = _facts_of(status)
    is_end = status.state in TERMINAL
    if is_end:
        facts |= {
            "ended_at": status.ended_at or at,
            "exit_code": status.exit_code,
            "exit_signal": status.exit_signal,
            "expected_start_at": None,
        }
    old = JobState(job.state)
    if status.state == old:
        _write_changed(job, facts | {"state_reason": status.reason})
        return False
    if status.state not in TRANSITIONS[old]:
        logger.warning("job %s: the scheduler says %s after %s; ignored", job.pk, status.state, old)
        return False
    with transaction.atomic():
        transition(job, status.state, at=at, reason=status.reason, **facts)
        if status.started_at is not None or is_end:
            JobSegment.objects.filter(pk=segment.pk).update(
                started_at=status.started_at,
                ended_at=facts.get("ended_at"),
                nodes=list(status.nodes),
            )
    return True


def _facts_of(status: JobStatus) -> dict[str, Any]:
    """Columns of the job that the scheduler's answer sets, besides its state."""
    facts: dict[str, Any] = {"expected_start_at": status.expected_start_at, "missing_since_at": None}
    if status.started_at is not None:
        facts["started_at"] = status.started_at
    return facts


def _write_changed(job: Job, facts: Mapping[str, object]) -> None:
    """Write only what differs: most jobs of a poll have not changed, and then cost no query."""
    changed = {name: value for name, value in facts.items() if getattr(job, name) != value}
    if changed:
        Job.objects.filter(pk=job.pk, state=job.state).update(**changed)


def _mark_missing(job: Job, *, at: datetime, lost_after_s: int) -> bool:
    """Neither queue nor accounting knows it: after a grace period that is an alarm, never an end."""
    if job.missing_since_at is None:
        Job.objects.filter(pk=job.pk, state=job.state).update(missing_since_at=at)
        return False
    if job.state == JobState.LOST or at - job.missing_since_at < timedelta(seconds=lost_after_s):
        return False
    try:
        transition(job, JobState.LOST, at=at, reason="lost")
    except StaleJob:
        return False
    logger.error("job %s is lost: neither queue nor accounting of its cluster knows it", job.pk)
    return True


def _status_from(row: UsageRow) -> JobStatus:
    return JobStatus(
        native_id=row.native_id, key=row.key, state=row.state, started_at=row.started_at, ended_at=row.ended_at
    )
