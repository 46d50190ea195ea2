"""The ledger of accelerator-seconds: the only writer of `LedgerEntry` and of an allocation's cached balance.

Each entry changes up to three sums of one allocation:

    kind      granted  reserved  used
    GRANT        +                       amount > 0
    RESERVE               +              a job's hold, before it is dispatched
    SETTLE                -        +     the hold goes, what accounting says was used comes
    RELEASE               -              the hold goes, nothing was used
    REFUND                         -
    ADJUST      +/-
    EXPIRE       -                       what is left when the period has ended

Every function locks the allocations that it may touch in the order (end_at, pk), so that two never wait for each
other, and is idempotent by (kind, reference). All amounts are whole accelerator-seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal

from django.db import transaction
from django.db.models import BigIntegerField, Q, QuerySet, Sum
from django.db.models.functions import Coalesce

from accounts.models import Allocation, LedgerEntry, LedgerKind, User
from accounts.querysets import ledger_mismatch

MAX_AMOUNT_S = 10**15
"""No single amount may be larger: 31 million accelerator-years."""


class LedgerError(Exception):
    """A request the ledger refuses. Nothing was written."""


class InvalidAmount(LedgerError, ValueError):
    """Zero, negative, absurd, or not a whole number."""


class InsufficientAllocation(LedgerError):
    """Active allocations hold less than was asked."""

    def __init__(self, *, requested_s: int, available_s: int) -> None:
        self.requested_s = requested_s
        self.available_s = available_s
        super().__init__(f"{requested_s} accelerator-seconds requested, {available_s} available")


class UnknownReservation(LedgerError):
    """There is no hold under this reference."""


class ReferenceConflict(LedgerError):
    """The reference was used before for something else."""


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
        LedgerError: if the period ends before it starts.
    """
    _check_amount(amount_s)
    if end_at <= start_at:
        raise LedgerError(f"the period ends ({end_at}) before it starts ({start_at})")
    allocation = Allocation.objects.create(
        project_id=project_id, resource_class_id=resource_class_id, start_at=start_at, end_at=end_at
    )
    _post(allocation, LedgerKind.GRANT, str(allocation.uuid), granted=amount_s, at=at, actor=actor, reason=reason)
    return allocation


