"""The ledger of accelerator-seconds: the only writer of `LedgerEntry` and of an allocation's cached balance.

Each entry changes up to three sums of one allocation:

    kind      granted  reserved  used
    GRANT        +                       amount > 0
    RESERVE               +              a job's hold, before it is dispatched
    SETTLE                -        +     the hold goes, what accounting says was used comes
    RELEASE               -              the hold goes, nothing was used
    REFUND                         -
    ADJUST      +/-
    TRANSFER    +/-                      two entries that sum to zero
    REVERSE     +/-               +/-    the opposite of the entry that it names
    EXPIRE       -                       what is left when the period has ended

Every function locks what it touches in one order, so that two never wait for each other: the institution (which
stands for its shares; only where a grant changes), then allocations by (end_at, pk), then a member's caps. Each is
idempotent by (kind, reference). All amounts are whole accelerator-seconds.

What concerns grants is in `ledger_grants`, what concerns jobs here; both are called through this module.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal

from django.db import transaction
from django.db.models import BigIntegerField, Exists, F, Q, Sum
from django.db.models.functions import Coalesce

from accounts.models import Allocation, LedgerEntry, LedgerKind, MemberCap, User
from accounts.querysets import ledger_mismatch
from accounts.services.ledger_base import (
    MAX_AMOUNT_S,
    InstitutionShareExceeded,
    InsufficientAllocation,
    InvalidAmount,
    LedgerError,
    Line,
    MemberCapExceeded,
    ReferenceConflict,
    UnknownReservation,
    check_amount,
    expire_ended,
    locked,
    post,
)
from accounts.services.ledger_grants import adjust, grant, reverse, transfer

__all__ = [
    "MAX_AMOUNT_S",
    "InstitutionShareExceeded",
    "InsufficientAllocation",
    "InvalidAmount",
    "LedgerError",
    "MemberCapExceeded",
    "ReferenceConflict",
    "UnknownReservation",
    "adjust",
    "grant",
    "reverse",
    "transfer",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """`charged_s` was taken; `shortfall_s` was used beyond the hold and could not be covered by any allocation."""

    charged_s: int
    shortfall_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """An allocation whose cached balance is not the sum of its entries, or a hold below zero."""

    allocation: str
    field: str
    cached_s: int
    ledger_s: int


def billed_seconds(*, devices: int, elapsed_s: int, weight: Decimal) -> int:
    """Accelerator-seconds that `devices` held for `elapsed_s` cost at a resource class's billing weight, rounded up."""
    return int((devices * elapsed_s * weight).to_integral_value(rounding=ROUND_CEILING))


@transaction.atomic
def reserve(
    *,
    project_id: int,
    resource_class_id: int,
    reference: str,
    amount_s: int,
    at: datetime,
    actor: User | None = None,
    reason: str = "",
    person_id: int | None = None,
) -> int:
    """Hold `amount_s` of a project's active allocations, earliest expiry first; over several if one is too small.

    Any number of callers may race: those that fit get it, the others raise. Repeated with the same reference it
    changes nothing. `person_id` is whose job it is: their cap holds. Returns the amount held.

    Raises:
        InsufficientAllocation: with what was available; nothing is held then.
        MemberCapExceeded: if the member would have more than their cap; nothing is held then.
        ReferenceConflict: if the reference holds, or held, another amount.
    """
    check_amount(amount_s)
    caps = MemberCap.objects.filter(membership__user=person_id, membership__project=project_id)
    allocations = locked(
        Allocation.objects.for_project(project_id, resource_class_id)
        .filter(
            # By the reference, not joined: an allocation's history may be long.
            Q(start_at__lte=at, end_at__gt=at)
            | Q(pk__in=LedgerEntry.objects.filter(reference=reference).values("allocation"))
        )
        .annotate(is_capped=Exists(caps))
    )
    before = _deltas(reference, kind=LedgerKind.RESERVE)
    if before:
        held = sum(before.values())
        if held != amount_s:
            raise ReferenceConflict(f"{reference} already holds {held}, not {amount_s}")
        return held
    active = [row for row in allocations if row.start_at <= at < row.end_at]
    available = sum(row.available_s for row in active)
    if available < amount_s:
        raise InsufficientAllocation(requested_s=amount_s, available_s=available)
    if person_id is not None and getattr(active[0], "is_capped"):  # noqa: B009 (an annotation)
        _check_caps(project_id, resource_class_id, person_id, amount_s, at)
    lines, missing = [], amount_s
    for allocation in active:
        part = min(missing, allocation.available_s)
        if part > 0:
            lines.append(Line(allocation=allocation, reserved=part))
            missing -= part
    post(lines, LedgerKind.RESERVE, reference, at=at, actor=actor, reason=reason, person_id=person_id)
    return amount_s


