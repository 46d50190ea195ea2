"""A scheduler job runs once, whatever its scheduler makes of it after a crash.

A controller that dies within a second of a start has saved the job as waiting: back again, it starts it a second time,
beside what may still run of the first. A requeue is something else: Slurm counts those, and they may run again.
"""

from typing import Final

STARTED_TWICE_EXIT_CODE: Final = 87
"""The script had been started before and did nothing this time."""

_MARK: Final = "./.started"


def render_guard() -> list[str]:
    """Return the lines that end a second run. The job's directory is its owner's alone, and so is the mark in it."""
    return [
        f'if [ -n "${{SLURM_JOB_ID:-}}" ] && [ "${{SLURM_RESTART_COUNT:-0}}" -eq 0 ] && ! mkdir {_MARK} 2>/dev/null && '
        f"[ -d {_MARK} ]; then",
        '  echo "portal: the scheduler has started this job before; it is not run a second time" >&2',
        f"  exit {STARTED_TWICE_EXIT_CODE}",
        "fi",
    ]
