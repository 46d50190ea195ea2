"""A segment of a run that is longer than the scheduler lets one job be.

The first segment's directory is the home of the whole run: its checkpoints and its metrics are there, and each later
segment finds them beside its own directory. What the program does with the signal before the end is its own business;
from how it ends, and from whether there is a new checkpoint, the script tells the portal whether to go on.
"""

from typing import Final

from jobs.launch.request import LaunchRequest

CONTINUE_EXIT_CODE: Final = 85
"""There is a checkpoint to go on from. HTCondor's convention for programs that checkpoint themselves and stop:
https://htcondor.readthedocs.io/en/latest/users-manual/self-checkpointing-applications.html"""

NO_PROGRESS_EXIT_CODE: Final = 86
"""The program was interrupted before it had written a checkpoint: another segment would do the same again."""

_STARTED: Final = "./.segment_started"


def render_home(request: LaunchRequest) -> list[str]:
    """Return the lines that set where the run's checkpoints and metrics are."""
    home = '"$PWD"' if request.home_key == request.key else f'"$(cd -- "../{request.home_key}" && pwd)"'
    return [
        f"run_directory={home}",
        'export PORTAL_METRICS_FILE="$run_directory/metrics.jsonl"',
        'export PORTAL_CHECKPOINT_DIR="$run_directory/checkpoints"',
        f"export PORTAL_SEGMENT_NUMBER={request.segment_number}",
    ]


def render_segment(request: LaunchRequest, lines: list[str]) -> list[str]:
    """Return `lines` (which end in an exec) as a child that gets this script's signals, and the verdict on its end.

    A trapped signal ends bash's `wait` early; the child's own status is what counts. A program that has no handler for
    the signal is ended by it, which is fine if it writes checkpoints now and then.
    """
    name = request.signal_name
    return [
        'child=""',
        'signalled=""',
        f'trap \'signalled=1; again=1; [ -z "$child" ] || kill -s {name} "$child" || true\' {name}',
        'trap \'again=1; [ -z "$child" ] || kill -s TERM "$child" || true\' TERM',
        f": > {_STARTED}",
        "(",
        *lines,
        ") &",
        "child=$!",
        "again=1",
        'while [ -n "$again" ]; do',
        '  again=""',
        "  status=0",
        '  wait "$child" || status=$?',
        "done",
        "# Was it interrupted (by the signal, or by its own wish), and is there a checkpoint that it can go on from?",
        f"by_signal=$((128 + $(kill -l {name})))",
        f'if [ "$status" -eq {CONTINUE_EXIT_CODE} ] || {{ [ -n "$signalled" ] && '
        '{ [ "$status" -eq 0 ] || [ "$status" -eq "$by_signal" ]; }; }; then',
        f'  new=$(find "$PORTAL_CHECKPOINT_DIR" -type f -newer {_STARTED} -print -quit 2>/dev/null || true)',
        f'  [ -z "$new" ] || exit {CONTINUE_EXIT_CODE}',
        '  if [ "$status" -ne 0 ]; then',
        '    echo "portal: interrupted, and no new checkpoint in $PORTAL_CHECKPOINT_DIR: the run is not continued" >&2',
        f"    exit {NO_PROGRESS_EXIT_CODE}",
        "  fi",
        "fi",
        'exit "$status"',
    ]
