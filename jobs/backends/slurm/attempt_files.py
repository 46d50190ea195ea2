"""The records of submissions, as files: JOBS_DIRECTORY/.attempts/<key>. Uses the standard library only.

Also a program, for a JOBS_DIRECTORY on another machine: it reads one request as JSON from its standard input, such as
{"verb": "begin", "root": "/lustre/jobs", "key": "...", "text": "..."}, and prints the answer as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import uuid

DIRECTORY = ".attempts"
_MAX_NAME = 64


def begin(root: str, key: str, text: str) -> bool:
    """Write a record, whole from the moment it is there; False if there was one before. Raises OSError."""
    new = _write_beside(root, text)
    try:
        os.link(new, _path(root, key))
    except FileExistsError:
        return False
    finally:
        os.unlink(new)
    return True


def renew(root: str, key: str, text: str) -> None:
    """Write a record in place of the one that is there. Raises OSError."""
    os.replace(_write_beside(root, text), _path(root, key))


def read(root: str, keys: list[str]) -> dict[str, str]:
    """The records that there are, by key. Raises OSError."""
    found = {}
    for key in keys:
        with contextlib.suppress(FileNotFoundError), open(_path(root, key), encoding="utf-8") as file:
            found[key] = file.read()
    return found


def forget(root: str, key: str) -> None:
    """Remove a record; one that isn't there is no error. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_path(root, key))


def _path(root: str, name: str) -> str:
    # A key is the last part of somebody's working directory, if that is a directory in the root.
    if not name or len(name) > _MAX_NAME or "/" in name or "\0" in name or name.startswith("."):
        raise FileNotFoundError(f"{name!r} is no key")
    return os.path.join(root, DIRECTORY, name)


def _write_beside(root: str, text: str) -> str:
    """Write a file under a passing name."""
    new = os.path.join(root, DIRECTORY, f".{uuid.uuid4().hex}")
    try:
        _write(new, text)
    except FileNotFoundError:
        _prepare(root)
        _write(new, text)
    return new


def _write(path: str, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)


def _prepare(root: str) -> None:
    with contextlib.suppress(FileExistsError):  # the operator's, or another process was faster
        os.mkdir(root)
        # Root makes directories for others; another portal's researchers make their own, but can't see others'.
        os.chmod(root, 0o711 if os.geteuid() == 0 else 0o1733)
    with contextlib.suppress(FileExistsError):
        os.mkdir(os.path.join(root, DIRECTORY), 0o700)


def main() -> int:
    """Do what the request says. Exit code 3, and words on standard error, if the disk fails."""
    request = json.load(sys.stdin)
    verb, root = request["verb"], request["root"]
    try:
        answer: object = None
        if verb == "begin":
            answer = begin(root, request["key"], request["text"])
        elif verb == "read":
            answer = read(root, request["keys"])
        elif verb == "renew":
            renew(root, request["key"], request["text"])
        else:
            forget(root, request["key"])
    except OSError as error:
        print(error, file=sys.stderr)
        return 3
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
