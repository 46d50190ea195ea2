"""Limits of policy on one job: what is in use, what the job would break, and that in words."""

from collections.abc import Callable
from datetime import datetime, timedelta

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


def broken_limits(job: Job, *, at: datetime) -> list[policies.Violation]:
    """The limits that the job would break now."""
    return policies.find_violations(
        policies.limits_for(user=job.user, project=job.project, partition=job.partition, kind=job.kind),
        devices=job.devices,
        time_limit_minutes=job.time_limit_minutes,
        reserved_s=job.reserved_s,
        resource_class=job.partition.resource_class.code,
        usage_by_scope=usage_by_scope(job, at=at),
    )


def limit_problem(violation: policies.Violation) -> FieldProblem:
    """A broken limit in words."""
    labels = {
        "max_queued_jobs": _("queued jobs"),
        "max_running_jobs": _("running jobs"),
        "max_accelerators_in_use": _("accelerators in use"),
        "max_accelerators_per_job": _("accelerators per job"),
        "max_time_limit_minutes": _("minutes of time limit"),
        "max_jobs_per_day": _("jobs submitted in 24 hours"),
        "approval_above_s": _("accelerator-seconds without approval"),
    }
    scopes = {
        "user": _("for you"),
        "partition": _("on this partition"),
        "job_kind": _("for this kind of job"),
        "institution": _("in this institution's projects"),
        "centre": _("at this centre"),
        "project": _("for this project"),
    }
    limit = violation.limit
    if limit.field == "allowed_classes":
        return _class_problem(violation, scopes[limit.scope])
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


def _class_problem(violation: policies.Violation, scope: str) -> FieldProblem:
    allowed = ", ".join(violation.limit.codes)
    message = _("Resource class %(value)s is not allowed %(scope)s; allowed: %(allowed)s.") % {
        "value": violation.code,
        "scope": scope,
        "allowed": allowed,
    }
    return FieldProblem(
        field="partition",
        code="allowed_classes",
        message=message,
        value=violation.code,
        allowed=allowed,
        parameters={
            "limit": "allowed_classes",
            "scope": violation.limit.scope,
            "allowed": allowed,
            "value": violation.code,
        },
    )


def usage_by_scope(job: Job, *, at: datetime) -> Callable[[Scope], Usage]:
    """What is in use by the scopes that a limit on `job` may count: person (there, or of that kind) and project.

    The job itself is not counted. Each scope is asked once at most.
    """
    known: dict[Scope, Usage] = {}

    def look_up(scope: Scope) -> Usage:
        if scope not in known:
            known[scope] = _count(_counted(job, scope), at)
        return known[scope]

    return look_up


def _counted(job: Job, scope: Scope) -> JobQuerySet:
    others = Job.objects.exclude(pk=job.pk)
    if scope == "project":
        return others.filter(project_id=job.project_id)
    own = others.filter(user_id=job.user_id)
    if scope == "partition":
        return own.filter(partition_id=job.partition_id)
    if scope == "institution":
        return own.filter(project__institution_id=job.project.institution_id)
    if scope == "job_kind":
        return own.of_kind(job.kind)
    return own


def _count(jobs: JobQuerySet, at: datetime) -> Usage:
    counts = jobs.unfinished().usage()
    return Usage(
        queued_jobs=counts["queued"],
        running_jobs=counts["running"],
        accelerators_in_use=counts["devices"],
        jobs_of_day=jobs.submitted_since(at - timedelta(days=1)).count(),
    )
