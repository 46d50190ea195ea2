"""Endpoints of requests and their steps."""

from collections.abc import Callable
from typing import Any, TypeVar, cast
from uuid import UUID

from django.db.models import Prefetch, QuerySet
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.serializers import Serializer

from accounts import access
from accounts.acting import act_of
from accounts.api.base import ApiView, ListView, first_or_404
from accounts.api.request_serializers import (
    DecisionBodySerializer,
    ReasonBodySerializer,
    RequestBodySerializer,
    RequestDetailSerializer,
    RequestQuery,
    RequestSerializer,
    WordsBodySerializer,
)
from accounts.api.validation import EmptySerializer
from accounts.models import (
    OPEN_STATES,
    ActSource,
    AllocationRequest,
    Institution,
    RequestKind,
    RequestLine,
    ResourceClass,
    User,
)
from accounts.services import requests
from accounts.services.acts import Act
from accounts.services.request_rules import Draft, InvalidAllocationRequest, RequestProblem
from accounts.services.requests import Decision

_LOCATION_HEADER = OpenApiParameter("Location", str, OpenApiParameter.HEADER, response=[201])
_ID = OpenApiParameter("uuid", {"type": "string", "format": "uuid"}, OpenApiParameter.PATH)


_Post = TypeVar("_Post", bound=Callable[..., Response])


class RequestCollection(ListView):
    """Requests: list and make."""

    serializer_class = RequestSerializer
    query_serializers = {"GET": RequestQuery}
    throttle_scopes = {"POST": "requests"}
    ordering = ("-submitted_at", "-id")

    def paging_parameters(self) -> frozenset[str]:
        return frozenset() if self.request.method == "POST" else super().paging_parameters()

    def get_queryset(self) -> QuerySet[AllocationRequest]:
        found = _visible(self.request)
        query = self.query
        columns = {"state": "state", "kind": "kind", "project": "project_code"}
        found = found.filter(**{column: query[name] for name, column in columns.items() if name in query})
        if "open" in query:
            found = found.filter(state__in=OPEN_STATES) if query["open"] else found.exclude(state__in=OPEN_STATES)
        if "mine" in query:
            own = {"requester": self.request.user.pk}
            found = found.filter(**own) if query["mine"] else found.exclude(**own)
        return found

    @extend_schema(operation_id="list_requests", tags=["requests"], summary="List requests", parameters=[RequestQuery])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Your requests and those of projects that you lead; all for reviewers and auditors; newest first."""
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="create_request",
        tags=["requests"],
        summary="Ask for a project, hours, another PI, or an end",
        parameters=[_LOCATION_HEADER],
        request=RequestBodySerializer,
        responses={201: RequestDetailSerializer},
    )
    def post(self, request: Request) -> Response:
        """Make a request. One of a kind may be open for a project, so that a repeated call makes no second one."""
        draft = _build_draft(cast(User, request.user), self.read_body(RequestBodySerializer))
        made = requests.submit(act_of(request, ActSource.API), draft)
        headers = {"Location": reverse("api-request", kwargs={"uuid": made.uuid}, request=request)}
        return Response(_show(request, made.uuid), status=status.HTTP_201_CREATED, headers=headers)


class RequestDetail(ApiView):
    """One request."""

    @extend_schema(
        operation_id="get_request", tags=["requests"], summary="Get a request", responses=RequestDetailSerializer
    )
    def get(self, request: Request, uuid: UUID) -> Response:
        """A request with its steps."""
        return Response(_show(request, uuid))


class _StepView(ApiView):
    """A step of one request: the body is read, the step is taken, the request comes back."""

    throttle_scopes = {"POST": "requests"}

    def take(
        self, request: Request, uuid: UUID, body: type[Serializer[Any]], step: Callable[[Act, Any], object]
    ) -> Response:
        first_or_404(_visible(request).filter(uuid=uuid))
        step(act_of(request, ActSource.API), self.read_body(body))
        return Response(_show(request, uuid))


def _step_schema(operation_id: str, summary: str, body: type[Serializer[Any]] | None) -> Callable[[_Post], _Post]:
    decorate: Callable[[_Post], _Post] = extend_schema(
        operation_id=operation_id,
        tags=["requests"],
        summary=summary,
        parameters=[_ID],
        request=body,
        responses={200: RequestDetailSerializer},
    )
    return decorate


class RequestApprove(_StepView):
    """Granting."""

    @_step_schema("approve_request", "Approve a request", DecisionBodySerializer)
    def post(self, request: Request, uuid: UUID) -> Response:
        """Grant a request, as asked or otherwise. For reviewers, and never one's own."""
        return self.take(
            request,
            uuid,
            DecisionBodySerializer,
            lambda act, body: requests.approve(act, uuid, Decision(**body)),
        )


