"""Reading files that must be in nobody else's hands."""

import os
import stat
from pathlib import Path
from typing import Final, NamedTuple

from token_broker.errors import BrokerError

_MAX_BYTES: Final = 1024 * 1024


class Version(NamedTuple):
    """Tells whether a file is still the one that was read."""

    device: int
    inode: int
    size: int
    changed_ns: int


def version_of(path: Path) -> Version:
    """Raises BrokerError if there is no such file."""
    try:
        return _version(os.stat(path))
    except OSError as error:
        raise BrokerError(f"{path} can't be read: {error.strerror}") from error


def read_guarded(path: Path, *, forbidden_mode: int, max_bytes: int = _MAX_BYTES) -> tuple[bytes, Version]:
    """The content of a file that belongs to root or this user and has none of the forbidden mode bits.

    Raises BrokerError: it can't be read, is no file, too large, somebody else's, or too open.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise BrokerError(f"{path} is no file")
            if status.st_uid not in (0, os.geteuid()):
                raise BrokerError(f"{path} belongs to user {status.st_uid}; it must belong to root or to the broker")
            if status.st_mode & forbidden_mode:
                mode = stat.S_IMODE(status.st_mode)
                raise BrokerError(f"{path} has mode {mode:04o}; at most {0o7777 & ~forbidden_mode & 0o644:04o} is safe")
            content = os.read(file, max_bytes + 1)
        finally:
            os.close(file)
    except OSError as error:
        raise BrokerError(f"{path} can't be read: {error.strerror}") from error
    if len(content) > max_bytes:
        raise BrokerError(f"{path} has more than {max_bytes} bytes")
    return content, _version(status)


def _version(status: os.stat_result) -> Version:
    return Version(status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
