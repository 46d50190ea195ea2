"""A script of the portal's runs once, whatever its scheduler makes of it.

A controller that dies within a second of a start has saved the job as waiting: back again, it starts it a second time,
beside what may still run of the first. Or the node tells it that it had the job already; then it counts a requeue and
holds the job as "launch failed", although all of it has run. So the count of restarts tells nothing. The portal asks
for `--no-requeue`, and goes on by segments with keys of their own.
"""

from typing import Final

STARTED_TWICE_EXIT_CODE: Final = 87
"""The script had been started before and did nothing this time."""

_MARK: Final = "./.started"


def render_guard() -> list[str]:
    """Return the lines that end a second run. The job's directory is its owner's alone, and so is the mark in it."""
    return [
        f'if [ -n "${{SLURM_JOB_ID:-}}" ] && ! mkdir {_MARK} 2>/dev/null && [ -d {_MARK} ]; then',
        '  echo "portal: the scheduler has started this job before; it is not run a second time" >&2',
        f"  exit {STARTED_TWICE_EXIT_CODE}",
        "fi",
    ]
