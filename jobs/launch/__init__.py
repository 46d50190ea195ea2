"""From a plan to a batch script. Pure: no Django, no scheduler, no file is touched here.

`render_batch_script` writes what the scheduler reads (`directives`), what every job gets (`environment`) and
what the user asked to run: their own script (`user_script`), a command (`command`) or a command that
PyTorch's torchrun starts on each accelerator (`torchrun`); one segment of a longer run is wrapped (`chain`).
Nothing of a user's is ever before the first command of the script, so nothing of a user's can be a directive.
"""

from jobs.launch.chain import CONTINUE_EXIT_CODE, NO_PROGRESS_EXIT_CODE
from jobs.launch.directives import METRICS_FILE, STDOUT_FILE, parse_directives
from jobs.launch.guard import STARTED_TWICE_EXIT_CODE
from jobs.launch.render import RenderedScript, render_batch_script
from jobs.launch.request import Command, LaunchRequest, LaunchWarning, Plan, UserScript

__all__ = [
    "CONTINUE_EXIT_CODE",
    "METRICS_FILE",
    "NO_PROGRESS_EXIT_CODE",
    "STARTED_TWICE_EXIT_CODE",
    "STDOUT_FILE",
    "Command",
    "LaunchRequest",
    "LaunchWarning",
    "Plan",
    "RenderedScript",
    "UserScript",
    "parse_directives",
    "render_batch_script",
]
