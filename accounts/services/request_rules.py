"""What a request and a decision may say; each mistake names its field, the value, and what is allowed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from accounts import access
from accounts.models import (
    HOURS_KINDS,
    MAX_REQUEST_S,
    Allocation,
    AllocationRequest,
    Institution,
    Membership,
    Project,
    RequestKind,
    RequestState,
    ResourceClass,
    Role,
    User,
)
from accounts.models.identity import validate_code
from accounts.services.acts import Act

HOUR_S: Final = 3600
MAX_OPEN_REQUESTS: Final = 20
"""So many requests of one person may be open at once."""
MAX_PERIOD: Final = timedelta(days=5 * 366)
RESERVED_PREFIX: Final = "starter-"
"""Codes of starter projects: nobody can ask for one."""
_ROUNDING_S: Final = Decimal("0.002")
"""What six decimals of an hour leave open."""
_MAX_WORDS: Final = 4000
_MAX_REASON: Final = 500
_MAX_JUSTIFICATION: Final = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestProblem:
    """One thing wrong. `field` is one of the request or decision; lines are `amounts.<resource class>`."""

    field: str
    code: str
    message: str
    value: Any = None
    allowed: str = ""


class RequestError(Exception):
    """A step that is refused. Nothing was written."""


class InvalidAllocationRequest(RequestError):
    """Fields that are not allowed; `problems` names each."""

    def __init__(self, problems: Iterable[RequestProblem]) -> None:
        self.problems = list(problems)
        super().__init__(" ".join(problem.message for problem in self.problems))


class RequestForbidden(RequestError):
    """The person may see the request, but this step isn't theirs."""


class RequestClosed(RequestError):
    """The request is decided or withdrawn, or it isn't this side's turn; the message says by whom and when."""


class GrantRefused(RequestError):
    """The ledger refuses what was decided; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A request as somebody would send it. `amounts` are accelerator-seconds by resource class."""

    kind: RequestKind
    justification: str
    project: Project | None = None
    institution: Institution | None = None
    project_code: str = ""
    project_title: str = ""
    field_of_science: str = ""
    new_pi: User | None = None
    amounts: Mapping[ResourceClass, int] = field(default_factory=dict)
    start_at: datetime | None = None
    end_at: datetime | None = None
    estimate: Mapping[str, Any] | None = None


def hours_to_seconds(hours: Decimal) -> int:
    """Whole accelerator-seconds of an amount in hours; 0.027778 h, as fields write 100 s, is 100 s.

    Raises:
        ValueError: it is not finite, or has a part finer than a second.
    """
    if not hours.is_finite() or abs(hours) > MAX_REQUEST_S:
        raise ValueError(hours)
    seconds = hours * HOUR_S
    whole = seconds.to_integral_value()
    if abs(seconds - whole) > _ROUNDING_S:
        raise ValueError(hours)
    return int(whole)


def check_draft(act: Act, draft: Draft) -> None:
    """Raise unless the draft may be submitted by the person who acts.

    Raises:
        InvalidAllocationRequest: naming every field that isn't allowed.
        RequestForbidden: the project is not theirs to ask for.
    """
    problems = list(_find_text_problems(draft.justification, "justification", _MAX_JUSTIFICATION))
    if draft.kind == RequestKind.NEW_PROJECT:
        problems += _find_new_project_problems(draft)
    else:
        problems += _find_project_problems(act, draft)
    if draft.kind in HOURS_KINDS:
        problems += find_amount_problems({one.code: amount for one, amount in draft.amounts.items()}, may_be_zero=False)
        problems += find_period_problems(draft.start_at, draft.end_at, at=act.at)
        if draft.kind == RequestKind.RENEWAL and draft.project is not None and not problems:
            problems += find_overlaps(draft.project, draft.amounts, draft.start_at, draft.end_at)
    elif draft.amounts or draft.start_at or draft.end_at:
        problems.append(_problem("amounts", "not_for_kind", _("This kind of request asks for no hours.")))
    if draft.kind == RequestKind.CHANGE_OF_PI:
        problems += find_pi_problems(draft.project, draft.new_pi)
    elif draft.new_pi is not None:
        problems.append(_problem("new_pi", "not_for_kind", _("This kind of request names no new PI.")))
    if AllocationRequest.objects.filter(requester=act.actor).still_open().count() >= MAX_OPEN_REQUESTS:
        words = _("You have %(count)s requests open, as many as one may have; wait for a decision or withdraw one.")
        problems.append(_problem("kind", "too_many_open", words % {"count": MAX_OPEN_REQUESTS}))
    if problems:
        raise InvalidAllocationRequest(problems)


