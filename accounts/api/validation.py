"""Strict serializers, and their errors as a flat list that names field, value and what is allowed."""

from collections.abc import Mapping
from typing import Any

from django.http import QueryDict
from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError

from accounts.api.errors import InvalidParam, InvalidParams, shorten
from accounts.api.parsing import find_text_problem

_ROOT = "non_field_errors"


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses a field that it doesn't have: a typing error must not pass in silence."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return super().to_internal_value(data)
        known = {name for name, field in self.fields.items() if not field.read_only}
        errors: dict[str, Any] = {
            name: [ErrorDetail(_("There is no such field."), code="unknown_field")]
            for name in data
            if name not in known
        }
        try:
            values = super().to_internal_value(data)
        except ValidationError as error:
            errors |= error.detail  # type: ignore[arg-type]
        if errors:
            raise ValidationError(errors)
        return values


class EmptySerializer(StrictSerializer):
    """A body without fields: none at all, or {}."""


class VariantField(serializers.Field[Any, Any, Any, Any]):
    """A field whose content is checked by one of several serializers, by what it says."""

    def serializer_for(self, value: Any) -> serializers.Serializer[Any] | None:
        """The one that checks `value`; None if it doesn't say which."""
        raise NotImplementedError


def read_data(serializer_class: type[serializers.Serializer[Any]], data: Any, *, context: dict[str, Any]) -> Any:
    """The validated data.

    Raises:
        InvalidParams: naming every field that isn't allowed.
    """
    serializer = serializer_class(data=data, context=context)
    if serializer.is_valid():
        return serializer.validated_data
    raise InvalidParams(_flatten(serializer, serializer.errors, data, ""))


def read_query(
    serializer_class: type[serializers.Serializer[Any]] | None,
    query: QueryDict,
    *,
    context: dict[str, Any],
    also: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """The validated query parameters. Those in `also` are read by somebody else.

    Raises:
        InvalidParams: naming every parameter that is unknown, given twice, or not allowed.
    """
    serializer = (serializer_class or EmptySerializer)(context=context)
    known = serializer.fields
    problems: list[InvalidParam] = []
    data: dict[str, Any] = {}
    for name, values in query.lists():
        broken = [problem for value in (name, *values) if (problem := find_text_problem(name, value)) is not None]
        if broken:
            problems += broken
        elif name in known and isinstance(known[name], serializers.ListField):
            data[name] = values
        elif name not in known and name not in also:
            allowed = ", ".join(sorted({*known, *also})) or _("none")
            problems.append(
                InvalidParam(
                    name=str(shorten(name)),
                    code="unknown_parameter",
                    reason=_("There is no such query parameter."),
                    value=shorten(values[0]),
                    allowed=allowed,
                )
            )
        elif len(values) > 1:
            problems.append(
                InvalidParam(
                    name=name,
                    code="repeated",
                    reason=_("This parameter is given more than once."),
                    value=shorten(", ".join(values)),
                    allowed=_("one value"),
                )
            )
        elif name in known:
            data[name] = values[0]
    try:
        validated: dict[str, Any] = read_data(type(serializer), data, context=context)
    except InvalidParams as error:
        raise InvalidParams([*problems, *error.params]) from error
    if problems:
        raise InvalidParams(problems)
    return validated


def _flatten(field: Any, errors: Any, value: Any, name: str) -> list[InvalidParam]:
    if isinstance(errors, Mapping):
        found = []
        for key, below in errors.items():
            if key == _ROOT:
                found += _flatten(field, below, value, name)
                continue
            child = _child(field, key, value)
            is_item = isinstance(key, int) or isinstance(field, serializers.ListField)
            path = f"{name}[{key}]" if is_item else f"{name}.{shorten(key)}" if name else str(shorten(key))
            if child is None and isinstance(field, serializers.Serializer | VariantField):
                found.append(_unknown(field, below, _below(value, key), path, parent=value))
            else:
                found += _flatten(child, below, _below(value, key), path)
        return found
    if errors and isinstance(errors, list) and isinstance(errors[0], Mapping):
        return [one for below in errors for one in _flatten(field, below, value, name)]
    return [
        InvalidParam(
            name=name or "body",
            code=getattr(detail, "code", "invalid"),
            reason=str(detail),
            value=None if _is_secret(field) else shorten(value),
            allowed=describe_allowed(field),
        )
        for detail in (errors if isinstance(errors, list) else [errors])
    ]


def _unknown(field: Any, errors: Any, value: Any, name: str, *, parent: Any) -> InvalidParam:
    detail = errors[0] if isinstance(errors, list) and errors else errors
    owner = field.serializer_for(parent) if isinstance(field, VariantField) else field
    known = sorted(one for one, child in owner.fields.items() if not child.read_only) if owner is not None else []
    return InvalidParam(
        name=name,
        code=getattr(detail, "code", "unknown_field"),
        reason=str(detail),
        value=shorten(value),
        allowed=", ".join(known) or _("no fields"),
    )


def _child(field: Any, key: Any, value: Any) -> Any:
    if isinstance(field, VariantField):
        chosen = field.serializer_for(value)
        return None if chosen is None else chosen.fields.get(key)
    if isinstance(field, serializers.Serializer):
        return field.fields.get(key)
    return getattr(field, "child", None)


def _below(value: Any, key: Any) -> Any:
    if isinstance(value, Mapping):
        return value.get(key)
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return value[key]
    return None


def _is_secret(field: Any) -> bool:
    return bool(getattr(field, "write_only", False))


def describe_allowed(field: Any) -> str:
    """What a field takes, in words."""
    if isinstance(field, serializers.ChoiceField):
        return ", ".join(str(choice) for choice in field.choices)
    if isinstance(field, serializers.IntegerField):
        low, high = field.min_value, field.max_value
        if low is not None and high is not None:
            return _("a whole number from %(low)s to %(high)s") % {"low": low, "high": high}
        return _("a whole number")
    if isinstance(field, serializers.BooleanField):
        return _("true or false")
    if isinstance(field, serializers.DateTimeField):
        return _("a time as 2026-06-01T08:00:00Z")
    if isinstance(field, serializers.DateField):
        return _("a date as 2026-06-01")
    if isinstance(field, serializers.UUIDField):
        return _("a UUID")
    if isinstance(field, serializers.CharField):
        if field.max_length is not None:
            return _("text of at most %(high)s characters") % {"high": field.max_length}
        return _("text")
    if isinstance(field, serializers.ListField):
        return _("a list")
    return _("an object")
