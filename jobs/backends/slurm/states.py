"""Slurm's words for how a job stands, as the portal's states and reasons. Pure.

https://slurm.schedmd.com/squeue.html#SECTION_JOB-STATE-CODES
"""

from typing import Final

from jobs.states import TERMINAL, JobState

_STATES: Final[dict[str, JobState]] = {
    "PENDING": JobState.PENDING,
    # Nodes are given, but are still being made ready: no script runs yet.
    "CONFIGURING": JobState.PENDING,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.PENDING,
    "RESV_DEL_HOLD": JobState.PENDING,
    "SPECIAL_EXIT": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STOPPED": JobState.RUNNING,
    "SUSPENDED": JobState.RUNNING,
    "COMPLETING": JobState.COMPLETING,
    "STAGE_OUT": JobState.COMPLETING,
    "COMPLETED": JobState.COMPLETED,
    "FAILED": JobState.FAILED,
    "TIMEOUT": JobState.TIMEOUT,
    "DEADLINE": JobState.TIMEOUT,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
    "NODE_FAIL": JobState.NODE_FAIL,
    "BOOT_FAIL": JobState.NODE_FAIL,
    "PREEMPTED": JobState.PREEMPTED,
    "CANCELLED": JobState.CANCELLED,
    "REVOKED": JobState.CANCELLED,
}
_SHOWN_AS_REASON: Final = {
    "CONFIGURING": "Configuring",
    "RESIZING": "Resizing",
    "STOPPED": "Suspended",
    "SUSPENDED": "Suspended",
}
"""States that the portal doesn't have, as the reason beside the state that it shows."""

_END_REASONS: Final = {
    "TIMEOUT": "TimeLimit",
    "DEADLINE": "DeadLine",
    "OUT_OF_MEMORY": "OutOfMemory",
    "NODE_FAIL": "NodeFail",
    "BOOT_FAIL": "NodeFail",
    "PREEMPTED": "Preempted",
    "CANCELLED": "Cancelled",
    "REVOKED": "Cancelled",
}
_HELD_WORDS: Final = {
    "job requeued in held state": "JobRequeuedHeld",
    "launch failed requeued held": "LaunchFailedHeld",
}
_LAUNCH_FAILURE_SIGNAL: Final = 53
"""Slurm's exit status 0:53 says that the script could not be started; no process ended by that signal."""


def read_state(word: str) -> JobState | None:
    """The portal's state for Slurm's, such as "CANCELLED by 1003"; None for a word that no release is known to use."""
    return _STATES.get(word.partition(" ")[0].rstrip("+"))


def describe_end(word: str, *, exit_code: int, exit_signal: int | None) -> str:
    """Slurm's reason for an end, made from the state and the exit status.

    What Slurm itself says differs between queue and accounting: the queue has JobLaunchFailure for a script that was
    killed by a signal, and accounting the last reason for waiting.
    """
    state = word.partition(" ")[0]
    if state in _END_REASONS:
        return _END_REASONS[state]
    if exit_signal == _LAUNCH_FAILURE_SIGNAL:
        return "JobLaunchFailure"
    if exit_signal is not None:
        return f"RaisedSignal:{exit_signal}"
    return "NonZeroExitCode" if exit_code or state == "FAILED" else ""


def describe_wait(word: str, reason: str) -> str:
    """Why a job that has not ended waits or stands still; "" if there is nothing to say.

    Reasons are single words; the few sentences that Slurm writes instead are made into such words.
    """
    if word in _SHOWN_AS_REASON:
        return _SHOWN_AS_REASON[word]
    if read_state(word) is not JobState.PENDING or reason in ("None", ""):
        return ""
    if reason in _HELD_WORDS:
        return _HELD_WORDS[reason]
    # "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions", and
    # "ReqNodeNotAvail, UnavailableNodes:a800-01"
    if reason.startswith("Nodes required for job are DOWN"):
        return "ReqNodeNotAvail"
    return reason.partition(",")[0][:64]


def read_exit_status(text: str) -> tuple[int, int | None]:
    """Accounting's "code:signal" as a pair, with no signal as None. Raises ValueError."""
    code, _, signal = text.partition(":")
    return int(code), int(signal or 0) or None


def read_wait_status(status: int) -> tuple[int, int | None]:
    """The raw status of wait(2), as the queue keeps it, as such a pair."""
    return (status >> 8) & 0xFF, (status & 0x7F) or None


def is_end(state: JobState | None) -> bool:
    """Whether a job in this state has ended."""
    return state in TERMINAL
