"""Which limit holds, and what becomes of a job that breaks one."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from accounts.models import ActSource, Appointment, AuditEvent, Notification, Office, Policy, User
from accounts.services.acts import Act
from accounts.services.policies import limits_for, rules_for
from jobs.models import Job
from jobs.services.approval import AlreadyDecided, ApprovalForbidden, approve_job, refuse_job
from jobs.services.problems import RefusedRequest
from jobs.services.submission import preview_job
from jobs.states import HoldReason, JobState
from tests.factories import make_policy, make_resource_class, make_user
from tests.job_factories import make_request
from tests.jobs.conftest import Centre

PERSONAL = ["centre", "institution", "partition", "job_kind", "user"]


def _scope(centre: Centre, scope: str) -> dict[str, Any]:
    return {
        "centre": {},
        "institution": {"institution": centre.project.institution},
        "partition": {"partition": centre.partition},
        "job_kind": {"job_kind": "script"},
        "user": {"user": centre.user},
        "project": {"project": centre.project},
    }[scope]


def _act(centre: Centre, actor: User) -> Act:
    return Act(actor=actor, at=centre.now(), source=ActSource.PAGE)


@pytest.mark.parametrize("count", range(1, len(PERSONAL) + 1))
def test_of_the_scopes_that_limit_a_person_the_most_specific_wins(centre: Centre, count: int) -> None:
    for number, scope in enumerate(PERSONAL[:count], 1):
        make_policy(max_running_jobs=number, **_scope(centre, scope))
    rules = {
        rule.field: rule
        for rule in rules_for(user=centre.user, project=centre.project, partition=centre.partition, kind="script")
    }
    running = rules["max_running_jobs"]
    assert [(limit.scope, limit.value) for limit in running.holds] == [(PERSONAL[count - 1], count)]
    assert [limit.scope for limit in running.overridden] == PERSONAL[: count - 1][::-1]
    assert rules["max_queued_jobs"].holds == ()


def test_a_specific_policy_that_leaves_a_field_empty_does_not_hide_a_wider_one(centre: Centre) -> None:
    make_policy(max_running_jobs=5)
    make_policy(user=centre.user, max_queued_jobs=3)
    limits = limits_for(user=centre.user, project=centre.project, partition=centre.partition, kind="script")
    assert {(limit.field, limit.scope) for limit in limits} == {
        ("max_running_jobs", "centre"),
        ("max_queued_jobs", "user"),
    }


def test_the_projects_limit_holds_besides(centre: Centre) -> None:
    make_policy(user=centre.user, max_running_jobs=5)
    make_policy(project=centre.project, max_running_jobs=9)
    limits = limits_for(user=centre.user, project=centre.project, partition=centre.partition, kind="script")
    assert [(limit.scope, limit.value) for limit in limits] == [("user", 5), ("project", 9)]


def test_policies_of_other_scopes_say_nothing(centre: Centre) -> None:
    make_policy(user=make_user(), max_running_jobs=1)
    make_policy(job_kind="training", max_running_jobs=1)
    assert not limits_for(user=centre.user, project=centre.project, partition=centre.partition, kind="script")


def test_a_policy_has_one_scope(centre: Centre) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        make_policy(institution=centre.project.institution, job_kind="script")
    make_policy()
    with pytest.raises(IntegrityError), transaction.atomic():
        make_policy()


@pytest.mark.parametrize("scope", [*PERSONAL, "project"])
def test_one_job_too_many_in_24_hours_is_refused_and_the_next_day_it_is_not(centre: Centre, scope: str) -> None:
    make_policy(max_jobs_per_day=2, **_scope(centre, scope))
    first = centre.submit()
    centre.submit()
    with pytest.raises(RefusedRequest) as refused:
        centre.submit()
    (problem,) = refused.value.problems
    assert (problem.code, problem.value, problem.allowed) == ("max_jobs_per_day", 3, "2")
    centre.admit()
    assert set(Job.objects.values_list("state", flat=True)) == {JobState.QUEUED}
    assert first.pk
    centre.backend.advance(timedelta(days=1).total_seconds())
    centre.submit()


def test_a_class_that_is_not_allowed_is_refused_at_submission_and_in_a_dry_run(centre: Centre) -> None:
    policy = make_policy(user=centre.user)
    policy.allowed_classes.add(make_resource_class("cpu"))
    request = make_request(centre.project, centre.partition)
    with pytest.raises(RefusedRequest) as refused:
        preview_job(user=centre.user, request=request, at=centre.now())
    (problem,) = refused.value.problems
    assert (problem.field, problem.code, problem.allowed) == ("partition", "allowed_classes", "cpu")
    with pytest.raises(RefusedRequest):
        centre.submit()
    policy.allowed_classes.add(centre.partition.resource_class)
    centre.submit()


def test_a_job_over_a_concurrency_limit_is_held_and_goes_on_by_itself(centre: Centre) -> None:
    make_policy(institution=centre.project.institution, max_running_jobs=1)
    first = centre.submit()
    centre.backend.advance(1)
    second = centre.submit()
    centre.tick()
    second.refresh_from_db()
    assert (second.state, second.state_reason) == (JobState.HELD, HoldReason.LIMIT)
    assert second.state_detail["scope"] == "institution"
    centre.tick(3600)
    centre.tick(1)
    second.refresh_from_db()
    first.refresh_from_db()
    assert first.is_terminal
    assert second.state != JobState.HELD


@pytest.fixture
def waiting(centre: Centre) -> Job:
    """A job that needs approval: 8 accelerator-hours where 4 are free."""
    make_policy(approval_above_s=4 * 3600)
    reviewer = make_user("gu")
    Appointment.objects.create(user=reviewer, office=Office.REVIEWER)
    job = centre.submit()
    centre.tick()
    job.refresh_from_db()
    return job


def test_a_large_job_waits_for_approval_and_reserves_nothing(centre: Centre, waiting: Job) -> None:
    assert (waiting.state, waiting.state_reason) == (JobState.HELD, HoldReason.APPROVAL)
    centre.tick(86400)
    waiting.refresh_from_db()
    assert waiting.state == JobState.HELD
    assert centre.balance() == (0, 0)
    assert [note.user.username for note in Notification.objects.filter(kind="job.approval_needed")] == ["gu"]


def test_an_approved_job_goes_on_and_its_owner_is_told(centre: Centre, waiting: Job) -> None:
    approve_job(job_id=waiting.pk, act=_act(centre, User.objects.get(username="gu")))
    centre.tick()
    waiting.refresh_from_db()
    assert waiting.state in (JobState.PENDING, JobState.RUNNING)
    assert waiting.approved_by is not None
    assert Notification.objects.get(kind="job.approved").user == centre.user
    assert AuditEvent.objects.get().action == "job.approve"
    with pytest.raises(AlreadyDecided):
        refuse_job(job_id=waiting.pk, act=_act(centre, User.objects.get(username="gu")), reason="too late")


def test_an_approved_job_still_waits_for_its_other_limits(centre: Centre, waiting: Job) -> None:
    make_policy(user=centre.user, max_running_jobs=0)
    approve_job(job_id=waiting.pk, act=_act(centre, User.objects.get(username="gu")))
    centre.tick()
    waiting.refresh_from_db()
    assert (waiting.state, waiting.state_reason) == (JobState.HELD, HoldReason.LIMIT)
    Policy.objects.filter(user=centre.user).delete()
    centre.tick()
    waiting.refresh_from_db()
    assert waiting.state != JobState.HELD


def test_a_refused_job_ends_with_the_reason(centre: Centre, waiting: Job) -> None:
    refuse_job(job_id=waiting.pk, act=_act(centre, User.objects.get(username="gu")), reason="Too long a run")
    waiting.refresh_from_db()
    assert (waiting.state, waiting.state_reason) == (JobState.REJECTED, "approval_refused")
    assert Notification.objects.get(kind="job.approval_refused").figures["reason"] == "Too long a run"
    assert AuditEvent.objects.get().reason == "Too long a run"


@pytest.mark.parametrize("lead_may_approve", [True, False])
def test_a_lead_approves_only_where_the_policy_says_so_and_nobody_their_own_job(
    centre: Centre, lead_may_approve: bool
) -> None:
    make_policy(approval_above_s=0, lead_may_approve=lead_may_approve)
    job = centre.submit()
    centre.tick()
    with pytest.raises(ApprovalForbidden):
        approve_job(job_id=job.pk, act=_act(centre, centre.user))
    lead = User.objects.get(username="chen")
    if lead_may_approve:
        approve_job(job_id=job.pk, act=_act(centre, lead))
    else:
        with pytest.raises(ApprovalForbidden):
            approve_job(job_id=job.pk, act=_act(centre, lead))
    assert AuditEvent.objects.exists() is lead_may_approve
