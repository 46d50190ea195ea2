"""Every route × method × person, against one table: a route that isn't in it fails the test."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from accounts.models import ActSource, RequestKind
from accounts.services.acts import Act
from accounts.services.request_rules import Draft
from accounts.services.requests import submit
from tests.api.conftest import ApiClient, Site

PEOPLE = ("anonymous", "stranger", "teammate", "owner", "pi", "staff")

# Answers in the order of PEOPLE. The things asked for are the owner's job and their project's.
PUBLIC = (200,) * 6
SIGNED_IN = (401, 200, 200, 200, 200, 200)
MEMBERS = (401, 404, 200, 200, 200, 200)
OWN = (401, 404, 404, 200, 200, 200)
LEADS = (401, 404, 404, 404, 200, 200)

EXPECTED: dict[tuple[str, str], tuple[int, ...]] = {
    ("api-token", "POST"): (400,) * 6,  # an empty body; signing in needs no token
    ("api-token", "DELETE"): (401, 204, 204, 204, 204, 204),
    ("api-me", "GET"): SIGNED_IN,
    ("api-projects", "GET"): SIGNED_IN,
    ("api-project", "GET"): MEMBERS,
    ("api-project-members", "GET"): MEMBERS,
    ("api-project-members", "POST"): (401, 404, 403, 403, 400, 400),  # an empty body
    ("api-project-member", "POST"): (401, 404, 403, 403, 400, 400),
    ("api-project-member", "DELETE"): (401, 404, 403, 403, 204, 404),  # the second time there is nobody to remove
    ("api-audit", "GET"): (401, 404, 404, 404, 200, 200),
    ("api-allocations", "GET"): SIGNED_IN,
    ("api-allocation", "GET"): MEMBERS,
    ("api-allocation-entries", "GET"): MEMBERS,
    # The request is the PI's, for their project: for those who lead it and for reviewers.
    ("api-requests", "GET"): SIGNED_IN,
    ("api-requests", "POST"): (401, 400, 400, 400, 400, 400),  # an empty body
    ("api-request", "GET"): LEADS,
    ("api-request-approve", "POST"): (401, 404, 404, 404, 400, 400),
    ("api-request-reject", "POST"): (401, 404, 404, 404, 400, 400),
    ("api-request-ask-back", "POST"): (401, 404, 404, 404, 400, 400),
    ("api-request-answer", "POST"): (401, 404, 404, 404, 400, 400),
    ("api-request-withdraw", "POST"): (401, 404, 404, 404, 200, 403),
    ("api-clusters", "GET"): SIGNED_IN,
    ("api-partitions", "GET"): SIGNED_IN,
    ("api-presets", "GET"): SIGNED_IN,
    ("api-accelerators", "GET"): SIGNED_IN,
    ("api-estimates", "POST"): (401, 400, 200, 200, 200, 400),  # for the project: members only
    ("api-jobs", "GET"): SIGNED_IN,
    ("api-jobs", "POST"): (401, 400, 201, 201, 201, 400),
    ("api-job", "GET"): OWN,
    ("api-job-cancel", "POST"): (401, 404, 404, 202, 202, 202),
    ("api-job-resubmit", "POST"): (401, 404, 404, 201, 201, 400),  # staff see it, but aren't in the project
    ("api-job-events", "GET"): OWN,
    ("api-job-log", "GET"): OWN,
    ("api-job-metrics", "GET"): OWN,
    ("api-job-script", "GET"): OWN,
    ("api-usage-report", "GET"): SIGNED_IN,
    ("api-openapi-json", "GET"): PUBLIC,
    ("api-openapi-yaml", "GET"): PUBLIC,
    ("api-docs", "GET"): PUBLIC,
    ("api-redoc", "GET"): PUBLIC,
    ("api-problem", "GET"): PUBLIC,
}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def walk(patterns: list[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and path template of each route."""
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from walk(pattern.url_patterns, prefix + str(pattern.pattern))
        elif isinstance(pattern, URLPattern):
            yield str(pattern.name), prefix + str(pattern.pattern)


ROUTES = {name: path for name, path in walk(get_resolver().url_patterns) if path.startswith("api/v1/")}


def test_the_table_names_each_route_and_no_other() -> None:
    assert set(ROUTES) - {"api-unknown"} == {name for name, _method in EXPECTED}


@pytest.mark.parametrize("name", sorted(set(ROUTES) - {"api-unknown"}))
def test_each_person_gets_from_each_route_what_the_table_says(site: Site, name: str) -> None:
    bodies = {
        "api-jobs": site.body(),
        "api-estimates": {
            "project": "nlp",
            "cluster": "dummy",
            "partition": "a800",
            "nodes": 1,
            "devices_per_node": 8,
            "workload": {"model": {"preset": "char-transformer-demo"}, "tokens": 10**6},
        },
    }
    job = site.submit()
    asked = submit(
        Act(actor=site.pi, at=timezone.now(), source=ActSource.API),
        Draft(kind=RequestKind.END_OF_PROJECT, project=site.project, justification="done"),
    )
    parts = {
        "<slug:code>": "nlp",
        "<uuid:uuid>": str(asked.uuid if name.startswith("api-request") else site.allocation.uuid),
        "<uuid:job_id>": str(job.pk),
        "<slug:slug>": "refused",
        "<str:username>": "wang",
    }
    path = "/" + ROUTES[name]
    for part, value in parts.items():
        path = path.replace(part, value)
    assert "<" not in path, "a kind of path parameter that this test doesn't know"
    for method in METHODS:
        expected = EXPECTED.get((name, method))
        for number, person in enumerate(PEOPLE):
            client = ApiClient(getattr(site, person, None))
            answer = client.call(method, path, bodies.get(name))
            if expected is not None:
                assert answer.status_code == expected[number], (method, person, answer.content)
            else:
                is_open = person != "anonymous" or expected_to_be_public(name)
                assert answer.status_code == (405 if is_open else 401), (method, person, answer.content)
            if answer.status_code >= 400:
                assert answer["Content-Type"] == "application/problem+json"


def expected_to_be_public(name: str) -> bool:
    """Routes that ask nobody who they are, so that a wrong method is all they complain of."""
    return EXPECTED.get((name, "GET")) == PUBLIC
