"""The contract between the portal and a scheduler.

A backend never sees the ORM; services translate. Every backend passes the one contract suite in
`tests/backends/`. Two kinds of error only: `SchedulerUnavailable` (try again later; the call may or may
not have had its effect) and `SubmissionRejected` (tell the user the scheduler's words).
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Literal

from jobs.backends.checks import Check, failed, ok
from jobs.spec import JobSpec
from jobs.states import JobState

OutputFile = Literal["stdout", "stderr", "metrics"]


class SchedulerError(Exception):
    """Base of the two errors a backend may raise."""


class SchedulerUnavailable(SchedulerError):
    """No usable answer: down, slow, or nonsense. A submit that raised this may still have had its effect."""


class SubmissionRejected(SchedulerError):
    """The scheduler refused this job, in its own words; trying the same again would be refused again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """What the scheduler says of one of its jobs.

    `state` is one of PENDING, RUNNING, COMPLETING or an end state. `reason` is the scheduler's own word for
    why a job waits or ended ("Resources", "Priority", "NonZeroExitCode"); empty if it gave none.
    `exit_code` and `exit_signal` are Slurm's pair "code:signal" of an ended job, with no signal as None: 3:0 is
    (3, None), 0:9 is (0, 9).
    """

    native_id: str
    key: str
    state: JobState
    reason: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    nodes: tuple[str, ...] = ()
    expected_start_at: datetime | None = None
    """When a pending job is likely to start, if the scheduler says so in the same answer."""
    time_limit_minutes: int | None = None
    """The limit as it is now, if the scheduler says it: an operator may have changed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """What the scheduler's accounting says one ended job used: devices held for `elapsed_s` seconds.

    `exit_code` and `exit_signal` are as in `JobStatus`; both None where accounting doesn't know.
    """

    native_id: str
    key: str
    state: JobState
    devices: int
    elapsed_s: int
    started_at: datetime | None
    ended_at: datetime
    exit_code: int | None = None
    exit_signal: int | None = None
    max_rss_bytes: int | None = None
    cpu_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionInfo:
    """A partition as the scheduler has it now."""

    name: str
    is_up: bool
    nodes: int
    devices_per_node: int
    gres_name: str
    gres_type: str
    max_time_limit_minutes: int
    devices_in_use: int
    jobs_pending: int
    jobs_running: int


class NodeState(StrEnum):
    """What a node does, or why it does nothing."""

    IDLE = "idle"
    MIXED = "mixed"  # some of it is in use
    ALLOCATED = "allocated"
    DRAINING = "draining"  # jobs on it go on, no new one starts
    DRAINED = "drained"
    MAINTENANCE = "maintenance"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """A node as the scheduler has it now. `devices` are CPU cores on a node that has no accelerators.

    `reason`, `reason_by` and `since` say why, by whom and since when it is out of service; empty for one in service.
    """

    name: str
    partitions: tuple[str, ...]
    state: NodeState
    devices: int
    devices_in_use: int
    reason: str = ""
    reason_by: str = ""
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationInfo:
    """Nodes that are kept for somebody or for maintenance, now or later. `partition` is empty if it names none."""

    name: str
    start_at: datetime
    end_at: datetime
    nodes: tuple[str, ...]
    partition: str = ""
    users: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    is_maintenance: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QosInfo:
    """A service level: jobs of higher `priority` go first, and may end those of the levels that it preempts.

    A limit of None is none. Devices are accelerators of all kinds together; `group` is all jobs of the level.
    """

    name: str
    priority: int
    preempts: tuple[str, ...] = ()
    max_time_limit_minutes: int | None = None
    max_devices_per_job: int | None = None
    max_devices_per_user: int | None = None
    max_devices_of_group: int | None = None
    max_running_jobs_per_user: int | None = None
    max_jobs_per_user: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What a cluster is made of. `qos` is None if it can't be known now, as while accounting is away."""

    nodes: tuple[NodeInfo, ...]
    reservations: tuple[ReservationInfo, ...] = ()
    qos: tuple[QosInfo, ...] | None = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputChunk:
    """A piece of an output file. `next_offset` goes into the next call; `is_end` says that all there is was read."""

    data: bytes
    offset: int
    next_offset: int
    size: int
    is_end: bool


