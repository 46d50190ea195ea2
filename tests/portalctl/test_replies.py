"""Pages, problems, newer servers, and replies that are not the API's."""

from typing import Any

import httpx
import pytest

from portalctl.client import ApiProblem, InvalidArgument, PortalClient, RetryPolicy, UnexpectedReply
from portalctl.client.calls import check_address
from tests.portalctl.conftest import (
    JOB_ID,
    URL,
    FakePortal,
    ended_job,
    page,
    piece,
    problem,
    segment,
    summary,
    whole_job,
)

ONCE = RetryPolicy(attempts=1)
OTHER_ID = "11111111-1111-4111-8111-111111111111"


# Pages


def test_a_list_is_read_to_its_last_page_with_its_filters_kept(fake: FakePortal) -> None:
    fake.say(page(summary(), cursor="c1"), page(summary(id=OTHER_ID), cursor="c2"), page())
    jobs = list(fake.client().jobs(state=["RUNNING", "PENDING"], project="nlp", unfinished=True))
    assert [str(job.id) for job in jobs] == [JOB_ID, OTHER_ID]
    queries = [request.url.params for request in fake.requests]
    assert [query.get("cursor") for query in queries] == [None, "c1", "c2"]
    for query in queries:
        assert query.get_list("state") == ["RUNNING", "PENDING"]
        assert (query["project"], query["unfinished"], query["limit"]) == ("nlp", "true", "200")


def test_pages_are_fetched_as_they_are_needed(fake: FakePortal) -> None:
    fake.say(page(summary(), cursor="c1"))
    assert next(fake.client().jobs()).name == "train"
    assert len(fake.requests) == 1


def test_the_token_goes_to_the_portal_alone_wherever_a_page_points(fake: FakePortal) -> None:
    fake.say(page(summary(), cursor="c1"), page())
    list(fake.client().jobs())
    assert {request.url.host for request in fake.requests} == {"testserver"}


@pytest.mark.parametrize(
    "second", [{**page(), "has_more": True}, {**page(), "has_more": True, "next": f"{URL}/x"}, page(cursor="c1")]
)
def test_a_list_that_says_there_is_more_but_not_where_is_never_cut_in_silence(fake: FakePortal, second: Any) -> None:
    fake.say(page(summary(), cursor="c1"), second)
    with pytest.raises(UnexpectedReply, match="the list goes on"):
        list(fake.client().jobs())


# Problems


def test_a_problem_document_says_all_it_says(fake: FakePortal) -> None:
    param = {"name": "nodes", "code": "out_of_range", "reason": "9 is not allowed.", "value": 9, "allowed": "1–8"}
    fake.say(problem(400, "invalid-request", "nodes: 9 is not allowed.", invalid_params=[param]))
    with pytest.raises(ApiProblem) as caught:
        fake.client().submit({"nodes": 9})
    found = caught.value
    assert (found.status, found.slug, found.instance) == (400, "invalid-request", "/api/v1/jobs")
    assert found.type == f"{URL}/api/v1/problems/invalid-request"
    assert {name: getattr(found.invalid_params[0], name) for name in param} == param


@pytest.mark.parametrize("params", [None, "x", [1, {}], [{"name": None}]])
def test_a_problem_document_with_odd_parameters_is_still_one(fake: FakePortal, params: Any) -> None:
    fake.say(problem(409, "refused", invalid_params=params))
    with pytest.raises(ApiProblem, match="refused"):
        fake.client().submit({})


# Newer and older servers


def test_fields_of_a_newer_portal_are_kept_and_otherwise_ignored(fake: FakePortal) -> None:
    fake.say(whole_job(colour="blue", state="DREAMING"))
    job = fake.client().job(JOB_ID)
    assert job.state == "DREAMING"
    assert job.model_dump()["colour"] == "blue"


def test_fields_that_are_missing_are_named(fake: FakePortal) -> None:
    rows = [summary(), {name: value for name, value in summary().items() if name not in ("state", "name")}]
    fake.say(page(*rows))
    with pytest.raises(UnexpectedReply, match=r"GET /jobs: the reply lacks results\[1\]\.name, results\[1\]\.state"):
        list(fake.client().jobs())


def test_a_field_of_another_kind_is_named(fake: FakePortal) -> None:
    fake.say(whole_job(devices="many"))
    with pytest.raises(UnexpectedReply, match="devices: Input should be a valid integer"):
        fake.client().job(JOB_ID)


# What is not the API


