"""Guessing passwords, leading people elsewhere, and what a closed account or an old password still opens."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from knox.models import AuthToken

from accounts.models import User
from tests.api.conftest import ApiClient
from tests.factories import PASSWORD, make_user

pytestmark = pytest.mark.django_db


def ask_token(username: str, password: str, **headers: str) -> Any:
    return ApiClient().post("auth/token", {"username": username, "password": password}, **headers)


def type_in(username: str, password: str, *, next_url: str = "") -> Any:
    return Client().post("/account/login/", {"login": username, "password": password, "next": next_url})


def test_the_back_office_has_no_door_of_its_own() -> None:
    make_user("admin", is_staff=True, is_superuser=True)
    client = Client()
    answer = client.post("/admin/login/?next=/admin/", {"username": "admin", "password": PASSWORD})
    assert answer.status_code == 302
    assert answer["Location"] == "/account/login/?next=%2Fadmin%2F"
    assert client.get("/admin/").status_code == 302


def test_who_is_no_staff_is_refused_and_not_asked_to_sign_in_again() -> None:
    client = Client()
    client.force_login(make_user())
    assert client.get("/admin/", follow=True).status_code == 403


def test_guesses_at_an_account_are_counted_over_page_and_api_together() -> None:
    make_user("lin")
    for _ in range(3):
        assert type_in("lin", "wrong").status_code == 200
    assert [ask_token("lin", "wrong").status_code for _ in range(2)] == [401, 401]
    answer = ask_token("lin", PASSWORD)
    assert answer.status_code == 429
    assert int(answer["Retry-After"]) > 0
    assert not type_in("lin", PASSWORD).wsgi_request.user.is_authenticated
    make_user("chen")
    assert ask_token("chen", PASSWORD).status_code == 201


def test_guesses_from_many_addresses_are_counted_all_the_same() -> None:
    make_user("lin")
    codes = [ask_token("lin", "wrong", X_Forwarded_For=f"10.0.0.{number}").status_code for number in range(7)]
    assert codes == [401] * 5 + [429] * 2


def test_signing_in_often_with_the_right_password_is_no_guessing() -> None:
    make_user("lin")
    assert [ask_token("lin", PASSWORD).status_code for _ in range(12)] == [201] * 12


@pytest.mark.parametrize(
    "elsewhere",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "http:///evil.example", "javascript:alert(1)"],
)
def test_nobody_is_led_elsewhere(elsewhere: str) -> None:
    make_user("lin")
    assert type_in("lin", PASSWORD, next_url=elsewhere)["Location"] == "/"
    answer = Client().post("/i18n/setlang/", {"language": "zh-hans", "next": elsewhere})
    assert answer["Location"] == "/"
    client = Client()
    client.force_login(User.objects.get())
    assert client.post("/account/logout/", {"next": elsewhere})["Location"] == "/"
    assert type_in("lin", PASSWORD, next_url="/jobs/")["Location"] == "/jobs/"


def test_a_session_of_a_closed_account_opens_nothing() -> None:
    user = make_user("lin")
    client = Client()
    client.force_login(user)
    assert client.get("/").status_code == 200
    User.objects.update(is_active=False)
    assert client.get("/").status_code == 302
    assert client.get("/api/v1/me").status_code == 401


def test_signing_out_ends_the_session_on_the_server() -> None:
    client = Client()
    client.force_login(make_user("lin"))
    stolen = client.cookies["portal_session"].value
    client.post("/account/logout/")
    thief = Client()
    thief.cookies["portal_session"] = stolen
    assert thief.get("/").status_code == 302


def test_a_new_password_ends_the_tokens_and_sessions_of_the_old_one() -> None:
    user = make_user("lin")
    _token, key = AuthToken.objects.create(user=user, expiry=timedelta(hours=1))
    session = Client()
    session.force_login(user)
    other = make_user("chen")
    AuthToken.objects.create(user=other, expiry=timedelta(hours=1))
    user.set_password("another horse battery staple")
    user.save()
    api = ApiClient()
    api.headers["Authorization"] = f"Bearer {key}"
    assert api.get("me").status_code == 401
    assert session.get("/").status_code == 302
    assert list(AuthToken.objects.values_list("user__username", flat=True)) == ["chen"]


def test_other_changes_of_a_person_leave_the_tokens_alone() -> None:
    user = make_user("lin")
    AuthToken.objects.create(user=user, expiry=timedelta(hours=1))
    user.first_name = "Xia"
    user.save()
    Client().post("/account/login/", {"login": "lin", "password": PASSWORD})
    assert AuthToken.objects.count() == 1


def test_a_token_is_taken_from_the_header_alone() -> None:
    """Addresses are kept in logs and histories."""
    _token, key = AuthToken.objects.create(user=make_user("lin"), expiry=timedelta(hours=1))
    for url in (f"/api/v1/me?token={key}", f"/api/v1/me?access_token={key}"):
        assert Client().get(url).status_code == 401
