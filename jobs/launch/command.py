"""A plain command: every word quoted, run in place of the batch script so that signals reach it."""

import shlex

from jobs.launch.request import Command


def render_command(entry: Command) -> list[str]:
    """Return the lines that start the command."""
    return [f"exec -- {shlex.join(entry.argv)}"]
