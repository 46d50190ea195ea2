"""How endpoints describe themselves in OpenAPI."""

from typing import Any, Literal

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from rest_framework import serializers

from accounts.api.validation import StrictSerializer


class InvalidParamSerializer(serializers.Serializer[Any]):
    """One thing wrong in a request."""

    name = serializers.CharField(help_text="Path of the field, parameter or header, such as entry.command[0].")
    code = serializers.CharField(help_text="Stable, for programs.")
    reason = serializers.CharField(help_text="For people, in their language.")
    value = serializers.JSONField(help_text="What was given, shortened; may be null.")
    allowed = serializers.CharField(allow_blank=True, help_text="What would have been accepted.")


class ProblemSerializer(serializers.Serializer[Any]):
    """A problem document (RFC 9457)."""

    type = serializers.URLField(help_text="Names the kind of problem; the address explains it.")
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    instance = serializers.CharField(help_text="The path that was asked.")
    invalid_params = InvalidParamSerializer(many=True)


class ApiSchema(AutoSchema):
    """Says that any error is a problem document, and which bodies take no other fields."""

    def _get_response_bodies(self, direction: Literal["request", "response"] = "response") -> dict[str, Any]:
        bodies: dict[str, Any] = super()._get_response_bodies(direction)
        component = self.resolve_serializer(ProblemSerializer, "response")
        bodies["default"] = {
            "description": "Any error.",
            "content": {"application/problem+json": {"schema": component.ref}},
        }
        return bodies

    def _map_basic_serializer(self, serializer: Any, direction: Literal["request", "response"]) -> Any:
        schema = super()._map_basic_serializer(serializer, direction)
        if isinstance(serializer, StrictSerializer):
            schema["additionalProperties"] = False
        else:
            schema["required"] = sorted(schema.get("properties", {}))  # an answer always has all its fields
        return schema


class BearerScheme(OpenApiAuthenticationExtension):
    """The token of POST /auth/token."""

    target_class = "accounts.api.authentication.BearerAuthentication"
    name = "bearerAuth"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}
