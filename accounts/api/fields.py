"""Fields that take a value of their own type only, where the framework's would convert; and times in UTC."""

import json
from collections.abc import Mapping
from datetime import UTC
from typing import Any

from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers


class StrictIntegerField(serializers.IntegerField):
    """A whole number of JSON: not "8", not true; 8.0 is the same number as 8."""

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int | float) or data != data // 1:
            self.fail("invalid")
        return int(data)


class StrictBooleanField(serializers.BooleanField):
    """true or false; not "yes", not 1."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return bool(data)


class StrictCharField(serializers.CharField):
    """Text; not a number. White space is kept."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("trim_whitespace", False)
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return str(super().to_internal_value(data))


@extend_schema_field({"type": "object", "additionalProperties": {}})
class JsonObjectField(serializers.Field[Any, Any, Any, Any]):
    """An object whose content somebody else checks; at most `max_bytes` as JSON."""

    default_error_messages = {
        "invalid": _("This must be an object."),
        "too_large": _("This has {size} bytes as JSON; at most {max_bytes} are allowed."),
    }

    def __init__(self, *, max_bytes: int, **kwargs: Any) -> None:
        self.max_bytes = max_bytes
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, Mapping):
            self.fail("invalid")
        size = len(json.dumps(data, ensure_ascii=False).encode())
        if size > self.max_bytes:
            self.fail("too_large", size=size, max_bytes=self.max_bytes)
        return dict(data)

    def to_representation(self, value: Any) -> Any:
        return value


class UtcDateTimeField(serializers.DateTimeField):
    """A time as RFC 3339 in UTC, whatever the reader's zone; read, one without a zone is taken as UTC."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(default_timezone=UTC, **kwargs)


def hours(accelerator_s: int | None) -> float | None:
    """Accelerator-seconds as hours, to a hundredth: for people; programs use the seconds."""
    return None if accelerator_s is None else round(accelerator_s / 3600, 2)


class HoursField(serializers.FloatField):
    """Accelerator-seconds of `source`, shown as hours."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(read_only=True, **kwargs)

    def to_representation(self, value: Any) -> Any:
        return hours(value)
