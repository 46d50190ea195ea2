"""JSON Web Tokens for Slurm, one for each user, left in a directory by a broker.

The portal can't make tokens: a broker of its own, with a list of users, writes them there with a short life and renews
them. Slurm answers a token that has expired like one that was forged, and doesn't say so: the time is looked at here.
"""

import base64
import binascii
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from jobs.backends.base import SchedulerUnavailable

_MAX_TOKEN_BYTES: Final = 8192
_SHORTEST_LIFE_S: Final = 5.0
"""A token that ends sooner might end under way."""


class TokenSource(Protocol):
    """Where tokens come from."""

    def token_for(self, user: str) -> str:
        """A token that Slurm takes for this user now. Raises SchedulerUnavailable."""


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


def read_expiry(token: str) -> float:
    """When a token ends, in seconds since the epoch. Raises SchedulerUnavailable for what is no token."""
    parts = token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise SchedulerUnavailable("A token is no JSON Web Token with an end.") from error
