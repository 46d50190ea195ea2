"""Every error as a problem document (RFC 9457): the one place that turns exceptions into answers."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from django.core.exceptions import BadRequest, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.core.signals import got_request_exception
from django.http import Http404, HttpRequest, JsonResponse
from django.utils.translation import gettext as _
from rest_framework import exceptions
from rest_framework.views import set_rollback

from accounts.api.errors import ContentTooLarge, InvalidParam, InvalidParams, TooManyTokens, WrongCredentials, shorten
from accounts.models.policies import LIMIT_FIELDS
from accounts.services.request_rules import (
    GrantRefused,
    InvalidAllocationRequest,
    RequestClosed,
    RequestError,
    RequestForbidden,
    RequestProblem,
)
from jobs.api.names import body_path
from jobs.backends.base import SchedulerUnavailable
from jobs.services.cancellation import CancelForbidden
from jobs.services.problems import FieldProblem, IdempotencyConflict, InvalidRequest, RefusedRequest
from portal.api import problem_types as kinds
from portal.api.problem_types import ProblemType

logger = logging.getLogger("django.request")

CONTENT_TYPE = "application/problem+json"
_RETRY_SCHEDULER_S = 15

_KINDS: dict[type[Exception], ProblemType] = {
    InvalidParams: kinds.INVALID_REQUEST,
    InvalidRequest: kinds.INVALID_REQUEST,
    exceptions.ValidationError: kinds.INVALID_REQUEST,
    exceptions.ParseError: kinds.MALFORMED_BODY,
    WrongCredentials: kinds.WRONG_CREDENTIALS,
    exceptions.NotAuthenticated: kinds.UNAUTHENTICATED,
    exceptions.AuthenticationFailed: kinds.UNAUTHENTICATED,
    exceptions.PermissionDenied: kinds.FORBIDDEN,
    PermissionDenied: kinds.FORBIDDEN,
    CancelForbidden: kinds.FORBIDDEN,
    InvalidAllocationRequest: kinds.INVALID_REQUEST,
    RequestForbidden: kinds.FORBIDDEN,
    RequestClosed: kinds.ALREADY_DECIDED,
    GrantRefused: kinds.REFUSED,
    exceptions.NotFound: kinds.NOT_FOUND,
    Http404: kinds.NOT_FOUND,
    exceptions.MethodNotAllowed: kinds.METHOD_NOT_ALLOWED,
    exceptions.NotAcceptable: kinds.NOT_ACCEPTABLE,
    TooManyTokens: kinds.TOO_MANY_TOKENS,
    ContentTooLarge: kinds.CONTENT_TOO_LARGE,
    RequestDataTooBig: kinds.CONTENT_TOO_LARGE,
    exceptions.UnsupportedMediaType: kinds.UNSUPPORTED_MEDIA_TYPE,
    IdempotencyConflict: kinds.IDEMPOTENCY_CONFLICT,
    exceptions.Throttled: kinds.TOO_MANY_REQUESTS,
    SchedulerUnavailable: kinds.SCHEDULER_UNAVAILABLE,
    SuspiciousOperation: kinds.MALFORMED_BODY,
    BadRequest: kinds.MALFORMED_BODY,
}

_REFUSALS = {
    "insufficient_allocation": kinds.INSUFFICIENT_ALLOCATION,
    "no_allocation": kinds.NO_ALLOCATION,
    **dict.fromkeys(LIMIT_FIELDS, kinds.POLICY_LIMIT),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    kind: ProblemType
    detail: str
    params: Sequence[InvalidParam] = ()
    headers: dict[str, str] = field(default_factory=dict)


def problem_response(error: Exception, context: dict[str, Any]) -> JsonResponse:
    """The answer to an exception in a view of the API."""
    set_rollback()
    request = context["request"]
    problem = _describe(error)
    if problem.kind is kinds.INTERNAL_ERROR:
        logger.exception("%s %s failed", request.method, request.path, exc_info=error)
        got_request_exception.send(sender=type(context.get("view")), request=request)
    return _respond(problem, request)


def _describe(error: Exception) -> _Problem:
    if isinstance(error, RefusedRequest):
        codes = [problem.code for problem in error.problems]
        kind = next((_REFUSALS[code] for code in codes if code in _REFUSALS), kinds.REFUSED)
        return _Problem(kind=kind, detail=_sentences(error.problems), params=_from_fields(error.problems))
    kind = next((_KINDS[one] for one in type(error).__mro__ if one in _KINDS), kinds.INTERNAL_ERROR)
    if isinstance(error, InvalidRequest):
        return _Problem(kind=kind, detail=_sentences(error.problems), params=_from_fields(error.problems))
    if isinstance(error, InvalidAllocationRequest):
        return _Problem(kind=kind, detail=str(error), params=_from_fields(error.problems))
    if isinstance(error, InvalidParams):
        detail = " ".join(f"{param.name}: {param.reason}" for param in error.params)
        return _Problem(kind=kind, detail=detail, params=error.params)
    return _Problem(kind=kind, detail=_detail(error, kind), headers=_headers(error))


def _detail(error: Exception, kind: ProblemType) -> str:
    if isinstance(error, exceptions.NotFound | Http404):
        return str(kind.meaning)  # the words of Http404 name classes and patterns
    if isinstance(error, exceptions.APIException) and isinstance(error.detail, str):
        return str(error.detail)
    if isinstance(error, RequestError):
        return str(error)
    return str(kind.meaning)


def _headers(error: Exception) -> dict[str, str]:
    headers = {}
    if isinstance(error, exceptions.NotAuthenticated | exceptions.AuthenticationFailed | WrongCredentials):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, exceptions.Throttled):
        headers["Retry-After"] = str(max(math.ceil(getattr(error, "wait", None) or 1), 1))
    if isinstance(error, SchedulerUnavailable):
        headers["Retry-After"] = str(_RETRY_SCHEDULER_S)
    return headers


def _sentences(problems: Sequence[FieldProblem]) -> str:
    return " ".join(f"{body_path(problem.field)}: {problem.message}" for problem in problems)


def _from_fields(problems: Sequence[FieldProblem | RequestProblem]) -> list[InvalidParam]:
    return [
        InvalidParam(
            name=body_path(problem.field),
            code=problem.code,
            reason=problem.message,
            value=shorten(problem.value),
            allowed=str(problem.allowed),
        )
        for problem in problems
    ]


def _respond(problem: _Problem, request: HttpRequest) -> JsonResponse:
    body = {
        "type": problem.kind.uri,
        "title": str(problem.kind.title),
        "status": problem.kind.status,
        "detail": _encodable(problem.detail),
        "instance": request.path,
        "invalid_params": [asdict(param) for param in problem.params],
    }
    return JsonResponse(
        body,
        status=problem.kind.status,
        content_type=CONTENT_TYPE,
        headers=problem.headers,
        json_dumps_params={"ensure_ascii": True},
    )


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8") or _("No more is known.")
