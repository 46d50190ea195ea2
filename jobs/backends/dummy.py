"""A scheduler in memory with a clock that is turned by hand: for tests of whatever talks to a scheduler.

Nothing happens by itself. Submitted jobs wait until `advance()`; then they start and end by the same plan as in
the local backend, deterministically. A job runs into its time limit unless `set_outcome` says otherwise. All
objects with one alias share one state within the process, since Django makes one backend per thread.

    backend = DummyBackend("demo", {"PARTITIONS": {"gpu-a800": {"nodes": 2, "devices_per_node": 8}}})
    native_id = backend.submit(spec, key=spec.key)
    backend.set_outcome(native_id, exit_code=3, elapsed_s=90)
    backend.advance(0)      # it starts
    backend.advance(90)     # it has failed
    backend.fail_next("submit", SchedulerUnavailable("timed out"), after_effect=True)   # it was accepted
"""

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

from jobs.backends.base import (
    Inventory,
    JobStatus,
    NodeState,
    OutputChunk,
    OutputFile,
    PartitionInfo,
    QosInfo,
    ReservationInfo,
    SchedulerBackend,
    SchedulerError,
    SchedulerUnavailable,
    SubmissionRejected,
    UsageRow,
)
from jobs.backends.local.partitions import describe_nodes, find_refusal, read_partitions
from jobs.backends.local.scheduling import Pool, Reservation, RunningJob, WaitingJob, plan_queue
from jobs.spec import JobSpec
from jobs.states import TERMINAL, JobState

DEFAULT_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""Where the clock of a fresh state stands."""

_METHODS: Final = frozenset(
    {"ping", "submit", "find", "poll", "usage", "cancel", "signal", "partitions", "inventory"}
    | {"expected_start", "read_log"}
)
_RUNNING: Final = frozenset({JobState.RUNNING, JobState.COMPLETING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a contract method, as it came."""

    method: str
    arguments: tuple[Any, ...]


@dataclass(slots=True)
class _Outcome:
    state: JobState
    reason: str
    exit_code: int
    exit_signal: int | None
    elapsed_s: float


@dataclass(slots=True)
class _Job:
    number: int
    spec: JobSpec
    state: JobState = JobState.PENDING
    reason: str = ""
    reservation: Reservation | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: _Outcome | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    is_forgotten: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    signals: list[str] = field(default_factory=list)

    @property
    def time_limit_s(self) -> float:
        return self.spec.time_limit_minutes * 60.0

    @property
    def ends_at(self) -> datetime:
        """When a started job will end."""
        if self.started_at is None:
            raise ValueError(f"job {self.number} was not started")
        planned_s = self.time_limit_s if self.outcome is None else self.outcome.elapsed_s
        return self.started_at + timedelta(seconds=min(planned_s, self.time_limit_s))


@dataclass(slots=True)
class _Fault:
    error: SchedulerError
    after_effect: bool


class _State:
    """All that one alias has."""

    def __init__(self, now: datetime) -> None:
        self.lock = threading.RLock()
        self.now = now
        self.jobs: dict[int, _Job] = {}
        self.is_available = True
        self.faults: dict[str, deque[_Fault]] = defaultdict(deque)
        self.calls: list[Call] = []
        self.down: set[str] = set()
        self.out_of_service: dict[str, tuple[NodeState, str, str, datetime]] = {}
        self.reservations: tuple[ReservationInfo, ...] = ()
        self.qos: tuple[QosInfo, ...] | None = ()


