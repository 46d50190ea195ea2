"""The side of the ledger that people decide on: grants, their adjustment, transfer, and reversal."""

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import Sum

from accounts import access
from accounts.models import Allocation, Institution, InstitutionShare, LedgerEntry, LedgerKind, Project, User
from accounts.services import audit
from accounts.services.acts import Act
from accounts.services.ledger_base import (
    InstitutionShareExceeded,
    InsufficientAllocation,
    LedgerError,
    Line,
    check_amount,
    expire_ended,
    locked,
    post,
)

_REVERSIBLE = frozenset({LedgerKind.GRANT, LedgerKind.ADJUST, LedgerKind.TRANSFER, LedgerKind.REFUND})


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """From `start_at` until just before `end_at`."""

    start_at: datetime
    end_at: datetime


@transaction.atomic
def grant(
    *,
    project_id: int,
    resource_class_id: int,
    amount_s: int,
    start_at: datetime,
    end_at: datetime,
    at: datetime,
    actor: User | None,
    reason: str,
) -> Allocation:
    """Make an allocation and its first entry.

    Raises:
        InvalidAmount: if the amount is not a whole number above zero.
        InstitutionShareExceeded: if the institution's share doesn't allow it.
        LedgerError: if the period ends before it starts.
    """
    check_amount(amount_s)
    if end_at <= start_at:
        raise LedgerError(f"the period ends ({end_at}) before it starts ({start_at})")
    institution = lock_institution(project_id)
    period = Period(start_at=start_at, end_at=end_at)
    check_share(institution, resource_class_id, period, more_s=amount_s)
    allocation = Allocation.objects.create(
        project_id=project_id, resource_class_id=resource_class_id, start_at=start_at, end_at=end_at
    )
    line = Line(allocation=allocation, granted=amount_s)
    post([line], LedgerKind.GRANT, str(allocation.uuid), at=at, actor=actor, reason=reason)
    return allocation


@transaction.atomic
def adjust(*, allocation_id: int, delta_s: int, reference: str, at: datetime, actor: User | None, reason: str) -> None:
    """Raise or lower a grant. It can't fall below what is used and reserved.

    Raises:
        InsufficientAllocation: if less than `-delta_s` is available.
        InstitutionShareExceeded: if the institution's share doesn't allow more.
    """
    check_amount(abs(delta_s))
    institution = lock_institution(Allocation.objects.get(pk=allocation_id).project_id)
    allocation = Allocation.objects.select_for_update().get(pk=allocation_id)
    if LedgerEntry.objects.filter(allocation=allocation, kind=LedgerKind.ADJUST, reference=reference).exists():
        return
    _check_change(institution, allocation, granted=delta_s)
    line = Line(allocation=allocation, granted=delta_s)
    post([line], LedgerKind.ADJUST, reference, at=at, actor=actor, reason=reason)


@transaction.atomic
def transfer(
    *, from_allocation_id: int, to_project_id: int, amount_s: int, reference: str, act: Act, reason: str
) -> Allocation:
    """Move hours from an allocation to another project of the institution, which gets them for the same period.

    Two entries that sum to zero. Repeated with the same reference it changes nothing. Returns where they went.

    Raises:
        InsufficientAllocation: if the allocation has less left.
        LedgerError: if the allocation has ended, the project is another institution's or closed, or whoever acts
            doesn't manage the institution.
    """
    check_amount(amount_s)
    source = Allocation.objects.select_related("project").get(pk=from_allocation_id)
    institution = lock_institution(source.project_id)
    target_project = Project.objects.active().filter(pk=to_project_id).first()
    if target_project is None or target_project.institution_id != institution.pk:
        raise LedgerError("hours go to an active project of the same institution only")
    if target_project.pk == source.project_id:
        raise LedgerError("the hours are in this project already")
    if act.actor is not None and not access.managed_institutions(act.actor).filter(pk=institution.pk).exists():
        raise LedgerError(f"{act.actor.username} does not manage {institution.code}")
    # Nobody else makes one meanwhile: the institution is locked.
    same = {"resource_class_id": source.resource_class_id, "start_at": source.start_at, "end_at": source.end_at}
    target = Allocation.objects.filter(project=target_project, **same).order_by("pk").first()
    target = target or Allocation.objects.create(project=target_project, **same)
    rows = {row.pk: row for row in locked(Allocation.objects.filter(pk__in=(source.pk, target.pk)))}
    if LedgerEntry.objects.filter(kind=LedgerKind.TRANSFER, reference=reference, allocation=source).exists():
        return target
    source_row, target_row = rows[source.pk], rows[target.pk]
    if source_row.end_at <= act.at:
        raise LedgerError("the allocation has ended")
    if source_row.available_s < amount_s:
        raise InsufficientAllocation(requested_s=amount_s, available_s=source_row.available_s)
    lines = [Line(allocation=source_row, granted=-amount_s), Line(allocation=target_row, granted=amount_s)]
    post(lines, LedgerKind.TRANSFER, reference, at=act.at, actor=act.actor, reason=reason)
    audit.record(
        act,
        "allocation.transfer",
        target_kind="allocation",
        target=str(source.uuid),
        before={"granted_s": source_row.granted_s + amount_s},
        after={"granted_s": source_row.granted_s, "to": target_project.code, "amount_s": amount_s},
        project=source.project,
        reason=reason,
    )
    return target_row


