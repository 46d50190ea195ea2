"""What reviewers look at beside a request: what the project was granted before, and what it did with it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db.models import Sum

from accounts.models import Allocation, LedgerEntry, LedgerKind, Project
from accounts.services.balances import Balance, describe_balances

_RECENT: Final = timedelta(days=90)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Allocations of a project, newest first, and what it was charged in the last 90 days (refunds taken off)."""

    balances: list[Balance]
    recent_s: int

    @property
    def granted_s(self) -> int:
        return sum(balance.allocation.granted_s for balance in self.balances)

    @property
    def used_s(self) -> int:
        return sum(balance.allocation.used_s for balance in self.balances)


def look_back(project: Project, *, now: datetime) -> History:
    """Two queries, whatever the project has."""
    allocations = Allocation.objects.filter(project=project)
    recent = LedgerEntry.objects.filter(
        allocation__project=project, kind__in=(LedgerKind.SETTLE, LedgerKind.REFUND), at__gte=now - _RECENT
    ).aggregate(total=Sum("used_delta_s"))["total"]
    return History(
        balances=describe_balances(allocations.order_by("-end_at", "-pk")[:50], now), recent_s=int(recent or 0)
    )
