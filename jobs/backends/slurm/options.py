"""The OPTIONS of the Slurm backends, checked once."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jobs.backends.option_values import read_seconds

_PATH: Final = re.compile(r"\A/[A-Za-z0-9_.+/-]*\Z")
_ENV_NAME: Final = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_UNIX_USER: Final = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")
_URL: Final = re.compile(r"\Ahttps?://[A-Za-z0-9.\[\]:-]+\Z")
_COMMON: Final = frozenset({"JOBS_DIRECTORY", "RUN_AS", "PYTHON", "ENVIRONMENT", "TIMEOUT_S", "SETTLE_S", "MIN_UID"})
_CLI: Final = _COMMON | {"SLURM_CONF", "PATH", "SSH"}
_SSH: Final = frozenset({"HOST", "PORT", "USER", "KEY_FILE", "KNOWN_HOSTS", "CONTROL_DIRECTORY"})
_MAX_SOCKET_DIRECTORY: Final = 72
"""A socket's whole path has 107 characters; 17 are for its name here, and ssh adds 17 for a moment."""

_HOST: Final = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9.:-]{0,252}\Z")
_REST: Final = _COMMON | {"URL", "USER", "TOKEN_BROKER", "TOKEN_DIRECTORY", "VERSION"}
_VERSION: Final = re.compile(r"\Av0\.0\.(?:38|39|40|41|42)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmOptions:
    """What an operator may set in SCHEDULERS[alias]["OPTIONS"] for either Slurm backend.

    JOBS_DIRECTORY  where each job gets a working directory of its own, named by its key; absolute, on a file system
                    that the nodes have under the same path. Required.
    RUN_AS          words before a command that is to run as a researcher, with {user} for the name, such as
                    ["sudo", "-n", "-u", "{user}", "--"]. Without it: runuser for a portal that runs as root;
                    otherwise only jobs of the portal's own user are possible.
    PYTHON          Python for reading a researcher's output as that researcher; the path on this machine.
    ENVIRONMENT     variables that every job gets besides the portal's own. Nothing else is handed on.
    TIMEOUT_S       seconds after which a call to Slurm is given up: above Slurm's own MessageTimeout.
    SETTLE_S        seconds after a submission in which Slurm may still turn out to have accepted it.
    MIN_UID         no job runs as a user with a lower number.
    """

    jobs_directory: str
    run_as: tuple[str, ...] | None = None
    python: str = "/usr/bin/python3"
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 15.0
    settle_s: float = 30.0
    min_uid: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SshOptions:
    """A submit host that is another machine.

    HOST               its name or address. Required.
    PORT               22.
    USER               the portal's account there, which may run RUN_AS; never root. Required.
    KEY_FILE           the private key, which only the portal's own user can read. Required.
    KNOWN_HOSTS        a file with the host's key, in the format of ssh. Required: no other host is talked to.
    CONTROL_DIRECTORY  where the sockets of open connections are: the portal's own user's, mode 0700. Without it a
                       directory of this kind is made in the system's one for temporary files.
    """

    host: str
    user: str
    key_file: str
    known_hosts: str
    port: int = 22
    control_directory: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CliOptions(SlurmOptions):
    """Further OPTIONS of the command line.

    SLURM_CONF  path of slurm.conf; Slurm's own default unless set.
    PATH        where Slurm's commands are, as in the variable PATH.
    SSH         the machine that has Slurm's commands, if it isn't this one: see `SshOptions`. JOBS_DIRECTORY,
                SLURM_CONF, PATH, PYTHON and RUN_AS are then that machine's.
    """

    slurm_conf: str = ""
    ssh: SshOptions | None = None
    path: str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestOptions(SlurmOptions):
    """Further OPTIONS of slurmrestd.

    URL              address of slurmrestd, such as https://slurm.example.org:6820. Required.
    USER             the portal's own name in Slurm, for questions about all jobs. Required.
    TOKEN_BROKER     Unix socket of the token broker on this machine.
    TOKEN_DIRECTORY  where something else leaves a JSON Web Token for each user, as <user>.jwt with mode 0600.
                     Exactly one of the two is required.
    VERSION          the version of the interface, such as v0.0.38; without it the newest that server and portal know.
    """

    url: str
    user: str
    token_broker: str = ""
    token_directory: str = ""
    version: str = ""


def read_cli_options(options: Mapping[str, Any]) -> CliOptions:
    """Check the OPTIONS of `SlurmCliBackend`. Raises ValueError: the option, the value given, what is allowed."""
    return CliOptions(
        **_read_common(options, _CLI),
        slurm_conf=_read_path(options, "SLURM_CONF", ""),
        ssh=_read_ssh(options.get("SSH")),
        path=":".join(_check_path("PATH", part) for part in _read_search_path(options)),
    )


def read_rest_options(options: Mapping[str, Any]) -> RestOptions:
    """Check the OPTIONS of `SlurmRestBackend`. Raises ValueError: the option, the value given, what is allowed."""
    common = _read_common(options, _REST)
    url, user = options.get("URL"), options.get("USER")
    version = options.get("VERSION", "")
    if not isinstance(version, str) or (version and not _VERSION.match(version)):
        raise ValueError(f"VERSION: {version!r} is not allowed; allowed: v0.0.38 to v0.0.42")
    if not isinstance(url, str) or not _URL.match(url.rstrip("/")):
        raise ValueError(f"URL: {url!r} is not allowed; allowed: http:// or https:// with a host and a port")
    if not isinstance(user, str) or not _UNIX_USER.match(user) or user == "root":
        raise ValueError(f"USER: {user!r} is not allowed; allowed: the name of a user other than root")
    if ("TOKEN_BROKER" in options) == ("TOKEN_DIRECTORY" in options):
        given = {name: options[name] for name in ("TOKEN_BROKER", "TOKEN_DIRECTORY") if name in options}
        raise ValueError(f"TOKEN_BROKER, TOKEN_DIRECTORY: {given!r} is not allowed; allowed: exactly one of them")
    return RestOptions(
        **common,
        url=url.rstrip("/"),
        user=user,
        token_broker=_read_path(options, "TOKEN_BROKER", None) if "TOKEN_BROKER" in options else "",
        token_directory=_read_path(options, "TOKEN_DIRECTORY", None) if "TOKEN_DIRECTORY" in options else "",
        version=version,
    )


def _read_ssh(value: object) -> SshOptions | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f"SSH: {value!r} is not allowed; allowed: a table of {', '.join(sorted(_SSH))}")
    unknown = sorted(str(name) for name in set(value) - _SSH)
    if unknown:
        raise ValueError(f"SSH: {', '.join(unknown)}: no such option; allowed: {', '.join(sorted(_SSH))}")
    host, user, port = value.get("HOST"), value.get("USER"), value.get("PORT", 22)
    if not isinstance(host, str) or not _HOST.match(host):
        raise ValueError(f"SSH.HOST: {host!r} is not allowed; allowed: the name or address of a machine")
    if not isinstance(user, str) or not _UNIX_USER.match(user) or user == "root":
        raise ValueError(f"SSH.USER: {user!r} is not allowed; allowed: the name of a user other than root")
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise ValueError(f"SSH.PORT: {port!r} is not allowed; allowed: 1 to 65535")
    paths = {name: value.get(name) for name in ("KEY_FILE", "KNOWN_HOSTS", "CONTROL_DIRECTORY")}
    if paths["CONTROL_DIRECTORY"] is None:
        paths["CONTROL_DIRECTORY"] = ""
    checked = {name: _check_path(f"SSH.{name}", path) if path != "" else "" for name, path in paths.items()}
    for name in ("KEY_FILE", "KNOWN_HOSTS"):
        if not checked[name]:
            raise ValueError(f"SSH.{name}: {value.get(name)!r} is not allowed; allowed: an absolute path")
    if len(checked["CONTROL_DIRECTORY"]) > _MAX_SOCKET_DIRECTORY:
        raise ValueError(
            f"SSH.CONTROL_DIRECTORY: {checked['CONTROL_DIRECTORY']!r} is not allowed; allowed: at most"
            f" {_MAX_SOCKET_DIRECTORY} characters, since sockets have short names"
        )
    return SshOptions(
        host=host,
        user=user,
        port=port,
        key_file=checked["KEY_FILE"],
        known_hosts=checked["KNOWN_HOSTS"],
        control_directory=checked["CONTROL_DIRECTORY"],
    )


