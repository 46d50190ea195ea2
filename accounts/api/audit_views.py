"""The audit log for programs."""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import access
from accounts.api.base import ListView
from accounts.api.fields import UtcDateTimeField
from accounts.api.validation import StrictSerializer
from accounts.models import ActSource, AuditEvent
from accounts.services.audit_search import AuditFilter


class AuditQuery(StrictSerializer):
    """Which acts."""

    q = serializers.CharField(required=False, max_length=100, help_text="Text in act, target or reason.")
    actor = serializers.CharField(required=False, max_length=150, help_text="User name of who acted.")
    action = serializers.CharField(required=False, max_length=64, help_text='As "member.add", or a kind as "member".')
    target = serializers.CharField(required=False, max_length=200, help_text="What was acted on, exactly.")
    project = serializers.CharField(required=False, max_length=32, help_text="Code of a project.")
    institution = serializers.CharField(required=False, max_length=32, help_text="Code of an institution.")
    since = serializers.DateTimeField(required=False, help_text="At or after this.")
    until = serializers.DateTimeField(required=False, help_text="Before this.")


class AuditEventSerializer(serializers.ModelSerializer[AuditEvent]):
    """One act: who, what, before, after, when, from where."""

    at = UtcDateTimeField()
    actor = serializers.CharField(
        source="actor.username", default=None, allow_null=True, help_text="null: the portal itself."
    )
    source = serializers.ChoiceField(ActSource.choices)  # type: ignore[assignment]
    ip_address = serializers.SerializerMethodField(help_text="For administrators and auditors; null for others.")
    before = serializers.DictField()
    after = serializers.DictField()

    class Meta:
        model = AuditEvent
        fields = [
            *("id", "at", "actor", "source", "ip_address", "action", "target_kind", "target"),
            *("institution", "project", "before", "after", "reason"),
        ]

    def get_ip_address(self, event: AuditEvent) -> str | None:
        return event.ip_address if self.context["shows_addresses"] else None


class AuditList(ListView):
    """Acts."""

    serializer_class = AuditEventSerializer
    query_serializers = {"GET": AuditQuery}
    ordering = ("-at", "-id")

    def get_serializer_context(self) -> dict[str, Any]:
        return {**super().get_serializer_context(), "shows_addresses": access.sees_all(self.request.user)}

    def get_queryset(self) -> QuerySet[AuditEvent]:
        events: Any = access.visible_audit(self.request.user)
        if events is None:
            raise NotFound
        given = dict(self.query)
        names = ("actor", "action", "target", "project", "institution")
        wanted = AuditFilter(
            text=given.get("q", ""),
            **{name: given.get(name, "") for name in names},
            since_at=given.get("since"),
            until_at=given.get("until"),
        )
        found: QuerySet[AuditEvent] = wanted.apply(events).select_related("actor")
        return found

    @extend_schema(operation_id="list_audit", tags=["audit"], summary="List acts", parameters=[AuditQuery])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """What was done, newest first: all for administrators and auditors, else of what one manages or leads."""
        return super().get(request, *args, **kwargs)
