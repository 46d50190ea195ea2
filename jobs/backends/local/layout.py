"""What a job's supervisor and those who talk to it must agree on."""

import signal
from typing import Final

SCRIPT_FILE_NAME: Final = "batch.sh"
STDOUT_FILE_NAME: Final = "stdout.log"
METRICS_FILE_NAME: Final = "metrics.jsonl"

WAKE_SIGNAL: Final = signal.SIGUSR1
"""Tells a supervisor to look at the queue: its job is to be cancelled, or to get a signal."""
