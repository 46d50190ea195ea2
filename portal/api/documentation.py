"""The API describes itself: the OpenAPI document, two readers for it, and a page for each kind of problem."""

from functools import cache
from typing import Any

from django.utils import translation
from django.utils.html import format_html
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import (
    OpenApiJsonRenderer,
    OpenApiJsonRenderer2,
    OpenApiYamlRenderer,
    OpenApiYamlRenderer2,
)
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularRedocView, SpectacularSwaggerSplitView
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.permissions import AllowAny
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.base import ApiView
from portal.api.problem_types import PROBLEM_TYPES, ProblemType

_SELF_ONLY = "default-src 'none'; script-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
_CLOSED = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Both readers write styles into the page; ReDoc also searches in a worker that it makes from a blob.
_SWAGGER_POLICY = f"{_SELF_ONLY}style-src 'self' 'unsafe-inline'; {_CLOSED}"
_REDOC_POLICY = f"{_SELF_ONLY}style-src 'self' 'unsafe-inline'; worker-src blob:; {_CLOSED}"


@cache
def _read_document() -> dict[str, Any]:
    """The OpenAPI document, made once for each process: the same that docs/openapi.yaml holds."""
    with translation.override("en"):
        document: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return document


class _Document(APIView):
    authentication_classes = ()
    permission_classes = (AllowAny,)
    metadata_class = None
    http_method_names = ["get", "head"]
    schema = None

    def get(self, request: Request) -> Response:
        return Response(_read_document())


class OpenApiYaml(_Document):
    """The OpenAPI 3.1 document as YAML."""

    renderer_classes = [OpenApiYamlRenderer, OpenApiYamlRenderer2]


class OpenApiJson(_Document):
    """The OpenAPI 3.1 document as JSON."""

    renderer_classes = [OpenApiJsonRenderer2, OpenApiJsonRenderer]


class SwaggerPage(SpectacularSwaggerSplitView):
    """Swagger UI: read the API, and try it. Everything comes from this portal."""

    authentication_classes = ()
    metadata_class = None
    http_method_names = ["get", "head"]
    schema = None
    url_name = "api-openapi-json"

    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        response: Response = super().get(request, *args, **kwargs)
        response["Content-Security-Policy"] = _SWAGGER_POLICY
        return response


class RedocRenderer(BaseRenderer):
    """A page for ReDoc without the fonts that its own template fetches elsewhere."""

    media_type = "text/html"
    format = "html"

    def render(self, data: Any, accepted_media_type: Any = None, renderer_context: Any = None) -> str:
        return format_html(
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1"></head>'
            '<body><redoc spec-url="{}" disable-google-font="true"></redoc><script src="{}"></script></body></html>',
            data["title"],
            data["schema_url"],
            data["redoc_standalone"],
        )


class RedocPage(SpectacularRedocView):
    """ReDoc: the API on one page."""

    authentication_classes = ()
    metadata_class = None
    http_method_names = ["get", "head"]
    schema = None
    renderer_classes = [RedocRenderer]
    url_name = "api-openapi-json"

    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        response: Response = super().get(request, *args, **kwargs)
        response["Content-Security-Policy"] = _REDOC_POLICY
        return response


class ProblemTypeSerializer(serializers.Serializer[Any]):
    """A kind of problem."""

    type = serializers.URLField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField(help_text="What it means, and what to do about it.")


class ProblemTypeRenderer(BaseRenderer):
    """A kind of problem as a small page."""

    media_type = "text/html"
    format = "html"

    def render(self, data: Any, accepted_media_type: Any = None, renderer_context: Any = None) -> str:
        return format_html(
            '<!DOCTYPE html><html lang="{}"><head><meta charset="utf-8"><title>{}</title></head>'
            "<body><h1>{}</h1><p>HTTP {}</p><p>{}</p><p><code>{}</code></p></body></html>",
            translation.get_language() or "en",
            data["title"],
            data["title"],
            data["status"],
            data["detail"],
            data["type"],
        )


class ProblemTypeView(ApiView):
    """What the `type` of a problem document leads to."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    renderer_classes = (JSONRenderer, ProblemTypeRenderer)

    @extend_schema(
        operation_id="get_problem_type",
        tags=["problems"],
        auth=[],
        summary="Explain a kind of problem",
        responses=ProblemTypeSerializer,
    )
    def get(self, request: Request, slug: str) -> Response:
        """What a kind of problem means. In a browser: a page."""
        kind: ProblemType | None = PROBLEM_TYPES.get(slug)
        if kind is None:
            raise NotFound
        return Response(ProblemTypeSerializer(kind.to_dict()).data)


class UnknownRoute(ApiView):
    """Whatever else is asked for below the API's root: a problem document, not a page."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    http_method_names = []

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super(ApiView, self).initial(request, *args, **kwargs)
        raise NotFound
