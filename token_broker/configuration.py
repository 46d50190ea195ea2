"""The configuration file, checked once at the start."""

import os
import pwd
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from token_broker.errors import BrokerError

UNIX_USER: Final = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")
_NAMES: Final = frozenset(
    {
        *("socket", "socket_group", "peers", "key_file", "audit_log", "users_file", "users_group", "service_users"),
        *("slurm_user", "min_uid", "token_life_s", "request_timeout_s", "max_connections"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What an administrator sets.

    socket             where the broker listens; its directory must be writable by the broker and root alone. Required.
    socket_group       Unix group that may connect (mode 0660); unset: the broker's own user alone (mode 0600).
    peers              numbers of the Unix users that may ask, given as names or numbers. Required.
    key_file           Slurm's jwt_hs256.key, or a copy: readable by the broker's user alone. Required.
    audit_log          a line of JSON for each request. Without a line written, no token is given. Required.
    users_file         who may be asked for: one name a line, "#" begins a comment. Read again when it changes.
    users_group        who may be asked for: the members of a Unix group. One of the two is required, both may be set.
    service_users      accounts that may be asked for although their number is below min_uid: the portal's own.
    slurm_user         SlurmUser of slurm.conf, for whom there is never a token.
    min_uid            no token for a Unix user with a lower number.
    token_life_s       seconds from 10 to 3600.
    request_timeout_s  after so long a client that has not finished its request is dropped; seconds from 0.1 to 30.
    max_connections    requests that are served at once, from 1 to 1000; others wait.
    """

    socket: Path
    peers: frozenset[int]
    key_file: Path
    audit_log: Path
    socket_group: str = ""
    users_file: Path | None = None
    users_group: str = ""
    service_users: frozenset[str] = frozenset()
    slurm_user: str = "slurm"
    min_uid: int = 1000
    token_life_s: int = 300
    request_timeout_s: float = 2.0
    max_connections: int = 32


def read_configuration(path: str) -> Configuration:
    """Read a TOML file. Raises BrokerError: the file, the field, the value given, what is allowed."""
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BrokerError(f"{path} can't be read: {error}") from error
    try:
        return _check(values)
    except ValueError as error:
        raise BrokerError(f"{path}: {error}") from error


def _check(values: dict[str, Any]) -> Configuration:
    unknown = sorted(set(values) - _NAMES)
    if unknown:
        raise ValueError(f"{unknown[0]}: no such setting; allowed: {', '.join(sorted(_NAMES))}")
    users_file = _read_path(values, "users_file") if "users_file" in values else None
    users_group = _read_name(values, "users_group", "")
    if users_file is None and not users_group:
        raise ValueError("users_file, users_group: neither is set; at least one of them must say who gets tokens")
    return Configuration(
        socket=_read_path(values, "socket"),
        socket_group=_read_name(values, "socket_group", ""),
        peers=_read_peers(values.get("peers")),
        key_file=_read_path(values, "key_file"),
        audit_log=_read_path(values, "audit_log"),
        users_file=users_file,
        users_group=users_group,
        service_users=frozenset(_read_names(values, "service_users")),
        slurm_user=_read_name(values, "slurm_user", "slurm"),
        min_uid=_read_whole(values, "min_uid", 1000, low=1, high=2**31),
        token_life_s=_read_whole(values, "token_life_s", 300, low=10, high=3600),
        request_timeout_s=_read_seconds(values, "request_timeout_s", 2.0, low=0.1, high=30.0),
        max_connections=_read_whole(values, "max_connections", 32, low=1, high=1000),
    )


def _read_path(values: dict[str, Any], name: str) -> Path:
    value = values.get(name)
    if not isinstance(value, str) or not value.startswith("/") or os.path.normpath(value) != value:
        raise ValueError(f"{name}: {value!r} is not allowed; allowed: an absolute path without '..'")
    return Path(value)


def _read_name(values: dict[str, Any], name: str, default: str) -> str:
    value = values.get(name, default)
    if value == default:
        return default
    if not isinstance(value, str) or not UNIX_USER.match(value):
        raise ValueError(f"{name}: {value!r} is not allowed; allowed: the name of a Unix user or group")
    return value


def _read_names(values: dict[str, Any], name: str) -> list[str]:
    value = values.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and UNIX_USER.match(item) for item in value):
        raise ValueError(f"{name}: {value!r} is not allowed; allowed: a list of names of Unix users")
    return value


def _read_peers(value: object) -> frozenset[int]:
    allowed = "allowed: a list of Unix users, as names or numbers, with at least one"
    if not isinstance(value, list) or not value:
        raise ValueError(f"peers: {value!r} is not allowed; {allowed}")
    numbers = set()
    for item in value:
        if isinstance(item, int) and not isinstance(item, bool) and item >= 0:
            numbers.add(item)
        elif isinstance(item, str):
            try:
                numbers.add(pwd.getpwnam(item).pw_uid)
            except KeyError:
                raise ValueError(f"peers: there is no Unix user {item!r}; {allowed}") from None
        else:
            raise ValueError(f"peers: {item!r} is not allowed; {allowed}")
    return frozenset(numbers)


def _read_whole(values: dict[str, Any], name: str, default: int, *, low: int, high: int) -> int:
    value = values.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name}: {value!r} is not allowed; allowed: a whole number from {low} to {high}")
    return value


def _read_seconds(values: dict[str, Any], name: str, default: float, *, low: float, high: float) -> float:
    value = values.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name}: {value!r} is not allowed; allowed: seconds from {low:g} to {high:g}")
    return float(value)
