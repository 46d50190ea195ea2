"""Running commands: lists of arguments, never a shell, an environment made from nothing, and always a time-out."""

import os
import pwd
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from jobs.backends.base import SchedulerUnavailable, SubmissionRejected
from jobs.backends.slurm.processes import CommandResult, run_to_end

_SYSTEM_USERS: Final = frozenset({"root", "slurm", "munge", "mysql", "nobody"})
"""Never researchers, whatever their number: Debian's slurm has one far above MIN_UID."""


class CommandRunner:
    """Runs commands as the portal's own user, or as a researcher by way of RUN_AS."""

    is_local: ClassVar[bool] = True
    """Whether they run on this machine, whose files they then share."""

    def __init__(
        self, *, run_as: tuple[str, ...] | None, environment: Mapping[str, str], timeout_s: float, min_uid: int
    ) -> None:
        self._run_as = run_as
        self._environment = dict(environment)
        self._timeout_s = timeout_s
        self._min_uid = min_uid

    def find_user(self, name: str) -> pwd.struct_passwd:
        """The Unix account that a job runs as.

        Raises:
            SubmissionRejected: there is none, or it isn't one of a person.
        """
        if not name:
            raise SubmissionRejected("The job's owner has no Unix account on this cluster.")
        account = self._look_up(name)
        if account is None:
            raise SubmissionRejected(f"There is no Unix account {name!r} on this cluster.")
        if account.pw_uid < self._min_uid or name in _SYSTEM_USERS:
            raise SubmissionRejected(f"The Unix account {name!r} is the system's: no job may run as it.")
        return account

    def uid_of(self, name: str) -> int | None:
        """The number of a Unix account; None if there is none. Raises SchedulerUnavailable."""
        account = self._look_up(name)
        return None if account is None else account.pw_uid

    def _look_up(self, name: str) -> pwd.struct_passwd | None:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            return None

    def run(self, command: Sequence[str], *, user: str = "", input: bytes = b"") -> CommandResult:
        """Run a command and wait for its end; as the portal's own user unless `user` is given.

        Raises:
            SchedulerUnavailable: it can't be started, or ran out of time. Then it may have had its effect.
        """
        words = [*self._prefix_for(user), *command]
        return run_to_end(words, name=command[0], input=input, environment=self._environment, timeout_s=self._timeout_s)

    def is_self(self, user: str) -> bool:
        """Whether the portal itself runs as this user."""
        return pwd.getpwnam(user).pw_uid == os.geteuid()

    def _prefix_for(self, user: str) -> list[str]:
        if not user or self.is_self(user):
            return []
        if self._run_as is not None:
            return [word.replace("{user}", user) for word in self._run_as]
        if os.geteuid() == 0:
            return ["runuser", "-u", user, "--"]
        raise SchedulerUnavailable(f"The portal can't run commands as {user!r}: set RUN_AS for this cluster.")
