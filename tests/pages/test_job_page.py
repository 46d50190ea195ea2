"""The page of a job, its live part, and its end."""

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import Cluster, User
from jobs.models import Job
from jobs.states import JobState
from tests.earlier_estimates import FIRST_ENGINE, store_as_by_the_first_engine
from tests.factories import make_policy, make_user
from tests.jobs.conftest import Centre, native_id
from tests.pages.conftest import SignIn

WORKLOAD = {"model": {"preset": "llama-2-7b"}, "tokens": 10**9}


def page_of(client: Client, job: Job) -> str:
    answer = client.get(job.get_absolute_url())
    assert answer.status_code == 200
    return answer.content.decode()


def live(client: Client, job: Job) -> tuple[int, str]:
    answer = client.get(reverse("job-live", args=[job.pk]))
    return answer.status_code, answer.content.decode()


def test_a_running_job_shows_state_meaning_time_and_plan(centre: Centre, owner: Client) -> None:
    job = centre.submit(name="big", workload=WORKLOAD, time_limit_minutes=600, environment={"SEED": "7"})
    centre.tick()
    centre.tick(3600)
    page = page_of(owner, job)
    expected = ("The job is running.", "Estimated and actual", "Timeline", "Queued", "Running", "Llama 2 7B", "SEED=7")
    assert [words for words in expected if words not in page] == []
    assert "#SBATCH --job-name=big" in page
    assert "80.00" in page, "reserved hours"
    assert 'data-live-interval="2"' in page
    assert "Cancel" in page


def test_an_estimate_says_its_range_and_what_it_rests_on(centre: Centre, owner: Client) -> None:
    job = centre.submit(workload={**WORKLOAD, "model": {"preset": "mixtral-8x7b"}}, nodes=8, time_limit_minutes=600)
    centre.tick()
    page = page_of(owner, job)
    result = job.estimates.get().result
    assert f"Rests on {result['rests_on']['family']} published runs on accelerators of the same family." in page
    assert "No finished job of this centre has corrected it." in page
    assert f"<li><span>EP</span>{result['plan']['expert_parallel']}</li>" in page
    assert page.count("likely ") == 2
    assert "(12.9" in page, "active parameters"


def test_an_estimate_of_an_earlier_engine_is_still_shown(centre: Centre, owner: Client) -> None:
    job = centre.submit(workload=WORKLOAD, time_limit_minutes=600)
    centre.tick()
    store_as_by_the_first_engine(job)
    page = page_of(owner, job)
    assert f"engine {FIRST_ENGINE}" in page
    assert "likely " not in page
    assert "Rests on" in page
    assert owner.get(f"/jobs/new?clone={job.pk}").status_code == 200


def test_a_job_of_an_earlier_engine_still_starts(centre: Centre, owner: Client) -> None:
    job = centre.submit(workload=WORKLOAD, time_limit_minutes=600)
    centre.tick(0)
    job.refresh_from_db()
    store_as_by_the_first_engine(job)
    centre.tick()
    centre.tick()
    job.refresh_from_db()
    assert job.state == JobState.RUNNING
    assert "PORTAL_EXPERT_PARALLEL=1" in job.rendered_script


def test_the_live_part_stops_the_polling_once_the_job_is_settled(centre: Centre, owner: Client) -> None:
    job = centre.submit(time_limit_minutes=60)
    centre.tick()
    centre.tick()
    assert live(owner, job)[0] == 200
    centre.backend.set_outcome(native_id(job), elapsed_s=1800)
    centre.backend.advance(1800)
    centre.reconcile()
    while Job.objects.get().is_live:
        centre.reconcile()
    status, html = live(owner, job)
    assert status == 286
    assert "4.00" in html, "charged hours: 8 accelerators for half an hour"
    assert "code 0" in html
    page = page_of(owner, job)
    assert "data-live=" not in page
    assert "Cancel the job" not in page


def test_a_long_wait_is_asked_about_less_often(centre: Centre, owner: Client) -> None:
    centre.submit(nodes=8)
    centre.submit(nodes=8)
    centre.tick()
    centre.tick()
    waiting = Job.objects.get(state=JobState.PENDING)
    running = Job.objects.get(state=JobState.RUNNING)
    assert owner.get(reverse("job-live", args=[waiting.pk]))["X-Live-Interval"] == "10"
    assert owner.get(reverse("job-live", args=[running.pk]))["X-Live-Interval"] == "2"


