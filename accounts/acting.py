"""Who acts by a request: the one place where pages, API and back-office take it from."""

import ipaddress
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone

from accounts.models import ActSource, User
from accounts.services.acts import Act


def act_of(request: HttpRequest | Any, source: ActSource = ActSource.PAGE) -> Act:
    """The signed-in person, now, from where the request came.

    Behind the trusted proxy (`BEHIND_PROXY`) the address is the last one of X-Forwarded-For: the one the proxy added.
    """
    if not isinstance(request.user, User):
        raise TypeError("nobody is signed in")
    return Act(actor=request.user, at=timezone.now(), source=source, ip_address=_address(request))


def _address(request: HttpRequest | Any) -> str | None:
    text = request.META.get("REMOTE_ADDR", "")
    if settings.BEHIND_PROXY:
        text = request.META.get("HTTP_X_FORWARDED_FOR", text).rpartition(",")[2].strip()
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None  # a Unix socket has no address
