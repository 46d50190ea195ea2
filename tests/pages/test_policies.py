"""Pages of limits, policies and approvals."""

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import Appointment, AuditEvent, Office, Policy, User
from jobs.models import Job
from jobs.states import JobState
from tests.factories import make_policy, make_user
from tests.jobs.conftest import Centre
from tests.pages.conftest import SignIn


@pytest.fixture
def people(centre: Centre, lead: User, stranger: User) -> dict[str, User]:
    auditor, reviewer = make_user("audit"), make_user("review")
    Appointment.objects.create(user=auditor, office=Office.AUDITOR)
    Appointment.objects.create(user=reviewer, office=Office.REVIEWER)
    return {
        "owner": centre.user,
        "lead": lead,
        "stranger": stranger,
        "auditor": auditor,
        "reviewer": reviewer,
        "administrator": make_user("admin", is_staff=True),
    }


def test_limits_name_the_value_its_scope_what_it_overrides_and_the_use(centre: Centre, owner: Client) -> None:
    make_policy(max_queued_jobs=50)
    make_policy(user=centre.user, max_queued_jobs=7)
    centre.submit()
    (row, *_) = owner.get(reverse("limits"), {"kind": "script"}).context["rows"]
    assert (row.value, row.scope, row.used) == ("7", "the person", 1)
    assert row.overridden == (("50", "the whole centre"),)


def test_only_who_sees_all_may_ask_for_another_persons_limits(
    centre: Centre, sign_in: SignIn, people: dict[str, User]
) -> None:
    seen = {
        name: sign_in(user).get(reverse("limits"), {"person": centre.user.username}).context.get("choice")
        for name, user in people.items()
    }
    names = {name: choice["user"].username for name, choice in seen.items() if choice}
    assert names["auditor"] == names["administrator"] == "lin"
    assert (names["lead"], names["stranger"]) == ("chen", "sun")


def test_policies_are_read_by_auditors_and_set_by_administrators(
    centre: Centre, sign_in: SignIn, people: dict[str, User]
) -> None:
    policy = make_policy(max_queued_jobs=3)
    listed, opened, removed = {}, {}, {}
    for name, user in people.items():
        client = sign_in(user)
        listed[name] = client.get(reverse("policy-list")).status_code
        opened[name] = client.get(reverse("policy-edit", args=[policy.pk])).status_code
        removed[name] = client.post(reverse("policy-delete", args=[policy.pk])).status_code
    assert {name for name, code in listed.items() if code == 200} == {"auditor", "administrator"}
    assert {name for name, code in opened.items() if code == 200} == {"administrator"}
    assert {name for name, code in removed.items() if code == 302} == {"administrator"}
    assert AuditEvent.objects.get().before["max_queued_jobs"] == 3


def test_an_administrator_makes_and_changes_a_policy_and_the_log_has_both(
    centre: Centre, sign_in: SignIn, people: dict[str, User]
) -> None:
    client = sign_in(people["administrator"])
    answer = client.post(reverse("policy-new"), {"user": "lin", "max_queued_jobs": "4", "approval_above_hours": "1.5"})
    assert answer.status_code == 302, answer.context["form"].errors
    policy = Policy.objects.get()
    assert (policy.user, policy.approval_above_s) == (centre.user, 5400)
    url = reverse("policy-edit", args=[policy.pk])
    assert b'value="lin"' in client.get(url).content
    client.post(url, {"user": "lin", "max_queued_jobs": "9"})
    change = AuditEvent.objects.get(action="policy.change")
    assert (change.before["max_queued_jobs"], change.after["max_queued_jobs"]) == (4, 9)
    assert change.after["approval_above_s"] is None


def test_two_scopes_or_a_second_policy_of_the_centre_are_refused_with_words(
    centre: Centre, sign_in: SignIn, people: dict[str, User]
) -> None:
    client = sign_in(people["administrator"])
    answer = client.post(reverse("policy-new"), {"user": "lin", "job_kind": "script"})
    assert answer.status_code == 200
    assert "job_kind" in answer.context["form"].errors
    make_policy()
    assert client.post(reverse("policy-new"), {"max_queued_jobs": "1"}).context["form"].errors
    assert Policy.objects.count() == 1


def test_who_may_decide_on_a_job(centre: Centre, sign_in: SignIn, people: dict[str, User]) -> None:
    make_policy(approval_above_s=0)
    job = centre.submit()
    centre.admit()
    url = reverse("job-decide", args=[job.pk])
    for name in ("owner", "lead", "stranger", "auditor"):
        assert sign_in(people[name]).post(url, {"decision": "approve"}).status_code == 404, name
        assert not sign_in(people[name]).get(reverse("job-approvals")).context["page_obj"].object_list
    reviewer = sign_in(people["reviewer"])
    assert list(reviewer.get(reverse("job-approvals")).context["page_obj"]) == [job]
    reviewer.post(url, {"decision": "refuse"})
    assert Job.objects.get().state == JobState.HELD  # no reason given
    assert reviewer.post(url, {"decision": "approve"}).status_code == 302
    centre.release_held()
    assert Job.objects.get().state == JobState.QUEUED


def test_a_waiting_jobs_page_says_its_place(centre: Centre, owner: Client) -> None:
    job = centre.submit()
    centre.admit()
    assert "Place 1 of 1" in owner.get(reverse("job-detail", args=[job.pk])).content.decode()
