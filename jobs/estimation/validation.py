"""Checks of single values: every error names the field, the value given and what is allowed."""

import math
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from typing import Final

MAX_SHOWN: Final = 80
"""Longest piece of a bad value that is repeated in an error message."""


class InvalidInput(ValueError):
    """A value is not allowed.

    `field` is a dotted path such as "architecture.num_attention_heads", `value` the value as given and
    `allowed` says in words what would have been accepted.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        shown = repr(value)
        if len(shown) > MAX_SHOWN:
            shown = shown[: MAX_SHOWN - 1] + "…"
        super().__init__(f"{field}: {shown} is not allowed; allowed: {allowed}")

    def __reduce__(self) -> tuple[type["InvalidInput"], tuple[str, object, str]]:
        # The error crosses process borders (Celery), so it must pickle.
        return (type(self), (self.field, self.value, self.allowed))


def check_integer(field: str, value: object, *, minimum: int, maximum: int) -> int:
    """Return `value` as int; 1e12 counts as an integer (JSON writes large numbers so), True does not."""
    if type(value) is int and minimum <= value <= maximum:
        return value  # nearly always; what follows is slow
    allowed = f"an integer from {minimum} to {maximum}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidInput(field, value, allowed)
    if isinstance(value, Integral):
        number = int(value)
    else:
        as_float = float(value)
        if not math.isfinite(as_float) or not as_float.is_integer():
            raise InvalidInput(field, value, allowed)
        number = int(as_float)
    if not minimum <= number <= maximum:
        raise InvalidInput(field, value, allowed)
    return number


def check_number(field: str, value: object, *, minimum: float, maximum: float) -> float:
    """Return `value` as a finite float between `minimum` and `maximum`, both allowed."""
    if type(value) is float and minimum <= value <= maximum:
        return value  # nearly always; what follows is slow
    allowed = f"a number from {minimum:g} to {maximum:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidInput(field, value, allowed)
    try:
        number = float(value)
    except OverflowError:
        raise InvalidInput(field, value, allowed) from None
    if not math.isfinite(number) or not minimum <= number <= maximum:
        raise InvalidInput(field, value, allowed)
    return number


def check_boolean(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(field, value, "true or false")
    return value


def check_choice(field: str, value: object, choices: Collection[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise InvalidInput(field, value, "one of " + ", ".join(sorted(choices)))
    return value


def check_text(field: str, value: object, *, maximum_length: int = 128) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= maximum_length or not value.isprintable():
        raise InvalidInput(field, value, f"printable text of 1 to {maximum_length} characters")
    return value


def check_mapping(field: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidInput(field, value, "an object (mapping) with text keys")
    return value


def check_keys(
    field: str, value: Mapping[str, object], *, known: Collection[str], required: Collection[str] = ()
) -> None:
    """Refuse keys that nobody reads (a typing error would otherwise pass silently) and missing ones."""
    unknown = sorted(set(value) - set(known))
    if unknown:
        path = f"{field}.{unknown[0]}" if field else unknown[0]
        raise InvalidInput(path, value[unknown[0]], "no such field; known: " + ", ".join(sorted(known)))
    missing = sorted(set(required) - set(value))
    if missing:
        path = f"{field}.{missing[0]}" if field else missing[0]
        raise InvalidInput(path, None, "required; missing: " + ", ".join(missing))
