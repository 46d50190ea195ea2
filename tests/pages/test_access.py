"""Who sees which page."""

import uuid

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import User
from jobs.models import Job
from jobs.states import JobState
from tests.jobs.conftest import Centre
from tests.pages.conftest import SignIn

REQUEST_PAGES = ["request-list", "request-choose", "notification-list"]
PAGES = [
    "dashboard",
    "job-list",
    "job-new",
    "project-list",
    "cluster-list",
    "usage-report",
    "usage-report-export",
    "profile",
]
REPORTS = ["usage-report", "usage-report-export"]
LIVE_PARTS = ["dashboard-live", "cluster-list-live"]
JOB_PAGES = ["job-detail", "job-live", "job-log", "job-log-download", "job-metrics"]
PROJECT_PAGES = ["project-detail", "project-usage", "project-ledger", "project-forecast"]


@pytest.mark.parametrize("name", [*PAGES, *REQUEST_PAGES, *REPORTS, *LIVE_PARTS])
def test_pages_open_for_members_and_ask_others_to_sign_in(owner: Client, name: str) -> None:
    assert owner.get(reverse(name)).status_code == 200
    answer = Client().get(reverse(name))
    assert answer.status_code == 302
    assert answer["Location"].startswith(reverse("account_login"))


@pytest.mark.parametrize("name", JOB_PAGES)
def test_a_job_is_for_its_owner_and_the_projects_lead(
    centre: Centre, sign_in: SignIn, lead: User, teammate: User, stranger: User, name: str
) -> None:
    job = centre.submit()
    centre.tick()
    url = reverse(name, args=[job.pk])
    seen = {user.username: sign_in(user).get(url).status_code for user in (centre.user, lead, teammate, stranger)}
    assert seen == {"lin": 200, "chen": 200, "zhao": 404, "sun": 404}
    assert Client().get(url).status_code == 302


@pytest.mark.parametrize("name", PROJECT_PAGES)
def test_a_project_is_for_its_members(
    centre: Centre, sign_in: SignIn, lead: User, teammate: User, stranger: User, name: str
) -> None:
    url = reverse(name, args=[centre.project.code])
    seen = {user.username: sign_in(user).get(url).status_code for user in (centre.user, lead, teammate, stranger)}
    assert seen == {"lin": 200, "chen": 200, "zhao": 200, "sun": 404}
    assert Client().get(url).status_code == 302


def test_what_does_not_exist_is_not_found(owner: Client) -> None:
    assert owner.get(reverse("job-detail", args=[uuid.uuid4()])).status_code == 404
    assert owner.get(reverse("project-detail", args=["nothing"])).status_code == 404
    assert owner.get("/jobs/not-a-uuid").status_code == 404


@pytest.mark.parametrize("name", ["job-estimate", "job-script-preview"])
def test_what_works_on_a_form_takes_posts_only(owner: Client, name: str) -> None:
    assert owner.get(reverse(name)).status_code == 405
    assert Client().post(reverse(name)).status_code == 302


def test_a_job_ends_by_post_only_and_not_for_strangers(
    centre: Centre, owner: Client, sign_in: SignIn, teammate: User, stranger: User
) -> None:
    job = centre.submit()
    url = reverse("job-cancel", args=[job.pk])
    assert owner.get(url).status_code == 405
    assert sign_in(teammate).post(url).status_code == 404
    assert sign_in(stranger).post(url).status_code == 404
    assert Client().post(url).status_code == 302
    assert Job.objects.get().state == JobState.SUBMITTED


def test_the_lead_can_end_a_members_job(centre: Centre, sign_in: SignIn, lead: User) -> None:
    job = centre.submit()
    answer = sign_in(lead).post(reverse("job-cancel", args=[job.pk]))
    assert answer.status_code == 302
    assert Job.objects.get().state == JobState.CANCELLED


def test_a_form_without_its_token_is_refused(centre: Centre) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(centre.user)
    job = centre.submit()
    assert client.post(reverse("job-cancel", args=[job.pk])).status_code == 403
