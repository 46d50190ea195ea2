"""What a batch script is made from: frozen, checked when made, so that rendering cannot fail half-way."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Literal, get_args

from jobs.spec import MAX_SCRIPT_BYTES, InvalidSpec, JobSpec, validate_script

Launcher = Literal["none", "torchrun"]
Precision = Literal["", "fp32", "tf32", "fp16", "bf16", "fp8", "fp4"]
Recomputation = Literal["", "none", "selective", "full"]
PipelineSchedule = Literal["", "1f1b", "zero_bubble"]
Offload = Literal["", "none", "optimizer", "optimizer_and_weights"]

_PLAN_WORDS: Final[Mapping[str, object]] = {
    "precision": Precision,
    "recomputation": Recomputation,
    "pipeline_schedule": PipelineSchedule,
    "offload": Offload,
}
_MAY_BE_ZERO: Final = ("sequence_length", "recomputed_layers", "zero_group")

MAX_ARGUMENTS: Final = 4096
MAX_ARGUMENT_CHARACTERS: Final = 32 * 1024
MAX_SIGNAL_LEAD_S: Final = 65_535
"""sbatch's own limit for the seconds of --signal, see https://slurm.schedmd.com/sbatch.html#OPT_signal."""

MAX_SEGMENTS: Final = 1000

_MAX_CPUS_PER_NODE: Final = 65_533
_MAX_MEMORY_BYTES_PER_NODE: Final = 2**60
_MAX_PARALLEL: Final = 100_000_000

