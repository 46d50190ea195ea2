"""Endpoints of a project's members."""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import access
from accounts.acting import act_of
from accounts.api.base import ApiView, ListView, first_or_404
from accounts.api.errors import InvalidParam, InvalidParams, shorten
from accounts.api.fields import StrictCharField
from accounts.api.serializers import MemberSerializer
from accounts.api.validation import StrictSerializer
from accounts.models import ActSource, Membership, Project
from accounts.services import members
from accounts.services.refusals import ActForbidden, ActRefused

_CODE = OpenApiParameter("code", {"type": "string"}, OpenApiParameter.PATH)


class RoleRequestSerializer(StrictSerializer):
    """What a member is to be."""

    role = serializers.ChoiceField(members.GIVEN_ROLE_CHOICES)


class MemberRequestSerializer(StrictSerializer):
    """A person who joins."""

    person = StrictCharField(max_length=254, help_text="User name or e-mail address.")
    role = serializers.ChoiceField(members.GIVEN_ROLE_CHOICES, required=False, default="MEMBER")


class MemberCollection(ListView):
    """The members of a project."""

    serializer_class = MemberSerializer

    def paging_parameters(self) -> frozenset[str]:
        return frozenset() if self.request.method == "POST" else super().paging_parameters()

    def get_queryset(self) -> QuerySet[Membership]:
        project = _project(self.request, self.kwargs["code"])
        return Membership.objects.filter(project=project).select_related("user")

    @extend_schema(operation_id="list_members", tags=["projects"], summary="List members", parameters=[_CODE])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Who is in a project and as what, newest first."""
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="add_member",
        tags=["projects"],
        summary="Add a member",
        request=MemberRequestSerializer,
        responses={201: MemberSerializer},
    )
    def post(self, request: Request, code: str) -> Response:
        """Take a person into a project: for those who lead it, and administrators."""
        project = _led(request, code)
        given = self.read_body(MemberRequestSerializer)
        try:
            made = members.add_member(project, **given, act=act_of(request, ActSource.API))
        except (ActForbidden, ActRefused) as error:
            raise _problem(error) from error
        return Response(MemberSerializer(made).data, status=status.HTTP_201_CREATED)


class MemberDetail(ApiView):
    """One member of a project."""

    @extend_schema(
        operation_id="change_member",
        tags=["projects"],
        summary="Change a member's role",
        request=RoleRequestSerializer,
        responses=MemberSerializer,
    )
    def post(self, request: Request, code: str, username: str) -> Response:
        """Make a member something else. The PI changes by a request that the centre decides."""
        project = _led(request, code)
        role = self.read_body(RoleRequestSerializer)["role"]
        user_id = _member(project, username).user_id
        try:
            changed = members.change_role(project, user_id=user_id, role=role, act=act_of(request, ActSource.API))
        except (ActForbidden, ActRefused) as error:
            raise _problem(error) from error
        except Membership.DoesNotExist as error:
            raise NotFound from error
        return Response(MemberSerializer(changed).data)

    @extend_schema(
        operation_id="remove_member",
        tags=["projects"],
        summary="Remove a member",
        request=None,
        responses={204: None},
    )
    def delete(self, request: Request, code: str, username: str) -> Response:
        """Take a member out. Their running jobs go on; those that wait are rejected."""
        project = _led(request, code)
        user_id = _member(project, username).user_id
        try:
            members.remove_member(project, user_id=user_id, act=act_of(request, ActSource.API))
        except (ActForbidden, ActRefused) as error:
            raise _problem(error) from error
        except Membership.DoesNotExist as error:
            raise NotFound from error
        return Response(status=status.HTTP_204_NO_CONTENT)


def _project(request: Request, code: str) -> Project:
    project: Project = first_or_404(access.visible_projects(request.user).filter(code=code))
    return project


def _led(request: Request, code: str) -> Project:
    project = _project(request, code)
    if not access.may_manage_members(request.user, project.pk):
        raise PermissionDenied
    return project


def _member(project: Project, username: str) -> Membership:
    membership: Membership = first_or_404(Membership.objects.filter(project=project, user__username=username))
    return membership


def _problem(error: ActForbidden | ActRefused) -> Exception:
    if isinstance(error, ActForbidden):
        return PermissionDenied()
    refusal = error.refusal
    return InvalidParams(
        [
            InvalidParam(
                name=refusal.field,
                code=refusal.code,
                reason=refusal.message,
                value=shorten(refusal.value),
                allowed=refusal.allowed,
            )
        ]
    )
