"""What was asked for can't be: in words, with the field, the value and what is allowed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """`code` is stable for programs; `message` and `allowed` are for people."""

    field: str
    code: str
    message: str
    value: str = ""
    allowed: str = ""


class ActRefused(Exception):
    """Nothing was changed."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class ActForbidden(Exception):
    """The person may see it, but not do this."""