def _read_common(options: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    unknown = sorted(str(name) for name in set(options) - names)
    if unknown:
        raise ValueError(f"{unknown[0]}: no such option; allowed: {', '.join(sorted(names))}")
    min_uid = options.get("MIN_UID", 1000)
    if isinstance(min_uid, bool) or not isinstance(min_uid, int) or min_uid < 1:
        raise ValueError(f"MIN_UID: {min_uid!r} is not allowed; allowed: a whole number above 0, which is root's")
    return {
        "jobs_directory": _read_path(options, "JOBS_DIRECTORY", None),
        "run_as": _read_run_as(options.get("RUN_AS")),
        "python": _read_path(options, "PYTHON", "/usr/bin/python3"),
        "environment": _read_environment(options.get("ENVIRONMENT", {})),
        "timeout_s": read_seconds(options, "TIMEOUT_S", 15.0, low=0.1, high=120.0),
        "settle_s": read_seconds(options, "SETTLE_S", 30.0, low=0.0, high=3600.0),
        "min_uid": min_uid,
    }


def _read_path(options: Mapping[str, Any], name: str, default: str | None) -> str:
    value = options.get(name, default)
    if value == "" and default == "":
        return ""
    return _check_path(name, value)


def _check_path(name: str, value: object) -> str:
    # A comma would end a variable in --export, "%" is replaced in the names of output files.
    text = str(value) if isinstance(value, Path) else value
    if not isinstance(text, str) or not _PATH.match(text) or os.path.normpath(text) != text.rstrip("/"):
        raise ValueError(
            f"{name}: {value!r} is not allowed; allowed: an absolute path of letters, digits and '/_.+-', without '..'"
        )
    return text.rstrip("/")


def _read_search_path(options: Mapping[str, Any]) -> list[str]:
    value = options.get("PATH", CliOptions.__dataclass_fields__["path"].default)
    if not isinstance(value, str) or not value:
        raise ValueError(f"PATH: {value!r} is not allowed; allowed: absolute directories with ':' between them")
    return value.split(":")


def _read_run_as(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    is_list = isinstance(value, list | tuple) and bool(value)
    words = list(value) if isinstance(value, list | tuple) else []
    if not is_list or not all(isinstance(word, str) and word and "\0" not in word for word in words):
        raise ValueError(f"RUN_AS: {value!r} is not allowed; allowed: a list of words, one for each argument")
    if not any("{user}" in word for word in words):
        raise ValueError(f"RUN_AS: {value!r} is not allowed; allowed: words of which one has {{user}} in it")
    return tuple(words)


def _read_environment(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"ENVIRONMENT: {value!r} is not allowed; allowed: a mapping of names to texts")
    for name, text in value.items():
        if not isinstance(name, str) or not _ENV_NAME.match(name):
            raise ValueError(f"ENVIRONMENT: the name {name!r} is not allowed; allowed: letters, digits and '_'")
        if not isinstance(text, str) or not text.isprintable() or any(sign in text for sign in ",'\"\\"):
            raise ValueError(
                f"ENVIRONMENT[{name!r}]: {text!r} is not allowed; allowed: one line without commas, quotes, backslashes"
            )
    return dict(value)