@transaction.atomic
def reverse(*, entry_id: int, act: Act, reason: str) -> list[LedgerEntry]:
    """Undo an entry of a grant, an adjustment, a transfer or a refund by its opposite, which names it.

    An act that has several entries (both sides of a transfer, a refund to two allocations) is undone whole.
    Repeated it changes nothing. Returns the new entries.

    Raises:
        InsufficientAllocation: if what it brought is spent.
        InstitutionShareExceeded: if the institution's share doesn't allow that hours come back.
        LedgerError: if the entry is of a kind that is not undone.
    """
    named = LedgerEntry.objects.select_related("allocation").get(pk=entry_id)
    if named.kind not in _REVERSIBLE:
        raise LedgerError(f"an entry of kind {named.kind} is not undone; allowed: {', '.join(sorted(_REVERSIBLE))}")
    institution = lock_institution(named.allocation.project_id)
    undone = LedgerEntry.objects.filter(kind=named.kind, reference=named.reference).order_by("allocation__end_at", "pk")
    touched = Allocation.objects.filter(pk__in=undone.order_by().values("allocation"))
    rows = {row.pk: row for row in locked(touched)}
    reference = f"{named.reference}/undo"
    again = LedgerEntry.objects.filter(undoes__in=undone)
    if again.exists():
        return list(again)
    lines = []
    for entry in undone:
        row = rows[entry.allocation_id]
        change = {"granted": -entry.granted_delta_s, "used": -entry.used_delta_s}
        _check_change(None if named.kind == LedgerKind.TRANSFER else institution, row, **change)
        lines.append(Line(allocation=row, undoes=entry, **change))
    person = named.person_id
    post(lines, LedgerKind.REVERSE, reference, at=act.at, actor=act.actor, reason=reason, person_id=person)
    expire_ended(list(rows.values()), at=act.at)
    audit.record(
        act,
        "ledger.reverse",
        target_kind="ledger entry",
        target=str(named.pk),
        before={"kind": named.kind, "reference": named.reference},
        after={"granted_s": [line.granted for line in lines], "used_s": [line.used for line in lines]},
        project=named.allocation.project,
        reason=reason,
    )
    return list(LedgerEntry.objects.filter(kind=LedgerKind.REVERSE, reference=reference))


def lock_institution(project_id: int) -> Institution:
    """The institution of a project, locked: its grants change one after the other, so that its shares hold."""
    return Institution.objects.select_for_update(of=("self",), no_key=True).get(projects=project_id)


def check_share(institution: Institution, resource_class_id: int, period: Period, *, more_s: int) -> None:
    """Raise if `more_s` would take the grants of the (locked) institution's projects over a share of that time.

    Raises:
        InstitutionShareExceeded: with the figures of the first share that doesn't allow it.
    """
    shares = InstitutionShare.objects.filter(
        institution=institution,
        resource_class=resource_class_id,
        start_at__lt=period.end_at,
        end_at__gt=period.start_at,
    )
    for share in shares.order_by("start_at", "pk"):
        granted_s = granted_within(share)
        if granted_s + more_s > share.limit_s:
            raise InstitutionShareExceeded(requested_s=more_s, granted_s=granted_s, limit_s=share.limit_s)


def granted_within(share: InstitutionShare) -> int:
    """What is granted now of allocations whose period overlaps the share's. Expired hours have left it."""
    rows = Allocation.objects.filter(
        project__institution=share.institution_id,
        resource_class=share.resource_class_id,
        start_at__lt=share.end_at,
        end_at__gt=share.start_at,
    )
    return int(rows.aggregate(total=Sum("granted_s"))["total"] or 0)


def _check_change(institution: Institution | None, row: Allocation, *, granted: int = 0, used: int = 0) -> None:
    """Raise if a (locked) allocation can't bear the change, or the institution's share doesn't allow it."""
    if row.available_s + granted - used < 0:
        raise InsufficientAllocation(requested_s=used - granted, available_s=row.available_s)
    if granted > 0 and institution is not None:
        period = Period(start_at=row.start_at, end_at=row.end_at)
        check_share(institution, row.resource_class_id, period, more_s=granted)
