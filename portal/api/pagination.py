"""Keyset pagination: stable while rows are added, as fast on the last page as on the first, never silently cut.

The framework's CursorPagination keeps one column and an offset in its cursor: it loses rows where many share a
value, and a forged cursor reaches the database unchecked.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from accounts.api.errors import InvalidParam, InvalidParams, shorten

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
_MAX_CURSOR_CHARACTERS = 500


class KeysetPagination(BasePagination):
    """`?limit=` (1 to 200) and `?cursor=`; the reply has `next`, `previous`, `has_more` and a `Link` header.

    The view's `ordering` names columns of its model whose values together are unique.
    """

    ordering: tuple[str, ...] = ("-pk",)

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        self._request = request
        ordering = tuple(getattr(view, "ordering", self.ordering))
        limit = _read_limit(request)
        cursor = request.query_params.get("cursor")
        is_backward, values = (False, None) if cursor is None else _decode(cursor, queryset, ordering)
        if is_backward:
            ordering = tuple(_reverse(name) for name in ordering)
        if values is not None:
            queryset = queryset.filter(_after(ordering, values))
        rows = list(queryset.order_by(*ordering)[: limit + 1])
        is_more = len(rows) > limit
        rows = rows[:limit]
        if is_backward:
            rows.reverse()
            ordering = tuple(_reverse(name) for name in ordering)
        has_next, has_previous = (True, is_more) if is_backward else (is_more, values is not None)
        self._next = self._link(rows[-1], ordering, "n") if rows and has_next else None
        self._previous = self._link(rows[0], ordering, "p") if rows and has_previous else None
        return rows

    def get_paginated_response(self, data: Any) -> Response:
        links = [f'<{url}>; rel="{rel}"' for url, rel in ((self._next, "next"), (self._previous, "prev")) if url]
        return Response(
            {"next": self._next, "previous": self._previous, "has_more": self._next is not None, "results": data},
            headers={"Link": ", ".join(links)} if links else None,
        )

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        nullable_url = {"type": ["string", "null"], "format": "uri"}
        return {
            "type": "object",
            "required": ["next", "previous", "has_more", "results"],
            "properties": {
                "next": nullable_url,
                "previous": nullable_url,
                "has_more": {"type": "boolean"},
                "results": schema,
            },
        }

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        bounds = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
        return [
            {"name": "limit", "in": "query", "description": "Rows in a page.", "schema": bounds},
            {
                "name": "cursor",
                "in": "query",
                "description": "Taken from `next` or `previous` of an earlier page.",
                "schema": {"type": "string"},
            },
        ]

    def _link(self, row: Any, ordering: Sequence[str], direction: str) -> str:
        values = [_as_text(row, name.lstrip("-")) for name in ordering]
        token = base64.urlsafe_b64encode(json.dumps([direction, *values]).encode()).decode().rstrip("=")
        return replace_query_param(self._request.build_absolute_uri(), "cursor", token)


def _read_limit(request: Request) -> int:
    raw = request.query_params.get("limit")
    if raw is None:
        return DEFAULT_LIMIT
    if not (raw.isascii() and raw.isdigit() and 1 <= int(raw[:9]) <= MAX_LIMIT):
        allowed = _("a whole number from %(low)s to %(high)s") % {"low": 1, "high": MAX_LIMIT}
        raise _invalid("limit", raw, allowed)
    return int(raw[:9])


def _decode(cursor: str, queryset: QuerySet[Any], ordering: Sequence[str]) -> tuple[bool, list[Any]]:
    allowed = _("a cursor of an earlier page of the same list")
    try:
        if len(cursor) > _MAX_CURSOR_CHARACTERS:
            raise ValueError("too long")
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        direction, *texts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if direction not in ("n", "p") or len(texts) != len(ordering) or not all(isinstance(t, str) for t in texts):
            raise ValueError("not a cursor of this list")
        if any("\x00" in text for text in texts):
            raise ValueError("NUL")
        columns = [_column(queryset, name.lstrip("-")) for name in ordering]
        values = [column.clean(text, None) for column, text in zip(columns, texts, strict=True)]
        if any(isinstance(value, datetime) and value.tzinfo is None for value in values):
            raise ValueError("a time without a zone")
        # The database refuses offsets that Python takes.
        values = [value.astimezone(UTC) if isinstance(value, datetime) else value for value in values]
    except (ValueError, TypeError, binascii.Error, ValidationError, RecursionError, OverflowError) as error:
        raise _invalid("cursor", cursor, allowed) from error
    return direction == "p", values


def _after(ordering: Sequence[str], values: Sequence[Any]) -> Q:
    """Rows that come after the one with `values`: (a, b) > (x, y) spelt out, led by a bound that an index serves."""
    condition = Q()
    same = Q()
    for name, value in zip(ordering, values, strict=True):
        column, comparison = (name[1:], "lt") if name.startswith("-") else (name, "gt")
        condition |= same & Q(**{f"{column}__{comparison}": value})
        same &= Q(**{column: value})
    first = ordering[0]
    bound = Q(**{f"{first.lstrip('-')}__{'lte' if first.startswith('-') else 'gte'}": values[0]})
    return bound & condition


def _column(queryset: QuerySet[Any], name: str) -> Any:
    meta = queryset.model._meta
    return meta.pk if name == "pk" else meta.get_field(name)


def _as_text(row: Any, name: str) -> str:
    value = getattr(row, name)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _reverse(name: str) -> str:
    return name[1:] if name.startswith("-") else f"-{name}"


def _invalid(name: str, value: str, allowed: str) -> InvalidParams:
    reason = _("This value is not allowed here; allowed: %(allowed)s.") % {"allowed": allowed}
    return InvalidParams(
        [InvalidParam(name=name, code="invalid", reason=reason, value=shorten(value), allowed=allowed)]
    )