@transaction.atomic
def adjust(*, allocation_id: int, delta_s: int, reference: str, at: datetime, actor: User | None, reason: str) -> None:
    """Raise or lower a grant. It can't fall below what is used and reserved.

    Raises:
        InsufficientAllocation: if less than `-delta_s` is available.
    """
    _check_amount(abs(delta_s))
    allocation = Allocation.objects.select_for_update().get(pk=allocation_id)
    if LedgerEntry.objects.filter(allocation=allocation, kind=LedgerKind.ADJUST, reference=reference).exists():
        return
    if allocation.available_s + delta_s < 0:
        raise InsufficientAllocation(requested_s=-delta_s, available_s=allocation.available_s)
    _post(allocation, LedgerKind.ADJUST, reference, granted=delta_s, at=at, actor=actor, reason=reason)


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
) -> int:
    """Hold `amount_s` of a project's active allocations, earliest expiry first; over several if one is too small.

    Any number of callers may race: those that fit get it, the others raise. Repeated with the same reference it
    changes nothing. Returns the amount held.

    Raises:
        InsufficientAllocation: with what was available; nothing is held then.
        ReferenceConflict: if the reference holds, or held, another amount.
    """
    _check_amount(amount_s)
    allocations = _locked(
        Allocation.objects.for_project(project_id, resource_class_id).filter(
            # By the reference, not joined: an allocation's history may be long.
            Q(start_at__lte=at, end_at__gt=at)
            | Q(pk__in=LedgerEntry.objects.filter(reference=reference).values("allocation"))
        )
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
    missing = amount_s
    for allocation in active:
        part = min(missing, allocation.available_s)
        if part > 0:
            _post(allocation, LedgerKind.RESERVE, reference, reserved=part, at=at, actor=actor, reason=reason)
            missing -= part
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
        _check_amount(amount_s)
    holds = _deltas(reference, kind=LedgerKind.RESERVE)
    if not holds:
        raise UnknownReservation(reference)
    some = Allocation.objects.get(pk=next(iter(holds)))
    allocations = _locked(
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
    for allocation in allocations:
        held, used = holds.get(allocation.pk, 0), charges.get(allocation.pk, 0)
        if held or used:
            _post(
                allocation, LedgerKind.SETTLE, reference, reserved=-held, used=used, at=at, actor=actor, reason=reason
            )
    charged = sum(charges.values())
    return Settlement(charged_s=charged, shortfall_s=amount_s - charged)


@transaction.atomic
def release(*, reference: str, at: datetime, actor: User | None = None, reason: str = "") -> int:
    """Give a hold back whole. Returns what was given back: 0 if there was none, or it is settled or released."""
    holds = _deltas(reference, kind=LedgerKind.RESERVE)
    allocations = _locked(Allocation.objects.filter(pk__in=holds).order_by("end_at", "pk"))
    ended = LedgerEntry.objects.filter(reference=reference, kind__in=(LedgerKind.SETTLE, LedgerKind.RELEASE))
    if ended.exists():
        return 0
    for allocation in allocations:
        _post(
            allocation, LedgerKind.RELEASE, reference, reserved=-holds[allocation.pk], at=at, actor=actor, reason=reason
        )
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
    _check_amount(amount_s)
    if not refund_reference.startswith(f"{reference}/"):
        raise LedgerError(f"a refund of {reference} is named {reference}/<n>, not {refund_reference}")
    charges = _deltas(reference, kind=LedgerKind.SETTLE, column="used_delta_s")
    allocations = _locked(Allocation.objects.filter(pk__in=charges).order_by("end_at", "pk"))
    again = LedgerEntry.objects.filter(kind=LedgerKind.REFUND, reference=refund_reference)
    if again.exists():
        return -int(again.aggregate(total=Sum("used_delta_s"))["total"])
    earlier = _deltas(f"{reference}/", kind=LedgerKind.REFUND, column="used_delta_s", is_prefix=True)
    left = {pk: used + earlier.get(pk, 0) for pk, used in charges.items()}
    if amount_s > sum(left.values()):
        raise InvalidAmount(f"{amount_s} asked back, at most {sum(left.values())} can be")
    missing = amount_s
    for allocation in reversed(allocations):
        part = min(missing, left[allocation.pk])
        if part > 0:
            _post(allocation, LedgerKind.REFUND, refund_reference, used=-part, at=at, actor=actor, reason=reason)
            missing -= part
    return amount_s


@transaction.atomic
def expire(*, allocation_id: int, at: datetime) -> int:
    """Take what is left of an allocation whose period has ended. Holds made before stay. Returns the amount taken."""
    allocation = Allocation.objects.select_for_update().get(pk=allocation_id)
    left: int = allocation.available_s
    if allocation.end_at > at or left <= 0:
        return 0
    # A refund may come after the expiry, so that there can be several.
    number = LedgerEntry.objects.filter(allocation=allocation, kind=LedgerKind.EXPIRE).count() + 1
    _post(allocation, LedgerKind.EXPIRE, f"{allocation.uuid}/{number}", granted=-left, at=at, actor=None, reason="")
    return left


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


def _post(
    allocation: Allocation,
    kind: LedgerKind,
    reference: str,
    *,
    at: datetime,
    actor: User | None,
    reason: str,
    granted: int = 0,
    reserved: int = 0,
    used: int = 0,
) -> None:
    """Write one entry and its effect on the cached balance. The caller holds the row's lock."""
    LedgerEntry.objects.create(
        allocation=allocation,
        kind=kind,
        reference=reference,
        granted_delta_s=granted,
        reserved_delta_s=reserved,
        used_delta_s=used,
        at=at,
        actor=actor,
        reason=reason,
    )
    allocation.granted_s += granted
    allocation.reserved_s += reserved
    allocation.used_s += used
    allocation.save(update_fields=["granted_s", "reserved_s", "used_s"])


def _locked(queryset: QuerySet[Allocation]) -> list[Allocation]:
    # PostgreSQL locks in row order.
    return list(queryset.select_for_update().order_by("end_at", "pk"))


def _deltas(
    reference: str, *, kind: LedgerKind, column: str = "reserved_delta_s", is_prefix: bool = False
) -> dict[int, int]:
    """Sum of a column by allocation id for one kind and reference."""
    lookup = "reference__startswith" if is_prefix else "reference"
    rows = LedgerEntry.objects.filter(**{lookup: reference}, kind=kind).values("allocation_id")
    return {row["allocation_id"]: int(row["total"]) for row in rows.annotate(total=Sum(column)) if row["total"]}


def _check_amount(amount_s: object) -> None:
    if isinstance(amount_s, bool) or not isinstance(amount_s, int) or not 0 < amount_s <= MAX_AMOUNT_S:
        raise InvalidAmount(f"{amount_s!r} is not allowed; allowed: a whole number from 1 to {MAX_AMOUNT_S}")
