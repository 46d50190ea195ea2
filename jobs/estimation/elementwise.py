"""NumPy's choices for arrays and for single numbers.

One estimate is one row. On single numbers NumPy's functions cost some microseconds each, hundreds of times an estimate;
these fall back to Python's own there, and are NumPy's for arrays.
"""

from typing import Any, Final, cast

import numpy as np

from jobs.estimation.plan import Floats

ZERO: Final[Floats] = cast("Floats", np.float64(0.0))
ONE: Final[Floats] = cast("Floats", np.float64(1.0))


def where(condition: Any, chosen: Any, other: Any) -> Floats:
    """`np.where`; for a single condition, one of the two as it is."""
    if isinstance(condition, np.ndarray):
        return cast("Floats", np.where(condition, chosen, other))
    return cast("Floats", chosen if condition else other)


def maximum(first: Any, second: Any) -> Floats:
    """`np.maximum`."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return cast("Floats", np.maximum(first, second))
    return cast("Floats", first if first >= second else second)


def minimum(first: Any, second: Any) -> Floats:
    """`np.minimum`."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return cast("Floats", np.minimum(first, second))
    return cast("Floats", first if first <= second else second)


def is_any(condition: Any) -> bool:
    """`np.any`, as a bool."""
    return bool(condition.any()) if isinstance(condition, np.ndarray) else bool(condition)
