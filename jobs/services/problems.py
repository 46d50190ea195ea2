"""How services say what is wrong with a request: each problem names the field, what was given and what is allowed."""

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FieldProblem:
    """One thing wrong. `code` is stable for programs; `message` is for people, in their language."""

    field: str
    code: str
    message: str
    value: Any = None
    allowed: str = ""
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)


class RequestProblem(Exception):
    """A request that can't be taken. Nothing was written."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{problem.field}: {problem.message}" for problem in problems))


class InvalidRequest(RequestProblem):
    """It makes no sense as it stands: a value that isn't allowed, or names nothing that this person may use."""


class RefusedRequest(RequestProblem):
    """It makes sense, but policy or quota says no."""


class IdempotencyConflict(Exception):
    """The key was used before, for a different request."""
