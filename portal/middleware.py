"""Middleware of the site."""

import zoneinfo
from collections.abc import Callable
from typing import Any

from csp.middleware import CSPMiddleware, PolicyParts
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from portal.api.problem_types import CONTENT_TOO_LARGE
from portal.api.problems import problem_response


class ContentPolicyMiddleware(CSPMiddleware):
    """The site's content security policy, with the exceptions that the back-office needs on its own pages."""

    def get_policy_parts(self, request: HttpRequest, response: Any, report_only: bool = False) -> PolicyParts:
        parts = super().get_policy_parts(request, response, report_only)
        if request.path_info.startswith(reverse("admin:index")):
            parts.replace = settings.ADMIN_CONTENT_POLICY
        return parts


class BodyLimitMiddleware:
    """Refuse bodies that are too large before anything reads them: files would be written to disk without a limit."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        declared = request.META.get("CONTENT_LENGTH") or ""
        # A body without a length isn't read at all (WSGI).
        if not declared.isdecimal() or int(declared[:20]) <= settings.MAX_REQUEST_BYTES:
            return self.get_response(request)
        if request.path_info.startswith("/api/"):
            return problem_response(RequestDataTooBig(), {"request": request})
        words = str(CONTENT_TOO_LARGE.title)
        return HttpResponse(words, status=CONTENT_TOO_LARGE.status, content_type="text/plain; charset=utf-8")


class TimeZoneMiddleware:
    """Show times in the zone that the signed-in person chose; the centre's zone otherwise."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        zone = getattr(request.user, "time_zone", "")
        with timezone.override(zoneinfo.ZoneInfo(zone) if zone else None):
            return self.get_response(request)
