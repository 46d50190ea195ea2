"""Which limits hold for a person in a project on a partition, and what breaks them.

How much is in use is passed in: this module doesn't know jobs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from django.db.models import Q

from accounts.models import Partition, Policy, Project, User
from accounts.models.policies import LIMIT_FIELDS

Scope = Literal["user", "partition", "centre", "project"]
_MOST_SPECIFIC_FIRST: tuple[Scope, ...] = ("user", "partition", "centre")
_HARD = ("max_queued_jobs", "max_accelerators_per_job", "max_time_limit_minutes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit that holds, and the scope that set it."""

    field: str
    value: int
    scope: Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What counts against concurrency limits now, of a person or of a project; the new job not included."""

    queued_jobs: int = 0
    running_jobs: int = 0
    accelerators_in_use: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A limit that a job would break: `value` is what it would come to."""

    limit: Limit
    value: int

    @property
    def is_hard(self) -> bool:
        """Refused at submission; otherwise the job is held and goes on by itself."""
        return self.limit.field in _HARD


def limits_for(*, user: User, project: Project, partition: Partition) -> list[Limit]:
    """All limits that hold. One query."""
    policies = {
        policy.scope: policy
        for policy in Policy.objects.filter(
            Q(user=user)
            | Q(project=project)
            | Q(partition=partition)
            | Q(user__isnull=True, project__isnull=True, partition__isnull=True)
        )
    }
    found: list[Limit] = []
    for field in LIMIT_FIELDS:
        for scope in _MOST_SPECIFIC_FIRST:
            value = getattr(policies.get(scope), field, None)
            if value is not None:
                found.append(Limit(field=field, value=value, scope=scope))
                break
        value = getattr(policies.get("project"), field, None)
        if value is not None:
            found.append(Limit(field=field, value=value, scope="project"))
    return found


def find_violations(
    limits: list[Limit],
    *,
    devices: int,
    time_limit_minutes: int,
    usage_by_scope: Callable[[Scope], Usage],
) -> list[Violation]:
    """The limits that a job of this size would break, given what is in use by each scope."""
    found = []
    for limit in limits:
        usage = usage_by_scope(limit.scope)
        value = {
            "max_queued_jobs": usage.queued_jobs + 1,
            "max_running_jobs": usage.running_jobs + 1,
            "max_accelerators_in_use": usage.accelerators_in_use + devices,
            "max_accelerators_per_job": devices,
            "max_time_limit_minutes": time_limit_minutes,
        }[limit.field]
        if value > limit.value:
            found.append(Violation(limit=limit, value=value))
    return found
