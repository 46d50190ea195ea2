"""The jobs' directories on a file system that only the cluster has: everything goes through the runner.

What is the researcher's is done by the researcher's own processes (RUN_AS), as on this machine. The records of
submissions are the portal's, and lie beside the jobs' directories on the far side, too: written by the portal's account
there, in one call each. They decide whether a submission is a first one, so

- two hosts of one portal must see the same records: if each had its own, the second host would take a submission that
  the first host left in doubt for a new one, and the job would run twice;
- a portal that lost its disk, or was restored from an old backup, must not have lost them: here they are lost only
  with the file system that the jobs themselves run on.

The price is one call more for each submission. What belongs to whom is kept in memory, and read for many jobs at once.
"""

import json
import pwd
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from jobs.backends.base import SchedulerUnavailable
from jobs.backends.slurm import attempt_files, reader
from jobs.backends.slurm.commands import CommandRunner
from jobs.backends.slurm.local_files import read_answer

_KEYS_PER_CALL: Final = 5000
_DIRECTORY: Final = 0o040000
_KIND: Final = 0o170000


class RemoteFiles:
    """All methods raise SchedulerUnavailable."""

    def __init__(self, root: str, runner: CommandRunner, *, python: str) -> None:
        self._root = root
        self._runner = runner
        self._python = python
        self._attempts = Path(attempt_files.__file__).read_text()
        self._reader = Path(reader.__file__).read_bytes()

    def begin(self, key: str, text: str) -> bool:
        return bool(self._ask(verb="begin", key=key, text=text))

    def renew(self, key: str, text: str) -> None:
        self._ask(verb="renew", key=key, text=text)

    def read(self, keys: Collection[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        wanted = sorted(keys)
        for first in range(0, len(wanted), _KEYS_PER_CALL):
            answer = self._ask(verb="read", keys=wanted[first : first + _KEYS_PER_CALL])
            if not isinstance(answer, dict) or not all(isinstance(text, str) for text in answer.values()):
                raise SchedulerUnavailable(f"The records under {self._root} can't be read: {answer!r:.80}")
            found |= answer
        return found

    def forget(self, key: str) -> None:
        self._ask(verb="forget", key=key)

    def _ask(self, **request: object) -> Any:
        request["root"] = self._root
        done = self._runner.run([self._python, "-I", "-c", self._attempts], input=json.dumps(request).encode())
        if done.exit_code:
            raise SchedulerUnavailable(f"The jobs' directory {self._root} can't be used: {done.errors}")
        try:
            return json.loads(done.output)
        except (ValueError, RecursionError) as error:
            raise SchedulerUnavailable(f"The records under {self._root} can't be read: {done.text[:80]!r}") from error

    def make(self, account: pwd.struct_passwd, path: str) -> None:
        done = self._runner.run(["mkdir", "-m", "0700", "--", path], user=account.pw_name)
        # One that is there already must be theirs; the exit code doesn't tell why it could not be made.
        status = self._runner.run(["stat", "--format=%u %f", "--", path])
        words = status.text.split()
        if status.exit_code or len(words) != 2:
            raise SchedulerUnavailable(f"{path} can't be made as {account.pw_name!r}: {done.errors or status.errors}")
        if words[0] != str(account.pw_uid) or int(words[1], 16) & _KIND != _DIRECTORY:
            raise SchedulerUnavailable(f"{path} belongs to somebody else than {account.pw_name!r}")

    def remove(self, path: str, *, user: str) -> None:
        self._runner.run(["rmdir", "--", path], user=user)  # one that is gone, or isn't empty, stays as it is

    def read_piece(
        self, user: str, uid: int, path: str, name: str, offset: int, limit: int
    ) -> tuple[int, int, bytes] | None:
        return self.read_as(user, uid, path, name, offset, limit)

    def read_as(
        self, user: str, uid: int, path: str, name: str, offset: int, limit: int
    ) -> tuple[int, int, bytes] | None:
        """A piece, read by a process of the file's owner. The program is not there: it comes on standard input."""
        words = [self._python, "-I", "-", path, name, str(offset), str(limit), str(uid)]
        return read_answer(self._runner.run(words, user=user, input=self._reader), path, name, user)