def test_an_unchanged_part_is_not_sent_again(centre: Centre, owner: Client) -> None:
    job = centre.submit()
    url = reverse("job-live", args=[job.pk])
    etag = owner.get(url)["ETag"]
    assert owner.get(url, headers={"If-None-Match": etag}).status_code == 304
    centre.admit()
    assert owner.get(url, headers={"If-None-Match": etag}).status_code == 200


def test_a_held_job_says_why(centre: Centre, owner: Client) -> None:
    make_policy(max_running_jobs=0)
    job = centre.submit()
    centre.tick()
    assert "only 0 running jobs are allowed" in live(owner, job)[1]


def test_a_job_that_does_not_fit_says_by_how_much(centre: Centre, owner: Client) -> None:
    job = centre.submit(workload={"model": {"preset": "llama-2-70b"}, "tokens": 10**9}, time_limit_minutes=60)
    centre.tick()
    page = page_of(owner, job)
    assert "Rejected" in page
    assert "a card, which has" in page
    assert "Estimate" in page
    assert 'id="job-log"' not in page, "nothing ran"


def test_a_failed_job_shows_its_exit_code_and_why(centre: Centre, owner: Client) -> None:
    job = centre.submit()
    centre.tick()
    centre.backend.set_outcome(native_id(job), elapsed_s=5, exit_code=3)
    centre.tick()
    centre.tick(10)
    page = page_of(owner, job)
    assert "code 3" in page
    assert "the script ended with an error" in page


def test_a_cluster_that_is_away_is_named(centre: Centre, owner: Client) -> None:
    job = centre.submit()
    Cluster.objects.update(unavailable_since_at=centre.now())
    html = live(owner, job)[1]
    assert "doesn&#x27;t answer since" in html or "doesn't answer since" in html


def test_cancelling_ends_a_waiting_job_and_asks_for_the_end_of_a_running_one(centre: Centre, owner: Client) -> None:
    waiting = centre.submit(name="waiting")
    answer = owner.post(reverse("job-cancel", args=[waiting.pk]), follow=True)
    assert "is on its way" in answer.content.decode()
    assert Job.objects.get().state == JobState.CANCELLED
    running = centre.submit(name="running")
    centre.tick()
    centre.tick()
    owner.post(reverse("job-cancel", args=[running.pk]))
    html = live(owner, running)[1]
    assert "end was asked for" in html
    assert "Cancel the job" not in html
    centre.tick()
    centre.tick()
    assert Job.objects.get(pk=running.pk).state == JobState.CANCELLED


def test_cancelling_what_has_ended_says_so(centre: Centre, owner: Client) -> None:
    job = centre.submit()
    owner.post(reverse("job-cancel", args=[job.pk]))
    answer = owner.post(reverse("job-cancel", args=[job.pk]), follow=True)
    assert "had ended already" in answer.content.decode()


def test_the_original_of_a_copy_is_linked_for_those_who_see_it(centre: Centre, owner: Client) -> None:
    job = centre.submit()
    copy = centre.submit(name="copy", cloned_from=job.pk)
    assert job.get_absolute_url() in page_of(owner, copy)
    Job.objects.filter(pk=job.pk).update(user=User.objects.get(username="chen"))
    assert f'href="{job.get_absolute_url()}"' not in page_of(owner, copy)


@pytest.mark.parametrize("state", [state.value for state in JobState if state is not JobState.DISPATCHING])
def test_every_state_has_a_page(centre: Centre, owner: Client, sign_in: SignIn, state: str) -> None:
    job = centre.submit()
    Job.objects.update(state=state, state_reason="Priority")
    page_of(owner, job)
    assert owner.get("/jobs/").status_code == 200


def test_staff_can_write_a_lost_job_off_although_its_owner_asked_for_its_end_before(
    centre: Centre, owner: Client, sign_in: SignIn
) -> None:
    job = centre.submit()
    centre.tick()
    centre.tick(1)
    centre.backend.forget(str(job.segments.get().native_id))
    centre.tick(1)
    centre.tick(301)
    cancel = f"{job.get_absolute_url()}/cancel"
    owner.post(cancel)
    assert 'form="cancel-form"' not in owner.get(job.get_absolute_url()).content.decode()
    staff = sign_in(make_user(is_staff=True))
    assert 'form="cancel-form"' in staff.get(job.get_absolute_url()).content.decode()
    staff.post(cancel)
    job.refresh_from_db()
    assert (job.state, job.charged_s, centre.balance()) == ("CANCELLED", 0, (0, 0))
