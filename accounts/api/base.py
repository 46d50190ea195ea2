"""The views that all endpoints derive from."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import NotFound
from rest_framework.generics import ListAPIView
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request
from rest_framework.serializers import Serializer
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from accounts.api.authentication import BearerAuthentication
from accounts.api.parsing import StrictJSONParser
from accounts.api.schema import ApiSchema
from accounts.api.throttling import ScopeThrottle
from accounts.api.validation import read_data, read_query


class AcceptNegotiation(DefaultContentNegotiation):
    """By the Accept header alone: `?format=` is a query parameter like any other."""

    settings: Any = SimpleNamespace(URL_FORMAT_OVERRIDE=None)

    def get_accept_list(self, request: Request) -> list[str]:
        accepted = [token for token in super().get_accept_list(request) if token]
        return accepted or ["*/*"]


class ApiView(APIView):
    """Strict about what it is asked: unknown query parameters and body fields are refused by name."""

    authentication_classes: Sequence[type[BaseAuthentication]] = (BearerAuthentication, SessionAuthentication)
    parser_classes = (StrictJSONParser,)
    content_negotiation_class = AcceptNegotiation
    metadata_class = None
    http_method_names = ["get", "head", "post", "delete"]
    schema = ApiSchema()

    query_serializers: ClassVar[dict[str, type[Serializer[Any]]]] = {}
    """Query parameters by method; none for a method that isn't here."""

    throttle_scopes: ClassVar[dict[str, str]] = {}
    """Throttle scopes by method."""

    query: dict[str, Any]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if request.method not in self.allowed_methods:
            self.http_method_not_allowed(request)  # before its parameters are called wrong
        self.query = read_query(
            self.query_serializers.get(self._method(request)),
            request.query_params,
            context={"request": request},
            also=self.paging_parameters(),
        )

    def get_throttles(self) -> list[BaseThrottle]:
        scope = self.throttle_scopes.get(self._method(self.request))
        return [ScopeThrottle(scope)] if scope else []

    def paging_parameters(self) -> frozenset[str]:
        """Query parameters that the paginator reads."""
        return frozenset()

    def read_body(self, serializer_class: type[Serializer[Any]]) -> Any:
        """The checked body. Raises InvalidParams."""
        return read_data(serializer_class, self.request.data, context={"request": self.request})

    @staticmethod
    def _method(request: Any) -> str:
        return "GET" if request.method == "HEAD" else str(request.method)


class ListView(ApiView, ListAPIView[Any]):
    """A list in pages. Subclasses narrow `get_queryset` by `self.query`, and name a unique `ordering`."""

    filter_backends = ()
    ordering: ClassVar[tuple[str, ...]] = ("-pk",)

    def paging_parameters(self) -> frozenset[str]:
        return frozenset({"limit", "cursor"})


def first_or_404(queryset: Any) -> Any:
    """The one object of a queryset that is narrowed to what the person may see.

    Raises:
        NotFound: there is none, or it is not theirs to see; the answer doesn't say which.
    """
    found = queryset.first()
    if found is None:
        raise NotFound
    return found
