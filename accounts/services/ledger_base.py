"""What every function of the ledger stands on: its errors, its locks, and the one place that writes an entry."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import QuerySet

from accounts.models import Allocation, LedgerEntry, LedgerKind, User

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


class MemberCapExceeded(InsufficientAllocation):
    """The member would have more of the project's current allocations than their cap."""

    def __init__(self, *, requested_s: int, taken_s: int, cap_s: int) -> None:
        self.taken_s = taken_s
        self.cap_s = cap_s
        super().__init__(requested_s=requested_s, available_s=max(cap_s - taken_s, 0))
        self.args = (f"{requested_s} accelerator-seconds requested, {taken_s} of the member's cap of {cap_s} taken",)


class InstitutionShareExceeded(LedgerError):
    """The grants of the institution's projects would sum up to more than its share allows."""

    def __init__(self, *, requested_s: int, granted_s: int, limit_s: int) -> None:
        self.requested_s = requested_s
        self.granted_s = granted_s
        self.limit_s = limit_s
        super().__init__(
            f"{requested_s} accelerator-seconds more, {granted_s} of the institution's {limit_s} are granted"
        )


class UnknownReservation(LedgerError):
    """There is no hold under this reference."""


class ReferenceConflict(LedgerError):
    """The reference was used before for something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The effect of an act on one allocation."""

    allocation: Allocation
    granted: int = 0
    reserved: int = 0
    used: int = 0
    undoes: LedgerEntry | None = None


def post(
    lines: Iterable[Line],
    kind: LedgerKind,
    reference: str,
    *,
    at: datetime,
    actor: User | None,
    reason: str,
    person_id: int | None = None,
) -> None:
    """Write an act's entries and their effect on the cached balances. The caller holds the rows' locks."""
    lines = list(lines)
    if not lines:
        return
    LedgerEntry.objects.bulk_create(
        LedgerEntry(
            allocation=line.allocation,
            kind=kind,
            reference=reference,
            granted_delta_s=line.granted,
            reserved_delta_s=line.reserved,
            used_delta_s=line.used,
            at=at,
            actor=actor,
            person_id=person_id,
            undoes=line.undoes,
            reason=reason[:500],
        )
        for line in lines
    )
    for line in lines:
        row = line.allocation
        row.granted_s += line.granted
        row.reserved_s += line.reserved
        row.used_s += line.used
        # The row is locked and was read under the lock: no need to save what can't have changed.
        Allocation.objects.filter(pk=row.pk).update(
            granted_s=row.granted_s, reserved_s=row.reserved_s, used_s=row.used_s
        )


def expire_ended(allocations: Sequence[Allocation], *, at: datetime) -> int:
    """Take what is left of those (locked) whose period has ended."""
    taken = 0
    for allocation in allocations:
        left: int = allocation.available_s
        if allocation.end_at > at or left <= 0:
            continue
        # Holds and refunds may return after the expiry, so that there can be several.
        number = LedgerEntry.objects.filter(allocation=allocation, kind=LedgerKind.EXPIRE).count() + 1
        line = Line(allocation=allocation, granted=-left)
        post([line], LedgerKind.EXPIRE, f"{allocation.uuid}/{number}", at=at, actor=None, reason="")
        taken += left
    return taken


def locked(queryset: QuerySet[Allocation]) -> list[Allocation]:
    """The rows, locked in the order that all follow."""
    # PostgreSQL locks in row order.
    return list(queryset.select_for_update(of=("self",)).order_by("end_at", "pk"))


def check_amount(amount_s: object) -> None:
    """Raises: InvalidAmount: if it is not a whole number from 1 to `MAX_AMOUNT_S`."""
    if isinstance(amount_s, bool) or not isinstance(amount_s, int) or not 0 < amount_s <= MAX_AMOUNT_S:
        raise InvalidAmount(f"{amount_s!r} is not allowed; allowed: a whole number from 1 to {MAX_AMOUNT_S}")
