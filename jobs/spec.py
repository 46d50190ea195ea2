"""What the portal asks a scheduler to run: a frozen, validated description. No Django.

Everything here is checked by allow-list, so that no string of a user's can become a directive,
an option, a shell word or a path outside the job's own directory.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

MAX_SCRIPT_BYTES: Final = 512 * 1024
"""Upper limit for a batch script; Slurm's own default limit (max_script_size) is 4 MiB."""

MAX_NODES: Final = 100_000
MAX_DEVICES_PER_NODE: Final = 1024
MAX_TIME_LIMIT_MINUTES: Final = 366 * 24 * 60

_NAME = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}\Z")
_KEY = re.compile(r"\A[a-z0-9][a-z0-9-]{7,63}\Z")
_LABEL = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_UNIX_USER = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")
_ENV_NAME = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_SIGNAL = frozenset({"USR1", "USR2", "TERM", "INT", "HUP", "CONT"})
_RESERVED_ENV_PREFIXES = ("LD_", "SLURM_", "PORTAL_", "BASH_FUNC_")
_RESERVED_ENV = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "BASH_ENV", "ENV", "IFS", "PS4", "PROMPT_COMMAND"}
)


class InvalidSpec(ValueError):
    """A field of a spec is not allowed. `field`, `value` and `allowed` say which, what and why."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        shown = repr(value)
        super().__init__(f"{field}: {shown[:80]} is not allowed; allowed: {allowed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One scheduler job (a segment of the portal's job).

    `key` is the portal's identity of the segment: the scheduler stores it in the comment *and* it is the
    name of the working directory, so that a job can be found again after a crash. `script` is the complete
    batch script as rendered by `jobs.launch`; its resource lines say the same as the fields here.
    """

    key: str
    name: str
    script: str
    partition: str
    nodes: int
    devices_per_node: int
    time_limit_minutes: int
    gres_name: str = "gpu"
    gres_type: str = ""
    cpus_per_node: int | None = None
    memory_bytes_per_node: int | None = None
    qos: str = ""
    slurm_account: str = ""
    unix_user: str = ""
    signal_name: str = ""
    """Signal sent `signal_lead_s` before the time limit, so that the job can write a checkpoint."""
    signal_lead_s: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check_key(self.key)
        _match("name", self.name, _NAME, "1 to 128 of A-Z, a-z, 0-9 and '_.+-', starting with a letter or digit")
        _match("partition", self.partition, _LABEL, "a partition's name")
        for label in ("qos", "slurm_account", "gres_type"):
            value = getattr(self, label)
            if value:
                _match(label, value, _LABEL, "letters, digits and '_.-', starting with a letter or digit")
        if self.unix_user:
            _match("unix_user", self.unix_user, _UNIX_USER, "letters, digits and '_.-'")
        _match("gres_name", self.gres_name, _LABEL, "letters, digits and '_.-'")
        _within("nodes", self.nodes, 1, MAX_NODES)
        _within("devices_per_node", self.devices_per_node, 0, MAX_DEVICES_PER_NODE)
        _within("time_limit_minutes", self.time_limit_minutes, 1, MAX_TIME_LIMIT_MINUTES)
        _within("signal_lead_s", self.signal_lead_s, 0, 24 * 3600)
        if self.signal_name and self.signal_name not in _SIGNAL:
            raise InvalidSpec("signal_name", self.signal_name, ", ".join(sorted(_SIGNAL)))
        validate_script(self.script)
        validate_environment(self.environment)

    @staticmethod
    def check_key(value: object, *, field: str = "key") -> None:
        """Raises InvalidSpec for what is no segment's key."""
        _match(field, value, _KEY, "8 to 64 of a-z, 0-9 and '-'")

    @property
    def devices(self) -> int:
        """Accelerators in all."""
        return self.nodes * self.devices_per_node


def validate_script(script: str, *, field: str = "script") -> None:
    """Refuse a script that is too large, holds control characters, or doesn't start with `#!`.

    Raises:
        InvalidSpec: naming the rule that was broken.
    """
    if not script.strip():
        raise InvalidSpec(field, script, "a script that is not empty")
    try:
        size = len(script.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InvalidSpec(field, f"character {error.start}", "text that can be encoded as UTF-8") from None
    if size > MAX_SCRIPT_BYTES:
        raise InvalidSpec(field, f"{size} bytes", f"at most {MAX_SCRIPT_BYTES} bytes")
    if "\x00" in script:
        raise InvalidSpec(field, f"NUL at character {script.index(chr(0))}", "text without NUL bytes")
    if not script.startswith("#!"):
        raise InvalidSpec(field, script.splitlines()[0][:40], "a first line that starts with '#!', such as #!/bin/bash")


def validate_environment(environment: Mapping[str, str], *, field: str = "environment") -> None:
    """Refuse variable names and values that could change how the script itself is run.

    Raises:
        InvalidSpec: naming the variable.
    """
    for name, value in environment.items():
        where = f"{field}.{name}"
        if not isinstance(name, str) or not _ENV_NAME.match(name):
            raise InvalidSpec(field, name, "names of letters, digits and '_', not starting with a digit")
        if name.upper() in _RESERVED_ENV or name.upper().startswith(_RESERVED_ENV_PREFIXES):
            raise InvalidSpec(where, name, "a name the portal or the scheduler doesn't set itself")
        if not isinstance(value, str) or len(value) > 4096:
            raise InvalidSpec(where, value, "text of at most 4096 characters")
        if any(ord(character) < 32 or character in "\x7f\x85\u2028\u2029" for character in value):
            raise InvalidSpec(where, value, "text on one line without control characters")


def _match(field: str, value: object, pattern: re.Pattern[str], allowed: str) -> None:
    if not isinstance(value, str) or not pattern.match(value):
        raise InvalidSpec(field, value, allowed)


def _within(field: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidSpec(field, value, f"a whole number from {low} to {high}")
