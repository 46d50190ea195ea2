"""The `#SBATCH` lines: written from validated fields only, and read back as sbatch reads them."""

import shlex
from typing import Final

from jobs.launch.request import LaunchRequest

STDOUT_FILE: Final = "stdout.log"
METRICS_FILE: Final = "metrics.jsonl"

_MAGIC: Final = "#SBATCH"
_MIB: Final = 1024 * 1024


def render_directives(request: LaunchRequest) -> list[str]:
    """Return the `#SBATCH` lines. See https://slurm.schedmd.com/sbatch.html for each option.

    - one task per node: what is started inside (torchrun, the user's script) fans out over the accelerators;
    - a requeue by Slurm would keep the job id and restart without the portal's knowledge: the portal starts
      a new segment with a key of its own instead, hence --no-requeue;
    - --export=NONE: nothing of the submitting process's environment (the portal's) reaches the job;
    - one file for both output streams, in the order they were written (sbatch's default without --error);
      it is appended to, so that a restarted step doesn't wipe what was there.
    """
    options = {"job-name": request.name, "comment": f"portal:{request.key}", "partition": request.partition}
    if request.qos:
        options["qos"] = request.qos
    if request.slurm_account:
        options["account"] = request.slurm_account
    options["nodes"] = str(request.nodes)
    options["ntasks-per-node"] = "1"
    if request.cpus_per_node is not None:
        options["cpus-per-task"] = str(request.cpus_per_node)
    if request.memory_bytes_per_node is not None:
        options["mem"] = f"{-(-request.memory_bytes_per_node // _MIB)}M"
    if request.devices_per_node:
        kind = f":{request.gres_type}" if request.gres_type else ""
        options["gres"] = f"{request.gres_name}{kind}:{request.devices_per_node}"
    options["time"] = str(request.time_limit_minutes)
    if request.has_signal_before_end:
        options["signal"] = render_signal(request)
    options["output"] = STDOUT_FILE
    options["open-mode"] = "append"
    options["no-requeue"] = ""
    options["export"] = "NONE"
    return [f"{_MAGIC} --{name}={value}" if value else f"{_MAGIC} --{name}" for name, value in options.items()]


def render_signal(request: LaunchRequest) -> str:
    """Return the value of --signal.

    `B:` sends it to the batch script alone, whose place the user's program takes by `exec`; without it Slurm
    would signal job steps only. Under a multi-node torchrun that program is srun, which passes it on.
    """
    return f"B:{request.signal_name}@{request.signal_lead_s}"


def parse_directives(script: str) -> dict[str, str]:
    """Return the options that sbatch would take from a script, by long name; a flag's value is "".

    As in Slurm's `_opt_batch_script`: lines that begin with exactly `#SBATCH`, up to the first line that is
    neither blank nor a comment; words may be quoted; an unquoted `#` ends the line. The last one wins.

    Raises ValueError for an unclosed quote, where sbatch refuses the script.
    """
    options: dict[str, str] = {}
    for line in find_directive_lines(script):
        lexer = shlex.shlex(line.removeprefix(_MAGIC), posix=True, punctuation_chars=False)
        lexer.whitespace_split = True
        words = list(lexer)
        position = 0
        while position < len(words):
            word = words[position]
            name, has_value, value = word.lstrip("-").partition("=")
            following = words[position + 1] if position + 1 < len(words) else "-"
            if not has_value and not following.startswith("-"):
                value = following
                position += 1
            options[name] = value
            position += 1
    return options


def find_directive_lines(script: str) -> list[str]:
    """Return the lines that sbatch would read options from, in order."""
    found = []
    for line in script.split("\n"):
        if line.startswith(_MAGIC):
            found.append(line)
        elif (content := line.strip()) and not content.startswith("#"):
            break
    return found
