"""Who may do what: the back-office, pages as staff and closed accounts see them, forms without their token."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import Allocation, Membership, Project, Role, User
from jobs.models import Job
from jobs.services.submission import clone_request, prepare_job
from jobs.states import JobState
from tests.api.conftest import ApiClient
from tests.factories import NOW, make_project, make_user
from tests.jobs.conftest import Centre


def signed_in(user: User, **options: Any) -> Client:
    client = Client(**options)
    client.force_login(user)
    return client


def test_a_closed_account_has_to_sign_in(centre: Centre) -> None:
    closed = signed_in(make_user("closed"))
    User.objects.filter(username="closed").update(is_active=False)
    for name in ("dashboard", "job-list", "project-list", "audit-list"):
        assert closed.get(reverse(name))["Location"].startswith(reverse("account_login"))


def test_a_job_that_is_not_theirs_to_see_can_not_be_copied(centre: Centre) -> None:
    job = centre.submit(script="#!/bin/bash\necho secret\n")
    teammate = make_user("zhao")
    Membership.objects.create(project=centre.project, user=teammate)
    client = signed_in(teammate)
    assert client.get(f"/jobs/new?clone={job.pk}").status_code == 404
    prepared = prepare_job(user=teammate, request=clone_request(job), at=NOW)
    assert prepared.job.cloned_from is None


def test_the_lead_of_another_project_sees_no_use_and_no_ledger(centre: Centre) -> None:
    job = centre.submit()
    centre.tick()
    foreign = make_user("foreign")
    make_project("elsewhere", pi=foreign)
    client = signed_in(foreign)
    for part in ("usage", "ledger"):
        assert client.get(f"/projects/nlp/{part}", headers={"HX-Request": "true"}).status_code == 404
    for url in ("/jobs/?scope=all", "/jobs/?scope=all&project=nlp", f"/jobs/?q={job.pk}"):
        assert job.get_absolute_url() not in client.get(url).content.decode()


def test_a_member_sees_their_own_use_alone(centre: Centre) -> None:
    User.objects.filter(pk=centre.user.pk).update(first_name="Xia-of-the-team")
    teammate = make_user("zhao")
    Membership.objects.create(project=centre.project, user=teammate)
    centre.submit()
    lead = User.objects.get(username="chen")
    assert "Xia-of-the-team" in signed_in(lead).get("/projects/nlp/usage").content.decode()
    assert "Xia-of-the-team" not in signed_in(teammate).get("/projects/nlp/usage").content.decode()


def test_a_lead_that_lost_the_role_lost_the_view(centre: Centre) -> None:
    job = centre.submit()
    lead = signed_in(User.objects.get(username="chen"))
    assert lead.get(job.get_absolute_url()).status_code == 200
    Membership.objects.filter(user__username="chen").update(role=Role.MEMBER)
    for part in ("", "/live", "/log", "/log/download", "/metrics"):
        assert lead.get(job.get_absolute_url() + part).status_code == 404


# --- The back-office -------------------------------------------------------------------------------------------------


def staff_with(*codenames: str) -> User:
    user = make_user("desk", is_staff=True)
    user.user_permissions.add(*Permission.objects.filter(codename__in=codenames))
    return User.objects.get(pk=user.pk)


@pytest.mark.parametrize("model", ["accounts/user", "accounts/allocation", "accounts/ledgerentry", "jobs/job"])
def test_staff_without_a_permission_see_nothing_in_the_back_office(centre: Centre, model: str) -> None:
    centre.submit()
    client = signed_in(staff_with())
    assert client.get(f"/admin/{model}/").status_code == 403
    assert client.get(f"/admin/{model}/add/").status_code == 403
    assert client.post(f"/admin/{model}/", {"action": "cancel_selected"}).status_code == 403
    assert Job.objects.get().state == JobState.SUBMITTED


def person_form(user: User, **changes: str) -> dict[str, str]:
    return {"username": user.username, "email": user.email, "is_active": "on", "is_staff": "on", **changes}


@pytest.mark.django_db
def test_nobody_makes_themselves_a_superuser() -> None:
    desk = staff_with("change_user", "view_user", "add_user")
    other = make_user("lin")
    client = signed_in(desk)
    for user in (desk, other):
        answer = client.post(f"/admin/accounts/user/{user.pk}/change/", person_form(user, is_superuser="on"))
        assert answer.status_code == 302, answer.context["errors"]
    assert not User.objects.filter(is_superuser=True).exists()
    other.refresh_from_db()
    assert not other.is_staff


@pytest.mark.django_db
def test_nobody_becomes_a_superuser_through_that_ones_password_or_address() -> None:
    root = make_user("root", is_staff=True, is_superuser=True)
    client = signed_in(staff_with("change_user", "view_user", "delete_user"))
    password = "taken over by the desk"
    taken = {"password1": password, "password2": password, "usable_password": "true"}
    assert client.post(f"/admin/accounts/user/{root.pk}/password/", taken).status_code == 403
    form = person_form(root, email="desk@evil.example")
    assert client.post(f"/admin/accounts/user/{root.pk}/change/", form).status_code == 403
    assert client.post(f"/admin/accounts/user/{root.pk}/delete/", {"post": "yes"}).status_code == 403
    root.refresh_from_db()
    assert root.email == "root@example.org"
    assert not root.check_password(password)


@pytest.mark.django_db
def test_a_superuser_gives_and_takes_rights() -> None:
    other = make_user("lin")
    client = signed_in(make_user("root", is_staff=True, is_superuser=True))
    answer = client.post(f"/admin/accounts/user/{other.pk}/change/", person_form(other, is_superuser="on"))
    assert answer.status_code == 302, answer.context["errors"]
    other.refresh_from_db()
    assert (other.is_staff, other.is_superuser) == (True, True)


# --- What a right is worth that was lost while a job waited ----------------------------------------------------------


def test_a_closed_project_spends_nothing_on_jobs_that_wait(centre: Centre) -> None:
    job = centre.submit()
    Project.objects.update(state="CLOSED")
    centre.tick()
    job.refresh_from_db()
    assert (job.state, job.state_reason) == (JobState.REJECTED, "project_closed")
    assert centre.balance() == (0, 0)
    assert centre.backend.call_counts["submit"] == 0
    assert "project is closed" in signed_in(centre.user).get(job.get_absolute_url()).content.decode()


@pytest.mark.parametrize("loss", ["account closed", "not a member any more"])
def test_who_may_no_longer_submit_has_no_waiting_job_started(centre: Centre, loss: str) -> None:
    job = centre.submit()
    if loss == "account closed":
        User.objects.filter(pk=centre.user.pk).update(is_active=False)
    else:
        Membership.objects.filter(user=centre.user).delete()
    centre.tick()
    job.refresh_from_db()
    assert (job.state, job.state_reason) == (JobState.REJECTED, "owner_may_not_submit")
    assert centre.balance() == (0, 0)


def test_one_persons_idempotency_key_says_nothing_about_anothers(centre: Centre) -> None:
    other = make_user("zhao")
    Membership.objects.create(project=centre.project, user=other)
    body = {
        "project": "nlp",
        "cluster": "dummy",
        "partition": "a800",
        "name": "train",
        "nodes": 1,
        "devices_per_node": 8,
        "time_limit_minutes": 60,
        "entry": {"kind": "script", "script": "#!/bin/bash\ntrue\n"},
    }
    Allocation.objects.update(end_at=timezone.now() + timedelta(days=30))
    answers = [
        ApiClient(user).post("jobs", {**body, "name": name}, Idempotency_Key="the-same")
        for user, name in ((centre.user, "train"), (other, "other"))
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert len({answer.json()["id"] for answer in answers}) == 2
    assert all("Idempotency-Replayed" not in answer for answer in answers)
