"""The list of jobs: what it shows, filters, pages and refreshes."""

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import Membership, User
from jobs.models import Job
from tests.factories import make_allocation, make_partition, make_user
from tests.job_factories import make_job
from tests.jobs.conftest import Centre, native_id
from tests.pages.conftest import SignIn

URL = "/jobs/"
HTMX = {"HX-Request": "true"}


def names(client: Client, query: str = "") -> list[str]:
    return [row.job.name for row in client.get(URL + query).context["rows"]]


def test_newest_jobs_come_first(centre: Centre, owner: Client) -> None:
    for name in ("first", "second", "third"):
        centre.submit(name=name)
        centre.backend.advance(1)
    assert names(owner) == ["third", "second", "first"]


def test_an_empty_list_says_what_to_do(owner: Client) -> None:
    page = owner.get(URL).content.decode()
    assert "No jobs yet" in page
    assert reverse("job-new") in page
    assert "No job matches" in owner.get(f"{URL}?q=nothing").content.decode()


def test_each_filter_narrows_the_list(centre: Centre, owner: Client) -> None:
    other = make_partition("ascend", cluster=centre.cluster)
    make_allocation(centre.project, other.resource_class)
    done, runs = centre.submit(name="done"), centre.submit(name="runs")
    centre.tick()
    centre.backend.set_outcome(native_id(done), elapsed_s=10)
    centre.tick()
    centre.tick(20)
    make_job(centre.user, centre.project, other, name="else", at=centre.now())
    assert set(names(owner)) == {"done", "runs", "else"}
    assert names(owner, "?state=completed") == ["done"]
    assert set(names(owner, "?state=unfinished")) == {"runs", "else"}
    assert names(owner, "?state=ended") == ["done"]
    assert names(owner, "?partition=dummy/ascend") == ["else"]
    assert names(owner, "?q=UN") == ["runs"]
    assert names(owner, f"?q={runs.pk}") == ["runs"]
    assert set(names(owner, f"?project={centre.project.code}")) == {"done", "runs", "else"}
    assert names(owner, "?q=runs&state=completed") == []


@pytest.mark.parametrize(
    "query", ["?state=nonsense", "?project=unknown", "?partition=x", "?scope=%00", "?q=%00", "?q=" + "x" * 500]
)
def test_a_filter_that_makes_no_sense_is_ignored(centre: Centre, owner: Client, query: str) -> None:
    centre.submit(name="there")
    assert names(owner, query) == ["there"]


@pytest.mark.parametrize("text", ["%25", ".*", "^t", "(", "[", "%5C", "t*", "$"])
def test_a_search_is_for_the_text_as_it_stands(centre: Centre, owner: Client, text: str) -> None:
    centre.submit(name="there")
    centre.submit(name="v1.2+cu")
    assert names(owner, f"?q={text}") == []
    assert names(owner, "?q=1.2%2BC") == ["v1.2+cu"]


def test_others_jobs_are_shown_only_where_visible_and_on_request(
    centre: Centre, sign_in: SignIn, lead: User, teammate: User, stranger: User
) -> None:
    centre.submit(name="of-lin")
    assert names(sign_in(lead)) == []
    assert names(sign_in(lead), "?scope=all") == ["of-lin"]
    assert "lin" in sign_in(lead).get(f"{URL}?scope=all").content.decode()
    assert names(sign_in(teammate), "?scope=all") == []
    assert names(sign_in(stranger), "?scope=all") == []
    assert names(sign_in(make_user(is_staff=True)), "?scope=all") == ["of-lin"]


def test_a_lead_of_another_project_sees_nothing_of_this_one(centre: Centre, sign_in: SignIn, stranger: User) -> None:
    Membership.objects.filter(user=stranger).update(role="PI")
    centre.submit()
    assert names(sign_in(stranger), "?scope=all") == []


def test_pages_follow_each_other_without_gap_or_repetition(centre: Centre, owner: Client) -> None:
    job = centre.submit(name="template")
    copies = []
    for number in range(120):
        copy = Job(**{field.attname: getattr(job, field.attname) for field in Job._meta.fields if field.name != "id"})
        # Ten at each moment, so that a page ends within one.
        copy.name, copy.submitted_at = f"copy-{number}", job.submitted_at + timedelta(seconds=number // 10 + 1)
        copies.append(copy)
    Job.objects.bulk_create(copies)
    seen, url, pages = [], URL, []
    while url:
        context = owner.get(url).context
        pages.append([row.job.pk for row in context["rows"]])
        seen += pages[-1]
        url = context["older_url"]
    assert [len(page) for page in pages] == [50, 50, 21]
    assert len(set(seen)) == 121
    back = owner.get(context["newer_url"]).context
    assert [row.job.pk for row in back["rows"]] == pages[1]
    assert [row.job.pk for row in owner.get(back["newer_url"]).context["rows"]] == pages[0]


def test_filters_stay_in_the_addresses_of_pages(centre: Centre, owner: Client) -> None:
    job = centre.submit(name="template")
    copies = []
    for number in range(60):
        copy = Job(**{field.attname: getattr(job, field.attname) for field in Job._meta.fields if field.name != "id"})
        copy.name = f"copy-{number}"
        copies.append(copy)
    Job.objects.bulk_create(copies)
    context = owner.get(f"{URL}?q=copy&state=submitted").context
    assert "q=copy" in context["older_url"]
    assert "state=submitted" in context["older_url"]
    assert len(owner.get(context["older_url"]).context["rows"]) == 10


@pytest.mark.parametrize(
    "query", ["?after=nonsense", "?before=2026-01-01_x", "?after=2026-01-01T00:00:00_x", "?after=%00"]
)
def test_a_place_that_is_none_shows_the_first_page(centre: Centre, owner: Client, query: str) -> None:
    centre.submit(name="there")
    assert names(owner, query) == ["there"]


def test_htmx_gets_the_list_alone_and_the_poller_its_rows(centre: Centre, owner: Client) -> None:
    centre.submit(name="there")
    part = owner.get(f"{URL}?q=th", headers=HTMX)
    assert 'data-live="/jobs/?q=th"' in part.content.decode()
    assert "<html" not in part.content.decode()
    assert "HX-Request" in part["Vary"]
    rows = owner.get(URL, headers={**HTMX, "X-Live": "true"}).content.decode()
    assert "there" in rows
    assert "data-live" not in rows
    restored = owner.get(URL, headers={**HTMX, "HX-History-Restore-Request": "true"}).content.decode()
    assert "<html" in restored


def test_a_running_job_shows_how_far_it_is(centre: Centre, owner: Client) -> None:
    centre.submit(time_limit_minutes=60)
    centre.tick()
    centre.tick(900)
    page = owner.get(URL).content.decode()
    assert 'value="0.250"' in page
    assert "8.00" in page, "what is reserved"
