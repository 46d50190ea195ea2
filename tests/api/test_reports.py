"""GET /reports/usage."""

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest

from jobs.models import Job
from jobs.services.usage_days import refresh_usage_days
from tests.api.conftest import ApiClient, Site
from tests.jobs.test_usage_days import add_usage, make_ended_job

YEAR = "from=2026-01-01&to=2026-12-31"


@pytest.fixture
def used(site: Site) -> Job:
    job = make_ended_job({"user": site.owner, "project": site.project, "partition": site.partition})
    add_usage(job)
    refresh_usage_days()
    return job


def test_use_by_project_with_totals(used: Job, site: Site, api: ApiClient) -> None:
    body = api.get(f"reports/usage?{YEAR}").json()
    assert (body["group_by"], body["first_day"], body["last_day"]) == ("project", "2026-01-01", "2026-12-31")
    (row,) = body["results"]
    assert (row["key"], row["name"]) == ("nlp", "Project nlp")
    assert row["figures"] == body["total"]
    assert body["total"]["charged_s"] == 57600
    assert body["total"]["idle_s"] == 28800
    assert body["total"]["mean_wait_s"] == 3600
    assert site.api(site.teammate).get(f"reports/usage?{YEAR}").json()["results"] == []
    assert len(site.api(site.pi).get(f"reports/usage?{YEAR}").json()["results"]) == 1


def test_the_same_as_csv(used: Job, api: ApiClient) -> None:
    answer = api.get(f"reports/usage?{YEAR}&group_by=user&format=csv")
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    (row,) = csv.DictReader(io.StringIO(answer.getvalue().decode()))
    assert (row["key"], row["charged_hours"], row["jobs"]) == ("lin", "16.0", "1")


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("group_by=colour", "group_by"),
        ("from=yesterday", "from"),
        ("from=2026-06-02&to=2026-06-01", "to"),
        ("from=1990-01-01&to=2026-01-01", "to"),
        ("from=9999-01-01", "from"),
        ("to=2026-02-30", "to"),
        ("partition=a800", "partition"),
        ("end_state=RUNNING", "end_state"),
        ("format=pdf", "format"),
        ("since=2026-01-01", "since"),
        ("project=a&project=b", "project"),
    ],
)
def test_a_wrong_parameter_is_named(
    api: ApiClient, assert_problem: Callable[..., dict[str, Any]], query: str, name: str
) -> None:
    assert_problem(api.get(f"reports/usage?{query}"), 400, "invalid-request", name=name)


def test_an_allocation_says_when_it_runs_out_or_why_not(site: Site, api: ApiClient) -> None:
    body = api.get(f"allocations/{site.allocation.uuid}").json()
    assert body["forecast"]["unknown"] == "too_new"
    assert body["forecast"]["runs_out_typical"] is None
