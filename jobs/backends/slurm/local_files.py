"""The jobs' directories on a file system that this machine has: as root by system calls, else by way of RUN_AS."""

import errno
import os
import pwd
from collections.abc import Collection

from jobs.backends.base import SchedulerUnavailable
from jobs.backends.slurm import attempt_files, reader
from jobs.backends.slurm.commands import CommandRunner
from jobs.backends.slurm.processes import CommandResult


class LocalFiles:
    """All methods raise OSError if the disk fails, and SchedulerUnavailable for what was done as a researcher."""

    def __init__(self, root: str, runner: CommandRunner, *, python: str) -> None:
        self._root = root
        self._runner = runner
        self._python = python

    def begin(self, key: str, text: str) -> bool:
        return attempt_files.begin(self._root, key, text)

    def renew(self, key: str, text: str) -> None:
        attempt_files.renew(self._root, key, text)

    def read(self, keys: Collection[str]) -> dict[str, str]:
        return attempt_files.read(self._root, list(keys))

    def forget(self, key: str) -> None:
        attempt_files.forget(self._root, key)

    def make(self, account: pwd.struct_passwd, path: str) -> None:
        if os.geteuid() == 0:
            _make_as_root(account, path)
        elif not _is_owned(path, account.pw_uid):
            done = self._runner.run(["mkdir", "-m", "0700", "--", path], user=account.pw_name)
            if done.exit_code and not _is_owned(path, account.pw_uid):
                raise SchedulerUnavailable(f"{path} can't be made as {account.pw_name!r}: {done.errors}")
        if not _is_owned(path, account.pw_uid):
            raise SchedulerUnavailable(f"{path} belongs to somebody else than {account.pw_name!r}")

    def remove(self, path: str, *, user: str) -> None:
        if os.geteuid() != 0 and not self._runner.is_self(user):
            self._runner.run(["rmdir", "--", path], user=user)
            return
        try:
            os.rmdir(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise

    def read_piece(
        self, user: str, uid: int, path: str, name: str, offset: int, limit: int
    ) -> tuple[int, int, bytes] | None:
        if os.geteuid() in (0, uid):
            return reader.read_piece(path, name, offset, limit, uid)
        return self.read_as(user, uid, path, name, offset, limit)

    def read_as(
        self, user: str, uid: int, path: str, name: str, offset: int, limit: int
    ) -> tuple[int, int, bytes] | None:
        """The same, by a process of the file's owner."""
        words = [self._python, "-I", os.path.abspath(reader.__file__), path, name]
        return read_answer(self._runner.run([*words, str(offset), str(limit), str(uid)], user=user), path, name, user)


def read_answer(done: CommandResult, path: str, name: str, user: str) -> tuple[int, int, bytes] | None:
    """What reader.py has printed. Raises SchedulerUnavailable."""
    if done.exit_code == reader.NOT_THERE:
        return None
    head, _, data = done.output.partition(b"\n")
    numbers = head.split()
    if done.exit_code or len(numbers) != 2 or not all(number.isdigit() and len(number) < 20 for number in numbers):
        raise SchedulerUnavailable(f"{path}/{name} can't be read as {user!r}: {done.errors}")
    return int(numbers[0]), int(numbers[1]), data


def _make_as_root(account: pwd.struct_passwd, path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        # A run that was killed between the two calls has left it with root.
        if not _is_owned(path, 0):
            return
    os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def _is_owned(path: str, uid: int) -> bool:
    """Whether there is a directory (no link) of this user. Raises OSError."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return status.st_uid == uid and (status.st_mode & 0o170000) == 0o040000