class DummyBackend(SchedulerBackend):
    """The contract in memory. OPTIONS: PARTITIONS, as for the local backend."""

    concurrent_submits = 1  # in order, so that tests can tell
    supports_expected_start: ClassVar[bool] = True
    supports_inventory: ClassVar[bool] = True

    _states: ClassVar[dict[str, _State]] = {}
    _states_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        unknown = sorted(str(name) for name in set(options) - {"PARTITIONS"})
        if unknown:
            raise ValueError(f"{unknown[0]}: no such option; allowed: PARTITIONS")
        self._partitions = read_partitions(options)

    @classmethod
    def reset(cls, alias: str | None = None, *, now: datetime = DEFAULT_NOW) -> None:
        """Forget everything of one alias, or of all, and set the clock of the one named to `now`."""
        with cls._states_lock:
            if alias is None:
                cls._states.clear()
            else:
                cls._states[alias] = _State(now)

    @property
    def _state(self) -> _State:
        # Looked up each time, so that objects made before a reset see the new state.
        with self._states_lock:
            return self._states.setdefault(self.alias, _State(DEFAULT_NOW))

    # What tests turn

    @property
    def now(self) -> datetime:
        """Where the clock stands."""
        return self._state.now

    @property
    def calls(self) -> list[Call]:
        """All contract calls so far, also those that failed."""
        with self._state.lock:
            return list(self._state.calls)

    @property
    def call_counts(self) -> Counter[str]:
        """How often each contract method was called."""
        return Counter(call.method for call in self.calls)

    def advance(self, seconds: float) -> None:
        """Turn the clock: jobs start and end, each at its own moment in between."""
        if seconds < 0:
            raise ValueError(f"seconds: {seconds!r} is not allowed; allowed: 0 or more")
        state = self._state
        with state.lock:
            until = state.now + timedelta(seconds=seconds)
            while True:
                self._start_waiting(state)
                ends = [job.ends_at for job in state.jobs.values() if job.state is JobState.RUNNING]
                next_end = min(ends, default=until)
                if next_end > until or not ends:
                    break
                state.now = max(next_end, state.now)
                for job in state.jobs.values():
                    if job.state is JobState.RUNNING and job.ends_at <= state.now:
                        _end_by_plan(job)
            state.now = until

    def fail_next(self, method: str, error: SchedulerError, *, after_effect: bool = False, times: int = 1) -> None:
        """Let the next `times` calls of `method` raise `error`; after doing their work, or instead of it."""
        if method not in _METHODS:
            raise ValueError(f"method: {method!r} is not allowed; allowed: {', '.join(sorted(_METHODS))}")
        state = self._state
        with state.lock:
            state.faults[method].extend([_Fault(error, after_effect)] * times)

    def set_available(self, is_available: bool) -> None:
        """While not available every contract method raises SchedulerUnavailable; running jobs go on."""
        self._state.is_available = is_available

    def set_partition_up(self, name: str, is_up: bool) -> None:
        """A partition that is down starts no job and refuses new ones."""
        if name not in self._partitions:
            raise ValueError(f"name: {name!r} is no partition; there are: {', '.join(self._partitions)}")
        state = self._state
        with state.lock:
            (state.down.discard if is_up else state.down.add)(name)

    def set_node_state(self, name: str, state: NodeState | None, *, reason: str = "", by: str = "") -> None:
        """Take a node out of service now, or with None put it back. Jobs are still placed on it: for pages only."""
        nodes = {node.name for node in describe_nodes(self._partitions, {})}
        if name not in nodes:
            raise ValueError(f"name: {name!r} is no node; there are: {', '.join(sorted(nodes))}")
        own = self._state
        with own.lock:
            own.out_of_service.pop(name, None)
            if state is not None:
                own.out_of_service[name] = (state, reason, by, own.now)

    def set_reservations(self, *reservations: ReservationInfo) -> None:
        """What is reserved. Jobs don't heed it: for pages only."""
        self._state.reservations = reservations

    def set_qos(self, *qos: QosInfo, is_known: bool = True) -> None:
        """Which service levels there are; `is_known` False: accounting doesn't answer."""
        self._state.qos = qos if is_known else None

    def set_outcome(
        self,
        native_id: str,
        *,
        elapsed_s: float,
        state: JobState | None = None,
        exit_code: int = 0,
        exit_signal: int | None = None,
        reason: str | None = None,
    ) -> None:
        """Say how a job will end, `elapsed_s` after its start; at its time limit it is TIMEOUT all the same.

        Without `state` it is COMPLETED or FAILED by the exit code and signal, with Slurm's reason.
        """
        words = "" if exit_code == 0 else "NonZeroExitCode"
        if exit_signal is not None:
            words = f"RaisedSignal:{exit_signal}"
        end = state or (JobState.FAILED if words else JobState.COMPLETED)
        if end not in TERMINAL:
            raise ValueError(f"state: {end!r} is not allowed; allowed: an end state")
        own = self._state
        with own.lock:
            job = self._get(own, native_id)
            job.outcome = _Outcome(end, words if reason is None else reason, exit_code, exit_signal, elapsed_s)

    def set_time_limit(self, native_id: str, minutes: int) -> None:
        """Change a job's limit, as an operator may."""
        own = self._state
        with own.lock:
            job = self._get(own, native_id)
            job.spec = replace(job.spec, time_limit_minutes=minutes)

    def set_state(self, native_id: str, state: JobState, *, reason: str = "") -> None:
        """Put a job into a state now, whatever it was doing: COMPLETING, PREEMPTED, or PENDING (requeued)."""
        own = self._state
        with own.lock:
            job = self._get(own, native_id)
            job.state, job.reason = state, reason
            if state is JobState.PENDING:
                job.started_at = job.ended_at = job.reservation = job.exit_code = job.exit_signal = None
            elif state in TERMINAL:
                job.ended_at = own.now
                job.exit_code = job.exit_code or 0
            elif job.started_at is None:
                job.started_at = own.now

    def forget(self, native_id: str) -> None:
        """Lose a job: neither queue nor accounting know it any more. Its id is not used again."""
        own = self._state
        with own.lock:
            self._get(own, native_id).is_forgotten = True

    def signals_of(self, native_id: str) -> list[str]:
        """The signals that a job was sent, in order. They change nothing: say with `set_outcome` what they lead to."""
        own = self._state
        with own.lock:
            return list(self._get(own, native_id).signals)

    def write_output(self, native_id: str, data: bytes, *, file: OutputFile = "stdout") -> None:
        """Append to an output file of a job's."""
        own = self._state
        with own.lock:
            files = self._get(own, native_id).files
            files[file] = files.get(file, b"") + data

    # The contract

    def ping(self) -> None:
        with self._call("ping"):
            pass

    def submit(self, spec: JobSpec, *, key: str) -> str:
        if key != spec.key:
            raise ValueError(f"key: {key!r} is not the key of the spec, {spec.key!r}")
        with self._call("submit", spec, key) as state:
            known = self._find(state, key)
            if known is not None:
                return str(known.number)
            if spec.partition in state.down:
                raise SubmissionRejected(f"Required partition not available (inactive or drain): {spec.partition}")
            refusal = find_refusal(spec, self._partitions)
            if refusal is not None:
                raise SubmissionRejected(refusal)
            number = len(state.jobs) + 1
            state.jobs[number] = _Job(number, spec)
            return str(number)

    def find(self, key: str) -> str | None:
        with self._call("find", key) as state:
            job = self._find(state, key)
            return None if job is None else str(job.number)

    def poll(self, native_ids: Collection[str]) -> dict[str, JobStatus]:
        with self._call("poll", tuple(native_ids)) as state:
            wanted = set(native_ids)
            found = [job for job in state.jobs.values() if str(job.number) in wanted and not job.is_forgotten]
            expected: dict[int, float] = {}
            for name in {job.spec.partition for job in found if job.state is JobState.PENDING}:
                expected.update((item.job_id, item.starts_at) for item in self._plan(state, name))
            return {str(job.number): self._describe(state, job, expected.get(job.number)) for job in found}

    def usage(self, since: datetime, *, awaited: Collection[tuple[str, str]] = ()) -> list[UsageRow]:
        with self._call("usage", since) as state:
            ended = [
                (job.ended_at, job)
                for job in state.jobs.values()
                if job.ended_at is not None and job.ended_at >= since and not job.is_forgotten
            ]
            return [
                UsageRow(
                    native_id=str(job.number),
                    key=job.spec.key,
                    state=job.state,
                    devices=job.spec.devices,
                    elapsed_s=round((ended_at - (job.started_at or ended_at)).total_seconds()),
                    started_at=job.started_at,
                    ended_at=ended_at,
                )
                for ended_at, job in sorted(ended, key=lambda pair: (pair[0], pair[1].number))
            ]

    def cancel(self, native_id: str, *, key: str = "") -> None:
        with self._call("cancel", native_id) as state:
            for job in state.jobs.values():
                if not self._is(job, native_id, key):
                    continue
                if job.state not in TERMINAL and not job.is_forgotten:
                    job.state, job.reason = JobState.CANCELLED, "Cancelled"
                    job.ended_at, job.exit_code = state.now, 0

    def signal(self, native_id: str, signal_name: str, *, key: str = "") -> None:
        with self._call("signal", native_id, signal_name) as state:
            for job in state.jobs.values():
                if self._is(job, native_id, key) and job.state is JobState.RUNNING and not job.is_forgotten:
                    job.signals.append(signal_name)

    def partitions(self) -> list[PartitionInfo]:
        with self._call("partitions") as state:
            rows = []
            for partition in self._partitions.values():
                here = [job for job in state.jobs.values() if job.spec.partition == partition.name]
                running = [job for job in here if job.state in _RUNNING]
                rows.append(
                    PartitionInfo(
                        name=partition.name,
                        is_up=partition.is_up and partition.name not in state.down,
                        nodes=partition.nodes,
                        devices_per_node=partition.devices_per_node,
                        gres_name=partition.gres_name,
                        gres_type=partition.gres_type,
                        max_time_limit_minutes=partition.max_time_limit_minutes,
                        devices_in_use=sum(job.spec.devices for job in running),
                        jobs_pending=sum(job.state is JobState.PENDING for job in here),
                        jobs_running=len(running),
                    )
                )
            return rows

    def inventory(self) -> Inventory:
        with self._call("inventory") as state:
            in_use: Counter[str] = Counter()
            for job in state.jobs.values():
                if job.state in _RUNNING and job.reservation is not None:
                    partition = self._partitions[job.spec.partition]
                    for placement in job.reservation.placements:
                        in_use[partition.node_name(placement.node)] += len(placement.devices)
            nodes = []
            for node in describe_nodes(self._partitions, in_use):
                if node.name in state.out_of_service:
                    node_state, reason, by, since = state.out_of_service[node.name]
                    node = replace(node, state=node_state, reason=reason, reason_by=by, since=since)
                nodes.append(node)
            return Inventory(nodes=tuple(nodes), reservations=state.reservations, qos=state.qos)

    def expected_start(self, job: JobSpec | str) -> datetime | None:
        with self._call("expected_start", job) as state:
            if isinstance(job, JobSpec):
                if find_refusal(job, self._partitions) is not None:
                    return None
                number, name, extra = 0, job.partition, _Job(0, job)
            else:
                found = next((one for one in state.jobs.values() if str(one.number) == job), None)
                if found is None or found.is_forgotten or found.state is not JobState.PENDING:
                    return None
                number, name, extra = found.number, found.spec.partition, None
            plan = self._plan(state, name, extra=extra)
            return next((_at(item.starts_at) for item in plan if item.job_id == number), None)

    def read_log(
        self, native_id: str, offset: int, *, key: str = "", limit: int = 65536, file: OutputFile = "stdout"
    ) -> OutputChunk | None:
        with self._call("read_log", native_id, offset, limit, file) as state:
            job = next((one for one in state.jobs.values() if self._is(one, native_id, key)), None)
            if job is None or file not in job.files:  # files stay, whatever the scheduler forgets
                return None
            whole = job.files[file]
            size = len(whole)
            start = min(max(size + offset, 0) if offset < 0 else offset, size)
            data = whole[start : start + max(limit, 0)]
            end = start + len(data)
            return OutputChunk(data=data, offset=start, next_offset=end, size=size, is_end=end >= size)

    # Inside

    def _is(self, job: _Job, native_id: str, key: str) -> bool:
        return str(job.number) == native_id and key in ("", job.spec.key)

    @contextmanager
    def _call(self, method: str, *arguments: Any) -> Iterator[_State]:
        state = self._state
        with state.lock:
            state.calls.append(Call(method=method, arguments=arguments))
            fault = state.faults[method].popleft() if state.faults[method] else None
            if fault is not None and not fault.after_effect:
                raise fault.error
            if not state.is_available:
                raise SchedulerUnavailable(f"The scheduler {self.alias} doesn't answer.")
            yield state
            # Also after a `return` in the body: the caller gets the error instead of the answer.
            if fault is not None:
                raise fault.error

    def _get(self, state: _State, native_id: str) -> _Job:
        try:
            return state.jobs[int(native_id)]
        except (KeyError, ValueError):
            raise ValueError(f"native_id: there is no job {native_id!r}") from None

    def _find(self, state: _State, key: str) -> _Job | None:
        return next((job for job in state.jobs.values() if job.spec.key == key and not job.is_forgotten), None)

    def _plan(self, state: _State, name: str, *, extra: _Job | None = None) -> list[Reservation]:
        partition = self._partitions[name]
        if not partition.is_up or name in state.down:
            return []
        here = [job for job in state.jobs.values() if job.spec.partition == name and not job.is_forgotten]
        running = [
            RunningJob(
                placements=job.reservation.placements,
                ends_at=job.started_at.timestamp() + job.time_limit_s,
            )
            for job in here
            if job.state in _RUNNING and job.reservation is not None and job.started_at is not None
        ]
        waiting = [job for job in here if job.state is JobState.PENDING]
        if extra is not None:
            waiting.append(extra)
        return plan_queue(
            Pool(partition.nodes, partition.devices_per_node, partition.jobs_per_node),
            running=running,
            waiting=[
                WaitingJob(
                    job_id=job.number,
                    nodes=job.spec.nodes,
                    devices_per_node=job.spec.devices_per_node,
                    time_limit_s=job.time_limit_s,
                )
                for job in waiting
            ],
            now=state.now.timestamp(),
        )

    def _start_waiting(self, state: _State) -> None:
        for name in self._partitions:
            for reservation in self._plan(state, name):
                if reservation.placements:
                    job = state.jobs[reservation.job_id]
                    job.state, job.reason = JobState.RUNNING, ""
                    job.reservation, job.started_at = reservation, state.now

    def _describe(self, state: _State, job: _Job, expected_start: float | None) -> JobStatus:
        partition = self._partitions[job.spec.partition]
        reason = job.reason
        if job.state is JobState.PENDING and not reason:
            waiting = [
                one.number
                for one in state.jobs.values()
                if one.state is JobState.PENDING and one.spec.partition == partition.name and not one.is_forgotten
            ]
            reason = "Resources" if job.number == min(waiting) else "Priority"
            if not partition.is_up or partition.name in state.down:
                reason = "PartitionDown"
        nodes = () if job.reservation is None else tuple(map(partition.node_name, job.reservation.nodes))
        return JobStatus(
            native_id=str(job.number),
            key=job.spec.key,
            state=job.state,
            reason=reason,
            started_at=job.started_at,
            ended_at=job.ended_at,
            exit_code=job.exit_code,
            exit_signal=job.exit_signal,
            nodes=nodes,
            expected_start_at=None if expected_start is None else _at(expected_start),
            time_limit_minutes=round(job.time_limit_s / 60),
        )


def _end_by_plan(job: _Job) -> None:
    job.ended_at = job.ends_at
    outcome = job.outcome
    if outcome is None or outcome.elapsed_s >= job.time_limit_s:
        outcome = _Outcome(JobState.TIMEOUT, "TimeLimit", 0, 15, job.time_limit_s)
    job.state, job.reason = outcome.state, outcome.reason
    job.exit_code, job.exit_signal = outcome.exit_code, outcome.exit_signal


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
