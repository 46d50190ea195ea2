"""Every error is a problem document that says what to do."""

import json
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from django.conf import settings

from jobs.models import Job
from portal.api.problem_types import PROBLEM_TYPES
from tests.api.conftest import ApiClient, Site

Check = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    "path", ["nothing", "jobs/", "jobs/not-a-uuid", "projects/a%00b", "jobs/x/y/z", "", "%FF", "jobs/%0A"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"])
def test_an_unknown_route_is_a_problem_not_a_page(site: Site, path: str, method: str, assert_problem: Check) -> None:
    answer = ApiClient().call(method, path, body=b"{}")
    problem = assert_problem(answer, 404, "not-found")
    assert problem["instance"].startswith("/api/v1/")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("query", ["", "?state=RUNNING&colour=red"])
def test_a_method_that_is_not_allowed_says_which_are(
    api: ApiClient, method: str, query: str, assert_problem: Check
) -> None:
    answer = api.call(method, f"jobs{query}", body=b"{}" if method != "TRACE" else b"")
    assert_problem(answer, 405, "method-not-allowed")
    assert set(answer["Allow"].split(", ")) == {"GET", "HEAD", "POST"}


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json", "\xff"],
)
def test_a_body_that_is_not_json_is_refused_by_its_type(
    site: Site, api: ApiClient, content_type: str, assert_problem: Check
) -> None:
    answer = api.call("POST", "jobs", body=json.dumps(site.body()), Content_Type=content_type)
    assert_problem(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "image/*"])
def test_only_json_is_sent(api: ApiClient, accept: str, assert_problem: Check) -> None:
    assert_problem(api.get("jobs", Accept=accept), 406, "not-acceptable")


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html, */*;q=0.1", ""])
def test_json_is_sent_to_whom_accepts_it(api: ApiClient, accept: str) -> None:
    answer = api.get("jobs", Accept=accept)
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/json")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"null",
        b"nul",
        b'{"nodes": NaN}',
        b'{"nodes": Infinity}',
        b'{"nodes": -Infinity}',
        b'{"nodes": 1e999}',
        b'{"nodes": 1' + b"0" * 5000 + b"}",
        b'{"nodes": 1, "nodes": 2}',
        b'{"entry": {"kind": "script", "kind": "command"}}',
        b"\xff\xfe{\x00}\x00",
        b'{"name": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"workload": ' + b'{"a":' * 60 + b"1" + b"}" * 61,
        b"\xef\xbb\xbf{}",
        b"'single'",
    ],
)
def test_a_body_that_cannot_be_read_is_a_problem(api: ApiClient, body: bytes, assert_problem: Check) -> None:
    answer = api.call("POST", "jobs", body=body)
    slug = "invalid-request" if body in (b"", b"null") else "malformed-body"
    assert_problem(answer, 400, slug)
    assert Job.objects.count() == 0


@pytest.mark.parametrize("text", ["\\u0000", "\\ud800", "\\udfff\\ud800"])
@pytest.mark.parametrize("place", ["value", "key", "deep"])
def test_text_that_cannot_be_stored_is_refused_wherever_it_stands(
    api: ApiClient, text: str, place: str, assert_problem: Check
) -> None:
    body, name = {
        "value": ('{"name": "a%s"}', "name"),
        "key": ('{"environment": {"A%s": "x"}}', "environment.A"),
        "deep": ('{"workload": {"model": {"config": {"x": [1, {"y": "%s"}]}}}}', "workload.model.config.x[1].y"),
    }[place]
    answer = api.call("POST", "jobs", body=body % text)
    (param,) = assert_problem(answer, 400, "invalid-request")["invalid_params"]
    assert param["code"] in ("nul_character", "lone_surrogate")
    assert param["name"].startswith(name)


def test_a_surrogate_pair_is_a_character(site: Site, api: ApiClient) -> None:
    body = json.dumps(site.body(environment={"ROCKET": "🚀"}))
    assert "\\ud83d\\ude80" in body
    assert api.call("POST", "jobs", body=body).json()["environment"] == {"ROCKET": "🚀"}


@pytest.mark.parametrize("path", ["jobs", "estimates", "auth/token"])
def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    api: ApiClient, path: str, assert_problem: Check
) -> None:
    body = b'{"name": "' + b"x" * settings.DATA_UPLOAD_MAX_MEMORY_SIZE + b'"}'
    assert_problem(api.call("POST", path, body=body), 413, "content-too-large")


def test_a_query_with_very_many_fields_is_a_problem(api: ApiClient) -> None:
    answer = api.get("jobs?" + "&".join(f"x{number}=1" for number in range(2000)))
    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"


def test_a_mistake_of_the_portal_is_told_without_its_inside(
    site: Site, api: ApiClient, assert_problem: Check, caplog: pytest.LogCaptureFixture
) -> None:
    api.client.raise_request_exception = False
    with patch("jobs.api.job_views.submit_job", side_effect=RuntimeError("secret of the house")):
        answer = api.post("jobs", site.body())
    assert_problem(answer, 500, "internal-error")
    assert b"secret" not in answer.content
    assert "secret of the house" in caplog.text


@pytest.mark.parametrize("slug", sorted(PROBLEM_TYPES))
def test_each_kind_of_problem_explains_itself_to_programs_and_people(db: None, slug: str) -> None:
    kind = PROBLEM_TYPES[slug]
    path = kind.uri.removeprefix(settings.PORTAL_URL)
    body = ApiClient().get(path).json()
    assert body == {"type": kind.uri, "title": str(kind.title), "status": kind.status, "detail": str(kind.meaning)}
    page = ApiClient().get(path, Accept="text/html,*/*;q=0.8")
    assert page["Content-Type"].startswith("text/html")
    assert str(kind.status) in page.content.decode()


def test_an_unknown_kind_of_problem_is_not_found(db: None, assert_problem: Check) -> None:
    assert_problem(ApiClient().get("problems/none"), 404, "not-found")


def test_words_follow_the_accept_language_header(api: ApiClient) -> None:
    english, chinese = (api.get("nothing", Accept_Language=language) for language in ("en", "zh-hans"))
    assert (english["Content-Language"], chinese["Content-Language"]) == ("en", "zh-hans")
    assert english.json()["type"] == chinese.json()["type"]