def find_amount_problems(amounts: Mapping[str, Any], *, may_be_zero: bool) -> list[RequestProblem]:
    """What is wrong with amounts (accelerator-seconds by code). A line may be granted nothing, but not all of them."""
    low = 0 if may_be_zero else 1
    problems = []
    for code, amount in amounts.items():
        if isinstance(amount, bool) or not isinstance(amount, int) or not low <= amount <= MAX_REQUEST_S:
            allowed = _("whole accelerator-seconds from %(low)s to %(high)s") % {"low": low, "high": MAX_REQUEST_S}
            words = _("%(value)s is not an amount; allowed: %(allowed)s.")
            words = words % {"value": amount, "allowed": allowed}
            problems.append(_problem(f"amounts.{code}", "invalid_amount", words, amount, allowed))
    if not problems and not any(amounts.values()):
        words = _("Give an amount above zero for at least one resource class.")
        problems.append(_problem("amounts", "required", words))
    return problems


def find_period_problems(start_at: datetime | None, end_at: datetime | None, *, at: datetime) -> list[RequestProblem]:
    """What is wrong with a period: it must end after it starts, in the future, within five years."""
    if start_at is None or end_at is None:
        missing = "start_at" if start_at is None else "end_at"
        return [_problem(missing, "required", _("Say from when to when the hours are wanted."))]
    words = {"start": f"{start_at:%Y-%m-%d}", "end": f"{end_at:%Y-%m-%d}"}
    if end_at <= start_at:
        message = _("The period ends (%(end)s) before it starts (%(start)s).") % words
        return [_problem("end_at", "before_start", message, words["end"], _("a time after the start"))]
    if end_at <= at:
        message = _("The period is over: it ends on %(end)s.") % words
        return [_problem("end_at", "in_past", message, words["end"], _("a time in the future"))]
    if end_at - max(start_at, at) > MAX_PERIOD or start_at > at + MAX_PERIOD or start_at < at - MAX_PERIOD:
        message = _("From %(start)s to %(end)s is too long; allowed: within five years from now.") % words
        return [_problem("end_at", "too_long", message, words["end"], _("within five years from now"))]
    return []


def find_overlaps(
    project: Project, classes: Iterable[ResourceClass], start_at: datetime | None, end_at: datetime | None
) -> list[RequestProblem]:
    """Allocations that a renewal would overlap: hours for a period that has some are a supplement."""
    if start_at is None or end_at is None:
        return []
    rows = Allocation.objects.filter(
        project=project,
        resource_class__in=[one.pk for one in classes],
        start_at__lt=end_at,
        end_at__gt=start_at,
        granted_s__gt=0,
    ).select_related("resource_class")
    words = _(
        "%(resource)s: the project has an allocation from %(start)s to %(end)s. "
        "A renewal starts when that ends; more hours for the same time are a supplement."
    )
    return [
        _problem(
            "start_at",
            "overlaps",
            words
            % {
                "resource": row.resource_class,
                "start": f"{row.start_at:%Y-%m-%d}",
                "end": f"{row.end_at:%Y-%m-%d}",
            },
            f"{start_at:%Y-%m-%d}",
            _("from %(day)s") % {"day": f"{row.end_at:%Y-%m-%d}"},
        )
        for row in rows.order_by("-end_at")[:1]
    ]


def find_pi_problems(project: Project | None, new_pi: User | None) -> list[RequestProblem]:
    """The new PI is an active member of the project who isn't its PI already."""
    if project is None:
        return []
    allowed = _("an active member of the project who isn't its PI")
    role = Membership.objects.filter(project=project, user=new_pi).values_list("role", flat=True).first()
    if new_pi is None or not new_pi.is_active or role is None or role == Role.PI:
        words = _("%(name)s can't become PI; allowed: %(allowed)s.")
        name = new_pi.get_username() if new_pi is not None else "–"
        return [_problem("new_pi", "not_eligible", words % {"name": name, "allowed": allowed}, name, allowed)]
    return []


