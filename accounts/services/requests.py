"""Requests and their steps: the only writer of `AllocationRequest`, its lines and events.

Each step locks the request's row first and looks at its state under the lock: of two reviewers who decide at the
same moment one finds it decided. Step, event, effect, audit line and messages are one transaction. Rows are locked in
the order request, project, allocations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from accounts import access
from accounts.models import (
    OPEN_STATES,
    AllocationRequest,
    RequestEvent,
    RequestKind,
    RequestLine,
    RequestState,
    RequestStep,
    User,
)
from accounts.services import audit, notifications, request_effects
from accounts.services.acts import Act
from accounts.services.request_rules import (
    Draft,
    InvalidAllocationRequest,
    RequestClosed,
    RequestForbidden,
    RequestProblem,
    check_draft,
    check_reason,
    check_words,
    describe_closed,
    find_amount_problems,
    find_period_problems,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a reviewer grants: accelerator-seconds by code of resource class (0 refuses a line), and for when.

    `takes_rest`: at the end of a project what it has left is taken; otherwise it stays until it expires, unspent.
    """

    reason: str
    amounts: Mapping[str, int] = field(default_factory=dict)
    start_at: datetime | None = None
    end_at: datetime | None = None
    takes_rest: bool = False


def submit(act: Act, draft: Draft) -> AllocationRequest:
    """Make a request.

    Raises:
        InvalidAllocationRequest, RequestForbidden: as `check_draft`.
    """
    try:
        with transaction.atomic():
            return _submit(act, draft)
    except IntegrityError as error:
        # Two at the same moment: the other was first.
        words = _("The same was asked at this moment by another request; look at the list of requests.")
        raise InvalidAllocationRequest([RequestProblem(field="kind", code="already_open", message=words)]) from error


def _submit(act: Act, draft: Draft) -> AllocationRequest:
    check_draft(act, draft)
    requester = _actor(act)
    project = draft.project
    institution = project.institution if project is not None else draft.institution
    if institution is None:
        raise ValueError("a checked draft has an institution")
    request = AllocationRequest.objects.create(
        kind=draft.kind,
        requester=requester,
        project=project,
        institution=institution,
        project_code=project.code if project is not None else draft.project_code,
        project_title=project.title if project is not None else draft.project_title.strip(),
        field_of_science=project.field_of_science if project is not None else draft.field_of_science.strip(),
        new_pi=draft.new_pi,
        start_at=draft.start_at,
        end_at=draft.end_at,
        justification=draft.justification.strip(),
        estimate=dict(draft.estimate) if draft.estimate else None,
        submitted_at=act.at,
    )
    RequestLine.objects.bulk_create(
        RequestLine(request=request, resource_class=one, amount_s=amount) for one, amount in draft.amounts.items()
    )
    _note(act, request, RequestStep.SUBMIT, "", after={"state": request.state, **_wanted(request, draft)})
    return request


@transaction.atomic
def ask_back(act: Act, uuid: UUID, words: str) -> AllocationRequest:
    """A reviewer wants to know more: it is the requester's turn.

    Raises:
        RequestForbidden, RequestClosed, InvalidAllocationRequest.
    """
    request = _lock(uuid, (RequestState.SUBMITTED,), may=lambda one: access.may_decide(_actor(act), one))
    check_words(words)
    return _move(act, request, RequestState.ASKED_BACK, RequestStep.ASK_BACK, words)


@transaction.atomic
def answer(act: Act, uuid: UUID, words: str) -> AllocationRequest:
    """The requester answers: it is the reviewers' turn again.

    Raises:
        RequestForbidden, RequestClosed, InvalidAllocationRequest.
    """
    request = _lock(uuid, (RequestState.ASKED_BACK,), may=lambda one: access.may_answer(_actor(act), one))
    check_words(words)
    return _move(act, request, RequestState.SUBMITTED, RequestStep.ANSWER, words)


@transaction.atomic
def withdraw(act: Act, uuid: UUID, words: str = "") -> AllocationRequest:
    """The requester wants it no more.

    Raises:
        RequestForbidden, RequestClosed, InvalidAllocationRequest.
    """
    request = _lock(uuid, OPEN_STATES, may=lambda one: access.may_answer(_actor(act), one))
    if words:
        check_words(words)
    return _move(act, request, RequestState.WITHDRAWN, RequestStep.WITHDRAW, words)


@transaction.atomic
def reject(act: Act, uuid: UUID, reason: str) -> AllocationRequest:
    """Refuse it, with a reason.

    Raises:
        RequestForbidden, RequestClosed, InvalidAllocationRequest.
    """
    request = _lock(uuid, OPEN_STATES, may=lambda one: access.may_decide(_actor(act), one))
    check_reason(reason)
    _decide(act, request, reason)
    return _move(act, request, RequestState.REJECTED, RequestStep.REJECT, reason)


