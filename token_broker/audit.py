"""Who was given what, and who was refused: one line of JSON each, and never a token."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from token_broker.errors import BrokerError


class AuditLog:
    """Appends to a file, opened anew for each line: it may be moved away at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self) -> None:
        """Raises BrokerError if it can't be written to. Makes no file: it might be tried by somebody else."""
        if os.path.lexists(self._path):
            os.close(self._open())
        elif not os.access(self._path.parent, os.W_OK | os.X_OK):
            raise BrokerError(f"{self._path} can't be written to: {self._path.parent} is not there, or not writable")

    def write(
        self,
        *,
        at: float,
        peer_uid: int,
        peer_pid: int,
        user: str | None,
        outcome: str,
        reason: str = "",
        expires_at: int | None = None,
    ) -> None:
        """Add a line. `user` is what was asked for, shortened; None if that could not be read. Raises BrokerError."""
        line = {
            "time": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"),
            "peer_uid": peer_uid,
            "peer_pid": peer_pid,
            "user": None if user is None else user[:64],
            "outcome": outcome,
            "reason": reason,
            "expires_at": expires_at,
        }
        data = (json.dumps(line) + "\n").encode()
        file = self._open()
        try:
            # One call: lines of several threads don't mix.
            if os.write(file, data) != len(data):
                raise BrokerError(f"{self._path} can't be written to: the disk is full")
        except OSError as error:
            raise BrokerError(f"{self._path} can't be written to: {error.strerror}") from error
        finally:
            os.close(file)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self._path, flags, 0o640)
        except OSError as error:
            raise BrokerError(f"{self._path} can't be written to: {error.strerror}") from error