@transaction.atomic
def settle(*, reference: str, amount_s: int, at: datetime, actor: User | None = None, reason: str = "") -> Settlement:
    """Turn a hold into what was really used: the whole hold goes, `amount_s` (0 or more) is charged.

    Use beyond the hold (a job that took seconds to die) is charged to what the project still has; what nobody
    can cover is returned as `shortfall_s`. A second call with the same reference returns the first's result.

    Raises:
        UnknownReservation: if nothing is held under the reference.
    """
    if amount_s:
        check_amount(amount_s)
    entries = list(
        LedgerEntry.objects.filter(reference=reference, kind=LedgerKind.RESERVE).select_related("allocation")
    )
    if not entries:
        raise UnknownReservation(reference)
    # One entry for each allocation: (allocation, kind, reference) is unique.
    holds = {entry.allocation_id: entry.reserved_delta_s for entry in entries}
    some = entries[0].allocation
    allocations = locked(
        Allocation.objects.for_project(some.project_id, some.resource_class_id).filter(
            Q(pk__in=holds) | Q(start_at__lte=at, end_at__gt=at)
        )
    )
    settled = LedgerEntry.objects.filter(reference=reference, kind=LedgerKind.SETTLE)
    if settled.exists():
        charged = int(settled.aggregate(total=Sum("used_delta_s"))["total"])
        return Settlement(charged_s=charged, shortfall_s=amount_s - charged)
    if LedgerEntry.objects.filter(reference=reference, kind=LedgerKind.RELEASE).exists():
        raise ReferenceConflict(f"{reference} was released")
    charges = _spread(allocations, holds, amount_s)
    lines = [
        Line(allocation=row, reserved=-holds.get(row.pk, 0), used=charges.get(row.pk, 0))
        for row in allocations
        if holds.get(row.pk) or charges.get(row.pk)
    ]
    person_id = entries[0].person_id
    post(lines, LedgerKind.SETTLE, reference, at=at, actor=actor, reason=reason, person_id=person_id)
    # What returns to an allocation that has ended leaves at once, by an entry of its own.
    expire_ended(allocations, at=at)
    charged = sum(charges.values())
    return Settlement(charged_s=charged, shortfall_s=amount_s - charged)


@transaction.atomic
def release(*, reference: str, at: datetime, actor: User | None = None, reason: str = "") -> int:
    """Give a hold back whole. Returns what was given back: 0 if there was none, or it is settled or released."""
    holds = _deltas(reference, kind=LedgerKind.RESERVE)
    allocations = locked(Allocation.objects.filter(pk__in=holds).order_by("end_at", "pk"))
    ended = LedgerEntry.objects.filter(reference=reference, kind__in=(LedgerKind.SETTLE, LedgerKind.RELEASE))
    if ended.exists():
        return 0
    lines = [Line(allocation=row, reserved=-holds[row.pk]) for row in allocations]
    person_id = _person_of(reference)
    post(lines, LedgerKind.RELEASE, reference, at=at, actor=actor, reason=reason, person_id=person_id)
    expire_ended(allocations, at=at)
    return sum(holds.values())


@transaction.atomic
def refund(
    *, reference: str, refund_reference: str, amount_s: int, at: datetime, actor: User | None, reason: str
) -> int:
    """Give back up to what `reference` was charged, latest expiry first. Returns the amount given back.

    `refund_reference` names this refund, so that a repeated call has no second effect and several partial
    refunds of one job are possible; it starts with the job's reference: "<reference>/<n>".

    Raises:
        InvalidAmount: if more than the charge, less earlier refunds, is asked back.
    """
    check_amount(amount_s)
    if not refund_reference.startswith(f"{reference}/"):
        raise LedgerError(f"a refund of {reference} is named {reference}/<n>, not {refund_reference}")
    charges = _deltas(reference, kind=LedgerKind.SETTLE, column="used_delta_s")
    allocations = locked(Allocation.objects.filter(pk__in=charges).order_by("end_at", "pk"))
    earlier = _refunded(reference)
    again = LedgerEntry.objects.filter(kind=LedgerKind.REFUND, reference=refund_reference)
    if again.exists():
        return -int(again.aggregate(total=Sum("used_delta_s"))["total"])
    left = {pk: used + earlier.get(pk, 0) for pk, used in charges.items()}
    if amount_s > sum(left.values()):
        raise InvalidAmount(f"{amount_s} asked back, at most {sum(left.values())} can be")
    lines, missing = [], amount_s
    for allocation in reversed(allocations):
        part = min(missing, left[allocation.pk])
        if part > 0:
            lines.append(Line(allocation=allocation, used=-part))
            missing -= part
    person_id = _person_of(reference)
    post(lines, LedgerKind.REFUND, refund_reference, at=at, actor=actor, reason=reason, person_id=person_id)
    expire_ended(allocations, at=at)
    return amount_s