class RequestReject(_StepView):
    """Refusing."""

    @_step_schema("reject_request", "Reject a request", ReasonBodySerializer)
    def post(self, request: Request, uuid: UUID) -> Response:
        """Reject a request. For reviewers, and never one's own."""
        return self.take(
            request, uuid, ReasonBodySerializer, lambda act, body: requests.reject(act, uuid, body["reason"])
        )


class RequestAskBack(_StepView):
    """Asking the requester."""

    @_step_schema("ask_back_request", "Ask the requester", WordsBodySerializer)
    def post(self, request: Request, uuid: UUID) -> Response:
        """Ask the requester something: it is their turn then. For reviewers."""
        return self.take(
            request, uuid, WordsBodySerializer, lambda act, body: requests.ask_back(act, uuid, body["words"])
        )


class RequestAnswer(_StepView):
    """Answering a reviewer."""

    @_step_schema("answer_request", "Answer a reviewer", WordsBodySerializer)
    def post(self, request: Request, uuid: UUID) -> Response:
        """Answer what was asked back. For who asked, and who leads the project."""
        return self.take(
            request, uuid, WordsBodySerializer, lambda act, body: requests.answer(act, uuid, body["words"])
        )


class RequestWithdraw(_StepView):
    """Taking back."""

    @_step_schema("withdraw_request", "Withdraw a request", None)
    def post(self, request: Request, uuid: UUID) -> Response:
        """Take a request back before it is decided. For who asked, and who leads the project."""
        return self.take(request, uuid, EmptySerializer, lambda act, _body: requests.withdraw(act, uuid))


def _visible(request: Request) -> QuerySet[AllocationRequest]:
    lines = Prefetch("lines", RequestLine.objects.select_related("resource_class", "allocation").order_by("pk"))
    visible = access.visible_requests(request.user)
    found: QuerySet[AllocationRequest] = visible.with_names().prefetch_related(lines)  # type: ignore[attr-defined]
    return found


def _show(request: Request, uuid: UUID) -> Any:
    found = first_or_404(_visible(request).filter(uuid=uuid).prefetch_related("events__actor"))
    return RequestDetailSerializer(found).data


def _build_draft(user: User, body: dict[str, Any]) -> Draft:
    """The draft of a checked body.

    Raises:
        InvalidAllocationRequest: naming codes and people that aren't known, or not the person's to ask for.
    """
    problems: list[RequestProblem] = []

    def find(name: str, queryset: Any, column: str) -> Any:
        value = body.get(name)
        found = queryset.filter(**{column: value}).first() if value is not None else None
        if value is not None and found is None:
            problems.append(_unknown(name, value))
        return found

    codes = body.get("amounts", {})
    classes = {one.code: one for one in ResourceClass.objects.filter(code__in=codes)}
    problems += [_unknown(f"amounts.{code}", code) for code in codes if code not in classes]
    estimate = body.get("estimate")
    draft = Draft(
        kind=RequestKind(body["kind"]),
        justification=body["justification"],
        project=find("project", access.requestable_projects(user).select_related("institution"), "code"),
        institution=find("institution", Institution.objects, "code"),
        project_code=body.get("project_code", ""),
        project_title=body.get("project_title", ""),
        field_of_science=body.get("field_of_science", ""),
        new_pi=find("new_pi", User.objects.filter(is_active=True), "username"),
        amounts={classes[code]: amount for code, amount in codes.items() if code in classes},
        start_at=body.get("start_at"),
        end_at=body.get("end_at"),
        # Not signed by the planner: reviewers are told so.
        estimate={**estimate, "source": "API"} if estimate else None,
    )
    if problems:
        raise InvalidAllocationRequest(problems)
    return draft


def _unknown(name: str, value: str) -> RequestProblem:
    words = _("“%(value)s” is not known here, or not yours to name.") % {"value": value}
    return RequestProblem(field=name, code="unknown", message=words, value=value)
