"""Which limits hold for a person in a project on a partition, and what breaks them.

How much is in use is passed in: this module doesn't know jobs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from django.db.models import Q

from accounts.models import Partition, Policy, Project, User
from accounts.models.policies import LIMIT_FIELDS, NO_SCOPE

Scope = Literal["user", "job_kind", "partition", "institution", "centre", "project"]
MOST_SPECIFIC_FIRST: tuple[Scope, ...] = ("user", "job_kind", "partition", "institution", "centre")
_HARD = frozenset(
    {"max_queued_jobs", "max_accelerators_per_job", "max_time_limit_minutes", "max_jobs_per_day", "allowed_classes"}
)
AT_SUBMISSION = frozenset({"max_queued_jobs", "max_jobs_per_day"})
"""Counted when a job is submitted, and not again when it is admitted: by then it is one of those counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit that holds, and the scope that set it. `codes` are the classes that `allowed_classes` allows."""

    field: str
    value: int
    scope: Scope
    codes: tuple[str, ...] = ()
    lead_may_approve: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which limits a field has: what holds, and what less specific scopes would have set."""

    field: str
    holds: tuple[Limit, ...]
    overridden: tuple[Limit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What counts against concurrency limits now, of a person or of a project; the new job not included."""

    queued_jobs: int = 0
    running_jobs: int = 0
    accelerators_in_use: int = 0
    jobs_of_day: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A limit that a job would break: `value` is what it would come to."""

    limit: Limit
    value: int
    code: str = ""

    @property
    def is_hard(self) -> bool:
        """Refused at submission; otherwise the job is held."""
        return self.limit.field in _HARD

    @property
    def needs_approval(self) -> bool:
        """Held until somebody approves; other held jobs go on by themselves."""
        return self.limit.field == "approval_above_s"


def limits_for(*, user: User, project: Project, partition: Partition, kind: str) -> list[Limit]:
    """All limits that hold. Two queries."""
    rules = rules_for(user=user, project=project, partition=partition, kind=kind)
    return [limit for rule in rules for limit in rule.holds]


def rules_for(*, user: User, project: Project, partition: Partition, kind: str) -> list[Rule]:
    """For each field what holds and what was overridden, most specific first. Two queries."""
    found = Policy.objects.filter(
        Q(user=user)
        | Q(project=project)
        | Q(partition=partition)
        | Q(institution=project.institution_id)
        | Q(job_kind=kind)
        | NO_SCOPE
    )
    policies = {policy.scope: policy for policy in found.prefetch_related("allowed_classes")}
    rules = []
    for field in (*LIMIT_FIELDS, "allowed_classes"):
        limits = [_limit_of(policies[scope], field) for scope in (*MOST_SPECIFIC_FIRST, "project") if scope in policies]
        of_persons = [limit for limit in limits if limit is not None and limit.scope != "project"]
        of_project = [limit for limit in limits if limit is not None and limit.scope == "project"]
        rules.append(Rule(field=field, holds=(*of_persons[:1], *of_project), overridden=tuple(of_persons[1:])))
    return rules


def _limit_of(policy: Policy, field: str) -> Limit | None:
    """What a policy sets for a field."""
    scope = cast(Scope, policy.scope)
    if field == "allowed_classes":
        codes = tuple(sorted(resource.code for resource in policy.allowed_classes.all()))
        return Limit(field=field, value=len(codes), scope=scope, codes=codes) if codes else None
    value = getattr(policy, field)
    if value is None:
        return None
    return Limit(field=field, value=value, scope=scope, lead_may_approve=policy.lead_may_approve)


def find_violations(
    limits: list[Limit],
    *,
    devices: int,
    time_limit_minutes: int,
    reserved_s: int,
    resource_class: str,
    usage_by_scope: Callable[[Scope], Usage],
) -> list[Violation]:
    """The limits that a job of this size would break, given what is in use by each scope."""
    found = []
    for limit in limits:
        if limit.field == "allowed_classes":
            if resource_class not in limit.codes:
                found.append(Violation(limit=limit, value=1, code=resource_class))
            continue
        usage = usage_by_scope(limit.scope)
        value = {
            "max_queued_jobs": usage.queued_jobs + 1,
            "max_running_jobs": usage.running_jobs + 1,
            "max_accelerators_in_use": usage.accelerators_in_use + devices,
            "max_accelerators_per_job": devices,
            "max_time_limit_minutes": time_limit_minutes,
            "max_jobs_per_day": usage.jobs_of_day + 1,
            "approval_above_s": reserved_s,
        }[limit.field]
        if value > limit.value:
            found.append(Violation(limit=limit, value=value))
    return found