# Read-only in bash, set by bash itself, or changing how bash runs the lines after them: an exported value would
# be refused by bash, lost, or act on the portal's own lines instead of the user's program.
_BASH_NAMES: Final = (
    "_ CDPATH CHILD_MAX COLUMNS COMPREPLY COPROC DIRSTACK EPOCHREALTIME EPOCHSECONDS EUID EXECIGNORE "
    "FCEDIT FIGNORE FUNCNAME FUNCNEST GLOBIGNORE GROUPS HOSTFILE IGNOREEOF LINENO LINES MAPFILE "
    "OLDPWD OPTARG OPTERR OPTIND PIPESTATUS POSIXLY_CORRECT PPID PROMPT_COMMAND PROMPT_DIRTRIM PS0 "
    "PS1 PS2 PS3 PWD RANDOM READLINE_ARGUMENT READLINE_LINE READLINE_MARK READLINE_POINT REPLY "
    "SECONDS SHELLOPTS SHLVL SRANDOM TIMEFORMAT TMOUT UID"
)
_BASH_VARIABLES: Final = frozenset(_BASH_NAMES.split())
_BASH_VARIABLE_PREFIXES: Final = ("BASH", "COMP_", "HIST")

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\x80-\x9f\u2028\u2029]")
_MODULE = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*\Z")
_NOT_FOR_TORCHRUN = re.compile(r"(\A|/)(python[0-9.]*|torchrun)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchWarning:
    """Something the user should know about the script, as a code and its values; the page words it."""

    code: str
    parameters: Mapping[str, int | str | tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parallel plan that the estimate chose, in whole numbers; exported to the job as PORTAL_* variables.

    `gradient_accumulation_steps` micro-batches are added up in each data-parallel rank before one optimizer step.
    A 0, an empty string or False says "not part of the plan" and exports nothing.
    """

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    context_parallel: int = 1
    expert_parallel: int = 1
    micro_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    sequence_length: int = 0
    zero_stage: int = 0
    recomputation: Recomputation = ""
    precision: Precision = ""
    virtual_stages: int = 1
    sequence_parallel: bool = False
    recomputed_layers: int = 0
    zero_group: int = 0
    pipeline_schedule: PipelineSchedule = ""
    offload: Offload = ""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            where = f"plan.{item.name}"
            if item.name in _PLAN_WORDS:
                _one_of(where, value, get_args(_PLAN_WORDS[item.name]))
            elif item.name == "sequence_parallel":
                if not isinstance(value, bool):
                    raise InvalidSpec(where, value, "true or false")
            elif item.name == "zero_stage":
                _whole(where, value, 0, 3)
            else:
                _whole(where, value, 0 if item.name in _MAY_BE_ZERO else 1, _MAX_PARALLEL)

    @property
    def devices(self) -> int:
        """Accelerators the plan takes. Expert parallelism shares those of data parallelism."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel * self.context_parallel

    @property
    def global_batch_size(self) -> int:
        """Sequences per optimizer step."""
        return self.micro_batch_size * self.gradient_accumulation_steps * self.data_parallel


@dataclass(frozen=True, slots=True)
class UserScript:
    """The user's own script, in any language that its first line (`#!...`) names."""

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InvalidSpec("script", self.text, "text")
        validate_script(self.text)


@dataclass(frozen=True, slots=True)
class Command:
    """A program and its arguments, run as they are ("none") or by torchrun once per accelerator."""

    argv: tuple[str, ...]
    launcher: Launcher = "none"

    def __post_init__(self) -> None:
        _one_of("command.launcher", self.launcher, get_args(Launcher))
        if not isinstance(self.argv, tuple) or not 1 <= len(self.argv) <= MAX_ARGUMENTS:
            raise InvalidSpec("command.argv", self.argv, f"a tuple of 1 to {MAX_ARGUMENTS} words")
        for position, word in enumerate(self.argv):
            _check_argument(f"command.argv[{position}]", word)
        program = self.argv[0]
        if self.launcher == "torchrun":
            self._check_torchrun(program)
        elif not program or program.startswith("-"):
            raise InvalidSpec("command.argv[0]", program, "a program's name or path, not an option")

    def _check_torchrun(self, program: str) -> None:
        # Any other option here would be torchrun's own and could contradict the resources that were reserved.
        if program == "-m":
            if len(self.argv) < 2 or not _MODULE.match(self.argv[1]):
                raise InvalidSpec("command.argv[1]", self.argv[1:2], "the name of a Python module after -m")
        elif not program or program.startswith("-"):
            raise InvalidSpec("command.argv[0]", program, "a script for torchrun to start, or -m and a module")
        elif _NOT_FOR_TORCHRUN.search(program):
            raise InvalidSpec("command.argv[0]", program, "the script itself: the portal writes torchrun before it")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """All that goes into one batch script. Fields shared with `JobSpec` obey the rules of `JobSpec`.

    Raises:
        InvalidSpec: naming the field, when one is not allowed or two contradict each other.
    """

    key: str
    name: str
    partition: str
    nodes: int
    devices_per_node: int
    time_limit_minutes: int
    entry: UserScript | Command
    plan: Plan | None = None
    gres_name: str = "gpu"
    gres_type: str = ""
    cpus_per_node: int | None = None
    memory_bytes_per_node: int | None = None
    qos: str = ""
    slurm_account: str = ""
    signal_name: str = ""
    signal_lead_s: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    segment_number: int = 0
    """Position in a chain of segments, from 1 on; 0 for a job that is no chain."""
    home_key: str = ""
    """Key of the chain's first segment, in whose directory its checkpoints and metrics are."""

    def __post_init__(self) -> None:
        if not isinstance(self.environment, Mapping):
            raise InvalidSpec("environment", self.environment, "a mapping of names to values")
        # A copy: the caller's mapping may change after it was checked.
        object.__setattr__(self, "environment", dict(self.environment))
        for label in ("qos", "slurm_account", "gres_type", "signal_name"):
            if not isinstance(getattr(self, label), str):
                raise InvalidSpec(label, getattr(self, label), "text")
        self.build_job_spec("#!/bin/bash\n:\n")
        if self.cpus_per_node is not None:
            _whole("cpus_per_node", self.cpus_per_node, 1, _MAX_CPUS_PER_NODE)
        if self.memory_bytes_per_node is not None:
            _whole("memory_bytes_per_node", self.memory_bytes_per_node, 1, _MAX_MEMORY_BYTES_PER_NODE)
        _whole("signal_lead_s", self.signal_lead_s, 0, MAX_SIGNAL_LEAD_S)
        if not isinstance(self.entry, UserScript | Command):
            raise InvalidSpec("entry", self.entry, "a UserScript or a Command")
        _check_environment(self.environment)
        self._check_plan()
        self._check_chain()

    def build_job_spec(self, script: str, *, unix_user: str = "") -> JobSpec:
        """Return the scheduler's job for `script`, with the same resources as its directives.

        Raises InvalidSpec if the script is too large.
        """
        return JobSpec(
            key=self.key,
            name=self.name,
            script=script,
            partition=self.partition,
            nodes=self.nodes,
            devices_per_node=self.devices_per_node,
            time_limit_minutes=self.time_limit_minutes,
            gres_name=self.gres_name,
            gres_type=self.gres_type,
            cpus_per_node=self.cpus_per_node,
            memory_bytes_per_node=self.memory_bytes_per_node,
            qos=self.qos,
            slurm_account=self.slurm_account,
            unix_user=unix_user,
            signal_name=self.signal_name if self.has_signal_before_end else "",
            signal_lead_s=self.signal_lead_s,
            environment=self.environment,
        )

    @property
    def has_signal_before_end(self) -> bool:
        """Does the scheduler send the signal? A segment without a lead gets it from the portal alone, if ever."""
        return bool(self.signal_name) and (self.signal_lead_s > 0 or not self.is_segment)

    @property
    def is_segment(self) -> bool:
        """Is this one of several scheduler jobs of one run?"""
        return self.segment_number > 0

    def _check_chain(self) -> None:
        _whole("segment_number", self.segment_number, 0, MAX_SEGMENTS)
        if not self.is_segment:
            return
        JobSpec.check_key(self.home_key, field="home_key")
        if not self.signal_name:
            raise InvalidSpec("signal_name", self.signal_name, "a signal, so that a segment can write its checkpoint")

    def _check_plan(self) -> None:
        if self.plan is None:
            return
        if not isinstance(self.plan, Plan):
            raise InvalidSpec("plan", self.plan, "a Plan")
        devices = self.nodes * self.devices_per_node
        if devices and self.plan.devices != devices:
            raise InvalidSpec(
                "plan",
                f"{self.plan.devices} devices",
                f"a plan whose tensor × pipeline × data × context sizes make the {devices} devices asked for",
            )


def _check_argument(where: str, word: object) -> None:
    if not isinstance(word, str) or len(word) > MAX_ARGUMENT_CHARACTERS:
        raise InvalidSpec(where, word, f"text of at most {MAX_ARGUMENT_CHARACTERS} characters")
    if _UNPRINTABLE.search(word):
        raise InvalidSpec(where, word, "text on one line without control characters")
    _check_encodable(where, word)


def _check_environment(environment: Mapping[str, str]) -> None:
    """Add to the rules of `jobs.spec` what only matters where bash exports the variables."""
    for name, value in environment.items():
        if name in _BASH_VARIABLES or name.startswith(_BASH_VARIABLE_PREFIXES):
            raise InvalidSpec(f"environment.{name}", name, "a name that bash doesn't use itself")
        _check_encodable(f"environment.{name}", value)


def _check_encodable(where: str, text: str) -> None:
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InvalidSpec(where, f"character {error.start}", "text that can be encoded as UTF-8") from None
    if size > MAX_SCRIPT_BYTES:
        raise InvalidSpec(where, f"{size} bytes", f"at most {MAX_SCRIPT_BYTES} bytes")


def _whole(where: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidSpec(where, value, f"a whole number from {low} to {high}")


def _one_of(where: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise InvalidSpec(where, value, "one of " + ", ".join(word or "(empty)" for word in allowed))
