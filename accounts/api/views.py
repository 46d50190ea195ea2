"""Endpoints of people, projects and allocations."""

from datetime import timedelta
from typing import Any

from allauth.account.adapter import get_adapter
from django.conf import settings
from django.contrib.auth.signals import user_logged_in
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.db.models.expressions import OuterRef, Subquery
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from knox.models import AuthToken
from knox.settings import knox_settings
from rest_framework import status
from rest_framework.exceptions import Throttled
from rest_framework.permissions import AllowAny, BasePermission, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import access
from accounts.api.authentication import BearerAuthentication
from accounts.api.base import ApiView, ListView, first_or_404
from accounts.api.errors import TooManyTokens, WrongCredentials
from accounts.api.serializers import (
    AllocationDetailSerializer,
    AllocationQuery,
    AllocationSerializer,
    ClusterSerializer,
    CredentialsSerializer,
    LedgerEntrySerializer,
    MeSerializer,
    ProjectDetailSerializer,
    ProjectSerializer,
    TokenSerializer,
)
from accounts.models import Allocation, Cluster, LedgerEntry, Membership, Project, User

_SIGN_IN_PAUSE_S = 300
"""How long django-allauth counts failed attempts on one account."""


class TokenView(ApiView):
    """Signing in and out."""

    authentication_classes = (BearerAuthentication,)
    throttle_scopes = {"POST": "sign-in"}

    def perform_authentication(self, request: Request) -> None:
        if request.method == "POST":
            request.authenticators = ()  # a token that has run out must not keep its owner from a new one
        super().perform_authentication(request)

    def get_permissions(self) -> list[BasePermission]:
        return [AllowAny() if self.request.method == "POST" else IsAuthenticated()]

    @extend_schema(
        operation_id="create_token",
        tags=["auth"],
        auth=[],
        summary="Sign in",
        request=CredentialsSerializer,
        responses={201: TokenSerializer},
    )
    def post(self, request: Request) -> Response:
        """A new token for a user name and password, for `Authorization: Bearer <token>`."""
        given = self.read_body(CredentialsSerializer)
        try:
            # As the page does, so that attempts on an account are counted together.
            user = get_adapter().authenticate(request._request, **given)
        except ValidationError as error:
            raise Throttled(wait=_SIGN_IN_PAUSE_S) from error
        if not isinstance(user, User) or not user.is_active:
            raise WrongCredentials
        now = timezone.now()
        live = AuthToken.objects.filter(Q(expiry__gt=now) | Q(expiry__isnull=True), user=user).count()
        if live >= knox_settings.TOKEN_LIMIT_PER_USER:
            raise TooManyTokens(
                _("You hold %(count)s tokens, as many as are allowed; revoke one, or wait until one runs out.")
                % {"count": live}
            )
        stored, token = AuthToken.objects.create(user=user, expiry=timedelta(hours=settings.API_TOKEN_LIFETIME_HOURS))
        user_logged_in.send(sender=User, request=request._request, user=user)
        body = TokenSerializer({"token": token, "expires_at": stored.expiry}).data
        return Response(body, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})

    @extend_schema(operation_id="revoke_token", tags=["auth"], summary="Sign out", request=None, responses={204: None})
    def delete(self, request: Request) -> Response:
        """Revoke the token that this request is made with."""
        request.auth.delete()
        return Response(status=status.HTTP_204_NO_CONTENT)


class MeView(ApiView):
    """The person who asks."""

    @extend_schema(operation_id="get_me", tags=["auth"], summary="Who am I?", responses=MeSerializer)
    def get(self, request: Request) -> Response:
        """The person that the token belongs to, with their projects."""
        user = User.objects.prefetch_related("memberships__project").get(username=request.user.get_username())
        return Response(MeSerializer(user).data)