class SchedulerBackend(ABC):
    """A scheduler. One instance per cluster and process; methods may be called from several threads."""

    supports_array: ClassVar[bool] = False
    """Can it run job arrays?"""

    supports_hold: ClassVar[bool] = False
    """Can a pending job be held and released in the scheduler?"""

    supports_expected_start: ClassVar[bool] = False
    """Does it predict when a pending job starts?"""

    concurrent_submits: ClassVar[int] = 4
    """How many threads may hand jobs over at a time."""

    supports_inventory: ClassVar[bool] = False
    """Can it say which nodes, reservations and service levels there are?"""

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        """`alias` is the key in settings.SCHEDULERS; `options` its OPTIONS, validated here (ValueError)."""
        self.alias = alias
        self.options = dict(options)

    @abstractmethod
    def ping(self) -> None:
        """Return if the scheduler answers. Raises SchedulerUnavailable."""

    @abstractmethod
    def submit(self, spec: JobSpec, *, key: str) -> str:
        """Hand a job over and return the scheduler's id for it.

        `key` equals `spec.key`; it is stored with the job, so that `find(key)` finds it from the moment the
        scheduler has it. Where the scheduler can, a second submit with a key it has returns the first's id.

        Raises:
            SubmissionRejected: refused; nothing was queued.
            SchedulerUnavailable: unknown whether it was queued; ask `find` before trying again.
        """

    @abstractmethod
    def find(self, key: str) -> str | None:
        """The id of the job that carries `key`, in queue or accounting; None if the scheduler surely has none.

        Raises SchedulerUnavailable if it can't be known now.
        """

    @abstractmethod
    def poll(self, native_ids: Collection[str]) -> dict[str, JobStatus]:
        """The status of many jobs in one call. An id absent from the answer is *unknown*, never completed.

        Raises SchedulerUnavailable.
        """

    @abstractmethod
    def usage(self, since: datetime, *, awaited: Collection[tuple[str, str]] = ()) -> list[UsageRow]:
        """Accounting of all jobs that ended at or after `since`, in one call. Raises SchedulerUnavailable.

        `awaited` are ids and keys of jobs whose usage the portal waits for: where a crash took from a record what it is
        known by, it is recognised by its id, its owner and the time of its submission.
        """

    @abstractmethod
    def cancel(self, native_id: str, *, key: str = "") -> None:
        """Ask for the end of a job; done or unknown jobs are no error. Raises SchedulerUnavailable.

        With `key`, a job that has the id but not the key is left alone: ids are used again after a crash.
        """

    @abstractmethod
    def signal(self, native_id: str, signal_name: str, *, key: str = "") -> None:
        """Send a running job's batch script, and it alone, a signal ("USR1"); it decides what that means.

        A job that has not started, has ended or is unknown is left alone, and so is, with `key`, one that has the id
        but not the key. Raises SchedulerUnavailable: the signal may or may not have come.
        """

    @abstractmethod
    def partitions(self) -> list[PartitionInfo]:
        """All partitions with what is in use now, in one call. Raises SchedulerUnavailable."""

    def inventory(self) -> Inventory:
        """Nodes, reservations and service levels, in a constant number of calls. Raises SchedulerUnavailable.

        Only where `supports_inventory` says so.
        """
        raise NotImplementedError(f"{type(self).__name__} has no inventory")

    @abstractmethod
    def expected_start(self, job: JobSpec | str) -> datetime | None:
        """When a pending job (by id), or a job that would be submitted now (by spec), is likely to start.

        None if unknown; never a promise.
        """

    @abstractmethod
    def read_log(
        self, native_id: str, offset: int, *, key: str = "", limit: int = 65536, file: OutputFile = "stdout"
    ) -> OutputChunk | None:
        """Up to `limit` bytes of one of the job's own output files from `offset`; None if it doesn't exist yet.

        A negative offset counts from the end. Links are not followed. With `key`, the output of another job that has
        the id by now is not read. Raises SchedulerUnavailable.
        """

    def check(self, *, as_user: str, poll_interval_s: float) -> Iterator[Check]:
        """Look whether the scheduler gives the portal all that it needs, one line for each thing; raises nothing.

        `as_user`: do what can be done without a trace as this Unix user, too; "" for nobody. `poll_interval_s`: how
        often the portal asks.
        """
        try:
            self.ping()
            yield ok("scheduler", "It answers.")
            names = sorted(info.name for info in self.partitions() if info.is_up)
        except SchedulerUnavailable as error:
            yield failed("scheduler", str(error), "Put right what it names.")
            return
        if names:
            yield ok("partitions", f"These take jobs: {', '.join(names)}.")
        else:
            yield failed("partitions", "No partition takes jobs.", "Configure one.")
