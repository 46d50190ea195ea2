"""The kinds of problems that the API answers with. Slugs are for programs and never change."""

from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemType:
    """One kind: its HTTP status, a short title, and what to do about it."""

    slug: str
    status: int
    title: str | Promise
    meaning: str | Promise

    @property
    def uri(self) -> str:
        """Names the kind, and leads to its explanation."""
        return f"{settings.PORTAL_URL.rstrip('/')}/api/v1/problems/{self.slug}"

    def to_dict(self) -> dict[str, Any]:
        """As the explanation is served."""
        return {"type": self.uri, "title": str(self.title), "status": self.status, "detail": str(self.meaning)}


INVALID_REQUEST: Final = ProblemType(
    slug="invalid-request",
    status=400,
    title=_("The request is not valid"),
    meaning=_("Fields, query parameters or headers are not allowed as they are; invalid_params names each of them."),
)
MALFORMED_BODY: Final = ProblemType(
    slug="malformed-body",
    status=400,
    title=_("The body can't be read"),
    meaning=_("The body must be JSON in UTF-8, without duplicate keys, NaN or Infinity, and not nested too deeply."),
)
UNAUTHENTICATED: Final = ProblemType(
    slug="unauthenticated",
    status=401,
    title=_("Sign in first"),
    meaning=_("Send a valid token as “Authorization: Bearer <token>”; POST /api/v1/auth/token gives one."),
)
WRONG_CREDENTIALS: Final = ProblemType(
    slug="wrong-credentials",
    status=401,
    title=_("Sign-in failed"),
    meaning=_("User name or password is wrong, or the account is closed."),
)
FORBIDDEN: Final = ProblemType(
    slug="forbidden",
    status=403,
    title=_("This is not allowed"),
    meaning=_("You are known, but may not do this."),
)
NOT_FOUND: Final = ProblemType(
    slug="not-found",
    status=404,
    title=_("Not found"),
    meaning=_("There is no such thing, or it is not yours to see."),
)
METHOD_NOT_ALLOWED: Final = ProblemType(
    slug="method-not-allowed",
    status=405,
    title=_("The method is not allowed here"),
    meaning=_("The Allow header names those that are."),
)
NOT_ACCEPTABLE: Final = ProblemType(
    slug="not-acceptable",
    status=406,
    title=_("No such media type can be sent"),
    meaning=_("The API answers in application/json; the Accept header asks for something else."),
)
REFUSED: Final = ProblemType(
    slug="refused",
    status=409,
    title=_("The request was refused"),
    meaning=_("The request makes sense, but the centre's rules say no."),
)
INSUFFICIENT_ALLOCATION: Final = ProblemType(
    slug="insufficient-allocation",
    status=409,
    title=_("The project has not enough left"),
    meaning=_(
        "A job holds accelerators × time limit before it starts. Shorten the time limit, use fewer accelerators, "
        "or ask for more."
    ),
)
NO_ALLOCATION: Final = ProblemType(
    slug="no-allocation",
    status=409,
    title=_("The project has no allocation"),
    meaning=_("No allocation of this resource class is current. GET /api/v1/allocations lists those there are."),
)
POLICY_LIMIT: Final = ProblemType(
    slug="policy-limit",
    status=409,
    title=_("A limit is reached"),
    meaning=_("A limit on jobs, accelerators or time would be broken; invalid_params says which."),
)
ALREADY_DECIDED: Final = ProblemType(
    slug="already-decided",
    status=409,
    title=_("It is not this step's turn"),
    meaning=_("The request is decided or withdrawn, or waits for the other side; the detail says by whom and when."),
)
TOO_MANY_TOKENS: Final = ProblemType(
    slug="too-many-tokens",
    status=409,
    title=_("Too many tokens"),
    meaning=_("Revoke a token with DELETE /api/v1/auth/token, or wait until one runs out."),
)
CONTENT_TOO_LARGE: Final = ProblemType(
    slug="content-too-large",
    status=413,
    title=_("The body is too large"),
    meaning=_("Send less; data sets and checkpoints belong on the cluster's storage."),
)
UNSUPPORTED_MEDIA_TYPE: Final = ProblemType(
    slug="unsupported-media-type",
    status=415,
    title=_("No such media type can be read"),
    meaning=_("Send JSON, with “Content-Type: application/json”."),
)
IDEMPOTENCY_CONFLICT: Final = ProblemType(
    slug="idempotency-conflict",
    status=422,
    title=_("The key was used for another request"),
    meaning=_("An Idempotency-Key belongs to one request. Send a new key with a new request."),
)
TOO_MANY_REQUESTS: Final = ProblemType(
    slug="too-many-requests",
    status=429,
    title=_("Too many requests"),
    meaning=_("Wait as long as the Retry-After header says."),
)
INTERNAL_ERROR: Final = ProblemType(
    slug="internal-error",
    status=500,
    title=_("The portal made a mistake"),
    meaning=_("This is not the request's fault; it has been logged."),
)
SCHEDULER_UNAVAILABLE: Final = ProblemType(
    slug="scheduler-unavailable",
    status=503,
    title=_("The cluster doesn't answer"),
    meaning=_("Jobs wait and go on by themselves. Ask again as the Retry-After header says."),
)

PROBLEM_TYPES: Final = {
    kind.slug: kind
    for kind in (
        INVALID_REQUEST,
        MALFORMED_BODY,
        UNAUTHENTICATED,
        WRONG_CREDENTIALS,
        FORBIDDEN,
        NOT_FOUND,
        METHOD_NOT_ALLOWED,
        NOT_ACCEPTABLE,
        REFUSED,
        INSUFFICIENT_ALLOCATION,
        NO_ALLOCATION,
        POLICY_LIMIT,
        ALREADY_DECIDED,
        TOO_MANY_TOKENS,
        CONTENT_TOO_LARGE,
        UNSUPPORTED_MEDIA_TYPE,
        IDEMPOTENCY_CONFLICT,
        TOO_MANY_REQUESTS,
        INTERNAL_ERROR,
        SCHEDULER_UNAVAILABLE,
    )
}
