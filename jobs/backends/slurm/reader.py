"""Reads a piece of a job's output file, following no link. Uses the standard library only.

Also a program of its own, run as the job's owner: python reader.py DIRECTORY NAME OFFSET LIMIT UID prints a line
"<start> <size>" and then the bytes; exit code 4 says that there is no such file (yet).
"""

from __future__ import annotations

import os
import stat
import sys

NOT_THERE = 4
MAX_READ_BYTES = 4 * 1024 * 1024
"""More than this is never read in one call."""


def read_piece(directory: str, name: str, offset: int, limit: int, uid: int) -> tuple[int, int, bytes] | None:
    """Return (start, size, bytes) of a regular file that `uid` owns, or None. Raises OSError while reading."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        parent = os.open(directory, flags | os.O_DIRECTORY)
        try:
            # O_NONBLOCK: opening a named pipe would wait for a writer.
            file = os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=parent)
        finally:
            os.close(parent)
    except OSError:  # not there yet, or a link
        return None
    try:
        status = os.fstat(file)
        # A second name for somebody else's file, or a device, is not the job's output.
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != uid:
            return None
        size = status.st_size
        start = min(max(size + offset, 0) if offset < 0 else offset, size)
        return start, size, os.pread(file, min(max(limit, 0), MAX_READ_BYTES, size - start), start)
    finally:
        os.close(file)


def main() -> int:
    """Read as the arguments say."""
    directory, name = sys.argv[1:3]
    offset, limit, uid = map(int, sys.argv[3:])
    piece = read_piece(directory, name, offset, limit, uid)
    if piece is None:
        return NOT_THERE
    sys.stdout.buffer.write(b"%d %d\n" % piece[:2])
    sys.stdout.buffer.write(piece[2])
    return 0


if __name__ == "__main__":
    sys.exit(main())
