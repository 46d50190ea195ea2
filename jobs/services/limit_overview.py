"""The limits of a person in words and figures: what holds, where it comes from, and what is used of it."""

from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext_lazy as _

from accounts.models import JobKind, Partition, Project, User
from accounts.services.policies import Limit, rules_for
from jobs.models import Job
from jobs.services.limits import usage_by_scope
from jobs.services.wording import hours

FIELD_LABELS = {
    "max_queued_jobs": _("Queued jobs"),
    "max_running_jobs": _("Running jobs"),
    "max_accelerators_in_use": _("Accelerators in use"),
    "max_accelerators_per_job": _("Accelerators per job"),
    "max_time_limit_minutes": _("Time limit (minutes)"),
    "max_jobs_per_day": _("Jobs in 24 hours"),
    "approval_above_s": _("Approval needed above (accelerator-hours)"),
    "allowed_classes": _("Allowed resource classes"),
}
SCOPE_LABELS = {
    "user": _("the person"),
    "job_kind": _("the kind of job"),
    "partition": _("the partition"),
    "institution": _("the institution"),
    "centre": _("the whole centre"),
    "project": _("the project, all its members together"),
}
_COUNTED = {
    "max_queued_jobs": "queued_jobs",
    "max_running_jobs": "running_jobs",
    "max_accelerators_in_use": "accelerators_in_use",
    "max_jobs_per_day": "jobs_of_day",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRow:
    """One field: a limit that holds (None: no limit), what it overrides, and use against it (None: not counted)."""

    label: str
    value: str
    scope: str
    overridden: tuple[tuple[str, str], ...]
    used: int | None
    is_reached: bool


def explain_limits(*, user: User, project: Project, partition: Partition, kind: str, at: datetime) -> list[LimitRow]:
    """A row for each limit that holds, and one for each field without. At most ten queries."""
    probe = Job(user=user, project=project, partition=partition)
    probe.workload = {} if kind == JobKind.TRAINING else None
    used_by = usage_by_scope(probe, at=at)
    rows = []
    for rule in rules_for(user=user, project=project, partition=partition, kind=kind):
        label = str(FIELD_LABELS[rule.field])
        if not rule.holds:
            rows.append(LimitRow(label=label, value="", scope="", overridden=(), used=None, is_reached=False))
        for limit in rule.holds:
            counted = _COUNTED.get(limit.field)
            used = getattr(used_by(limit.scope), counted) if counted else None
            lost = () if limit.scope == "project" else rule.overridden
            rows.append(
                LimitRow(
                    label=label,
                    value=_in_words(limit),
                    scope=str(SCOPE_LABELS[limit.scope]),
                    overridden=tuple((_in_words(other), str(SCOPE_LABELS[other.scope])) for other in lost),
                    used=used,
                    is_reached=used is not None and used >= limit.value,
                )
            )
    return rows


def _in_words(limit: Limit) -> str:
    if limit.field == "allowed_classes":
        return ", ".join(limit.codes)
    return hours(limit.value) if limit.field == "approval_above_s" else str(limit.value)
