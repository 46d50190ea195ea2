"""Queries, as chainable adjectives. They know fields, never model classes."""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import F, Q, Sum
from django.db.models.functions import Coalesce

if TYPE_CHECKING:
    from accounts.models.identity import User


class ProjectQuerySet(models.QuerySet[Any]):
    """Projects."""

    def visible_to(self, user: "User | AnonymousUser") -> Self:
        """Those the person is a member of, those of institutions they manage; all for the centre's offices."""
        if not user.is_authenticated or not user.is_active:
            return self.none()
        if _looks_at_all(user):
            return self
        if managed := user.managed_institution_ids:
            # Not a join: the person may be a member of what they also see by their office.
            return self.filter(Q(institution__in=managed) | Q(pk__in=user.memberships.values("project")))
        return self.filter(memberships__user=user)

    def active(self) -> Self:
        """Those that may spend."""
        return self.filter(state="ACTIVE")


class ClusterQuerySet(models.QuerySet[Any]):
    """Clusters."""

    def askable(self, at: datetime) -> Self:
        """Those whose scheduler may be asked now: not in the pause after a failure."""
        return self.filter(Q(retry_at__isnull=True) | Q(retry_at__lte=at)).order_by("pk")


class PartitionQuerySet(models.QuerySet[Any]):
    """Partitions."""

    def accepting_jobs(self) -> Self:
        """Up, on a cluster that accepts jobs."""
        return self.filter(is_up=True, cluster__is_enabled=True)


class NodeQuerySet(models.QuerySet[Any]):
    """Nodes."""

    def out_of_service(self) -> Self:
        """Those that take no new job."""
        return self.filter(state__in=("draining", "drained", "maintenance", "down"))


class AllocationQuerySet(models.QuerySet[Any]):
    """Allocations."""

    def active(self, at: datetime) -> Self:
        """Those whose period holds `at`."""
        return self.filter(start_at__lte=at, end_at__gt=at)

    def for_project(self, project_id: int, resource_class_id: int) -> Self:
        """One project's, in one resource class, in the order they are spent: earliest expiry first."""
        return self.filter(project_id=project_id, resource_class_id=resource_class_id).order_by("end_at", "pk")

    def visible_to(self, user: "User | AnonymousUser") -> Self:
        """Those of the projects the person may see."""
        if not user.is_authenticated or not user.is_active:
            return self.none()
        if _looks_at_all(user):
            return self
        if managed := user.managed_institution_ids:
            return self.filter(Q(project__institution__in=managed) | Q(project__in=user.memberships.values("project")))
        return self.filter(project__memberships__user=user)

    def with_available(self) -> Self:
        """Annotate `available` (accelerator-seconds)."""
        return self.annotate(available=F("granted_s") - F("reserved_s") - F("used_s"))

    def total_available_s(self) -> int:
        """Accelerator-seconds that can still be reserved, over all rows."""
        total = self.aggregate(total=Coalesce(Sum(F("granted_s") - F("reserved_s") - F("used_s")), 0))["total"]
        return int(total)


class RequestQuerySet(models.QuerySet[Any]):
    """Requests."""

    def still_open(self) -> Self:
        """Those that nobody has decided or withdrawn."""
        return self.filter(state__in=("SUBMITTED", "ASKED_BACK"))

    def with_names(self) -> Self:
        """With the rows that lists and pages name."""
        return self.select_related("requester", "project", "institution", "new_pi", "decided_by")


class AuditQuerySet(models.QuerySet[Any]):
    """Lines of the audit log."""

    def within(self, *, institutions: Iterable[str], projects: Iterable[str]) -> Self:
        """Those of some institutions or projects, by their codes."""
        return self.filter(Q(institution__in=list(institutions)) | Q(project__in=list(projects)))


def _looks_at_all(user: "User") -> bool:
    """Administrators, auditors and reviewers see every project and what it was granted."""
    return user.is_staff or user.holds("AUDITOR", "REVIEWER")


def ledger_mismatch() -> Q:
    """Rows (annotated with sums of their entries) whose cache differs from the ledger."""
    return ~Q(granted_s=F("granted_sum")) | ~Q(reserved_s=F("reserved_sum")) | ~Q(used_s=F("used_sum"))
