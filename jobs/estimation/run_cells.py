"""The cells of a row of published runs, checked as they are read."""

import math
import re
from collections.abc import Mapping
from typing import Final

from jobs.estimation.validation import InvalidInput

_MAX_CELL: Final = 4_000


class Cells:
    """The cells of a row, checked as they are read, and what was assumed for the empty ones."""

    def __init__(self, row: Mapping[str, str]) -> None:
        self._row = row
        self.assumed: list[str] = []

    def text(self, column: str) -> str:
        value = (self._row.get(column) or "").strip()
        if len(value) > _MAX_CELL:
            raise InvalidInput(column, value, f"at most {_MAX_CELL} characters")
        return value

    def words(self, column: str) -> str:
        """The cell in lower case, without the mark of an assumption."""
        return self.text(column).lower().removesuffix("~").strip()

    def number(self, column: str, *, maximum: float = 1e18) -> float | None:
        """A positive number, or None for an empty cell."""
        text = self.text(column)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            raise InvalidInput(column, text, f"empty or a number above 0 and up to {maximum:g}") from None
        if not math.isfinite(value) or value <= 0 or value > maximum:
            raise InvalidInput(column, text, f"empty or a number above 0 and up to {maximum:g}")
        return value

    def integer(self, column: str, *, maximum: int = 10**9) -> int | None:
        """A positive integer, or None for an empty cell."""
        value = self.number(column, maximum=maximum)
        if value is None:
            return None
        if not value.is_integer():
            raise InvalidInput(column, self.text(column), f"empty or an integer from 1 to {maximum}")
        return int(value)

    def noted(self, pattern: str) -> int | None:
        """The integer that the first group of `pattern` finds in the notes."""
        found = re.search(pattern, self.text("notes"))
        return int(found.group(1)) if found else None

    def assume(self, field: str, value: object, why: str) -> None:
        self.assumed.append(f"{field}={value}: {why}")
