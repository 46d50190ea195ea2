"""The jobs' working directories, and beside them what the portal itself remembers of its submissions.

    JOBS_DIRECTORY/            the portal's; researchers may make a directory in it, but not list it
        <key>/                 the working directory of one job: its owner's alone
        .attempts/<key>        when the job was first and last handed to Slurm, for whom: the portal's alone

The record of an attempt is written before Slurm is called. It tells a repeated submission from a first one without
a question to Slurm, and for how long it is unknown whether Slurm took the job. Where all this is on the far side of
ssh, see remote_files.py.
"""

import json
import pwd
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Final, Protocol

from jobs.backends.base import OutputChunk, SchedulerUnavailable
from jobs.backends.slurm.commands import CommandRunner
from jobs.backends.slurm.local_files import LocalFiles
from jobs.backends.slurm.options import SlurmOptions
from jobs.backends.slurm.remote_files import RemoteFiles
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


class JobFiles(Protocol):
    """Where the directories and records are. Raises OSError or SchedulerUnavailable."""

    def begin(self, key: str, text: str) -> bool:
        """Write the record of a job; False if there is one."""

    def renew(self, key: str, text: str) -> None:
        """Write it anew."""

    def read(self, keys: Collection[str]) -> dict[str, str]:
        """The records that there are."""

    def forget(self, key: str) -> None:
        """Remove a record."""

    def make(self, account: pwd.struct_passwd, path: str) -> None:
        """Make a job's directory, its owner's alone; one that is there already must be theirs."""

    def remove(self, path: str, *, user: str) -> None:
        """Remove a job's directory if it is there and empty."""

    def read_piece(
        self, user: str, uid: int, path: str, name: str, offset: int, limit: int
    ) -> tuple[int, int, bytes] | None:
        """Start, size and bytes of a piece of a file; None if there is none."""


class JobDirectories:
    """Makes, reads and forgets jobs' directories. All methods raise SchedulerUnavailable if the disk fails."""

    def __init__(self, options: SlurmOptions, runner: CommandRunner, *, clock: Callable[[], float]) -> None:
        self.root = options.jobs_directory
        make_files = LocalFiles if runner.is_local else RemoteFiles
        self.files: JobFiles = make_files(self.root, runner, python=options.python)
        self._runner = runner
        self._clock = clock
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
        with self._disk():
            return self.files.begin(spec.key, json.dumps(asdict(attempt)))

    def renew_attempt(self, key: str) -> None:
        """Record that Slurm is about to be given this job once more."""
        attempt = self.read_attempt(key)
        if attempt is None:
            raise SchedulerUnavailable(f"The record of job {key} is gone: another process has just given it up.")
        with self._disk():
            self.files.renew(key, json.dumps(asdict(replace(attempt, last_at=self._clock()))))

    def read_attempt(self, key: str) -> Attempt | None:
        """What is remembered of a job; None if it was never handed over from here."""
        return self._read_attempts([key]).get(key)

    def _read_attempts(self, keys: Collection[str]) -> dict[str, Attempt]:
        with self._disk():
            texts = self.files.read(keys)
        try:
            return {key: Attempt(**json.loads(text)) for key, text in texts.items()}
        except (ValueError, TypeError) as error:
            raise self._broken(error) from error

    def owner_of(self, key: str) -> Attempt | None:
        """The same, from memory if it was read before: for whom and for how many devices never changes."""
        return self.owners_of([key]).get(key)

    def owners_of(self, keys: Collection[str]) -> dict[str, Attempt]:
        """The same of many jobs, of those of which something is remembered; in one call for all that are new."""
        wanted = set(keys)
        found = {key: self._remembered[key] for key in wanted if key in self._remembered}
        if missing := wanted - set(found):
            read = self._read_attempts(missing)
            if len(self._remembered) + len(read) > _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered |= read
            found |= read
        return found

    def make(self, account: pwd.struct_passwd, key: str) -> None:
        """Make the job's directory, its owner's alone; one that is there already must be theirs."""
        with self._disk():
            self.files.make(account, self.path_of(key))

    def forget(self, key: str, *, user: str) -> None:
        """Undo what was prepared for a job that Slurm has refused."""
        with self._disk():
            self.files.remove(self.path_of(key), user=user)
            self.files.forget(key)
        self._remembered.pop(key, None)

    def read_output(self, key: str, name: str, offset: int, *, limit: int, user: str) -> OutputChunk | None:
        """A piece of one of a job's files; None if there is none (yet)."""
        uid = self._runner.uid_of(user)
        if uid is None:
            return None  # the account was removed since
        try:
            piece = self.files.read_piece(user, uid, self.path_of(key), name, offset, limit)
        except OSError as error:
            raise SchedulerUnavailable(f"The file {name} of job {key} can't be read: {error}") from error
        if piece is None:
            return None
        start, size, data = piece
        end = start + len(data)
        return OutputChunk(data=data, offset=start, next_offset=end, size=size, is_end=end >= size)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> SchedulerUnavailable:
        return SchedulerUnavailable(f"The jobs' directory {self.root} can't be used: {error}")
