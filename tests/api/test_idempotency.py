"""A request that comes twice has one effect."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from jobs.models import Job, JobEvent
from tests.api.conftest import ApiClient, Site, make_site
from tests.factories import make_policy

Check = Callable[..., dict[str, Any]]


def test_a_repeated_request_gets_the_first_ones_job(site: Site, api: ApiClient) -> None:
    first = api.post("jobs", site.body(), Idempotency_Key="abc")
    second = api.post("jobs", site.body(), Idempotency_Key="abc")
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert first["Location"] == second["Location"]
    assert "Idempotency-Replayed" not in first
    assert second["Idempotency-Replayed"] == "true"
    assert Job.objects.count() == 1


def test_the_order_of_fields_does_not_matter(site: Site, api: ApiClient) -> None:
    body = site.body()
    api.post("jobs", body, Idempotency_Key="abc")
    answer = api.post("jobs", dict(reversed(body.items())), Idempotency_Key="abc")
    assert answer["Idempotency-Replayed"] == "true"


def test_a_key_belongs_to_one_request(site: Site, api: ApiClient, assert_problem: Check) -> None:
    api.post("jobs", site.body(), Idempotency_Key="abc")
    assert_problem(api.post("jobs", site.body(name="other"), Idempotency_Key="abc"), 422, "idempotency-conflict")
    assert Job.objects.count() == 1


def test_a_key_belongs_to_one_person(site: Site, api: ApiClient) -> None:
    one = api.post("jobs", site.body(), Idempotency_Key="abc")
    other = site.api(site.teammate).post("jobs", site.body(), Idempotency_Key="abc")
    assert one.json()["id"] != other.json()["id"]


def test_without_a_key_each_request_is_its_own(site: Site, api: ApiClient) -> None:
    assert len({api.post("jobs", site.body()).json()["id"] for _ in range(2)}) == 2


def test_a_request_that_was_refused_leaves_its_key_free(site: Site, api: ApiClient) -> None:
    assert api.post("jobs", site.body(nodes=99), Idempotency_Key="abc").status_code == 400
    assert api.post("jobs", site.body(), Idempotency_Key="abc").status_code == 201


def test_a_replay_is_no_new_job_for_limits(site: Site, api: ApiClient) -> None:
    make_policy(max_queued_jobs=1)
    api.post("jobs", site.body(), Idempotency_Key="abc")
    assert api.post("jobs", site.body(), Idempotency_Key="abc").status_code == 201


@pytest.mark.parametrize("key", ["", "two words", "k" * 256, "schlüssel", "a\tb"])
def test_a_key_is_visible_ascii(site: Site, api: ApiClient, key: str, assert_problem: Check) -> None:
    answer = api.post("jobs", site.body(), Idempotency_Key=key)
    assert_problem(answer, 400, "invalid-request", name="Idempotency-Key")
    assert Job.objects.count() == 0


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("limit", [None, 1])
def test_requests_that_come_at_once_make_one_job(limit: int | None) -> None:
    site = make_site()
    if limit is not None:
        make_policy(max_queued_jobs=limit)
    client = site.api(site.owner)
    headers, body = client.headers, site.body()
    barrier = threading.Barrier(6)
    answers = []

    def submit() -> None:
        own = ApiClient()
        own.headers = dict(headers)
        try:
            barrier.wait(timeout=30)
            answers.append(own.post("jobs", body, Idempotency_Key="once"))
        finally:
            connection.close()

    threads = [threading.Thread(target=submit) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [answer.status_code for answer in answers] == [201] * 6
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer for answer in answers) == 1
    assert (Job.objects.count(), JobEvent.objects.count()) == (1, 1)
