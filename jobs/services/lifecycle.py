"""The one door through which a job changes its state."""

from datetime import datetime
from typing import Any

from django.db import transaction

from accounts.models import User
from accounts.services import ledger
from jobs.models import EventKind, Job, JobEvent
from jobs.states import TERMINAL, TRANSITIONS, JobState

_BEFORE_SCHEDULER = frozenset(
    {JobState.DRAFT, JobState.SUBMITTED, JobState.HELD, JobState.QUEUED, JobState.DISPATCHING}
)


class IllegalTransition(Exception):
    """The table has no such edge."""


class StaleJob(Exception):
    """The row is no longer as this copy was read: somebody else was first. Nothing was written."""


@transaction.atomic
def transition(
    job: Job,
    to: JobState,
    *,
    at: datetime,
    reason: str = "",
    detail: dict[str, Any] | None = None,
    actor: User | None = None,
    **fields: Any,
) -> None:
    """Move a job along one edge: the only writer of `Job.state`.

    A compare-and-set (the row must hold the state, and the lease, that `job` was read with), an event, and the
    effect on the ledger, in one transaction:

    - into QUEUED: the job's hold is made (once; a job that returns to QUEUED keeps it),
    - from before the scheduler into an end: the hold is given back, and the job is settled at 0,
    - an end after the scheduler had it, or had an earlier segment of it: the hold stays until
      `settlement.settle_job`.

    `fields` are further columns to write with the state.

    Raises:
        IllegalTransition: the table has no edge from the state to `to`.
        StaleJob: the row has changed since `job` was read.
        ledger.InsufficientAllocation: into QUEUED, if the project can't afford it any more.
        ledger.MemberCapExceeded: into QUEUED, if the owner's cap in the project doesn't allow it.
    """
    old = JobState(job.state)
    if to not in TRANSITIONS[old]:
        raise IllegalTransition(f"{old} -> {to}")
    never_ran = old in _BEFORE_SCHEDULER and job.segment_number == 1
    if old == JobState.DISPATCHING:
        fields = {"lease_token": None, "lease_expires_at": None, **fields}
    if to in TERMINAL:
        fields.setdefault("ended_at", at)
        if never_ran:
            fields |= {"settled_at": at, "charged_s": 0}
    fields |= {"state": to, "state_reason": reason, "state_detail": detail or {}}
    moved = Job.objects.filter(pk=job.pk, state=old, lease_token=job.lease_token).update(**fields)
    if not moved:
        raise StaleJob(f"{job.pk} is no longer {old}")
    if to == JobState.QUEUED and job.reserved_s:  # 0: a resource class that costs nothing
        ledger.reserve(
            project_id=job.project_id,
            resource_class_id=job.partition.resource_class_id,
            reference=job.reference,
            amount_s=job.reserved_s,
            at=at,
            person_id=job.user_id,
        )
    elif to in TERMINAL and never_ran:
        ledger.release(reference=job.reference, at=at, reason=reason)
    JobEvent.objects.create(
        job=job,
        at=at,
        kind=EventKind.TRANSITION,
        from_state=old,
        to_state=to,
        reason=reason,
        detail=detail or {},
        actor=actor,
    )
    for name, value in fields.items():
        setattr(job, name, value)


@transaction.atomic
def change_hold(job: Job, reason: str, *, at: datetime, detail: dict[str, Any] | None = None, **fields: Any) -> None:
    """A held job waits for something else from now on; it stays HELD. A compare-and-set on what it waited for.

    Raises:
        StaleJob: the row has changed since `job` was read.
    """
    fields |= {"state_reason": reason, "state_detail": detail or {}}
    held = Job.objects.filter(pk=job.pk, state=JobState.HELD, state_reason=job.state_reason)
    if job.state != JobState.HELD or not held.update(**fields):
        raise StaleJob(f"{job.pk} is no longer held for {job.state_reason}")
    if reason:
        JobEvent.objects.create(
            job=job,
            at=at,
            kind=EventKind.TRANSITION,
            from_state=JobState.HELD,
            to_state=JobState.HELD,
            reason=reason,
            detail=detail or {},
        )
    for name, value in fields.items():
        setattr(job, name, value)


def record_event(
    job: Job,
    kind: EventKind,
    *,
    at: datetime,
    reason: str = "",
    detail: dict[str, Any] | None = None,
    actor: User | None = None,
) -> None:
    """Append to the timeline something that is no change of state."""
    JobEvent.objects.create(job=job, at=at, kind=kind, reason=reason, detail=detail or {}, actor=actor)
