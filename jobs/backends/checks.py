"""What a look at a cluster found, in words for its administrator."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """It works, but could be better or safer, or nobody can tell from here."""
    FAILED = "failed"
    """The portal can't work so, or shouldn't."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of a report. `name` is a fixed word for programs; `remedy` is empty if there is nothing to do."""

    name: str
    outcome: Outcome
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Check:
    """All is well."""
    return Check(name=name, outcome=Outcome.OK, found=found)


def warning(name: str, found: str, remedy: str) -> Check:
    """Look at it."""
    return Check(name=name, outcome=Outcome.WARNING, found=found, remedy=remedy)


def failed(name: str, found: str, remedy: str) -> Check:
    """Put it right."""
    return Check(name=name, outcome=Outcome.FAILED, found=found, remedy=remedy)
