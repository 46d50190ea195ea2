"""The OPTIONS of the local backend, checked once and kept with the queue for the supervisors."""

import json
import os
import pwd
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jobs.backends.local.partitions import Partition, read_partitions
from jobs.backends.option_values import read_seconds

_ENV_NAME: Final = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_NAMES: Final = frozenset(
    {"ROOT", "PARTITIONS", "ENVIRONMENT", "KILL_WAIT_S", "POLL_S", "MINUTE_S", "LOCK_WAIT_S", "PYTHON", "RUN_AS"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    """What an operator may set in SCHEDULERS[alias]["OPTIONS"].

    ROOT          directory of the queue, the working directories and the logs; absolute. Required.
    PARTITIONS    name -> nodes, devices_per_node, gres_name, gres_type, max_time_limit_minutes, jobs_per_node,
                  state ("up" or "down"; a partition that is down takes and starts no job). Required.
    ENVIRONMENT   variables that every job gets; may replace PATH, HOME and LANG.
    RUN_AS        unix user that jobs run as; needs a portal that runs as root. Without it jobs have the portal's
                  own user, and could read what that user can read: not for people you don't trust.
    KILL_WAIT_S   seconds between SIGTERM and SIGKILL at the time limit or on cancel (Slurm's KillWait).
    POLL_S        seconds between two looks of a supervisor at its job's memory and at a cancel it wasn't told of.
    LOCK_WAIT_S   seconds to wait for the queue's lock before the scheduler counts as unavailable.
    PYTHON        interpreter for the supervisors; the one that runs the portal unless set.
    MINUTE_S      length of a "minute" of a time limit, in seconds. For tests only; 60 otherwise.
    """

    root: Path
    partitions: Mapping[str, Partition]
    environment: Mapping[str, str] = field(default_factory=dict)
    kill_wait_s: float = 5.0
    poll_s: float = 1.0
    lock_wait_s: float = 10.0
    minute_s: float = 60.0
    python: str = sys.executable
    run_as: str = ""

    @property
    def state_file(self) -> Path:
        """The SQLite file that holds the queue and the accounting."""
        return self.root / "state.sqlite3"

    @property
    def jobs_directory(self) -> Path:
        """Where each job has its working directory, named by its key."""
        return self.root / "jobs"

    @property
    def heartbeats_directory(self) -> Path:
        """Where each supervisor writes which processes it has seen, and thereby that it lives."""
        return self.root / "heartbeats"

    @property
    def supervisor_log(self) -> Path:
        """Where supervisors write what they can't tell anybody else."""
        return self.root / "supervisor.log"

    @property
    def job_uid(self) -> int:
        """The numeric user that owns a job's processes and files."""
        return pwd.getpwnam(self.run_as).pw_uid if self.run_as else os.geteuid()

    def to_json(self) -> str:
        """The options as text that `from_json` reads."""
        return json.dumps(
            {
                "ROOT": str(self.root),
                "PARTITIONS": {name: partition.to_options() for name, partition in self.partitions.items()},
                "ENVIRONMENT": dict(self.environment),
                "KILL_WAIT_S": self.kill_wait_s,
                "POLL_S": self.poll_s,
                "LOCK_WAIT_S": self.lock_wait_s,
                "MINUTE_S": self.minute_s,
                "PYTHON": self.python,
                "RUN_AS": self.run_as,
            },
            sort_keys=True,
        )


def options_from_json(text: str) -> LocalOptions:
    """What `LocalOptions.to_json` wrote, checked again."""
    return read_options(json.loads(text))


def read_options(options: Mapping[str, Any]) -> LocalOptions:
    """Check OPTIONS.

    Raises:
        ValueError: naming the option, the value given and what is allowed.
    """
    unknown = sorted(str(name) for name in set(options) - _NAMES)
    if unknown:
        raise ValueError(f"{unknown[0]}: no such option; allowed: {', '.join(sorted(_NAMES))}")
    return LocalOptions(
        root=_read_root(options.get("ROOT")),
        partitions=read_partitions(options),
        environment=_read_environment(options.get("ENVIRONMENT", {})),
        kill_wait_s=read_seconds(options, "KILL_WAIT_S", 5.0, low=0.0, high=3600.0),
        poll_s=read_seconds(options, "POLL_S", 1.0, low=0.02, high=60.0),
        lock_wait_s=read_seconds(options, "LOCK_WAIT_S", 10.0, low=0.0, high=600.0),
        minute_s=read_seconds(options, "MINUTE_S", 60.0, low=0.01, high=60.0),
        python=_read_python(options.get("PYTHON", sys.executable)),
        run_as=_read_run_as(options.get("RUN_AS", "")),
    )


def _read_root(value: object) -> Path:
    if not isinstance(value, str | Path) or not Path(value).is_absolute() or "\0" in str(value):
        raise ValueError(f"ROOT: {value!r} is not allowed; allowed: the absolute path of a directory")
    return Path(os.path.normpath(value))


def _read_environment(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"ENVIRONMENT: {value!r} is not allowed; allowed: a mapping of names to texts")
    for name, text in value.items():
        if not isinstance(name, str) or not _ENV_NAME.match(name):
            raise ValueError(f"ENVIRONMENT: the name {name!r} is not allowed; allowed: letters, digits and '_'")
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(f"ENVIRONMENT[{name!r}]: {text!r} is not allowed; allowed: text without NUL")
    return dict(value)


def _read_python(value: object) -> str:
    if not isinstance(value, str) or not os.path.isabs(value) or not os.access(value, os.X_OK):
        raise ValueError(f"PYTHON: {value!r} is not allowed; allowed: the absolute path of a Python interpreter")
    return value


def _read_run_as(value: object) -> str:
    if value == "":
        return ""
    if not isinstance(value, str):
        raise ValueError(f"RUN_AS: {value!r} is not allowed; allowed: the name of a unix user, or ''")
    try:
        uid = pwd.getpwnam(value).pw_uid
    except KeyError:
        raise ValueError(f"RUN_AS: there is no unix user {value!r} on this machine") from None
    if uid == 0:
        raise ValueError(f"RUN_AS: {value!r} is not allowed; allowed: a user other than root")
    if os.geteuid() not in (0, uid):
        raise ValueError(f"RUN_AS: {value!r} needs a portal that runs as root; it runs as uid {os.geteuid()}")
    return value