@transaction.atomic
def expire(*, allocation_id: int, at: datetime) -> int:
    """Take what is left of an allocation whose period has ended. Holds made before stay. Returns the amount taken."""
    return expire_ended([Allocation.objects.select_for_update().get(pk=allocation_id)], at=at)


def find_mismatches() -> list[Mismatch]:
    """Allocations whose cache is not the sum of their entries, and holds below zero. Empty: the ledger is exact."""

    def total(column: str) -> Coalesce:
        return Coalesce(Sum(f"entries__{column}"), 0, output_field=BigIntegerField())

    wrong = Allocation.objects.annotate(
        granted_sum=total("granted_delta_s"),
        reserved_sum=total("reserved_delta_s"),
        used_sum=total("used_delta_s"),
    ).filter(ledger_mismatch())
    found = [
        Mismatch(
            allocation=str(row.uuid),
            field=f"{field}_s",
            cached_s=getattr(row, f"{field}_s"),
            ledger_s=getattr(row, f"{field}_sum"),
        )
        for row in wrong
        for field in ("granted", "reserved", "used")
        if getattr(row, f"{field}_s") != getattr(row, f"{field}_sum")
    ]
    negative = (
        LedgerEntry.objects.filter(kind__in=(LedgerKind.RESERVE, LedgerKind.SETTLE, LedgerKind.RELEASE))
        .values("allocation__uuid", "reference")
        .annotate(held=Sum("reserved_delta_s"))
        .filter(held__lt=0)
    )
    found += [
        Mismatch(
            allocation=str(row["allocation__uuid"]), field=f"hold {row['reference']}", cached_s=0, ledger_s=row["held"]
        )
        for row in negative
    ]
    return found


def held_seconds(reference: str) -> int:
    """What is held under the reference now."""
    total = LedgerEntry.objects.filter(reference=reference).aggregate(held=Sum("reserved_delta_s"))["held"]
    return int(total or 0)


def _spread(allocations: Sequence[Allocation], holds: dict[int, int], amount_s: int) -> dict[int, int]:
    """Which allocation pays how much: first the holds, then whatever is available, in order of expiry."""
    charges: dict[int, int] = {}
    missing = amount_s
    for allocation in allocations:
        charges[allocation.pk] = part = min(missing, holds.get(allocation.pk, 0))
        missing -= part
    for allocation in allocations:
        part = min(missing, allocation.available_s)
        charges[allocation.pk] += part
        missing -= part
    return charges


def _check_caps(project_id: int, resource_class_id: int, person_id: int, amount_s: int, at: datetime) -> None:
    """Raise if the member would have more than a cap of theirs. Their caps stay locked: they reserve one by one."""
    caps = MemberCap.objects.select_for_update(of=("self",)).filter(
        Q(resource_class=resource_class_id) | Q(resource_class=None),
        membership__user=person_id,
        membership__project=project_id,
    )
    for cap in caps.order_by("pk"):
        taken_s = taken_by(project_id, cap.resource_class_id, person_id, at=at)
        if taken_s + amount_s > cap.cap_s:
            raise MemberCapExceeded(requested_s=amount_s, taken_s=taken_s, cap_s=cap.cap_s)


def taken_by(project_id: int, resource_class_id: int | None, person_id: int, *, at: datetime) -> int:
    """What a member has reserved and used of the project's current allocations, of one class or all. One query."""
    current = Allocation.objects.active(at).filter(project=project_id)
    if resource_class_id is not None:
        current = current.filter(resource_class=resource_class_id)
    entries = LedgerEntry.objects.filter(person=person_id, allocation__in=current)
    return int(entries.aggregate(taken=Coalesce(Sum(F("reserved_delta_s") + F("used_delta_s")), 0))["taken"])


def _person_of(reference: str) -> int | None:
    """Whose job the reference is."""
    return (
        LedgerEntry.objects.filter(reference=reference, kind=LedgerKind.RESERVE)
        .values_list("person", flat=True)
        .first()
    )


def _refunded(reference: str) -> dict[int, int]:
    """What was refunded of a job by allocation id, less what was reversed of it; below zero."""
    rows = LedgerEntry.objects.filter(
        reference__startswith=f"{reference}/", kind__in=(LedgerKind.REFUND, LedgerKind.REVERSE)
    ).values("allocation_id")
    return {row["allocation_id"]: int(row["total"]) for row in rows.annotate(total=Sum("used_delta_s"))}


def _deltas(reference: str, *, kind: LedgerKind, column: str = "reserved_delta_s") -> dict[int, int]:
    """Sum of a column by allocation id for one kind and reference."""
    rows = LedgerEntry.objects.filter(reference=reference, kind=kind).values("allocation_id")
    return {row["allocation_id"]: int(row["total"]) for row in rows.annotate(total=Sum(column)) if row["total"]}