class ProjectList(ListView):
    """Projects."""

    serializer_class = ProjectSerializer
    ordering = ("code",)

    def get_queryset(self) -> QuerySet[Project]:
        return _with_role(access.visible_projects(self.request.user), self.request.user)

    @extend_schema(operation_id="list_projects", tags=["projects"], summary="List projects")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Projects that you are a member of; all for staff."""
        return super().get(request, *args, **kwargs)


class ProjectDetail(ApiView):
    """One project."""

    @extend_schema(
        operation_id="get_project", tags=["projects"], summary="Get a project", responses=ProjectDetailSerializer
    )
    def get(self, request: Request, code: str) -> Response:
        """A project with its members."""
        projects = _with_role(access.visible_projects(request.user), request.user)
        project = first_or_404(projects.filter(code=code).prefetch_related("memberships__user"))
        return Response(ProjectDetailSerializer(project).data)


class AllocationList(ListView):
    """Allocations."""

    serializer_class = AllocationSerializer
    query_serializers = {"GET": AllocationQuery}
    ordering = ("end_at", "pk")

    def get_serializer_context(self) -> dict[str, Any]:
        return {**super().get_serializer_context(), "now": timezone.now()}

    def get_queryset(self) -> QuerySet[Allocation]:
        allocations = access.visible_allocations(self.request.user).select_related("project", "resource_class")
        if "project" in self.query:
            allocations = allocations.filter(project__code=self.query["project"])
        if "resource_class" in self.query:
            allocations = allocations.filter(resource_class__code=self.query["resource_class"])
        if "active" in self.query:
            now = timezone.now()
            is_active = Q(start_at__lte=now, end_at__gt=now)
            allocations = allocations.filter(is_active if self.query["active"] else ~is_active)
        return allocations

    @extend_schema(
        operation_id="list_allocations",
        tags=["allocations"],
        summary="List allocations",
        parameters=[AllocationQuery],
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Allocations of your projects, earliest end first: the order in which they are spent."""
        return super().get(request, *args, **kwargs)


class AllocationDetail(ApiView):
    """One allocation."""

    @extend_schema(
        operation_id="get_allocation",
        tags=["allocations"],
        summary="Get an allocation",
        responses=AllocationDetailSerializer,
    )
    def get(self, request: Request, uuid: Any) -> Response:
        """An allocation with its balance, and when it runs out if use goes on as it did."""
        allocations = access.visible_allocations(request.user).select_related("project", "resource_class")
        allocation = first_or_404(allocations.filter(uuid=uuid))
        return Response(AllocationDetailSerializer(allocation, context={"now": timezone.now()}).data)


class EntryList(ListView):
    """The ledger of one allocation."""

    serializer_class = LedgerEntrySerializer

    def get_queryset(self) -> QuerySet[LedgerEntry]:
        allocation = first_or_404(access.visible_allocations(self.request.user).filter(uuid=self.kwargs["uuid"]))
        return LedgerEntry.objects.filter(allocation=allocation).select_related("actor")

    @extend_schema(
        operation_id="list_ledger_entries",
        tags=["allocations"],
        summary="List ledger entries",
        parameters=[OpenApiParameter("uuid", {"type": "string", "format": "uuid"}, OpenApiParameter.PATH)],
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """What made an allocation's balance, newest first. The balance is the sum of all entries."""
        return super().get(request, *args, **kwargs)


class ClusterList(ListView):
    """Clusters."""

    serializer_class = ClusterSerializer
    ordering = ("code",)

    def get_queryset(self) -> QuerySet[Cluster]:
        # Which clusters the centre has is no secret among those who are signed in.
        return Cluster.objects.all()

    @extend_schema(operation_id="list_clusters", tags=["inventory"], summary="List clusters")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Clusters, and whether their schedulers answer."""
        return super().get(request, *args, **kwargs)


def _with_role(projects: QuerySet[Project], user: Any) -> QuerySet[Project]:
    own = Membership.objects.filter(project=OuterRef("pk"), user=user).values("role")
    return projects.select_related("institution").annotate(role=Subquery(own))
