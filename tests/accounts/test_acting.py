"""Who acted, and from where, is taken from the request in one place."""

import pytest
from django.contrib.auth.models import AnonymousUser
from django.test import RequestFactory

from accounts.acting import act_of
from accounts.models import ActSource, User


@pytest.mark.parametrize(
    ("is_behind_proxy", "headers", "expected"),
    [
        (False, {"REMOTE_ADDR": "192.0.2.7", "HTTP_X_FORWARDED_FOR": "198.51.100.1"}, "192.0.2.7"),
        (True, {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "203.0.113.9, 198.51.100.1"}, "198.51.100.1"),
        (True, {"REMOTE_ADDR": "2001:db8::1"}, "2001:db8::1"),
        (True, {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "nonsense"}, None),
        (False, {"REMOTE_ADDR": ""}, None),
    ],
)
def test_the_address_is_the_one_that_nobody_can_make_up(
    settings: pytest.FixtureRequest, is_behind_proxy: bool, headers: dict[str, str], expected: str | None
) -> None:
    settings.BEHIND_PROXY = is_behind_proxy  # type: ignore[attr-defined]
    request = RequestFactory().get("/", **headers)  # type: ignore[arg-type]
    request.user = User(username="lin")
    act = act_of(request, ActSource.API)
    assert (act.actor, act.source, act.ip_address) == (request.user, ActSource.API, expected)


def test_nobody_acts_without_signing_in() -> None:
    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    with pytest.raises(TypeError):
        act_of(request)
