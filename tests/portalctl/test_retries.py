"""What is tried again, how long it waits, and what is never sent twice."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from portalctl.client import ApiProblem, PortalClient, RetryPolicy, UnexpectedReply, Unreachable
from tests.portalctl.conftest import JOB_ID, FakePortal, page, problem, whole_job

ME = {"username": "lin", "name": "Lin", "is_staff": False, "projects": []}
MUTATIONS: dict[str, Callable[[PortalClient], object]] = {
    "submit": lambda portal: portal.submit({"name": "train"}),
    "cancel": lambda portal: portal.cancel(JOB_ID),
    "resubmit": lambda portal: portal.resubmit(JOB_ID),
}


def busy(status: int = 503, **headers: str) -> httpx.Response:
    return problem(status, "scheduler-unavailable", headers={name.replace("_", "-"): v for name, v in headers.items()})


@pytest.mark.parametrize("name", MUTATIONS)
@pytest.mark.parametrize(
    "failure",
    [
        httpx.ReadTimeout("slow"),
        httpx.ConnectError("refused"),
        httpx.RemoteProtocolError("cut"),
        *(busy(status) for status in (429, 502, 503, 504)),
    ],
    ids=repr,
)
def test_a_call_that_changes_something_is_repeated_with_the_same_key(
    fake: FakePortal, name: str, failure: object
) -> None:
    fake.say(failure, failure, whole_job())
    MUTATIONS[name](fake.client())
    assert len(fake.requests) == 3
    assert len(set(fake.keys())) == 1
    assert fake.keys()[0]
    assert len({request.content for request in fake.requests}) == 1


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_call_has_a_key_of_its_own_unless_one_is_given(fake: FakePortal, name: str) -> None:
    fake.say(whole_job(), whole_job())
    MUTATIONS[name](fake.client())
    MUTATIONS[name](fake.client())
    assert len(set(fake.keys())) == 2


def test_a_key_that_is_given_is_the_one_that_is_sent(fake: FakePortal) -> None:
    fake.say(whole_job())
    fake.client().submit({}, idempotency_key="run-a")
    assert fake.keys() == ["run-a"]


def test_signing_in_is_repeated_only_if_no_connection_came_about(fake: FakePortal) -> None:
    token = httpx.Response(201, json={"token": "tp_new", "expires_at": "2026-06-01T08:00:00Z"})
    fake.say(httpx.ConnectError("refused"), token, ME)
    client = fake.client()
    client.sign_in("lin", "secret")
    client.me()
    assert fake.requests[-1].headers["Authorization"] == "Bearer tp_new"

    for failure in (httpx.ReadTimeout("slow"), busy(503), busy(429, Retry_After="1")):
        fake.answers, fake.requests = [failure], []
        with pytest.raises((Unreachable, ApiProblem)):
            fake.client().sign_in("lin", "secret")
        assert len(fake.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 500])
def test_what_a_repetition_would_not_help_is_reported_at_once(fake: FakePortal, status: int) -> None:
    fake.say(problem(status, "some-kind"))
    with pytest.raises(ApiProblem) as caught:
        fake.client().submit({})
    assert (caught.value.status, len(fake.requests)) == (status, 1)


def test_a_first_call_that_is_still_in_flight_is_waited_for(fake: FakePortal) -> None:
    fake.say(problem(409, "in-flight", headers={"Retry-After": "2"}), whole_job())
    fake.client().submit({}, idempotency_key="a")
    assert (fake.pauses, fake.keys()) == ([2.0], ["a", "a"])


def test_what_the_portal_asks_to_wait_is_waited_as_seconds_or_until_a_time(fake: FakePortal) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    fake.say(busy(429, Retry_After="7"), busy(503, Retry_After=soon), ME)
    fake.client().me()
    assert fake.pauses[0] == 7
    assert 15 < fake.pauses[1] <= 20


def test_a_wait_beyond_the_longest_pause_is_reported_instead(fake: FakePortal) -> None:
    fake.say(busy(429, Retry_After="3600"))
    with pytest.raises(ApiProblem) as caught:
        fake.client().me()
    assert (caught.value.retry_after_s, fake.pauses) == (3600, [])


def test_pauses_double_with_a_random_part_and_end(fake: FakePortal) -> None:
    fake.say(*[httpx.ConnectError("refused")] * 5)
    with pytest.raises(Unreachable, match="after 5 tries"):
        fake.client().me()
    for pause_s, most in zip(fake.pauses, (0.5, 1, 2, 4), strict=True):
        assert most / 2 <= pause_s <= most
    policy = RetryPolicy(first_pause_s=1, longest_pause_s=10)
    assert max(policy.pause_s(attempt) for attempt in range(1, 40)) <= 10


def test_it_is_told_before_each_wait_what_was_wrong(fake: FakePortal) -> None:
    told: list[tuple[str, float]] = []
    fake.say(httpx.ReadTimeout("slow"), busy(503, Retry_After="3"), ME)
    fake.client(on_retry=lambda why, pause_s: told.append((why, pause_s))).me()
    assert [why for why, _ in told] == [
        "GET /me: http://testserver does not answer: slow",
        "GET /me: the portal answers 503",
    ]
    assert [pause_s for _, pause_s in told] == fake.pauses


def test_a_reply_that_drips_is_given_up_when_the_time_is_over(fake: FakePortal) -> None:
    class Drip(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for _ in range(1000):
                time.sleep(0.01)
                yield b" "

    fake.say(httpx.Response(200, headers={"Content-Type": "application/json"}, stream=Drip()), ME)
    started = time.monotonic()
    assert fake.client(timeout_s=0.05).me().username == "lin"
    assert time.monotonic() - started < 1


def test_a_reply_without_end_does_not_fill_the_memory(fake: FakePortal) -> None:
    class Flood(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b" " * 2**20

    fake.say(httpx.Response(200, headers={"Content-Type": "application/json"}, stream=Flood()))
    with pytest.raises(UnexpectedReply, match="larger than"):
        fake.client().me()


def test_a_list_goes_on_where_it_was_after_a_failure(fake: FakePortal) -> None:
    one, two = ({"code": code, "title": code, **CLUSTER} for code in "ab")
    fake.say(page(one, cursor="c1"), httpx.ReadError("cut"), page(two))
    assert [found.code for found in fake.client().clusters()] == ["a", "b"]


CLUSTER = {"is_enabled": True, "is_available": True, "unavailable_since_at": None, "last_polled_at": None}
