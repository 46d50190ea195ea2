"""The thin entry: directives, environment, then whatever was asked to run."""

from dataclasses import dataclass

from jobs.launch.chain import render_home, render_segment
from jobs.launch.command import render_command
from jobs.launch.directives import render_directives
from jobs.launch.environment import render_environment
from jobs.launch.guard import render_guard
from jobs.launch.request import LaunchRequest, LaunchWarning, UserScript
from jobs.launch.torchrun import render_torchrun
from jobs.launch.user_script import render_user_script
from jobs.spec import validate_script

_EARLY_S = 60
"""Slurm may send the signal up to a minute early."""


@dataclass(frozen=True, slots=True)
class RenderedScript:
    """A complete batch script and what the user should know about it."""

    script: str
    warnings: tuple[LaunchWarning, ...] = ()


def render_batch_script(request: LaunchRequest) -> RenderedScript:
    """Return the batch script of a request; the same request gives the same script, byte for byte.

    Warnings: `crlf` (lines), `user_directives_ignored` (count, lines), `signal_at_start` (signal_lead_s,
    time_limit_minutes: the signal comes as soon as the job starts).

    Raises:
        InvalidSpec: `script` would be larger than the scheduler takes.
    """
    warnings: tuple[LaunchWarning, ...] = ()
    if isinstance(request.entry, UserScript):
        lines, warnings = render_user_script(request.entry)
    elif request.entry.launcher == "torchrun":
        lines = render_torchrun(request, request.entry)
    else:
        lines = render_command(request.entry)
    if request.has_signal_before_end and request.signal_lead_s + _EARLY_S >= request.time_limit_minutes * 60:
        parameters = {"signal_lead_s": request.signal_lead_s, "time_limit_minutes": request.time_limit_minutes}
        warnings += (LaunchWarning(code="signal_at_start", parameters=parameters),)
    script = "\n".join(
        [
            "#!/bin/bash",
            *render_directives(request),
            "",
            # The first command: sbatch reads no directive after it.
            "set -eu",
            *render_guard(),
            "",
            *render_environment(request),
            *(render_home(request) if request.is_segment else []),
            "",
            *(render_segment(request, lines) if request.is_segment else lines),
            "",
        ]
    )
    validate_script(script)
    return RenderedScript(script=script, warnings=warnings)
