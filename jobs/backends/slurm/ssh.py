"""Commands on another machine, by OpenSSH's client: a connection that is kept, and a session in it for each command.

The client is run as a program, since it is on every machine, kept by its distribution, and known to every operator.
A first command opens the connection and leaves it to a process of its own in the background (ControlMaster,
ControlPersist); the next ones use it, whichever process of the portal runs them. A connection that broke is made anew
by the command that finds it broken.
"""

import hashlib
import os
import pwd
import shlex
import stat
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final

from jobs.backends.base import SchedulerUnavailable
from jobs.backends.slurm.commands import CommandRunner
from jobs.backends.slurm.options import SshOptions
from jobs.backends.slurm.processes import CommandResult, run_to_end

_SSH_FAILED: Final = 255
"""Ssh's own exit code for everything that went wrong on the way; also that of a command killed by a signal."""

_UNKNOWN_NAME: Final = 2
"""Exit code of getent."""

_KEPT_S: Final = 600
"""For how long an unused connection is kept."""

_ALIVE_S: Final = 5
"""How often a connection is asked whether it is still there; it is given up after three times without an answer."""

_ACCOUNT_S: Final = 60.0
"""For how long a Unix account is believed to be as it was."""

_CLOSING_S: Final = 2.0
_LOCAL_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


class SshRunner(CommandRunner):
    """Runs commands on a submit host as the portal's account there, or as a researcher by way of RUN_AS.

    An exit code of 255 is never a command's answer: it raises SchedulerUnavailable, and the command may have had its
    effect. A command whose time is over may go on there.
    """

    is_local: ClassVar[bool] = False

    def __init__(
        self,
        ssh: SshOptions,
        *,
        run_as: tuple[str, ...] | None,
        environment: Mapping[str, str],
        timeout_s: float,
        min_uid: int,
    ) -> None:
        super().__init__(run_as=run_as, environment=environment, timeout_s=timeout_s, min_uid=min_uid)
        self._ssh = ssh
        self._accounts: dict[str, tuple[float, pwd.struct_passwd | None]] = {}
        self._lock = threading.Lock()

    def run(self, command: Sequence[str], *, user: str = "", input: bytes = b"") -> CommandResult:
        # Nothing of the far side's environment either: its login shell and sshd may set anything.
        variables = [f"{name}={value}" for name, value in self._environment.items()]
        remote = quote_words(["/usr/bin/env", "-i", *variables, *self._prefix_for(user), *command])
        name = f"{command[0]} on {self._ssh.host}"
        words = ["ssh", *self._client_options(), "--", self._ssh.host, remote]
        try:
            done = run_to_end(words, name=name, input=input, environment=_LOCAL_ENVIRONMENT, timeout_s=self._timeout_s)
        except SchedulerUnavailable:
            # Whatever hangs, the next command makes a connection of its own. This one is left to those that use it
            # now, and ends when it is idle or found dead.
            self._control_path().unlink(missing_ok=True)
            raise
        if done.exit_code == _SSH_FAILED:
            raise SchedulerUnavailable(self._explain(name, done.errors))
        return done

    def close(self) -> None:
        """End the connection that is kept, if there is one."""
        path = self._control_path()
        if not path.exists():
            return
        words = ["ssh", "-F", "none", "-o", f"ControlPath={path}", "-O", "exit", "--", self._ssh.host]
        with suppress(SchedulerUnavailable):  # its process hangs, too: it is left without its socket
            run_to_end(words, name="ssh", input=b"", environment=_LOCAL_ENVIRONMENT, timeout_s=_CLOSING_S)
        path.unlink(missing_ok=True)

    def is_self(self, user: str) -> bool:
        return user == self._ssh.user

    def _prefix_for(self, user: str) -> list[str]:
        if not user or self.is_self(user):
            return []
        if self._run_as is None:
            raise SchedulerUnavailable(f"The portal can't run commands as {user!r}: set RUN_AS for this cluster.")
        return [word.replace("{user}", user) for word in self._run_as]

    def _look_up(self, name: str) -> pwd.struct_passwd | None:
        """The account on the far side, kept for a minute."""
        with self._lock:
            kept = self._accounts.get(name)
        if kept is not None and 0 <= time.monotonic() - kept[0] < _ACCOUNT_S:
            return kept[1]
        done = self.run(["getent", "passwd", "--", name])
        if done.exit_code not in (0, _UNKNOWN_NAME):
            raise SchedulerUnavailable(f"getent on {self._ssh.host} failed: {done.errors}")
        account = _read_account(done.text) if done.exit_code == 0 else None
        if account is not None and account.pw_name != name:
            account = None  # a number was given, and taken for one
        with self._lock:
            self._accounts[name] = (time.monotonic(), account)
        return account

    def _client_options(self) -> list[str]:
        ssh = self._ssh
        settings = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": ssh.known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
            "UpdateHostKeys": "no",
            "IdentityFile": ssh.key_file,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "PreferredAuthentications": "publickey",
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "PermitLocalCommand": "no",
            "EscapeChar": "none",
            "RequestTTY": "no",
            "LogLevel": "ERROR",
            "ConnectTimeout": str(max(1, int(self._timeout_s))),
            "ServerAliveInterval": str(_ALIVE_S),
            "ServerAliveCountMax": "3",
            "ControlMaster": "auto",
            "ControlPersist": str(_KEPT_S),
            "ControlPath": str(self._control_path()),
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        # No configuration of the user's or the system's.
        return ["-F", "none", *options, "-p", str(ssh.port), "-l", ssh.user]

    def _control_path(self) -> Path:
        """The socket of the connection that these options have, in a directory that nobody else can reach."""
        directory = Path(self._ssh.control_directory or f"{tempfile.gettempdir()}/portal-ssh-{os.geteuid()}")
        try:
            with suppress(FileExistsError):
                directory.mkdir(mode=0o700)
            status = directory.stat(follow_symlinks=False)
        except OSError as error:
            raise SchedulerUnavailable(f"CONTROL_DIRECTORY {directory} can't be used: {error}") from error
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise SchedulerUnavailable(f"{directory} must be a directory of the portal's own with mode 0700.")
        return directory / hashlib.sha256(repr(self._ssh).encode()).hexdigest()[:16]

    def _explain(self, name: str, errors: str) -> str:
        if "Host key verification failed" in errors or "REMOTE HOST IDENTIFICATION HAS CHANGED" in errors:
            return (
                f"{self._ssh.host} has another host key than {self._ssh.known_hosts} says: it was set up anew, or"
                f" somebody answers in its place. Nothing was sent. {errors[-300:]}"
            )
        return f"{name} has no answer by ssh: {errors[-300:] or 'the connection broke'}"


def quote_words(words: Sequence[str]) -> str:
    """The one line that sshd gives to the login shell of the portal's account, which has to be a POSIX shell.

    The only place where words become a line: each of them arrives as it is, whatever it holds.
    """
    return " ".join(map(shlex.quote, words))


def _read_account(text: str) -> pwd.struct_passwd:
    """A line of passwd(5). Raises SchedulerUnavailable."""
    fields = text.removesuffix("\n").split(":")
    try:
        name, password, uid, gid, gecos, home, shell = fields
        return pwd.struct_passwd((name, password, int(uid), int(gid), gecos, home, shell))
    except ValueError as error:
        raise SchedulerUnavailable(f"getent's answer is no account: {text[:80]!r}") from error
