"""Following jobs: one bulk query per cluster maps what the scheduler says onto all its active jobs."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from accounts.models import Cluster
from jobs.backends.base import JobStatus, SchedulerBackend, SchedulerUnavailable, UsageRow
from jobs.launch import STARTED_TWICE_EXIT_CODE
from jobs.models import EventKind, Job, JobSegment
from jobs.services.accounting import (
    account_ended_segments,
    ended_segments,
    fetch_usage,
    settle_between_segments,
    usage_of,
)
from jobs.services.chain import PREEMPTED, Verdict, judge_end
from jobs.services.clusters import askable_clusters, backend_of, record_failure, record_success
from jobs.services.lending import make_room
from jobs.services.lifecycle import StaleJob, record_event, transition
from jobs.services.missing import handle_missing
from jobs.services.output import read_last_step
from jobs.states import IN_SCHEDULER, TERMINAL, TRANSITIONS, JobState

logger = logging.getLogger(__name__)

_FOLLOWED_COLUMNS = (
    *("pk", "key", "number", "native_id", "time_limit_minutes"),
    *("job__state", "job__state_reason", "job__cancel_requested_at", "job__expected_start_at"),
    *("job__missing_since_at", "job__started_at", "job__segment_started_at", "preempt_requested_at"),
)
"""What is compared with the scheduler's answer."""


def reconcile_clusters(*, now: Callable[[], datetime], lost_after_s: int) -> int:
    """Reconcile every cluster that may be asked. Returns how many jobs changed or were charged."""
    return sum(reconcile_guarded(code, now=now, lost_after_s=lost_after_s) for code in askable_clusters(at=now()))


def reconcile_guarded(cluster_code: str, *, now: Callable[[], datetime], lost_after_s: int) -> int:
    """Reconcile one cluster if it may be asked now, and note how it went. Returns how many jobs changed."""
    cluster = Cluster.objects.askable(now()).filter(code=cluster_code).first()
    if cluster is None:
        return 0
    try:
        changed = reconcile_cluster(cluster, backend_of(cluster.code), now=now, lost_after_s=lost_after_s)
    except SchedulerUnavailable as error:
        record_failure(cluster, error, at=now())
    except Exception as error:
        # Not this cluster's jobs alone wait then: the breaker shows it to everybody.
        logger.exception("cluster %s could not be reconciled", cluster.code)
        record_failure(cluster, error, at=now())
    else:
        record_success(cluster, at=now())
        return changed
    return 0


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
    seen = list(active.values_list(*_FOLLOWED_COLUMNS, named=True))
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
        elif segment.preempt_requested_at is not None and job.state in IN_SCHEDULER:
            make_room(segment, backend, at=now())
    return changed + _account(cluster, backend, missing, at=now(), lost_after_s=lost_after_s)


def _active_segments(cluster: Cluster) -> QuerySet[JobSegment]:
    return (
        JobSegment.objects.filter(
            cluster=cluster, ended_at__isnull=True, accounted_at__isnull=True, job__state__in=IN_SCHEDULER
        )
        .exclude(native_id="")
        .order_by("pk")
    )


def _is_news(row: Any, status: JobStatus | None) -> bool:
    """Is there anything to do for a segment? Mostly not, and then its models are never made."""
    if status is None or status.key != row.key or row.job__cancel_requested_at is not None:
        return True
    if row.preempt_requested_at is not None:
        return True
    if status.time_limit_minutes not in (None, row.time_limit_minutes) and row.time_limit_minutes is not None:
        return True
    facts: dict[str, Any] = {"expected_start_at": status.expected_start_at, "missing_since_at": None}
    facts |= {"state": status.state, "state_reason": status.reason}
    if status.started_at is not None:
        facts[_start_column(row.number)] = status.started_at
    return any(getattr(row, f"job__{name}") != value for name, value in facts.items())


def _account(
    cluster: Cluster, backend: SchedulerBackend, missing: list[JobSegment], *, at: datetime, lost_after_s: int
) -> int:
    """Charge ended jobs, let chains go on, and see whether accounting knows of the missing segments."""
    owed = list(ended_segments(cluster).order_by("pk"))
    changed = 0
    if owed or missing:
        rows = fetch_usage(backend, owed, missing, at=at)
        for segment in missing:
            row = usage_of(segment, rows)
            if row is not None:
                changed += _apply_guarded(segment, _status_from(row), at=at)
                owed.append(segment)
            else:
                changed += handle_missing(segment, backend, at=at, lost_after_s=lost_after_s)
        changed += account_ended_segments([one for one in owed if one.ended_at is not None], rows, at=at)
    return changed + settle_between_segments(cluster, at=at)


def _apply_guarded(segment: JobSegment, status: JobStatus, *, at: datetime) -> bool:
    try:
        return _apply(segment, status, at=at)
    except SchedulerUnavailable as error:
        # Its cluster has just answered: a file of this one job can't be read now. It is looked at again.
        logger.warning("how job %s ended can't be judged now: %s", segment.job_id, error)
        return False
    except StaleJob:
        logger.debug("job %s was changed by another worker", segment.job_id)
        return False
    except Exception:
        # One job of which the scheduler says something impossible must not keep the others from their ends.
        logger.exception("what the scheduler says of job %s could not be written", segment.job_id)
        return False


