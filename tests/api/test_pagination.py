"""Pages neither lose nor repeat rows, whatever is added meanwhile."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import Project
from jobs.models import Job
from tests.api.conftest import ApiClient, Site
from tests.factories import make_allocation, make_project, make_resource_class


def walk(api: ApiClient, path: str, key: str) -> list[Any]:
    found, page = [], api.get(path).json()
    while True:
        found += [row[key] for row in page["results"]]
        assert page["has_more"] is (page["next"] is not None)
        if not page["next"]:
            return found
        page = api.get(page["next"]).json()


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 200])
def test_rows_with_the_same_time_are_neither_lost_nor_repeated(site: Site, api: ApiClient, limit: int) -> None:
    jobs = [site.submit() for _ in range(7)]
    Job.objects.update(submitted_at=timezone.now())
    found = walk(api, f"jobs?limit={limit}", "id")
    assert sorted(found) == sorted(str(job.pk) for job in jobs)


def test_rows_that_come_meanwhile_shift_nothing(site: Site, api: ApiClient) -> None:
    old = [str(site.submit().pk) for _ in range(4)][::-1]
    page = api.get("jobs?limit=2").json()
    site.submit()
    later = api.get(page["next"]).json()
    assert [row["id"] for row in page["results"] + later["results"]] == old


def test_one_can_walk_back(site: Site, api: ApiClient) -> None:
    for _ in range(5):
        site.submit()
    first = api.get("jobs?limit=2").json()
    second = api.get(first["next"]).json()
    third = api.get(second["next"]).json()
    assert (first["previous"], third["next"]) == (None, None)
    back = api.get(third["previous"]).json()
    assert back["results"] == second["results"]
    assert api.get(back["previous"]).json()["results"] == first["results"]
    assert api.get(back["previous"]).json()["previous"] is None


def test_a_page_names_its_neighbours_in_a_link_header_too(site: Site, api: ApiClient) -> None:
    for _ in range(2):
        site.submit()
    page = api.get("jobs?limit=1")
    assert page["Link"] == f'<{page.json()["next"]}>; rel="next"'


def test_filters_stay_on_the_next_page(site: Site, api: ApiClient) -> None:
    for number in range(4):
        site.submit(name=f"{'even' if number % 2 == 0 else 'odd'}{number}")
    assert walk(api, "jobs?limit=1&q=even", "name") == ["even2", "even0"]


def test_other_orders_are_walked_as_well(site: Site, api: ApiClient) -> None:
    for number in range(5):
        make_project(f"p{number}", members=(site.owner,))
    assert walk(api, "projects?limit=2", "code") == ["nlp", "p0", "p1", "p2", "p3", "p4"]
    end_at = timezone.now() + timedelta(days=9)
    for project in Project.objects.exclude(code="nlp"):
        make_allocation(project, make_resource_class(), end_at=end_at)
    found = walk(api, "allocations?limit=2", "uuid")
    assert len(found) == len(set(found)) == 6


@pytest.mark.parametrize("path", ["projects", "allocations", "clusters", "partitions", "jobs"])
@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "%00",
        "é",
        "WyJuIl0",
        "bnVsbA",
        "WyJuIiwgIlx1MDAwMCIsICJcdTAwMDAiXQ",
        "WyJuIiwgIjIwMjYtMDEtMDEiLCAiMSJd",
        "WyJuIiwgIjk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTkiXQ",
        "WyJuIiwgIiciXQ",
        "A" * 5000,
    ],
)
def test_a_forged_cursor_is_refused(api: ApiClient, path: str, cursor: str) -> None:
    answer = api.get(f"{path}?cursor={cursor}")
    assert answer.status_code == 400, answer.content
    assert answer.json()["invalid_params"][0]["name"] == "cursor"
