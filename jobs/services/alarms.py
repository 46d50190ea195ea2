"""What goes wrong without anybody looking at it: administrators are told once of each."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import CharField, Exists, F, OuterRef, QuerySet, Value
from django.db.models.functions import Cast, Concat, Extract
from django.urls import reverse

from accounts.models import Cluster, Notification, User
from accounts.services.notifications import notify
from jobs.models import Job, JobSegment
from jobs.states import JobState

logger = logging.getLogger(__name__)

USAGE_OVERDUE_AFTER: Final = timedelta(hours=1)
"""Slurm's accounting takes seconds, minutes after an outage. A record that lacks its end never comes by itself."""

UNAVAILABLE_AFTER: Final = timedelta(minutes=10)
"""A scheduler's restart is no news."""

_AT_ONCE: Final = 100
"""The others follow with the next round."""


@dataclass(frozen=True, slots=True)
class _Alarm:
    kind: str
    of: str
    figures: dict[str, str]
    path: str


def raise_alarms(*, at: datetime) -> int:
    """Tell the administrators of lost jobs, of usage that accounting owes, and of clusters that don't answer.

    Returns of how many such things they were told now: each is news once.
    """
    people = list(User.objects.filter(is_staff=True, is_active=True))
    alarms = [*_lost_jobs(people), *_overdue_usage(people, at), *_silent_clusters(people, at)]
    for alarm in alarms:
        logger.error("%s: %s", alarm.kind, alarm.figures)
        notify(people, alarm.kind, at=at, figures=alarm.figures, path=alarm.path, once=f"{alarm.kind}/{alarm.of}")
    return len(alarms)


def _lost_jobs(people: list[User]) -> Iterator[_Alarm]:
    lost = Job.objects.filter(state=JobState.LOST).select_related("partition__cluster").order_by("pk")
    for job in _untold(lost, "job_lost", F("pk"), people):
        figures = {"job": str(job.pk), "name": job.name, "cluster": job.partition.cluster.code}
        yield _Alarm("job_lost", str(job.pk), figures, job.get_absolute_url())


def _overdue_usage(people: list[User], at: datetime) -> Iterator[_Alarm]:
    overdue = JobSegment.objects.filter(accounted_at__isnull=True, ended_at__lte=at - USAGE_OVERDUE_AFTER)
    ordered = overdue.select_related("job", "cluster").order_by("ended_at", "pk")
    for segment in _untold(ordered, "usage_overdue", F("key"), people):
        figures = {"job": str(segment.job_id), "cluster": segment.cluster.code, "native_id": segment.native_id}
        yield _Alarm("usage_overdue", segment.key, figures, segment.job.get_absolute_url())


def _silent_clusters(people: list[User], at: datetime) -> Iterator[_Alarm]:
    """One outage is told of once, and the next one again."""
    silent = Cluster.objects.filter(unavailable_since_at__lte=at - UNAVAILABLE_AFTER).order_by("pk")
    outage = Concat("code", Value("/"), Cast(Extract("unavailable_since_at", "epoch"), CharField()))
    for cluster in _untold(silent, "cluster_unavailable", outage, people):
        figures = {"cluster": cluster.code, "error": cluster.last_error}
        yield _Alarm("cluster_unavailable", cluster.of, figures, reverse("cluster-list"))


def _untold(found: QuerySet[Any], kind: str, of: Any, people: list[User]) -> QuerySet[Any]:
    """Those of which none of the people was told, with what tells them apart as `of`."""
    told = Notification.objects.filter(user__in=people, once=Concat(Value(f"{kind}/"), OuterRef("of")))
    untold: QuerySet[Any] = found.annotate(of=Cast(of, CharField())).exclude(Exists(told))
    return untold[:_AT_ONCE]
