"""Nonsense instead of Slurm's answer: never read as an empty queue, never another error than SchedulerUnavailable."""

import copy
import json
import resource
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.backends.base import SchedulerUnavailable, SubmissionRejected
from jobs.backends.slurm.records import add_up_runs
from jobs.backends.slurm.rest import RestClient
from jobs.backends.slurm.rest_transport import MAX_SINGLE_ANSWER_BYTES
from tests.backends.bad_server import serve
from tests.backends.recorded_answers import (
    TIMEOUT_S,
    VERSIONS,
    AnyToken,
    client_of,
    client_of_version,
    load,
    make_submission,
)

QUESTIONS: dict[str, Callable[[RestClient], object]] = {
    "ping": lambda client: client.ping(),
    "queue": lambda client: client.list_queue(None),
    "one job": lambda client: client.list_queue([1]),
    "accounting": lambda client: client.list_accounting(since=datetime.now(UTC)),
    "one job's accounting": lambda client: client.list_accounting(job_ids=[1]),
    "partitions": lambda client: client.partitions(),
    "submission": lambda client: client.submit(make_submission()),
    "cancelling": lambda client: client.cancel(1, user="alice"),
}
ANSWERS = {
    "html": httpx.Response(200, text="<html>login</html>", headers={"content-type": "text/html"}),
    "bad gateway": httpx.Response(502, text="<html>Bad gateway</html>"),
    "empty": httpx.Response(200, content=b""),
    "half": httpx.Response(200, content=b'{"jobs": [{"job_id": 1'),
    "array": httpx.Response(200, json=[]),
    "null": httpx.Response(200, content=b"null"),
    "deep": httpx.Response(200, content=b'{"jobs":' + b"[" * 100_000),
    "long number": httpx.Response(200, content=b'{"jobs": ' + b"9" * 10_000 + b"}"),
    "server error": httpx.Response(500, json={"errors": [{"error_number": -1, "error": "Unspecified error"}]}),
    "accounting away": httpx.Response(200, json={"jobs": [], "errors": [{"error": "Unable to connect to database"}]}),
    "errors are text": httpx.Response(500, json={"errors": "many", "jobs": []}),
    "unauthorized": httpx.Response(401, text="Authentication failure"),
    "moved": httpx.Response(302, headers={"location": "http://elsewhere/"}),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_is_none_is_unavailability(question: str, answer: str) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        is_description = request.url.path == "/openapi/v3"
        return httpx.Response(200, json=load("v0.0.38", "openapi")) if is_description else ANSWERS[answer]

    with pytest.raises(SchedulerUnavailable):
        QUESTIONS[question](client_of(handle))


@pytest.mark.parametrize("question", [name for name in QUESTIONS if name != "cancelling"])
@pytest.mark.parametrize("body", [{}, {"errors": []}, {"jobs": {}, "pings": {}, "partitions": {}, "job_id": "7"}])
def test_an_answer_without_what_was_asked_for_is_unavailability(question: str, body: dict[str, Any]) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        is_description = request.url.path == "/openapi/v3"
        return httpx.Response(200, json=load("v0.0.38", "openapi") if is_description else body)

    with pytest.raises(SchedulerUnavailable):
        QUESTIONS[question](client_of(handle))


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_server_that_does_not_describe_itself_is_unavailable(answer: str) -> None:
    with pytest.raises(SchedulerUnavailable):
        client_of(lambda request: ANSWERS[answer]).ping()


WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**60, max_value=2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["a[", "a[1-", "a[5-1]", "n[0-99999][0-99999]", "n[0-999999999]", "\0", "\ud800", "UNHEARD_OF"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(
        st.sampled_from(["set", "number", "infinite", "x"]), st.one_of(st.none(), st.text(), st.integers())
    ),
)


def places_in(answer: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every field of an answer, and every field of those, as paths."""
    items = answer.items() if isinstance(answer, dict) else enumerate(answer) if isinstance(answer, list) else ()
    for name, value in items:
        yield (*path, name)
        yield from places_in(value, (*path, name))


READ = frozenset(
    (
        *("job_id", "job_state", "state", "current", "exit_code", "status", "return_code", "signal", "id", "signal_id"),
        *("number", "set", "infinite", "nodes", "configured", "name", "gres", "gres_used", "maximums", "time", "total"),
        *("seconds", "elapsed", "start", "end", "submission", "tres", "allocated", "type", "count", "comment", "job"),
        *("user", "user_name", "state_reason", "submit_time", "start_time", "end_time", "errors", "jobs", "pings"),
        *("partitions", "partition", "max_time_limit", "ping", "pinged", "responding", "paths", "working_directory"),
    )
)
"""Names of fields that some version reads: half of the changes are made to these."""


def use(client: RestClient) -> None:
    """Everything that is done with answers, down to what the portal keeps of them."""
    client.ping()
    for job in client.list_queue(None):
        job.to_status("key")
    runs = client.list_accounting(since=datetime.now(UTC))
    for run in runs:
        row = add_up_runs([run], key="key", devices=1)
        if row is not None:
            json.dumps([row.native_id, row.elapsed_s, row.ended_at.isoformat(), row.cpu_s])
        run.comment.encode()
    client.partitions()


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_field_of_another_type_is_read_or_makes_the_answer_none(version: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["ping", "jobs", "accounting", "partitions", "nodes", "submitted", "openapi"]))
    answer = copy.deepcopy(load(version, name))
    places = list(places_in(answer))
    *path, last = data.draw(
        st.one_of(st.sampled_from(places), st.sampled_from([place for place in places if place[-1] in READ] or places))
    )
    place = answer
    for step in path:
        place = place[step]
    place[last] = data.draw(WRONG)
    # As it comes over the wire: NaN and halves of surrogate pairs included.
    body = json.dumps(answer).encode()
    unchanged = client_of_version(version)

    def handle(request: httpx.Request) -> httpx.Response:
        names = {f"/slurm/{version}/{part}": part for part in ("ping", "jobs", "partitions", "nodes")}
        names |= {f"/slurmdb/{version}/jobs": "accounting", "/openapi/v3": "openapi"}
        names |= {f"/slurm/{version}/job/submit": "submitted"}
        which = names.get(request.url.path)
        if which == name:
            return httpx.Response(200, content=body)
        return unchanged._http._transport.handle_request(request)

    client = client_of(handle)
    try:
        use(client)
        client.submit(make_submission())
    except (SchedulerUnavailable, SubmissionRejected):
        pass  # the two errors that callers know


def client_at(url: str) -> RestClient:
    return RestClient(url=url, user="portal", tokens=AnyToken(), timeout_s=TIMEOUT_S, version="v0.0.38")


def timed(url: str) -> tuple[float, str]:
    began = time.monotonic()
    with pytest.raises(SchedulerUnavailable) as caught:
        client_at(url).ping()
    return time.monotonic() - began, str(caught.value)


def test_a_connection_that_is_cut_in_the_middle_is_unavailability() -> None:
    with serve(lambda: iter([b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n", b'{"paths": {'])) as url:
        took_s, words = timed(url)
    assert took_s < TIMEOUT_S
    assert "doesn't answer" in words


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n"], ids=["headers", "body"])
def test_an_answer_that_drips_is_cut_when_its_whole_time_is_over(head: bytes) -> None:
    """Each byte comes well within the time for one read."""

    def drip() -> Iterator[bytes]:
        yield head
        for byte in b"HTTP/1.1 200 OK\r\nx-" + b"a" * 5000:
            time.sleep(TIMEOUT_S / 10)
            yield bytes([byte])

    with serve(drip) as url:
        took_s, words = timed(url)
    assert TIMEOUT_S * 0.9 <= took_s <= TIMEOUT_S * 1.5
    assert "in time" in words or "Timeout" in words


def test_a_server_that_says_nothing_is_left_when_the_time_is_over() -> None:
    def wait() -> Iterator[bytes]:
        time.sleep(TIMEOUT_S * 1.5)
        yield b""

    with serve(wait) as url:
        took_s, _ = timed(url)
    assert TIMEOUT_S * 0.9 <= took_s <= TIMEOUT_S * 1.5


def test_an_answer_without_end_is_cut_and_not_kept() -> None:
    sent = 0

    def pour() -> Iterator[bytes]:
        nonlocal sent
        piece = b" " * 2**20
        yield b"HTTP/1.1 200 OK\r\ncontent-length: 52428800\r\n\r\n"
        for _ in range(50):
            sent += len(piece)
            yield piece

    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with serve(pour) as url:
        _, words = timed(url)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) * 1024
    assert "longer than" in words
    assert sent < 50 * 2**20
    assert grown < 2 * MAX_SINGLE_ANSWER_BYTES
