"""What the exit code of a command says. The table in docs/portalctl.md is compared with this one."""

from enum import IntEnum
from typing import Final

from portalctl.client import ApiProblem, InvalidArgument, PortalError, Unreachable
from portalctl.client.errors import UnexpectedReply
from portalctl.session import NotSignedIn


class Exit(IntEnum):
    """Exit codes of portalctl. Scripts rely on them: never renumber one."""

    OK = 0
    ERROR = 1
    USAGE = 2
    REFUSED = 3
    NOT_SIGNED_IN = 4
    NOT_FOUND = 5
    UNAVAILABLE = 6
    JOB_FAILED = 10
    JOB_TIMEOUT = 11
    JOB_OUT_OF_MEMORY = 12
    JOB_NODE_FAIL = 13
    JOB_PREEMPTED = 14
    JOB_CANCELLED = 15
    JOB_REJECTED = 16
    STILL_RUNNING = 20
    INTERRUPTED = 130


_OF_STATE: Final = {
    "COMPLETED": Exit.OK,
    "FAILED": Exit.JOB_FAILED,
    "TIMEOUT": Exit.JOB_TIMEOUT,
    "OUT_OF_MEMORY": Exit.JOB_OUT_OF_MEMORY,
    "NODE_FAIL": Exit.JOB_NODE_FAIL,
    "PREEMPTED": Exit.JOB_PREEMPTED,
    "CANCELLED": Exit.JOB_CANCELLED,
    "REJECTED": Exit.JOB_REJECTED,
}

_OF_STATUS: Final = {
    400: Exit.USAGE,
    401: Exit.NOT_SIGNED_IN,
    404: Exit.NOT_FOUND,
    413: Exit.USAGE,
    429: Exit.UNAVAILABLE,
    502: Exit.UNAVAILABLE,
    503: Exit.UNAVAILABLE,
    504: Exit.UNAVAILABLE,
}


def exit_of_state(state: str) -> Exit:
    """For a job that has ended; an end that this version doesn't know counts as failed."""
    return _OF_STATE.get(state, Exit.JOB_FAILED)


def exit_of_error(error: PortalError) -> Exit:
    """For a call that failed."""
    if isinstance(error, NotSignedIn):
        return Exit.NOT_SIGNED_IN
    if isinstance(error, InvalidArgument):
        return Exit.USAGE
    if isinstance(error, Unreachable):
        return Exit.UNAVAILABLE
    if isinstance(error, ApiProblem):
        return _OF_STATUS.get(error.status, Exit.REFUSED if error.status < 500 else Exit.ERROR)
    if isinstance(error, UnexpectedReply):
        return Exit.UNAVAILABLE if _OF_STATUS.get(error.status) is Exit.UNAVAILABLE else Exit.ERROR
    return Exit.ERROR
