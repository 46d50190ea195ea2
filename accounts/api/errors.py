"""Errors of the API's own; what services raise is turned into problems at the edge of the site."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework import status
from rest_framework.exceptions import APIException

_SHOWN_CHARACTERS = 80
_MOST_PARAMS = 50
"""An answer names this many mistakes at most, however many a request has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidParam:
    """One thing wrong in a request. `name` is a path such as `entry.command[0]`; `code` is stable for programs."""

    name: str
    code: str
    reason: str
    value: Any = None
    allowed: str = ""


class InvalidParams(APIException):
    """Fields, query parameters or headers that are not allowed."""

    status_code = status.HTTP_400_BAD_REQUEST

    def __init__(self, params: Sequence[InvalidParam]) -> None:
        self.params = tuple(params[:_MOST_PARAMS])
        super().__init__()


class ContentTooLarge(APIException):
    """A body larger than the portal reads."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_detail = _("The body is too large.")


class WrongCredentials(APIException):
    """The same for an unknown user, a wrong password and an account that is closed."""

    status_code = status.HTTP_401_UNAUTHORIZED
    default_detail = _("User name or password is wrong.")


class TooManyTokens(APIException):
    """A person holds as many tokens as one may."""

    status_code = status.HTTP_409_CONFLICT


def shorten(value: object) -> Any:
    """A value as it is shown in an error: at most 80 characters, and always text that can be encoded."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) < 2**53:
        return value
    shown = value if isinstance(value, str) else repr(value)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = f"{shown[:_SHOWN_CHARACTERS]}…"
    return shown.encode("utf-8", "backslashreplace").decode("utf-8")