@transaction.atomic
def approve(act: Act, uuid: UUID, decision: Decision) -> AllocationRequest:
    """Grant it, as asked or otherwise, and do what was asked: all of it or nothing.

    Raises:
        RequestForbidden: it is not theirs to decide, or they would decide on their own.
        RequestClosed: somebody was first; the message says who and when.
        InvalidAllocationRequest: naming what of the decision isn't allowed.
        GrantRefused: the ledger doesn't take it.
    """
    request = _lock(uuid, OPEN_STATES, may=lambda one: access.may_decide(_actor(act), one))
    check_reason(decision.reason)
    lines = list(request.lines.select_related("resource_class").order_by("pk"))
    if request.asks_for_hours:
        _check_grant(act, lines, decision)
    effect = request_effects.carry_out(
        act,
        request,
        lines,
        amounts=decision.amounts,
        start_at=decision.start_at,
        end_at=decision.end_at,
        takes_rest=decision.takes_rest,
        reason=decision.reason,
    )
    _decide(act, request, decision.reason)
    request.granted_start_at = decision.start_at if request.asks_for_hours else None
    request.granted_end_at = decision.end_at if request.asks_for_hours else None
    return _move(act, request, RequestState.APPROVED, RequestStep.APPROVE, decision.reason, effect=effect)


def _check_grant(act: Act, lines: list[RequestLine], decision: Decision) -> None:
    asked = {line.resource_class.code for line in lines}
    problems = [
        RequestProblem(
            field=f"amounts.{code}",
            code="not_asked",
            message=_("The request doesn't ask for %(code)s.") % {"code": code},
            value=code,
            allowed=", ".join(sorted(asked)),
        )
        for code in decision.amounts
        if code not in asked
    ]
    problems += [
        RequestProblem(
            field=f"amounts.{code}",
            code="required",
            message=_("Say how much of %(code)s is granted; 0 refuses it.") % {"code": code},
        )
        for code in sorted(asked - set(decision.amounts))
    ]
    problems += find_amount_problems(decision.amounts, may_be_zero=True) if not problems else []
    problems += find_period_problems(decision.start_at, decision.end_at, at=act.at)
    if problems:
        raise InvalidAllocationRequest(problems)


def _lock(uuid: UUID, states: tuple[RequestState, ...], *, may: Any) -> AllocationRequest:
    """The request under its lock, if it is in one of `states` and this person's to act on."""
    request: AllocationRequest = (
        AllocationRequest.objects.select_for_update(of=("self",))
        .select_related("project__institution", "institution", "requester", "new_pi", "decided_by")
        .get(uuid=uuid)
    )
    if not may(request):
        raise RequestForbidden(_("This step is not yours: nobody decides on their own request, or answers another's."))
    if request.state not in states:
        raise RequestClosed(describe_closed(request))
    return request


def _decide(act: Act, request: AllocationRequest, reason: str) -> None:
    request.decided_at, request.decided_by, request.decision_reason = act.at, _actor(act), reason.strip()


def _move(
    act: Act,
    request: AllocationRequest,
    state: RequestState,
    step: RequestStep,
    words: str,
    *,
    effect: Mapping[str, Any] | None = None,
) -> AllocationRequest:
    before = request.state
    request.state = state
    request.save()
    _note(act, request, step, words.strip(), before={"state": before}, after={"state": state, **(effect or {})})
    return request


def _note(
    act: Act,
    request: AllocationRequest,
    step: RequestStep,
    words: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any],
) -> None:
    """The event, the audit line, and a message to everybody concerned but who acts."""
    actor = _actor(act)
    RequestEvent.objects.create(request=request, step=step, at=act.at, actor=actor, words=words)
    audit.record(
        act,
        f"request.{step.lower()}",
        target_kind="request",
        target=str(request.uuid),
        before=before,
        after={"kind": request.kind, "project": request.project_code, **after},
        project=request.project,
        institution=request.institution,
        reason=words,
    )
    figures = {
        "project": request.project_code,
        "title": request.project_title,
        "request_kind": request.kind,
        "actor": str(actor),
        "words": words,
        **({"granted_s": after["granted_s"]} if "granted_s" in after else {}),
    }
    people = [one for one in _concerned(request) if one.pk != actor.pk]
    kind = "request.granted" if "granted_s" in after else f"request.{step.lower()}"
    notifications.notify(people, kind, at=act.at, figures=figures, path=request.get_absolute_url())


def _concerned(request: AllocationRequest) -> list[User]:
    """Both sides: who asks, leads the project or is to; and the reviewers."""
    people = [request.requester, *access.reviewers()]
    if request.new_pi is not None:
        people.append(request.new_pi)
    if request.project is not None:
        people += access.leaders_of(request.project.pk)
    return people


def _wanted(request: AllocationRequest, draft: Draft) -> dict[str, Any]:
    if request.kind == RequestKind.CHANGE_OF_PI and draft.new_pi is not None:
        return {"new_pi": draft.new_pi.get_username()}
    if not draft.amounts:
        return {}
    return {
        "asked_s": {one.code: amount for one, amount in draft.amounts.items()},
        "start_at": draft.start_at.isoformat() if draft.start_at else None,
        "end_at": draft.end_at.isoformat() if draft.end_at else None,
    }


def _actor(act: Act) -> User:
    if act.actor is None:
        raise RequestForbidden(_("A request is made and decided by a person."))
    return act.actor
