"""The signal before the time limit, where Slurm's interface can't be asked for it.

slurmrestd's v0.0.38 refuses "B:USR1@300": it would signal job steps only, and the batch script of a job on one node
would never hear of its end. So the script starts a timer of its own first.
"""

from typing import Final

from jobs.spec import JobSpec

_BASH: Final = "#!/bin/bash"


def add_signal_timer(spec: JobSpec) -> str:
    """The script, with a timer that signals the script's process `signal_lead_s` before the limit, if one is asked for.

    The process stays the same when the script runs a program by `exec`. Scripts in other languages than bash are
    returned as they are: jobs.launch renders bash.
    """
    first, end, rest = spec.script.partition("\n")
    if not spec.signal_name or first != _BASH:
        return spec.script
    wait_s = max(0, spec.time_limit_minutes * 60 - spec.signal_lead_s)
    return f"{first}{end}{{ sleep {wait_s}; kill -s {spec.signal_name} $$; }} </dev/null >/dev/null 2>&1 &\n{rest}"
