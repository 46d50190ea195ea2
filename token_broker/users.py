"""For whom there are tokens."""

import grp
import os
import pwd
import threading
from pathlib import Path
from typing import Final

from token_broker.configuration import UNIX_USER, Configuration
from token_broker.errors import BrokerError, Refusal
from token_broker.files import Version, read_guarded, version_of

_NEVER: Final = frozenset({"root", "slurm", "munge", "mysql", "nobody"})
"""Whatever a list says, and whatever their number: Debian's slurm has one far above the system's others."""


class UserList:
    """The allow-list. It can only narrow what the rules below forbid to all."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._file = _NameFile(configuration.users_file) if configuration.users_file else None

    def load(self) -> None:
        """Raises BrokerError if the list can't be used now."""
        if self._file is not None:
            self._file.names()
        if self._configuration.users_group:
            self._group_number()

    def check(self, user: str) -> None:
        """Return if there may be a token for this user. Raises Refusal, and BrokerError if nobody can tell."""
        configuration = self._configuration
        if not UNIX_USER.match(user):
            raise Refusal("bad_name", "That is no name of a Unix user.")
        try:
            account = pwd.getpwnam(user)
        except KeyError:
            raise Refusal("no_account", f"There is no Unix account {user!r} on this cluster.") from None
        if account.pw_name != user:  # a directory service may not tell capitals from small letters; Slurm does
            raise Refusal("no_account", f"There is no Unix account {user!r}, only {account.pw_name!r}.")
        if user in _NEVER or user == configuration.slurm_user or account.pw_uid in self._protected_numbers():
            raise Refusal("protected", f"There is never a token for {user!r}.")
        if user in configuration.service_users:
            return
        if account.pw_uid < configuration.min_uid:
            raise Refusal("system_account", f"{user!r} is one of the system's accounts: there is no token for it.")
        if not self._is_listed(account):
            raise Refusal("not_listed", f"{user!r} is not on this cluster's list of people who may use the portal.")

    def _protected_numbers(self) -> set[int]:
        numbers = {0, os.geteuid()}
        try:
            numbers.add(pwd.getpwnam(self._configuration.slurm_user).pw_uid)
        except KeyError:
            # Without an account on this machine it can't be mistaken for one.
            return numbers
        return numbers

    def _is_listed(self, account: pwd.struct_passwd) -> bool:
        if self._file is not None and account.pw_name in self._file.names():
            return True
        if not self._configuration.users_group:
            return False
        # Asked from the user's side: large groups of a directory service are often not listed with their members.
        return self._group_number() in os.getgrouplist(account.pw_name, account.pw_gid)

    def _group_number(self) -> int:
        try:
            return grp.getgrnam(self._configuration.users_group).gr_gid
        except KeyError:
            raise BrokerError(f"users_group: there is no Unix group {self._configuration.users_group!r}") from None


class _NameFile:
    """Names in a file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._names: frozenset[str] = frozenset()
        self._version: Version | None = None

    def names(self) -> frozenset[str]:
        """Raises BrokerError: it can't be read, others may write to it, or a line is no name."""
        with self._lock:
            if self._version is None or version_of(self._path) != self._version:
                content, version = read_guarded(self._path, forbidden_mode=0o022)
                self._names, self._version = self._parse(content), version
            return self._names

    def _parse(self, content: bytes) -> frozenset[str]:
        names = set()
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
            name = line.partition("#")[0].strip()
            if name and not UNIX_USER.match(name):
                raise BrokerError(f"{self._path}, line {number}: {name!r} is no name of a Unix user")
            if name:
                names.add(name)
        return frozenset(names)