HTML = {"Content-Type": "text/html; charset=utf-8"}
JSON = {"Content-Type": "application/json"}
ODD = {
    "a page": (httpx.Response(200, headers=HTML, text="<html>Sign in to the network"), "text/html.*<html>Sign in"),
    "an error page": (httpx.Response(500, headers=HTML, text="<h1>Oops"), r"\(500\) is text/html"),
    "a proxy's page": (httpx.Response(502, headers=HTML, text="<h1>Bad gateway"), r"\(502\) is text/html"),
    "half a document": (httpx.Response(200, headers=JSON, content=b'{"username": "li'), "is not whole JSON"),
    "half a problem": (
        httpx.Response(400, headers={"Content-Type": "application/problem+json"}, content=b'{"type": "ht'),
        "is not whole JSON",
    ),
    "no UTF-8": (httpx.Response(200, headers=JSON, content=b'{"username": "\xff"}'), "is not whole JSON"),
    "deep nesting": (httpx.Response(200, headers=JSON, content=b"[" * 100_000), "is not whole JSON"),
    "nothing": (httpx.Response(200, headers=JSON), "is not whole JSON"),
    "nothing of no kind": (httpx.Response(200), "something without a type"),
    "a list": (httpx.Response(200, json=[1]), "valid dictionary"),
    "null": (httpx.Response(200, headers=JSON, content=b"null"), "valid dictionary"),
    "JSON that is no problem": (httpx.Response(400, json={"error": "x"}), r"\(400\) is application/json"),
    "a redirect": (httpx.Response(301, headers={"Location": "https://testserver/"}), "leads on to https://testserver/"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_reply_that_is_not_the_apis_is_told_for_what_it_is(fake: FakePortal, name: str) -> None:
    response, expected = ODD[name]
    fake.say(response)
    with pytest.raises(UnexpectedReply, match=expected):
        fake.client(retries=ONCE).me()


# Addresses and ids


@pytest.mark.parametrize("text", ["https://p.example/", " https://p.example/api/v1 ", "https://p.example/api/v1/"])
def test_an_address_is_taken_with_what_people_copy_along(text: str) -> None:
    assert check_address(text) == "https://p.example"


@pytest.mark.parametrize(
    "text", ["", "p.example", "ftp://p.example", "https://", "https://lin:pw@p.example", "https://p/?a"]
)
def test_what_is_no_address_of_a_portal_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not the address of a portal"):
        PortalClient(text)


@pytest.mark.parametrize("job_id", ["", "../me", "1", f"{JOB_ID}/cancel"])
def test_an_id_is_checked_before_it_becomes_part_of_an_address(fake: FakePortal, job_id: str) -> None:
    with pytest.raises(InvalidArgument, match="is not an id"):
        fake.client().job(job_id)
    assert fake.requests == []


@pytest.mark.parametrize("key", ["", "ключ", "a b", "a\n", "k" * 256])
def test_a_key_that_the_api_would_refuse_is_not_sent(fake: FakePortal, key: str) -> None:
    with pytest.raises(InvalidArgument, match="1 to 255 visible ASCII"):
        fake.client().submit({}, idempotency_key=key)
    assert fake.requests == []


@pytest.mark.parametrize("value", [float("nan"), {1}, b"a"])
def test_a_body_that_is_no_json_is_not_sent(fake: FakePortal, value: Any) -> None:
    with pytest.raises(InvalidArgument, match="can't be written as JSON"):
        fake.client().submit({"workload": value})
    assert fake.requests == []


def test_a_token_with_a_line_break_is_refused_without_being_shown() -> None:
    with pytest.raises(InvalidArgument, match="no token has") as caught:
        PortalClient(URL, "tp_secret\n")
    assert "tp_secret" not in str(caught.value)


# Logs


def test_a_log_is_read_piece_by_piece(fake: FakePortal) -> None:
    fake.say(piece("one\n", is_end=False), piece("two\n", 4))
    assert [found.text for found in fake.client().read_log(JOB_ID)] == ["one\n", "two\n"]
    assert [request.url.params["offset"] for request in fake.requests] == ["0", "4"]


def test_a_log_is_followed_from_before_the_start_to_what_was_written_last(fake: FakePortal) -> None:
    waiting = whole_job(state="PENDING", segments=[])
    fake.say(waiting, whole_job(), piece("one\n"), whole_job(), piece("", 4), ended_job(), piece("two\n", 4))
    assert "".join(found.text for found in fake.client().follow_log(JOB_ID)) == "one\ntwo\n"
    assert len(fake.pauses) == 3


def test_a_log_that_is_written_anew_is_read_from_its_start(fake: FakePortal) -> None:
    shrunk = {"text": "", "offset": 100, "next_offset": 100, "size": 4, "is_end": True}
    fake.say(shrunk, piece("new\n"))
    assert [found.text for found in fake.client().read_log(JOB_ID, offset=100)] == ["new\n"]


def test_following_a_chain_goes_on_with_the_next_segment(fake: FakePortal) -> None:
    both = [segment(1), segment(2)]
    fake.say(whole_job(), piece("first\n"))
    fake.say(whole_job(segments=both), piece("", 6), whole_job(segments=both), piece("second\n"))
    fake.say(ended_job(segments=both), piece("", 7))
    assert "".join(found.text for found in fake.client().follow_log(JOB_ID)) == "first\nsecond\n"
    asked = [request.url.params for request in fake.requests if request.url.path.endswith("/log")]
    assert [(one["segment"], one["offset"]) for one in asked] == [
        ("1", "0"),
        ("1", "6"),
        ("2", "0"),
        ("2", "7"),
    ]


def test_the_last_lines_are_found_without_reading_the_whole(fake: FakePortal) -> None:
    fake.say(piece("cut\nthree\nfour\n", 1000))
    assert fake.client().find_last_lines(JOB_ID, 2) == 1004
    fake.say(piece("one\ntwo\n"))
    assert fake.client().find_last_lines(JOB_ID, 5) == 0
    fake.say(piece("all one line", 5000), piece("a\nall one line", 4998))
    assert fake.client().find_last_lines(JOB_ID, 1) == 5000
