"""Queries on jobs and segments, as chainable adjectives. They know fields, never model classes."""

from datetime import datetime
from typing import Any, Self

from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import Count, F, Q, Sum, Window
from django.db.models.functions import RowNumber

from accounts.access import readable_jobs_filter, visible_jobs_filter
from accounts.models import JobKind, User
from jobs.states import IN_SCHEDULER, OCCUPYING, TERMINAL, WAITING, HoldReason, JobState


class JobQuerySet(models.QuerySet[Any]):
    """Jobs."""

    def visible_to(self, user: User | AnonymousUser) -> Self:
        """Jobs the person may see: the only door for interfaces."""
        return self.filter(visible_jobs_filter(user))

    def readable_by(self, user: User | AnonymousUser) -> Self:
        """Jobs whose script, environment, log and metrics the person may read."""
        return self.filter(readable_jobs_filter(user))

    def with_names(self) -> Self:
        """Join what lists and pages show of a job's surroundings, so that a row costs no query."""
        return self.select_related("user", "project", "partition__cluster", "partition__resource_class")

    def without_contents(self) -> Self:
        """Leave out what lists don't show, and what may be large: scripts, and what they are made from."""
        return self.defer("script", "rendered_script", "command", "environment", "workload", "plan")

    def unfinished(self) -> Self:
        """Not at an end."""
        return self.exclude(state__in=TERMINAL)

    def submitted(self) -> Self:
        """Wait for their estimate, oldest first."""
        return self.filter(state=JobState.SUBMITTED).order_by("submitted_at", "pk")

    def held(self) -> Self:
        """Held and going on by themselves, oldest first: those that wait for somebody's approval don't."""
        held = self.filter(state=JobState.HELD).exclude(state_reason=HoldReason.APPROVAL)
        return held.order_by("submitted_at", "pk")

    def awaiting_approval(self) -> Self:
        """Held until somebody approves, oldest first."""
        return self.filter(state=JobState.HELD, state_reason=HoldReason.APPROVAL).order_by("submitted_at", "pk")

    def submitted_since(self, since: datetime) -> Self:
        """Submitted after that moment; refused ones are not counted."""
        return self.filter(submitted_at__gt=since).exclude(state=JobState.REJECTED)

    def of_kind(self, kind: str) -> Self:
        """Of one kind of policy (`Job.kind`)."""
        return self.filter(workload__isnull=kind == JobKind.SCRIPT)

    def oldest_of_each_share(self, count: int) -> Self:
        """The `count` oldest of each person in each project on each partition: what limits are counted for."""
        share = [F("user"), F("project"), F("partition")]
        rank = Window(RowNumber(), partition_by=share, order_by=["submitted_at", "pk"])
        return self.annotate(rank_in_share=rank).filter(rank_in_share__lte=count)

    def due_for_dispatch(self, at: datetime) -> Self:
        """QUEUED, or DISPATCHING with a lease that ran out, on a cluster that may be asked now; oldest first.

        A cluster that accepts no jobs gets no new ones; those it may already have are still looked up.
        """
        return self.filter(
            Q(state=JobState.QUEUED, partition__cluster__is_enabled=True)
            | Q(state=JobState.DISPATCHING, lease_expires_at__lte=at),
            Q(partition__cluster__retry_at__isnull=True) | Q(partition__cluster__retry_at__lte=at),
        ).order_by("queued_at", "pk")

    def in_scheduler(self, cluster_id: int) -> Self:
        """Handed to a cluster's scheduler and not yet ended."""
        return self.filter(state__in=IN_SCHEDULER, partition__cluster_id=cluster_id)

    def unsettled(self, cluster_id: int) -> Self:
        """Ended after they had reached the scheduler, and not yet charged."""
        return self.filter(state__in=TERMINAL, settled_at__isnull=True, partition__cluster_id=cluster_id)

    def usage(self) -> dict[str, int]:
        """Counts against concurrency limits: waiting jobs, admitted jobs, and the accelerators of the latter."""
        admitted = Q(state__in=OCCUPYING | {JobState.QUEUED})
        totals = self.aggregate(
            queued=Count("pk", filter=Q(state__in=WAITING)),
            running=Count("pk", filter=admitted),
            devices=Sum(F("nodes") * F("devices_per_node"), filter=admitted),
        )
        return {key: int(value or 0) for key, value in totals.items()}
