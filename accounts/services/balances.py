"""What is left of allocations, as people look at it: how much, for how long, and is that a worry."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db.models import QuerySet

from accounts import access
from accounts.models import Allocation, User

_LOW_SHARE: Final = 0.1
_SOON: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Balance:
    """An allocation at one moment."""

    allocation: Allocation
    now: datetime

    @property
    def is_active(self) -> bool:
        return self.allocation.start_at <= self.now < self.allocation.end_at

    @property
    def is_ended(self) -> bool:
        return self.allocation.end_at <= self.now

    @property
    def is_low(self) -> bool:
        """Less than a tenth is left."""
        return self.is_active and self.allocation.available_s < _LOW_SHARE * self.allocation.granted_s

    @property
    def is_ending_soon(self) -> bool:
        return self.is_active and self.allocation.end_at - self.now < _SOON

    @property
    def can_spend(self) -> bool:
        return self.is_active and self.allocation.available_s > 0

    @property
    def used_permille(self) -> int:
        """For a bar of 1,000 units."""
        return self._permille(self.allocation.used_s)

    @property
    def reserved_permille(self) -> int:
        return self._permille(self.allocation.reserved_s)

    @property
    def used_share(self) -> float:
        return self.allocation.used_s / self.allocation.granted_s if self.allocation.granted_s else 0.0

    def _permille(self, amount_s: int) -> int:
        return round(1000 * amount_s / self.allocation.granted_s) if self.allocation.granted_s else 0


def list_balances(user: User, *, now: datetime) -> list[Balance]:
    """Current and coming allocations of the projects that the person is a member of. One query."""
    allocations = access.visible_allocations(user).filter(project__memberships__user=user, end_at__gt=now)
    return describe_balances(allocations.order_by("project__code", "resource_class__code", "end_at"), now)


def describe_balances(allocations: QuerySet[Allocation], now: datetime) -> list[Balance]:
    """The balance of each allocation at `now`. One query."""
    return [Balance(allocation, now) for allocation in allocations.select_related("project", "resource_class")]