def _apply(segment: JobSegment, status: JobStatus, *, at: datetime) -> bool:
    """Write what the scheduler says of a segment. Returns whether the job's state changed."""
    if status.state in TERMINAL:
        return _apply_end(segment, status, at=at)
    job = segment.job
    facts = _facts_of(segment, status)
    old = JobState(job.state)
    _note_changed_limit(segment, status, at=at)
    if status.state == old:
        _write_changed(job, facts | {"state_reason": status.reason})
        return False
    if not _is_possible(job, status):
        return False
    with transaction.atomic():
        transition(job, status.state, at=at, reason=status.reason, **facts)
        if status.started_at is not None:
            _write_segment(segment, started_at=status.started_at, nodes=list(status.nodes))
    return True


def _note_changed_limit(segment: JobSegment, status: JobStatus, *, at: datetime) -> None:
    """An operator may lengthen or shorten a job on the cluster. Its hold stays; what it uses beyond is charged too."""
    old, new = segment.time_limit_minutes, status.time_limit_minutes
    if old is None or new is None or old == new:
        return
    with transaction.atomic():
        if JobSegment.objects.filter(pk=segment.pk, time_limit_minutes=old).update(time_limit_minutes=new):
            figures = {"from_minutes": old, "to_minutes": new}
            record_event(segment.job, EventKind.TIME_LIMIT_CHANGED, at=at, detail=figures)


def _apply_end(segment: JobSegment, status: JobStatus, *, at: datetime) -> bool:
    """The end of a segment is that of its job, unless the job is a chain that goes on."""
    job = segment.job
    last_step = read_last_step(job) if job.is_chain else None
    verdict = (
        judge_end(job, segment, status, last_step=last_step)
        if job.is_chain
        else Verdict(goes_on=False, state=status.state, reason=status.reason)
    )
    if status.state == JobState.FAILED and status.exit_code == STARTED_TWICE_EXIT_CODE:
        verdict = replace(verdict, reason="started_twice")
    if not verdict.goes_on and not _is_possible(job, status):
        return False
    ended_at = status.ended_at or at
    # Whether it stopped at a checkpoint or had to be ended: it was taken back.
    end = JobState.PREEMPTED if verdict.reason == PREEMPTED else status.state
    facts = _facts_of(segment, status) | {"expected_start_at": None}
    if not verdict.goes_on:
        facts |= {"exit_code": status.exit_code, "exit_signal": status.exit_signal}
    with transaction.atomic():
        if verdict.goes_on and job.state != JobState.COMPLETING:
            transition(job, JobState.COMPLETING, at=at, reason=verdict.reason, **facts)
        elif verdict.goes_on:
            _write_changed(job, facts | {"state_reason": verdict.reason})
        else:
            transition(job, verdict.state, at=at, reason=verdict.reason, ended_at=ended_at, **facts)
        if job.is_chain:
            figures = {
                "number": segment.number,
                "end": end,
                "exit_code": status.exit_code,
                "last_step": last_step,
            }
            record_event(job, EventKind.SEGMENT_ENDED, at=at, reason=status.reason, detail=figures)
        _write_segment(
            segment,
            started_at=status.started_at or segment.started_at,
            ended_at=ended_at,
            end_state=end,
            exit_code=status.exit_code,
            exit_signal=status.exit_signal,
            last_step=last_step,
            nodes=list(status.nodes) or segment.nodes,
        )
    return True


def _is_possible(job: Job, status: JobStatus) -> bool:
    if status.state in TRANSITIONS[JobState(job.state)]:
        return True
    logger.warning("job %s: the scheduler says %s after %s; ignored", job.pk, status.state, job.state)
    return False


def _write_segment(segment: JobSegment, **fields: Any) -> None:
    JobSegment.objects.filter(pk=segment.pk).update(**fields)
    for name, value in fields.items():
        setattr(segment, name, value)


def _facts_of(segment: JobSegment, status: JobStatus) -> dict[str, Any]:
    """Columns of the job that the scheduler's answer sets, besides its state."""
    facts: dict[str, Any] = {"expected_start_at": status.expected_start_at, "missing_since_at": None}
    if status.started_at is not None:
        facts[_start_column(segment.number)] = status.started_at
        if segment.job.is_chain:
            facts["segment_started_at"] = status.started_at
    return facts


def _start_column(segment_number: int) -> str:
    """A job has started when its first segment did."""
    return "started_at" if segment_number == 1 else "segment_started_at"


def _write_changed(job: Job, facts: Mapping[str, object]) -> None:
    """Write only what differs: most jobs of a poll have not changed, and then cost no query."""
    changed = {name: value for name, value in facts.items() if getattr(job, name) != value}
    if changed:
        Job.objects.filter(pk=job.pk, state=job.state).update(**changed)


def _status_from(row: UsageRow) -> JobStatus:
    return JobStatus(
        native_id=row.native_id,
        key=row.key,
        state=row.state,
        started_at=row.started_at,
        ended_at=row.ended_at,
        exit_code=row.exit_code,
        exit_signal=row.exit_signal,
    )
