"""What can go wrong between a program and the portal."""

from dataclasses import dataclass
from typing import Any


class PortalError(Exception):
    """Any failure that this library reports."""


class InvalidArgument(PortalError, ValueError):
    """What a caller gave can't be sent: an address, id, key, token or body. Nothing was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidParam:
    """One thing wrong in a request. `name` is a path such as `entry.command[0]`; `code` is for programs."""

    name: str
    reason: str
    code: str = ""
    value: Any = None
    allowed: str = ""


class ApiProblem(PortalError):
    """The portal refused, and said why in a problem document (RFC 9457).

    `type` is the address that explains the kind of problem, `slug` its last part, such as `policy-limit`.
    `retry_after_s` is how long the portal asks to wait; None if it doesn't say.
    """

    def __init__(
        self,
        *,
        status: int,
        type: str,
        title: str = "",
        detail: str = "",
        instance: str = "",
        invalid_params: tuple[InvalidParam, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        self.status = status
        self.type = type
        self.title = title
        self.detail = detail
        self.instance = instance
        self.invalid_params = invalid_params
        self.retry_after_s = retry_after_s
        super().__init__(f"{title or type} ({status}): {detail}" if detail else f"{title or type} ({status})")

    @property
    def slug(self) -> str:
        return self.type.rstrip("/").rsplit("/", 1)[-1]


class Unreachable(PortalError):
    """No reply came: no connection, or none in time, however often it was tried.

    A call that changes something may still have been carried out; the same call with the same idempotency key says.
    """


class UnexpectedReply(PortalError):
    """A reply came that isn't the portal's API: HTML, half a document, a redirect, a field missing.

    `status` is its HTTP status.
    """

    def __init__(self, message: str, *, status: int) -> None:
        self.status = status
        super().__init__(message)
