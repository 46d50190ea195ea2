"""Me, projects, allocations and their ledgers."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from tests.api.conftest import ApiClient, Site
from tests.factories import HOUR_S, make_allocation, make_project, make_resource_class

Check = Callable[..., dict[str, Any]]


def test_me_names_the_person_and_their_projects(api: ApiClient) -> None:
    assert api.get("me").json() == {
        "username": "lin",
        "name": "",
        "email": "lin@example.org",
        "time_zone": "",
        "is_staff": False,
        "projects": [{"code": "nlp", "title": "Project nlp", "is_active": True, "role": "MEMBER"}],
    }


def test_projects_are_those_one_is_in_and_staff_sees_all(site: Site) -> None:
    make_project("vision", pi=site.stranger)

    def codes(user: Any) -> list[tuple[str, str | None]]:
        return [(row["code"], row["role"]) for row in site.api(user).get("projects").json()["results"]]

    assert codes(site.pi) == [("nlp", "PI")]
    assert codes(site.stranger) == [("vision", "PI")]
    assert codes(site.staff) == [("nlp", None), ("vision", None)]


def test_a_project_names_its_members(site: Site, api: ApiClient, assert_problem: Check) -> None:
    members = api.get("projects/nlp").json()["members"]
    assert {(one["username"], one["role"]) for one in members} == {
        ("chen", "PI"),
        ("lin", "MEMBER"),
        ("wang", "MEMBER"),
    }
    assert_problem(site.api(site.stranger).get("projects/nlp"), 404, "not-found")
    assert_problem(api.get("projects/none"), 404, "not-found")


def test_an_allocation_says_what_is_left_in_seconds_and_hours(site: Site, api: ApiClient) -> None:
    site.submit()
    site.tick()
    (row,) = api.get("allocations?project=nlp&active=true").json()["results"]
    assert (row["project"], row["is_active"]) == ("nlp", True)
    assert (row["granted_s"], row["reserved_s"], row["used_s"]) == (1000 * HOUR_S, 8 * HOUR_S, 0)
    assert row["available_s"] == 992 * HOUR_S
    assert (row["granted_hours"], row["reserved_hours"], row["available_hours"]) == (1000, 8, 992)
    assert row["start_at"].endswith("Z")
    one = api.get(f"allocations/{row['uuid']}").json()
    assert one.pop("forecast")["rate_s_per_day"] == 0
    assert one == row


def test_allocations_can_be_narrowed(site: Site, api: ApiClient) -> None:
    now = timezone.now()
    npu = make_resource_class("ascend910b")
    old = make_allocation(site.project, npu, start_at=now - timedelta(days=9), end_at=now - timedelta(days=1))

    def found(query: str) -> set[str]:
        return {row["uuid"] for row in api.get(f"allocations{query}").json()["results"]}

    assert found("") == {str(old.uuid), str(site.allocation.uuid)}
    assert found("?active=true") == {str(site.allocation.uuid)}
    assert found("?active=false") == {str(old.uuid)}
    assert found("?resource_class=ascend910b") == {str(old.uuid)}
    assert found("?project=none") == set()


def test_the_ledger_explains_the_balance(site: Site, api: ApiClient, assert_problem: Check) -> None:
    job = site.submit()
    site.tick()
    path = f"allocations/{site.allocation.uuid}/entries"
    rows = api.get(path).json()["results"]
    assert [(row["kind"], row["reference"]) for row in rows] == [
        ("RESERVE", str(job.pk)),
        ("GRANT", str(site.allocation.uuid)),
    ]
    assert sum(row["granted_delta_s"] for row in rows) == 1000 * HOUR_S
    assert sum(row["reserved_delta_s"] for row in rows) == 8 * HOUR_S
    assert_problem(site.api(site.stranger).get(path), 404, "not-found")


@pytest.mark.parametrize("path", ["me", "projects", "projects/nlp", "allocations"])
def test_what_is_read_costs_few_queries_however_much_there_is(
    site: Site, api: ApiClient, path: str, django_assert_max_num_queries: Any
) -> None:
    for number in range(5):
        project = make_project(f"p{number}", members=(site.owner, site.teammate))
        make_allocation(project, site.partition.resource_class)
    with django_assert_max_num_queries(6):
        assert api.get(path).status_code == 200
