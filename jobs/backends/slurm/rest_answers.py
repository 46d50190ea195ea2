"""Reading slurmrestd's answers: every field is checked for its type, and what has another is no answer at all.

A field that is missing or null is "not set" in every version. Text of users', such as a comment, may hold anything.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from jobs.backends.base import SchedulerUnavailable

_NOTHING_FOUND: Final = ("Nothing found with query", "Nothing found")
_NUMBERS_END: Final = 2**64
"""Slurm's numbers have at most 64 bits; JSON's may have any length."""

_LATEST_TIME_S: Final = 253_402_300_799
"""The end of the year 9999, which is as far as Python's calendar goes."""


def read_answer(response: httpx.Response) -> "Record":
    """The answer as an object. Raises SchedulerUnavailable for HTML, half an answer, a refused token."""
    try:
        # A job's comment may be no UTF-8, and stands in everybody's list of jobs.
        answer = json.loads(response.content.decode("utf-8", "replace"))
    except (ValueError, RecursionError):  # ValueError: no JSON, or a number of thousands of digits
        answer = None
    if not isinstance(answer, dict):
        start = response.content[:100].decode("utf-8", "replace")
        raise SchedulerUnavailable(f"slurmrestd answered {response.status_code} with no JSON: {start!r}")
    return Record(answer, "answer")


class Record:
    """An object of an answer. All methods raise SchedulerUnavailable, naming the field and what it held."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where

    @property
    def values(self) -> dict[str, Any]:
        """The fields as they came, unchecked."""
        return dict(self._values)

    def text(self, name: str) -> str:
        """Text; "" if it isn't set. What no database could keep is replaced."""
        value = self._values.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._wrong(name, value, "text")
        # NUL, and halves of pairs that JSON may spell out, are no text elsewhere.
        return value if value.isprintable() else value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")

    def number(self, name: str, default: int = 0) -> int:
        """A whole number; `default` if it isn't set."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= _NUMBERS_END:
            raise self._wrong(name, value, "a whole number")
        return value

    def identity(self, name: str) -> int:
        """A number above zero that must be there."""
        value = self.number(name)
        if value <= 0:
            raise self._wrong(name, self._values.get(name), "a number above zero")
        return value

    def optional_number(self, name: str) -> int | None:
        """A number as {"set": true, "infinite": false, "number": 5}, or plain; None if unset or infinite.

        Versions differ in which of their numbers are so; the later ones write more of them as objects.
        """
        value = self._values.get(name)
        if not isinstance(value, Mapping):
            return None if value is None else self.number(name)
        inner = Record(value, f"{self._where}.{name}")
        return inner.number("number") if inner.flag("set") and not inner.flag("infinite") else None

    def flag(self, name: str) -> bool:
        """A truth value; False if it isn't set."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return bool(value)

    def time(self, name: str) -> datetime | None:
        """A time, as seconds since the epoch; None if it isn't set, or 0."""
        value = self.optional_number(name)
        if value is None or value <= 0:
            return None
        if value > _LATEST_TIME_S:
            raise self._wrong(name, self._values.get(name), "seconds since the epoch")
        return datetime.fromtimestamp(value, UTC)

    def record(self, name: str) -> "Record":
        """An object; an empty one if it isn't set."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise self._wrong(name, value, "an object")
        return Record(value or {}, f"{self._where}.{name}")

    def records(self, name: str) -> list["Record"]:
        """A list of objects, which must be there."""
        value = self._values.get(name)
        if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
            raise self._wrong(name, value, "a list of objects")
        return [Record(item, f"{self._where}.{name}") for item in value]

    def optional_records(self, name: str) -> list["Record"]:
        """A list of objects; an empty one if it isn't set."""
        return [] if self._values.get(name) is None else self.records(name)

    def words(self, name: str) -> list[str]:
        """A list of texts; an empty one if it isn't set. Earlier versions have one text in place of most lists."""
        value = self._values.get(name)
        if value is None:
            return []
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, value, "a list of texts")
        return list(value)

    def names(self) -> set[str]:
        """The names of all fields."""
        return {str(name) for name in self._values}

    def has(self, name: str) -> bool:
        """Whether a field is there and not null."""
        return self._values.get(name) is not None

    def _wrong(self, name: str, value: object, expected: str) -> SchedulerUnavailable:
        shown = repr(value)[:80]
        return SchedulerUnavailable(f"slurmrestd's answer has {shown} as {self._where}.{name}; expected: {expected}")


def errors_of(answer: Record) -> list[Record]:
    """What is wrong, without what only says that nothing was found."""
    return [item for item in answer.optional_records("errors") if item.text("error") not in _NOTHING_FOUND]


def error_code(item: Record) -> int:
    """Entries are not uniform: either name is used."""
    return item.number("error_code") or item.number("error_number")


def describe(errors: list[Record]) -> str:
    """Slurm's words."""
    words = [item.text("error") or item.text("description") or f"error {error_code(item)}" for item in errors]
    return "; ".join(words) or "no reason given"
