"""Limits of policy on one job: what is in use, what the job would break, and that in words."""

from collections.abc import Callable

from django.utils.translation import gettext as _

from accounts.services import policies
from accounts.services.policies import Scope, Usage
from jobs.models import Job
from jobs.querysets import JobQuerySet
from jobs.services.problems import FieldProblem

_LIMIT_TO_FIELD = {
    "max_accelerators_per_job": "devices_per_node",
    "max_time_limit_minutes": "time_limit_minutes",
    "max_queued_jobs": "project",
}


def broken_limits(job: Job) -> list[policies.Violation]:
    """The limits that the job would break now."""
    return policies.find_violations(
        policies.limits_for(user=job.user, project=job.project, partition=job.partition),
        devices=job.devices,
        time_limit_minutes=job.time_limit_minutes,
        usage_by_scope=usage_by_scope(job),
    )


def limit_problem(violation: policies.Violation) -> FieldProblem:
    """A broken limit in words."""
    labels = {
        "max_queued_jobs": _("queued jobs"),
        "max_running_jobs": _("running jobs"),
        "max_accelerators_in_use": _("accelerators in use"),
        "max_accelerators_per_job": _("accelerators per job"),
        "max_time_limit_minutes": _("minutes of time limit"),
    }
    scopes = {
        "user": _("for you"),
        "partition": _("on this partition"),
        "centre": _("at this centre"),
        "project": _("for this project"),
    }
    limit = violation.limit
    message = _("At most %(high)s %(what)s are allowed %(scope)s; this job would make it %(value)s.") % {
        "high": limit.value,
        "what": labels[limit.field],
        "scope": scopes[limit.scope],
        "value": violation.value,
    }
    return FieldProblem(
        field=_LIMIT_TO_FIELD.get(limit.field, "project"),
        code=limit.field,
        message=message,
        value=violation.value,
        allowed=str(limit.value),
        parameters={"limit": limit.field, "scope": limit.scope, "allowed": limit.value, "value": violation.value},
    )


def usage_by_scope(job: Job) -> Callable[[Scope], Usage]:
    """What is in use by the scopes that a limit on `job` may count: person, person on partition, project.

    The job itself is not counted. Each scope is asked once at most.
    """
    known: dict[Scope, Usage] = {}

    def look_up(scope: Scope) -> Usage:
        if scope not in known:
            known[scope] = _count(_counted(job, scope))
        return known[scope]

    return look_up


def _counted(job: Job, scope: Scope) -> JobQuerySet:
    others = Job.objects.unfinished().exclude(pk=job.pk)
    if scope == "project":
        return others.filter(project_id=job.project_id)
    if scope == "partition":
        return others.filter(user_id=job.user_id, partition_id=job.partition_id)
    return others.filter(user_id=job.user_id)


def _count(jobs: JobQuerySet) -> Usage:
    counts = jobs.usage()
    return Usage(queued_jobs=counts["queued"], running_jobs=counts["running"], accelerators_in_use=counts["devices"])
