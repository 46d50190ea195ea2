"""JSON Web Tokens for Slurm, one for each user.

The portal can't make tokens. It asks a broker for them, a process of another Unix user with a list of whom it may be
asked for (`token_broker/` in this repository), or finds them in a directory where one leaves and renews them.
Slurm answers a token that has expired like one that was forged, and doesn't say so: the time is looked at here.
"""

import base64
import binascii
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from jobs.backends.base import SchedulerUnavailable

_MAX_TOKEN_BYTES: Final = 8192
_SHORTEST_LIFE_S: Final = 5.0
"""A token that ends sooner might end under way."""

_RENEWED_BEFORE_S: Final = 30.0
"""A token of the broker's is renewed so long before its end, or when a fifth of its life is left, if that is less."""

_MAX_ANSWER_BYTES: Final = 16 * 1024


class TokenRefused(SchedulerUnavailable):
    """The broker gives no token for this user, and says why. No submission of theirs can succeed."""


class TokenSource(Protocol):
    """Where tokens come from. Safe to use from several threads."""

    def token_for(self, user: str) -> str:
        """A token that Slurm takes for this user now. Raises SchedulerUnavailable, TokenRefused for this user alone."""

    def discard(self, user: str) -> None:
        """Don't give the same token again from memory: Slurm may not have taken it, since its key was exchanged."""


class TokenBroker:
    """Tokens from the broker's Unix socket, kept in memory until shortly before their end."""

    def __init__(self, path: str, *, timeout_s: float = 5.0, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[str, float]] = {}

    def token_for(self, user: str) -> str:
        """Raises SchedulerUnavailable: the broker is away, or can't work; TokenRefused: not for this user."""
        now = self._clock()
        with self._lock:
            kept = self._kept.get(user)
        if kept is not None and now < kept[1]:
            return kept[0]
        # Not under the lock: a slow broker must not hold up those whose token is here.
        token = self._ask(user)
        left_s = read_expiry(token) - now
        if left_s < _SHORTEST_LIFE_S:
            raise SchedulerUnavailable(
                f"The token broker's token for {user!r} ends {left_s:.0f} s from now: do both clocks agree?"
            )
        with self._lock:
            self._kept[user] = (token, now + left_s - max(_SHORTEST_LIFE_S, min(_RENEWED_BEFORE_S, left_s / 5)))
        return token

    def discard(self, user: str) -> None:
        with self._lock:
            self._kept.pop(user, None)

    def _ask(self, user: str) -> str:
        try:
            answer = json.loads(self._exchange(json.dumps({"user": user}).encode() + b"\n"))
            status, text = str(answer["status"]), str(answer["token" if answer["status"] == "granted" else "message"])
        except OSError as error:
            raise SchedulerUnavailable(
                f"The token broker at {self._path} doesn't answer ({error}). "
                "Does it run, and may the portal's Unix user reach its socket?"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise SchedulerUnavailable(f"The token broker at {self._path} doesn't answer like one.") from error
        if status == "granted":
            return text
        if status == "refused" and answer.get("reason") != "peer":
            raise TokenRefused(text)
        raise SchedulerUnavailable(f"The token broker at {self._path} gives no token for {user!r}: {text}")

    def _exchange(self, request: bytes) -> bytes:
        """One line for one line, within the time given. Raises OSError; ValueError for an answer without end."""
        deadline = time.monotonic() + self._timeout_s
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(self._timeout_s)
            connection.connect(self._path)
            with suppress(BrokenPipeError):  # turned away before it could ask: the answer is there
                connection.sendall(request)
            return _receive_line(connection, deadline)


class TokenDirectory:
    """Tokens in files <user>.jwt, which nobody but the portal's own user (or root) may read or write."""

    def __init__(self, directory: str, *, clock: Callable[[], float] = time.time) -> None:
        self._directory = Path(directory)
        self._clock = clock

    def token_for(self, user: str) -> str:
        """Raises SchedulerUnavailable: there is no such file, others may read it, or its time is over."""
        path = self._directory / f"{user}.jwt"
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
                    raise SchedulerUnavailable(f"{path} must be a file with mode 0600: it is a key to {user}'s jobs.")
                if status.st_uid not in (0, os.geteuid()):
                    raise SchedulerUnavailable(f"{path} belongs to somebody else than the portal.")
                token = os.read(file, _MAX_TOKEN_BYTES).decode("ascii").strip()
            finally:
                os.close(file)
        except FileNotFoundError:
            raise SchedulerUnavailable(f"There is no token {path}: does the broker run, and know {user!r}?") from None
        except (OSError, UnicodeDecodeError) as error:
            raise SchedulerUnavailable(f"The token {path} can't be read: {error}") from error
        expires_at = read_expiry(token)
        if expires_at - self._clock() < _SHORTEST_LIFE_S:
            raise SchedulerUnavailable(f"The token {path} has expired: does the broker run?")
        return token

    def discard(self, user: str) -> None:
        """Nothing is kept here: the file is read each time."""


def _receive_line(connection: socket.socket, deadline: float) -> bytes:
    received = b""
    while not received.endswith(b"\n"):
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        piece = connection.recv(_MAX_ANSWER_BYTES + 1 - len(received))
        if not piece or len(received) + len(piece) > _MAX_ANSWER_BYTES:
            raise ValueError("an answer without end")
        received += piece
    return received


def read_expiry(token: str) -> float:
    """When a token ends, in seconds since the epoch. Raises SchedulerUnavailable for what is no token."""
    try:
        return float(_read_claims(token)["exp"])
    except (KeyError, TypeError, ValueError) as error:
        raise SchedulerUnavailable("A token is no JSON Web Token with an end.") from error


def read_owner(token: str) -> str:
    """For which user of Slurm's a token is. Raises SchedulerUnavailable for what is no token."""
    return str(_read_claims(token).get("sun", ""))


def _read_claims(token: str) -> dict[str, Any]:
    parts = token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (IndexError, ValueError, binascii.Error) as error:
        raise SchedulerUnavailable("A token is no JSON Web Token.") from error
    if not isinstance(claims, dict):
        raise SchedulerUnavailable("A token is no JSON Web Token with claims.")
    return claims
