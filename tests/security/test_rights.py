"""Who may do what: the back-office, pages as staff and closed accounts see them, forms without their token."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone

from accounts.models import Allocation, Membership, Project, Role, User
from jobs.models import Job
from jobs.services.submission import clone_request, prepare_job
from jobs.states import JobState
from tests.api.conftest import ApiClient
from tests.factories import NOW, make_project, make_user
from tests.jobs.conftest import Centre

FOR_EVERYBODY = {"partition-detail", "partition-live"}
"""Pages with a parameter in their path that names nothing of one project's."""

STAFF_ACTIONS = {"cluster-associations-look", "cluster-associations-apply"}
POST_ONLY = {"job-cancel", "job-estimate", "job-script-preview", *STAFF_ACTIONS}
REDIRECTING = {"job-cancel", *STAFF_ACTIONS}


def routes() -> list[tuple[str, str]]:
    """Name and path of each page of the portal's own (the API has a table of its own, in tests/api)."""
    found = []
    for pattern in get_resolver().url_patterns:
        if isinstance(pattern, URLResolver) and str(pattern.pattern) == "":
            found += [(str(p.name), str(p.pattern)) for p in pattern.url_patterns if isinstance(p, URLPattern)]
    return found


def address(centre: Centre, job: Job, path: str) -> str:
    code = centre.cluster.code if path.startswith("clusters/") else centre.project.code
    url = "/" + path.replace("<uuid:job_id>", str(job.pk)).replace("<slug:code>", code)
    url = url.replace("<slug:cluster>/<str:name>", f"{centre.cluster.code}/{centre.partition.name}")
    assert "<" not in url, "a kind of path parameter that this test doesn't know"
    return url


def signed_in(user: User, **options: Any) -> Client:
    client = Client(**options)
    client.force_login(user)
    return client


@pytest.mark.parametrize(("name", "path"), routes())
def test_every_page_asks_who_is_there_and_what_is_theirs(centre: Centre, name: str, path: str) -> None:
    job = centre.submit()
    url = address(centre, job, path)
    closed = signed_in(make_user("closed", is_active=True))
    User.objects.filter(username="closed").update(is_active=False)
    foreign_lead = make_user("foreign")
    make_project("elsewhere", pi=foreign_lead)
    method = "post" if name in POST_ONLY else "get"
    for client in (Client(), closed):
        answer = getattr(client, method)(url)
        assert (answer.status_code, answer["Location"].split("?")[0]) == (302, reverse("account_login"))
    answer = getattr(signed_in(foreign_lead), method)(url)
    assert answer.status_code == (404 if "<" in path and name not in FOR_EVERYBODY else 200)
    staff = getattr(signed_in(make_user("staff", is_staff=True)), method)(url)
    assert staff.status_code == (302 if name in REDIRECTING else 200)
    assert Job.objects.get().state == (JobState.CANCELLED if name == "job-cancel" else JobState.SUBMITTED)


@pytest.mark.parametrize(("name", "path"), routes())
def test_no_post_counts_without_its_token(centre: Centre, name: str, path: str) -> None:
    job = centre.submit()
    answer = signed_in(centre.user, enforce_csrf_checks=True).post(address(centre, job, path))
    # A login-only view that takes no POST may say so instead; none may succeed.
    assert answer.status_code in (403, 405)
    assert Job.objects.get().state == JobState.SUBMITTED


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