def find_code_problems(code: str) -> list[RequestProblem]:
    """The code of a new project is well-formed, free, and not of those kept for starter projects."""
    try:
        validate_code(code)
    except ValidationError as error:
        return [_problem("project_code", "invalid", " ".join(error.messages), code)]
    if code.startswith(RESERVED_PREFIX):
        words = _("Codes that start with “%(prefix)s” are kept for starter projects.") % {"prefix": RESERVED_PREFIX}
        return [_problem("project_code", "reserved", words, code)]
    asked = AllocationRequest.objects.filter(kind=RequestKind.NEW_PROJECT, project_code=code)
    if Project.objects.filter(code=code).exists() or asked.still_open().exists():
        words = _("The code “%(code)s” is taken; choose another one.") % {"code": code}
        return [_problem("project_code", "taken", words, code, _("a code that no project has"))]
    return []


def check_words(text: str, *, field_name: str = "words", limit: int = _MAX_WORDS) -> None:
    """Raise InvalidAllocationRequest unless there are words, and not too many."""
    problems = list(_find_text_problems(text, field_name, limit))
    if problems:
        raise InvalidAllocationRequest(problems)


def check_reason(text: str) -> None:
    """A decision says why."""
    check_words(text, field_name="reason", limit=_MAX_REASON)


def describe_closed(request: AllocationRequest) -> str:
    """Why a step comes too late, or too early, in words."""
    at = f"{request.decided_at:%Y-%m-%d %H:%M} UTC" if request.decided_at else ""
    words = {
        RequestState.APPROVED: _("%(name)s has approved this request already (%(at)s)."),
        RequestState.REJECTED: _("%(name)s has rejected this request already (%(at)s)."),
        RequestState.WITHDRAWN: _("This request was withdrawn."),
        RequestState.ASKED_BACK: _("This request waits for the requester's answer."),
        RequestState.SUBMITTED: _("This request waits for a decision; nothing was asked back."),
    }
    return words[RequestState(request.state)] % {"name": request.decided_by, "at": at}


def _find_new_project_problems(draft: Draft) -> list[RequestProblem]:
    problems = find_code_problems(draft.project_code)
    problems += _find_text_problems(draft.project_title, "project_title", 200)
    if draft.institution is None:
        problems.append(_problem("institution", "required", _("Choose the institution of the project.")))
    if draft.project is not None:
        problems.append(_problem("project", "not_for_kind", _("A new project has no project yet.")))
    if len(draft.field_of_science) > 100:
        problems.append(_problem("field_of_science", "too_long", _("At most 100 characters are allowed.")))
    return problems


def _find_project_problems(act: Act, draft: Draft) -> list[RequestProblem]:
    if draft.project is None:
        return [_problem("project", "required", _("Choose the project."))]
    if not access.requestable_projects(act.actor or _nobody()).filter(pk=draft.project.pk).exists():
        raise RequestForbidden(_("Only those who lead an active project, or manage its institution, ask for it."))
    taken = AllocationRequest.objects.filter(project=draft.project, kind=draft.kind).still_open().first()
    if taken is not None:
        words = _("The project has an open request of this kind, of %(day)s; wait for its decision or withdraw it.")
        message = words % {"day": f"{taken.submitted_at:%Y-%m-%d}"}
        return [_problem("project", "already_open", message, draft.project.code)]
    return []


def _nobody() -> User:
    raise RequestForbidden(_("A request is made by a person."))


def _find_text_problems(text: str, name: str, limit: int) -> Iterable[RequestProblem]:
    if not text.strip():
        yield _problem(name, "required", _("Write something here."))
    elif len(text) > limit:
        words = _("This has %(length)s characters; at most %(limit)s are allowed.")
        yield _problem(name, "too_long", words % {"length": len(text), "limit": limit})


def _problem(field_name: str, code: str, message: str, value: Any = None, allowed: str = "") -> RequestProblem:
    return RequestProblem(field=field_name, code=code, message=message, value=value, allowed=allowed)
