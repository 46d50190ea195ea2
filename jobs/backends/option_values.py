"""Checks of values that several backends take as OPTIONS."""

import math
from collections.abc import Mapping
from typing import Any


def read_seconds(options: Mapping[str, Any], name: str, default: float, *, low: float, high: float) -> float:
    """The option `name` as seconds, or `default`. Raises ValueError: the option, the value given, what is allowed."""
    value = options.get(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high:
        raise ValueError(f"{name}: {value!r} is not allowed; allowed: seconds from {low:g} to {high:g}")
    return float(value)
