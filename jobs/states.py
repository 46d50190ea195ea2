"""The life of a job: its states, the one table of transitions, and the reasons for waiting.

Slurm's own words where the thing is the same; ours only where Slurm has none (DRAFT, SUBMITTED,
QUEUED, HELD, DISPATCHING, REJECTED, LOST). Pure: no Django, so that backends and tests share it.
"""

from enum import StrEnum
from typing import Final


class JobState(StrEnum):
    """Where a job is. Values are stored in the database: never rename one."""

    DRAFT = "DRAFT"
    SUBMITTED = "SUBMITTED"  # accepted by the portal, not yet estimated
    HELD = "HELD"  # may run later: approval, a limit, or a cluster that is down
    REJECTED = "REJECTED"  # refused by policy, quota or the scheduler; nothing ran
    QUEUED = "QUEUED"  # estimated, quota reserved, waits for a dispatcher
    DISPATCHING = "DISPATCHING"  # leased by a worker that talks to the scheduler
    PENDING = "PENDING"  # the scheduler has it
    RUNNING = "RUNNING"
    COMPLETING = "COMPLETING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"  # neither queue nor accounting knows it: an alarm, not an end


class HoldReason(StrEnum):
    """Why a job is HELD."""

    APPROVAL = "approval"
    LIMIT = "limit"
    CLUSTER_DOWN = "cluster_down"


_ENDS: Final = frozenset(
    {
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.TIMEOUT,
        JobState.OUT_OF_MEMORY,
        JobState.NODE_FAIL,
        JobState.PREEMPTED,
        JobState.CANCELLED,
    }
)

TERMINAL: Final = _ENDS | {JobState.REJECTED}
"""States that a job never leaves."""

IN_SCHEDULER: Final = frozenset({JobState.PENDING, JobState.RUNNING, JobState.COMPLETING, JobState.LOST})
"""States in which a segment has a native id and is polled."""

OCCUPYING: Final = frozenset({JobState.DISPATCHING, JobState.PENDING, JobState.RUNNING, JobState.COMPLETING})
"""States that count against limits on accelerators in use and running jobs."""

WAITING: Final = frozenset({JobState.SUBMITTED, JobState.HELD, JobState.QUEUED})
"""States that count against the limit on queued jobs, and that a cancel ends at once."""

TRANSITIONS: Final[dict[JobState, frozenset[JobState]]] = {
    JobState.DRAFT: frozenset({JobState.SUBMITTED, JobState.CANCELLED}),
    JobState.SUBMITTED: frozenset({JobState.QUEUED, JobState.HELD, JobState.REJECTED, JobState.CANCELLED}),
    JobState.HELD: frozenset({JobState.QUEUED, JobState.REJECTED, JobState.CANCELLED}),
    # QUEUED -> HELD: a limit was reached between reservation and dispatch, or the cluster went down.
    JobState.QUEUED: frozenset({JobState.DISPATCHING, JobState.HELD, JobState.CANCELLED}),
    # DISPATCHING -> QUEUED: the scheduler was unavailable and certainly has not got the job.
    JobState.DISPATCHING: frozenset({JobState.PENDING, JobState.QUEUED, JobState.REJECTED, JobState.CANCELLED}),
    # PENDING, LOST -> QUEUED: the scheduler has forgotten a job that never started: it is given to it again.
    JobState.PENDING: frozenset({JobState.RUNNING, JobState.COMPLETING, JobState.LOST, JobState.QUEUED}) | _ENDS,
    # RUNNING -> PENDING: requeued by the scheduler.
    JobState.RUNNING: frozenset({JobState.COMPLETING, JobState.PENDING, JobState.LOST}) | _ENDS,
    # COMPLETING -> QUEUED: a segment of a chain has ended and the next one is due.
    JobState.COMPLETING: frozenset({JobState.PENDING, JobState.LOST, JobState.QUEUED}) | _ENDS,
    JobState.LOST: frozenset({JobState.PENDING, JobState.RUNNING, JobState.COMPLETING, JobState.QUEUED}) | _ENDS,
    **{state: frozenset() for state in TERMINAL},
}
