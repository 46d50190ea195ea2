"""The first page, for somebody new and for somebody at work."""

from datetime import timedelta

from django.test import Client
from django.urls import reverse

from accounts.models import Cluster, Membership, Partition
from accounts.services import ledger
from jobs.states import JobState
from tests.factories import HOUR_S, NOW, make_allocation, make_partition, make_project, make_resource_class, make_user
from tests.jobs.conftest import Centre, native_id
from tests.pages.conftest import SignIn

URL = "/"


def page_of(client: Client) -> str:
    answer = client.get(URL)
    assert answer.status_code == 200
    return answer.content.decode()


def test_somebody_without_a_project_is_told_what_to_do(centre: Centre, sign_in: SignIn) -> None:
    page = page_of(sign_in(make_user()))
    assert "Your first training job" in page
    assert "/requests/new/new-project" in page
    assert "ready-made example" not in page


def test_somebody_with_hours_is_led_to_the_example(owner: Client) -> None:
    page = page_of(owner)
    assert "You can submit in 1 project." in page
    assert f"{reverse('job-new')}?example=1" in page


def test_unfinished_and_recent_jobs_are_shown_and_others_not(centre: Centre, owner: Client, sign_in: SignIn) -> None:
    ended, runs = centre.submit(name="has-ended"), centre.submit(name="still-runs")
    centre.tick()
    centre.backend.set_outcome(native_id(ended), elapsed_s=10)
    centre.tick()
    centre.tick(20)
    context = owner.get(URL).context
    assert [row.job for row in context["unfinished"]] == [runs]
    assert [row.job for row in context["recent"]] == [ended]
    assert "Your first training job" not in page_of(owner)
    lead = sign_in(Membership.objects.get(role="PI").user)
    assert not lead.get(URL).context["unfinished"], "the dashboard is about one's own jobs"


def test_more_unfinished_jobs_than_fit_are_linked(centre: Centre, owner: Client) -> None:
    for number in range(21):
        centre.submit(name=f"job-{number}")
    page = page_of(owner)
    assert "?state=unfinished" in page
    assert len(owner.get(URL).context["unfinished"]) == 20


def test_balances_show_hours_of_current_allocations_of_own_projects(centre: Centre, owner: Client) -> None:
    make_allocation(make_project("foreign"), centre.partition.resource_class, hours=777)
    ended = make_resource_class("old")
    make_allocation(centre.project, ended, hours=555, start_at=NOW - timedelta(days=9), end_at=NOW - timedelta(days=1))
    centre.submit(time_limit_minutes=60)
    centre.admit()
    page = page_of(owner)
    assert "992.00" in page, "available"
    assert "8.00" in page, "reserved"
    assert "1,000.00" in page, "granted"
    assert "777" not in page
    assert "555" not in page


def test_little_left_and_a_near_end_are_warned_of(centre: Centre, owner: Client, sign_in: SignIn) -> None:
    assert "Little left" not in page_of(owner)
    ledger.reserve(
        project_id=centre.project.pk,
        resource_class_id=centre.partition.resource_class_id,
        reference="x",
        amount_s=901 * HOUR_S,
        at=NOW,
    )
    centre.backend.advance(290 * 86_400)
    page = page_of(sign_in(centre.user))
    assert "Little left" in page
    assert "Ends soon" in page


def test_clusters_show_what_is_free_and_whether_they_answer(centre: Centre, owner: Client) -> None:
    Partition.objects.update(devices_in_use=24)
    assert "40 of 64 free" in page_of(owner)
    assert "Scheduler answers" in page_of(owner)
    Cluster.objects.update(unavailable_since_at=NOW)
    page = page_of(owner)
    assert "answer since" in page
    assert "2026-06-01 08:00" in page


def test_the_live_part_is_small_and_not_sent_twice(centre: Centre, owner: Client) -> None:
    job = centre.submit()
    answer = owner.get(reverse("dashboard-live"))
    assert "<html" not in answer.content.decode()
    again = {"If-None-Match": answer["ETag"]}
    assert owner.get(reverse("dashboard-live"), headers=again).status_code == 304
    centre.admit()
    changed = owner.get(reverse("dashboard-live"), headers=again)
    assert changed.status_code == 200
    job.refresh_from_db()
    assert job.state == JobState.QUEUED


def test_the_clusters_page_names_what_is_simulated_and_what_is_down(centre: Centre, owner: Client) -> None:
    make_partition("sim", cluster=centre.cluster, is_simulated=True, accelerator="unheard-of")
    make_partition("down", cluster=centre.cluster, is_up=False, devices_per_node=4)
    page = owner.get("/clusters/").content.decode()
    assert "Simulated: cards are only counted" in page
    assert "A800" in page
    assert "unheard-of" in page, "an accelerator that the catalogue lacks is shown by its code"
    assert "Down" in page
    assert "8 × 4" in page
    Cluster.objects.update(is_enabled=False)
    assert "No clusters" in owner.get("/clusters/").content.decode()
