"""Allocations that end: people are told before, and what is left leaves the ledger when the time has come."""

from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.db.models import F

from accounts.models import Allocation, Role, User
from accounts.services import ledger
from accounts.services.notifications import notify

NOTICE_DAYS: Final = (30, 7, 1)


def expire_allocations(*, at: datetime) -> int:
    """Take what is left of each allocation whose period has ended. Returns how many had something left."""
    ended = Allocation.objects.filter(end_at__lte=at, granted_s__gt=F("reserved_s") + F("used_s")).order_by(
        "end_at", "pk"
    )
    count = 0
    for pk in list(ended.values_list("pk", flat=True)):
        count += ledger.expire(allocation_id=pk, at=at) > 0
    return count


def announce_expiry(*, at: datetime) -> int:
    """Tell PIs and managers 30, 7 and 1 days before hours expire; once each. Returns of how many allocations.

    One that has passed several of these days (it was granted late, or nobody looked) is told of by the nearest only.
    """
    ending = Allocation.objects.filter(
        end_at__gt=at,
        end_at__lte=at + timedelta(days=max(NOTICE_DAYS)),
        granted_s__gt=F("reserved_s") + F("used_s"),
    ).select_related("project", "resource_class")
    count = 0
    for allocation in ending.order_by("end_at", "pk"):
        days = min(days for days in NOTICE_DAYS if allocation.end_at <= at + timedelta(days=days))
        _announce(allocation, days, at)
        count += 1
    return count


@transaction.atomic
def _announce(allocation: Allocation, days: int, at: datetime) -> None:
    leaders = User.objects.filter(
        memberships__project=allocation.project_id, memberships__role__in=(Role.PI, Role.MANAGER)
    )
    figures = {
        "project": allocation.project.code,
        "resource": allocation.resource_class.code,
        "hours": round(allocation.available_s / 3600, 2),
        "date": f"{allocation.end_at:%Y-%m-%d}",
    }
    once = f"expiry/{allocation.uuid}/{days}"
    notify(leaders, "allocation_expiry", at=at, figures=figures, once=once)
