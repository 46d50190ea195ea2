"""Jobs above what policy lets run without being asked: held until somebody approves or refuses them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from django.db import transaction
from django.db.models import Q

from accounts import access
from accounts.models import Membership, Office, Role, User
from accounts.services import audit
from accounts.services.acts import Act
from accounts.services.notifications import notify
from accounts.services.policies import Violation
from jobs.models import EventKind, Job
from jobs.querysets import JobQuerySet
from jobs.services.lifecycle import change_hold, record_event, transition
from jobs.services.wording import hours
from jobs.states import HoldReason, JobState

MAX_REASON: Final = 500


class ApprovalForbidden(Exception):
    """The person may not decide on this job."""


class AlreadyDecided(Exception):
    """The job doesn't wait for approval any more."""


class ReasonMissing(Exception):
    """Who refuses a job says why."""


def ask_for_approval(job: Job, violations: Sequence[Violation], *, at: datetime) -> None:
    """Hold the job until somebody decides, and tell those who may. Called in the transaction of the admission."""
    strictest = min(violations, key=lambda violation: violation.limit.value)
    # One scope's wish that the lead can't decide is enough.
    lead_may_approve = all(violation.limit.lead_may_approve for violation in violations)
    detail = {
        "limit": strictest.limit.field,
        "scope": strictest.limit.scope,
        "allowed": strictest.limit.value,
        "value": strictest.value,
        "lead_may_approve": lead_may_approve,
    }
    if job.state == JobState.HELD:
        change_hold(job, HoldReason.APPROVAL, at=at, detail=detail)
    else:
        transition(job, JobState.HELD, at=at, reason=HoldReason.APPROVAL, detail=detail, plan=job.plan)
    notify(
        _deciders(job, lead_may_approve=lead_may_approve),
        "job.approval_needed",
        at=at,
        figures=_figures(job),
        path=job.get_absolute_url(),
        once=f"job.approval_needed:{job.pk}",
    )


def may_decide(user: User, job: Job) -> bool:
    """Reviewers and administrators; the project's PI and managers where the policy says so. Nobody his own job."""
    if user.pk == job.user_id:
        return access.is_administrator(user)
    if access.may_review(user):
        return True
    return bool(job.state_detail.get("lead_may_approve")) and access.leads_project(user, job.project_id)


@transaction.atomic
def approve_job(*, job_id: Any, act: Act, reason: str = "") -> Job:
    """Let the job go on: with the next look at held jobs, if no other limit holds it.

    Raises:
        ApprovalForbidden: the person may not decide on it.
        AlreadyDecided: it doesn't wait for approval any more.
    """
    job, actor = _lock(job_id, act)
    change_hold(job, "", at=act.at, approved_at=act.at, approved_by=actor)
    record_event(job, EventKind.APPROVED, at=act.at, actor=actor, detail={"words": reason[:MAX_REASON]})
    _record(job, act, "job.approve", {"state": job.state, "approved": True}, reason)
    notify([job.user], "job.approved", at=act.at, figures=_figures(job), path=job.get_absolute_url())
    return job


@transaction.atomic
def refuse_job(*, job_id: Any, act: Act, reason: str) -> Job:
    """End the job as REJECTED, with the reason for its owner.

    Raises:
        ReasonMissing: `reason` is empty.
        ApprovalForbidden, AlreadyDecided: as for `approve_job`.
    """
    if not reason.strip():
        raise ReasonMissing
    job, actor = _lock(job_id, act)
    words = reason.strip()[:MAX_REASON]
    transition(job, JobState.REJECTED, at=act.at, reason="approval_refused", detail={"words": words}, actor=actor)
    _record(job, act, "job.refuse", {"state": job.state}, words)
    figures = {**_figures(job), "reason": words}
    notify([job.user], "job.approval_refused", at=act.at, figures=figures, path=job.get_absolute_url())
    return job


def _lock(job_id: Any, act: Act) -> tuple[Job, User]:
    """The job under lock, if it waits for approval and the person may decide."""
    job: Job = Job.objects.select_for_update(of=("self",)).with_names().get(pk=job_id)
    if act.actor is None or not may_decide(act.actor, job):
        raise ApprovalForbidden(str(job_id))
    if not job.is_held_for_approval:
        raise AlreadyDecided(str(job_id))
    return job, act.actor


def _record(job: Job, act: Act, action: str, after: dict[str, Any], reason: str) -> None:
    before = {"state": JobState.HELD, "reserved_s": job.reserved_s}
    audit.record(
        act,
        action,
        target_kind="job",
        target=str(job.pk),
        before=before,
        after=after,
        project=job.project,
        reason=reason,
    )


def _deciders(job: Job, *, lead_may_approve: bool) -> list[User]:
    reviewing = Q(is_staff=True) | Q(appointments__office=Office.REVIEWER)
    people = User.objects.filter(reviewing, is_active=True).distinct()
    found = list(people)
    if lead_may_approve:
        leads = Membership.objects.filter(project_id=job.project_id, role__in=(Role.PI, Role.MANAGER))
        found += [row.user for row in leads.exclude(user_id=job.user_id).select_related("user")]
    return found


def _figures(job: Job) -> dict[str, Any]:
    return {
        "job": job.name,
        "project": job.project.code,
        "hours": hours(job.reserved_s),
        "user": job.user.username,
    }


def decidable(user: User) -> JobQuerySet:
    """Jobs that wait for approval and on which the person may decide (see `may_decide`)."""
    waiting: JobQuerySet = Job.objects.awaiting_approval()
    if access.is_administrator(user):
        return waiting
    if access.may_review(user):
        return waiting.exclude(user=user)
    led = Membership.objects.filter(user=user, role__in=(Role.PI, Role.MANAGER)).values("project")
    return waiting.filter(project__in=led, state_detail__lead_may_approve=True).exclude(user=user)
