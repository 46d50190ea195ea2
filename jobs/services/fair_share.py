"""Who of those that wait goes on next, and where a job stands and why; the rule itself is `fair_ranking`."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import numpy as np
from django.conf import settings
from django.db.models import DurationField, ExpressionWrapper, F, FloatField, Sum, Value
from django.db.models.functions import Extract, Power

from accounts.models import Allocation
from jobs.models import Job, UsageRecord
from jobs.querysets import JobQuerySet
from jobs.services.fair_ranking import Ledgered, Waiting, rank
from jobs.states import OCCUPYING, JobState

_DAY_S: Final = 86_400.0
_FORGOTTEN_AFTER: Final = 10
"""Half-lives after which use doesn't count: a thousandth of it would be left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a job stands among those that wait for the same partition, and why. Shares and uses are fractions."""

    position: int
    total: int
    factor: float
    project_share: float
    project_use: float
    person_share: float
    person_use: float
    age_s: float
    advantage_s: float


def order(jobs: JobQuerySet, *, at: datetime) -> list[UUID]:
    """Ids of the waiting jobs, the next first. Four queries, however many there are."""
    waiting = _read_waiting(jobs)
    if len(waiting.ids) < 2:
        return list(waiting.ids)
    ranking = rank(waiting, _read_use(at), horizon_s=_horizon_s())
    return [waiting.ids[index] for index in ranking.order]


def place_of(job: Job, *, at: datetime) -> Place | None:
    """Where the job stands; None unless it waits in the portal and goes on by itself."""
    if job.state == JobState.QUEUED:
        jobs: JobQuerySet = Job.objects.filter(state=JobState.QUEUED)
    elif job.state == JobState.HELD and not job.is_held_for_approval:
        jobs = Job.objects.held()
    else:
        return None
    resource_class = job.partition.resource_class_id
    jobs = jobs.filter(partition__resource_class_id=resource_class)
    waiting = _read_waiting(jobs)
    if job.pk not in waiting.ids:
        return None  # it has just moved on
    ranking = rank(waiting, _read_use(at), horizon_s=_horizon_s())
    index = list(waiting.ids).index(job.pk)
    position = int(np.flatnonzero(ranking.order == index)[0]) + 1
    return Place(
        position=position,
        total=len(waiting.ids),
        factor=float(ranking.factor[index]),
        project_share=float(ranking.project_share[index]),
        project_use=float(ranking.project_use[index]),
        person_share=float(ranking.person_share[index]),
        person_use=float(ranking.person_use[index]),
        age_s=(at - job.submitted_at).total_seconds(),
        advantage_s=float(ranking.factor[index]) * _horizon_s(),
    )


def _horizon_s() -> float:
    return float(settings.FAIR_SHARE_HORIZON_DAYS) * _DAY_S


def _read_waiting(jobs: JobQuerySet) -> Waiting:
    rows = list(
        jobs.order_by("submitted_at", "pk").values_list(
            "pk",
            "project_id",
            "partition__resource_class_id",
            "user_id",
            "submitted_at",
            F("nodes") * F("devices_per_node") * F("time_limit_minutes") * 60.0,
        )
    )
    return Waiting(
        ids=[row[0] for row in rows],
        project=[(row[1], row[2]) for row in rows],
        person=[(row[1], row[2], row[3]) for row in rows],
        submitted_s=np.array([row[4].timestamp() for row in rows]),
        cost_s=np.array([float(row[5]) for row in rows]),
    )


def _read_use(at: datetime) -> Ledgered:
    """Decayed use, what runs now, and grants: three queries, whose answers grow with people and not with jobs."""
    half_life_s = float(settings.FAIR_SHARE_HALF_LIFE_DAYS) * _DAY_S
    age = ExpressionWrapper(Value(at) - F("ended_at"), output_field=DurationField())
    decay = Power(Value(0.5), Extract(age, "epoch") / Value(half_life_s), output_field=FloatField())
    used_s = ExpressionWrapper(F("devices") * F("elapsed_s") * decay, output_field=FloatField())
    columns = ("segment__job__project_id", "segment__job__partition__resource_class_id", "segment__job__user_id")
    recent = UsageRecord.objects.filter(ended_at__gt=at - timedelta(seconds=_FORGOTTEN_AFTER * half_life_s))
    ended = recent.values_list(*columns).annotate(amount=Sum(used_s)).order_by()
    hold_s = Sum(F("nodes") * F("devices_per_node") * F("time_limit_minutes") * 60.0, output_field=FloatField())
    running = Job.objects.filter(state__in=OCCUPYING)
    held = (
        running.values_list("project_id", "partition__resource_class_id", "user_id").annotate(amount=hold_s).order_by()
    )
    by_project: dict[tuple[int, int], float] = {}
    by_person: dict[tuple[int, int, int], float] = {}
    for project, resource_class, user, amount in (*ended, *held):
        person = (project, resource_class, user)
        by_person[person] = by_person.get(person, 0.0) + float(amount)
        by_project[person[:2]] = by_project.get(person[:2], 0.0) + float(amount)
    grants = (
        Allocation.objects.active(at).values_list("project_id", "resource_class_id").annotate(amount=Sum("granted_s"))
    )
    granted = {(project, resource): float(amount) for project, resource, amount in grants.order_by()}
    return Ledgered(by_project=by_project, by_person=by_person, granted=granted)
