"""The jobs' working directories, and beside them what the portal itself remembers of its submissions.

    JOBS_DIRECTORY/            the portal's; researchers may make a directory in it, but not list it
        <key>/                 the working directory of one job: its owner's alone
        .attempts/<key>        when the job was first and last handed to Slurm, for whom: the portal's alone

The record of an attempt is written before Slurm is called. It tells a repeated submission from a first one without
a question to Slurm, and for how long it is unknown whether Slurm took the job.
"""

import errno
import json
import os
import pwd
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import uuid4

from jobs.backends.base import OutputChunk, SchedulerUnavailable
from jobs.backends.slurm import reader
from jobs.backends.slurm.commands import CommandRunner
from jobs.backends.slurm.options import SlurmOptions
from jobs.spec import JobSpec

STDOUT_FILE: Final = "stdout.log"
METRICS_FILE: Final = "metrics.jsonl"
_MAX_REMEMBERED: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What the portal remembers of handing one job to Slurm. Times are seconds since the epoch."""

    user: str
    gres_name: str
    devices: int
    first_at: float
    last_at: float

    @property
    def first_tried_at(self) -> datetime:
        """When Slurm was first given the job."""
        return datetime.fromtimestamp(self.first_at, UTC)


class JobDirectories:
    """Makes, reads and forgets jobs' directories. All methods raise SchedulerUnavailable if the disk fails."""

    def __init__(self, options: SlurmOptions, runner: CommandRunner, *, clock: Callable[[], float]) -> None:
        self.root = options.jobs_directory
        self._python = options.python
        self._runner = runner
        self._clock = clock
        self._attempts = Path(self.root) / ".attempts"
        self._remembered: dict[str, Attempt] = {}

    def path_of(self, key: str) -> str:
        """The working directory of a job."""
        return f"{self.root}/{key}"

    def begin_attempt(self, spec: JobSpec) -> bool:
        """Record that Slurm is about to be given this job; False, and nothing recorded, if that was done before."""
        now = self._clock()
        attempt = Attempt(
            user=spec.unix_user, gres_name=spec.gres_name, devices=spec.devices, first_at=now, last_at=now
        )
        try:
            new = self._write_beside(attempt)
            try:
                os.link(new, self._attempts / spec.key)
            except FileExistsError:
                return False
            finally:
                new.unlink()
        except OSError as error:
            raise self._broken(error) from error
        return True

    def renew_attempt(self, key: str) -> None:
        """Record that Slurm is about to be given this job once more."""
        attempt = self.read_attempt(key)
        if attempt is None:
            raise SchedulerUnavailable(f"The record of job {key} is gone: another process has just given it up.")
        try:
            self._write_beside(replace(attempt, last_at=self._clock())).replace(self._attempts / key)
        except OSError as error:
            raise self._broken(error) from error

    def read_attempt(self, key: str) -> Attempt | None:
        """What is remembered of a job; None if it was never handed over from here."""
        try:
            return Attempt(**json.loads((self._attempts / key).read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise self._broken(error) from error

    def owner_of(self, key: str) -> Attempt | None:
        """The same, from memory if it was read before: for whom and for how many devices never changes."""
        attempt = self._remembered.get(key) or self.read_attempt(key)
        if attempt is not None:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = attempt
        return attempt

    def make(self, account: pwd.struct_passwd, key: str) -> None:
        """Make the job's directory, its owner's alone; one that is there already must be theirs."""
        path = self.path_of(key)
        try:
            if os.geteuid() == 0:
                self._make_as_root(account, path)
            elif not _is_owned(path, account.pw_uid):
                done = self._runner.run(["mkdir", "-m", "0700", "--", path], user=account.pw_name)
                if done.exit_code and not _is_owned(path, account.pw_uid):
                    raise SchedulerUnavailable(f"{path} can't be made as {account.pw_name!r}: {done.errors}")
            if not _is_owned(path, account.pw_uid):
                raise SchedulerUnavailable(f"{path} belongs to somebody else than {account.pw_name!r}")
        except OSError as error:
            raise self._broken(error) from error

    def _make_as_root(self, account: pwd.struct_passwd, path: str) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            # A run that was killed between the two calls has left it with root.
            if not _is_owned(path, 0):
                return
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)

    def forget(self, key: str, *, user: str) -> None:
        """Undo what was prepared for a job that Slurm has refused."""
        path = self.path_of(key)
        try:
            if os.geteuid() == 0 or self._runner.is_self(user):
                os.rmdir(path)
            else:
                self._runner.run(["rmdir", "--", path], user=user)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise self._broken(error) from error
        (self._attempts / key).unlink(missing_ok=True)
        self._remembered.pop(key, None)

    def read_output(self, key: str, name: str, offset: int, *, limit: int, user: str) -> OutputChunk | None:
        """A piece of one of a job's files; None if there is none (yet)."""
        try:
            uid = pwd.getpwnam(user).pw_uid
        except KeyError:
            return None  # the account was removed since
        try:
            if os.geteuid() in (0, uid):
                piece = reader.read_piece(self.path_of(key), name, offset, limit, uid)
            else:
                piece = self._read_as(user, uid, key, name, offset, limit)
        except OSError as error:
            raise SchedulerUnavailable(f"The file {name} of job {key} can't be read: {error}") from error
        if piece is None:
            return None
        start, size, data = piece
        end = start + len(data)
        return OutputChunk(data=data, offset=start, next_offset=end, size=size, is_end=end >= size)

    def _read_as(
        self, user: str, uid: int, key: str, name: str, offset: int, limit: int
    ) -> tuple[int, int, bytes] | None:
        words = [self._python, "-I", os.path.abspath(reader.__file__), self.path_of(key), name]
        done = self._runner.run([*words, str(offset), str(limit), str(uid)], user=user)
        if done.exit_code == reader.NOT_THERE:
            return None
        head, _, data = done.output.partition(b"\n")
        numbers = head.split()
        if done.exit_code or len(numbers) != 2:
            raise SchedulerUnavailable(f"The file {name} of job {key} can't be read as {user!r}: {done.errors}")
        return int(numbers[0]), int(numbers[1]), data

    def _write_beside(self, attempt: Attempt) -> Path:
        """Write a record under a passing name: it must be whole from the moment it has its own."""
        new = self._attempts / f".{uuid4().hex}"
        text = json.dumps(asdict(attempt))
        try:
            new.write_text(text)
        except FileNotFoundError:
            self._prepare()
            new.write_text(text)
        return new

    def _prepare(self) -> None:
        root = Path(self.root)
        with suppress(FileExistsError):  # the operator's, or another process was faster
            root.mkdir()
            # Root makes directories for others; another portal's researchers make their own, but can't see others'.
            root.chmod(0o711 if os.geteuid() == 0 else 0o1733)
        self._attempts.mkdir(mode=0o700, exist_ok=True)

    def _broken(self, error: Exception) -> SchedulerUnavailable:
        return SchedulerUnavailable(f"The jobs' directory {self.root} can't be used: {error}")


def _is_owned(path: str, uid: int) -> bool:
    """Whether there is a directory (no link) of this user. Raises OSError."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return status.st_uid == uid and (status.st_mode & 0o170000) == 0o040000
