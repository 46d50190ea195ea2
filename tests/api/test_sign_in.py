"""Tokens: getting, using and revoking them."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from knox.models import AuthToken
from redis.exceptions import ConnectionError as RedisConnectionError
from rest_framework.throttling import SimpleRateThrottle

from tests.api.conftest import ApiClient, Site
from tests.factories import PASSWORD, make_user

Check = Callable[..., dict[str, Any]]


def sign_in(site: Site, username: str = "lin", password: str = PASSWORD) -> Any:
    return site.api().post("auth/token", {"username": username, "password": password})


def with_token(token: str) -> ApiClient:
    client = ApiClient()
    client.headers["Authorization"] = f"Bearer {token}"
    return client


def test_a_password_gives_a_token_that_opens_the_api(site: Site, settings: Any) -> None:
    settings.API_TOKEN_LIFETIME_HOURS = 5
    answer = sign_in(site)
    assert answer.status_code == 201
    assert answer["Cache-Control"] == "no-store"
    body = answer.json()
    assert set(body) == {"token", "expires_at"}
    left = datetime.fromisoformat(body["expires_at"]) - timezone.now()
    assert timedelta(hours=4.9) < left <= timedelta(hours=5)
    assert body["expires_at"].endswith("Z")
    assert with_token(body["token"]).get("me").json()["username"] == "lin"


def test_only_the_hash_of_a_token_is_stored(site: Site) -> None:
    token = sign_in(site).json()["token"]
    stored = AuthToken.objects.get(user=site.owner)
    assert stored.digest != token
    assert token not in repr(list(AuthToken.objects.values()))


def test_an_email_address_works_as_user_name(site: Site) -> None:
    assert sign_in(site, "lin@example.org").status_code == 201


def test_a_revoked_token_opens_nothing_and_others_stay(site: Site, assert_problem: Check) -> None:
    one, other = (sign_in(site).json()["token"] for _ in range(2))
    answer = with_token(one).delete("auth/token")
    assert (answer.status_code, answer.content) == (204, b"")
    assert_problem(with_token(one).get("me"), 401, "unauthenticated")
    assert with_token(other).get("me").status_code == 200


def test_unknown_user_wrong_password_and_closed_account_look_the_same(site: Site, assert_problem: Check) -> None:
    make_user("gone", is_active=False)
    problems = [
        assert_problem(answer, 401, "wrong-credentials")
        for answer in (sign_in(site, "nobody"), sign_in(site, "lin", "wrong"), sign_in(site, "gone"))
    ]
    assert problems[0] == problems[1] == problems[2]
    assert AuthToken.objects.count() == 0


def test_the_answer_says_how_to_sign_in(site: Site) -> None:
    for answer in (sign_in(site, "nobody"), site.api().get("me"), with_token("tp_nonsense").get("me")):
        assert answer.status_code == 401
        assert answer["WWW-Authenticate"] == "Bearer"


def test_a_token_of_a_closed_account_opens_nothing(site: Site, assert_problem: Check) -> None:
    client = site.api(site.owner)
    site.owner.is_active = False
    site.owner.save()
    assert_problem(client.get("jobs"), 401, "unauthenticated")


def test_an_expired_token_opens_nothing_but_does_not_keep_its_owner_out(site: Site, assert_problem: Check) -> None:
    _stored, key = AuthToken.objects.create(user=site.owner, expiry=timedelta(seconds=-1))
    client = with_token(key)
    assert_problem(client.get("me"), 401, "unauthenticated")
    assert client.post("auth/token", {"username": "lin", "password": PASSWORD}).status_code == 201


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer a b", "Bearer \xff\xfe", "Bearer ab\x00cd", f"Bearer {'x' * 5000}", "Basic bGluOng=", "x"],
)
def test_no_authorization_header_crashes(site: Site, header: str, assert_problem: Check) -> None:
    client = ApiClient()
    client.headers["Authorization"] = header
    assert_problem(client.get("me"), 401, "unauthenticated")


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"username": "lin"}, "password"),
        ({"username": 5, "password": "x"}, "username"),
        ({"username": "lin", "password": ["x"]}, "password"),
        ({"username": "lin", "password": "x", "remember": True}, "remember"),
        ({"username": "l\x00n", "password": "x"}, "username"),
        ({"username": "lin", "password": "p" * 2000}, "password"),
        (["lin"], "body"),
    ],
)
def test_a_bad_body_names_the_field(site: Site, body: Any, name: str, assert_problem: Check) -> None:
    assert_problem(site.api().post("auth/token", body), 400, "invalid-request", name=name)


def test_a_password_is_never_repeated(site: Site) -> None:
    answer = site.api().post("auth/token", {"username": "lin", "password": "hunter2" * 200})
    assert b"hunter2" not in answer.content


def test_sign_in_is_throttled_by_address_whatever_the_caller_says_of_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, assert_problem: Check
) -> None:
    monkeypatch.setitem(SimpleRateThrottle.THROTTLE_RATES, "sign-in", "3/min")
    for number in range(3):
        assert sign_in(site, "nobody").status_code == 401, number
    answer = site.api().post("auth/token", {"username": "lin", "password": PASSWORD}, X_Forwarded_For="10.9.8.7")
    assert_problem(answer, 429, "too-many-requests")
    assert 1 <= int(answer["Retry-After"]) <= 60


def test_a_cache_that_is_down_does_not_stop_the_api(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RedisConnectionError("refused")

    monkeypatch.setattr("django.core.cache.backends.locmem.LocMemCache.get", fail)
    assert sign_in(site).status_code == 201


def test_a_person_holds_a_limited_number_of_tokens(site: Site, assert_problem: Check) -> None:
    for _ in range(50):
        AuthToken.objects.create(user=site.owner, expiry=timedelta(hours=1))
    assert_problem(sign_in(site), 409, "too-many-tokens")
    assert sign_in(site, "wang").status_code == 201


def test_a_signed_in_browser_may_read_but_needs_its_csrf_token_to_write(site: Site, assert_problem: Check) -> None:
    client = ApiClient()
    client.client = Client(enforce_csrf_checks=True)
    client.client.force_login(site.owner)
    assert client.get("me").json()["username"] == "lin"
    assert_problem(client.post("jobs", site.body()), 403, "forbidden")
    assert_problem(client.delete("auth/token"), 401, "unauthenticated")
