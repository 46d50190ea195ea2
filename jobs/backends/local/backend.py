"""The local scheduler as the portal sees it."""

import json
import logging
import os
import stat
import threading
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

from jobs.backends.base import (
    Inventory,
    JobStatus,
    OutputChunk,
    OutputFile,
    PartitionInfo,
    SchedulerBackend,
    SchedulerUnavailable,
    SubmissionRejected,
    UsageRow,
)
from jobs.backends.local import store as rows
from jobs.backends.local.advance import advance_queue, find_first_waiting, plan_partition
from jobs.backends.local.layout import METRICS_FILE_NAME, STDOUT_FILE_NAME, WAKE_SIGNAL
from jobs.backends.local.options import read_options
from jobs.backends.local.partitions import describe_nodes, find_refusal, has_room_for
from jobs.backends.local.processes import ProcessIdentity, send_signal
from jobs.backends.local.scheduling import WaitingJob
from jobs.backends.local.store import Store
from jobs.spec import JobSpec
from jobs.states import JobState

MAX_READ_BYTES: Final = 4 * 1024 * 1024
"""More than this is never read of an output file in one call."""

FORECAST_DEPTH: Final = 1000
"""How many waiting jobs a forecast looks at; behind them, the start is unknown."""

_FILE_NAMES: Final[Mapping[str, str]] = {"stdout": STDOUT_FILE_NAME, "metrics": METRICS_FILE_NAME}

logger = logging.getLogger(__name__)


class LocalBackend(SchedulerBackend):
    """Runs jobs on this machine. See `LocalOptions` for its OPTIONS.

    As with Slurm's default, a script's errors go to the same file as its output: there is no separate "stderr".
    Memory is enforced for a job as a whole: `memory_bytes_per_node` times its nodes. All processes of the portal
    must run on one machine and see each other (one pid namespace).
    """

    supports_expected_start: ClassVar[bool] = True
    supports_inventory: ClassVar[bool] = True

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        self._options = read_options(options)
        self._store = Store(self._options.state_file, lock_wait_s=self._options.lock_wait_s)
        self._lock = threading.Lock()
        self._is_prepared = False

    def ping(self) -> None:
        store = self._open()
        with store.write():
            pass

    def submit(self, spec: JobSpec, *, key: str) -> str:
        if key != spec.key:
            raise ValueError(f"key: {key!r} is not the key of the spec, {spec.key!r}")
        store = self._open()
        with store.write() as connection:
            # First the key: a job that was accepted stays so, whatever was changed in the settings since.
            job_id = rows.find_id(connection, key)
            if job_id is None:
                refusal = find_refusal(spec, self._options.partitions)
                if refusal is not None:
                    raise SubmissionRejected(refusal)
                time_limit_s = spec.time_limit_minutes * self._options.minute_s
                job_id = rows.insert_job(connection, spec, time_limit_s=time_limit_s, now=rows.read_clock())
        self._advance_later_if_not_now(store)
        return str(job_id)

    def find(self, key: str) -> str | None:
        with self._open().read() as connection:
            job_id = rows.find_id(connection, key)
        return None if job_id is None else str(job_id)

    def poll(self, native_ids: Collection[str]) -> dict[str, JobStatus]:
        store = self._open()
        expected = self._advance_later_if_not_now(store, forecast=True)
        wanted = [number for number in map(_read_id, native_ids) if number is not None]
        with store.read() as connection:
            first_waiting = find_first_waiting(connection, self._options.partitions)
            found = connection.execute(
                "SELECT id, key, state, reason, partition, nodes, devices_per_node, started_at, ended_at, exit_code,"
                " exit_signal, node_names FROM jobs WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(wanted),),
            ).fetchall()
        statuses = {}
        for row in found:
            state = JobState(row["state"])
            statuses[str(row["id"])] = JobStatus(
                native_id=str(row["id"]),
                key=row["key"],
                state=state,
                reason=self._explain(row, first_waiting) if state is JobState.PENDING else row["reason"],
                started_at=_to_datetime(row["started_at"]),
                ended_at=_to_datetime(row["ended_at"]),
                exit_code=row["exit_code"],
                exit_signal=row["exit_signal"],
                nodes=tuple(json.loads(row["node_names"])),
                expected_start_at=_to_datetime(expected.get(row["id"])) if state is JobState.PENDING else None,
            )
        return statuses

    def _explain(self, row: Any, first_waiting: Mapping[str, int]) -> str:
        """Slurm's word for why a job waits."""
        partition = self._options.partitions.get(row["partition"])
        if partition is None or not partition.is_up:
            return "PartitionDown"
        if not has_room_for(partition, nodes=row["nodes"], devices_per_node=row["devices_per_node"]):
            return "PartitionConfig"
        return "Resources" if first_waiting.get(partition.name) == row["id"] else "Priority"

    def usage(self, since: datetime, *, awaited: Collection[tuple[str, str]] = ()) -> list[UsageRow]:
        with self._open().read() as connection:
            found = connection.execute(
                "SELECT id, key, state, nodes * devices_per_node AS devices, elapsed_s, started_at, ended_at,"
                " max_rss_bytes, cpu_s FROM jobs WHERE ended_at >= ? ORDER BY ended_at, id",
                (since.timestamp(),),
            ).fetchall()
        return [
            UsageRow(
                native_id=str(row["id"]),
                key=row["key"],
                state=JobState(row["state"]),
                devices=row["devices"],
                elapsed_s=round(row["elapsed_s"]),
                started_at=_to_datetime(row["started_at"]),
                ended_at=datetime.fromtimestamp(row["ended_at"], UTC),
                max_rss_bytes=row["max_rss_bytes"],
                cpu_s=row["cpu_s"],
            )
            for row in found
        ]

    def cancel(self, native_id: str, *, key: str = "") -> None:
        job_id = _read_id(native_id)
        if job_id is None:
            return
        store = self._open()
        with store.write() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'CANCELLED', reason = 'Cancelled', ended_at = ?, exit_code = 0"
                " WHERE id = ? AND ? IN ('', key) AND state = 'PENDING'",
                (rows.read_clock(), job_id, key),
            )
            supervised = connection.execute(
                "UPDATE jobs SET cancel_requested = 1"
                " WHERE id = ? AND ? IN ('', key) AND state IN ('RUNNING', 'COMPLETING')"
                " RETURNING supervisor_pid, supervisor_start_ticks, supervisor_boot_id",
                (job_id, key),
            ).fetchone()
        if supervised is not None:
            self._wake(supervised, job_id)
        self._advance_later_if_not_now(store)

    def signal(self, native_id: str, signal_name: str, *, key: str = "") -> None:
        job_id = _read_id(native_id)
        if job_id is None:
            return
        with self._open().write() as connection:
            supervised = connection.execute(
                "SELECT supervisor_pid, supervisor_start_ticks, supervisor_boot_id FROM jobs"
                " WHERE id = ? AND ? IN ('', key) AND state = 'RUNNING'",
                (job_id, key),
            ).fetchone()
            if supervised is None:
                return
            rows.ask_for_signal(connection, job_id, signal_name)
        self._wake(supervised, job_id)

    def _wake(self, supervised: Any, job_id: int) -> None:
        try:
            send_signal(ProcessIdentity(*supervised), WAKE_SIGNAL)
        except PermissionError:
            # The portal runs as another user than when the job was started; the supervisor looks by itself.
            logger.warning("The supervisor of job %d belongs to another user; it will see the request later", job_id)

    def partitions(self) -> list[PartitionInfo]:
        store = self._open()
        self._advance_later_if_not_now(store)
        with store.read() as connection:
            counts = {
                row["partition"]: row
                for row in connection.execute(
                    "SELECT partition, sum(state = 'PENDING') AS pending, sum(state != 'PENDING') AS running,"
                    " sum(CASE WHEN state = 'PENDING' THEN 0 ELSE nodes * devices_per_node END) AS devices"
                    " FROM jobs WHERE state IN ('PENDING', 'RUNNING', 'COMPLETING') GROUP BY partition"
                )
            }
        return [
            PartitionInfo(
                name=partition.name,
                is_up=partition.is_up,
                nodes=partition.nodes,
                devices_per_node=partition.devices_per_node,
                gres_name=partition.gres_name,
                gres_type=partition.gres_type,
                max_time_limit_minutes=partition.max_time_limit_minutes,
                devices_in_use=counts[partition.name]["devices"] if partition.name in counts else 0,
                jobs_pending=counts[partition.name]["pending"] if partition.name in counts else 0,
                jobs_running=counts[partition.name]["running"] if partition.name in counts else 0,
            )
            for partition in self._options.partitions.values()
        ]

    def inventory(self) -> Inventory:
        store = self._open()
        self._advance_later_if_not_now(store)
        in_use: Counter[str] = Counter()
        with store.read() as connection:
            for name, placements in connection.execute(
                "SELECT partition, placements FROM jobs WHERE state IN ('RUNNING', 'COMPLETING')"
            ):
                partition = self._options.partitions.get(name)
                if partition is None:
                    continue
                for placement in rows.decode_placements(placements):
                    in_use[partition.node_name(placement.node)] += len(placement.devices)
        return Inventory(nodes=describe_nodes(self._options.partitions, in_use))

    def expected_start(self, job: JobSpec | str) -> datetime | None:
        extra = None
        with self._open().read() as connection:
            if isinstance(job, JobSpec):
                if find_refusal(job, self._options.partitions) is not None:
                    return None
                job_id, name = 0, job.partition
                extra = WaitingJob(
                    job_id=job_id,
                    nodes=job.nodes,
                    devices_per_node=job.devices_per_node,
                    time_limit_s=job.time_limit_minutes * self._options.minute_s,
                )
            else:
                row = connection.execute(
                    "SELECT id, partition FROM jobs WHERE id = ? AND state = 'PENDING'", (_read_id(job),)
                ).fetchone()
                if row is None or row["partition"] not in self._options.partitions:
                    return None
                job_id, name = row["id"], row["partition"]
            plan = plan_partition(
                connection,
                self._options.partitions[name],
                kill_wait_s=self._options.kill_wait_s,
                now=rows.read_clock(),
                depth=FORECAST_DEPTH,
                extra=extra,
            )
        return next((_to_datetime(item.starts_at) for item in plan if item.job_id == job_id), None)

    def read_log(
        self, native_id: str, offset: int, *, key: str = "", limit: int = 65536, file: OutputFile = "stdout"
    ) -> OutputChunk | None:
        job_id = _read_id(native_id)
        file_name = _FILE_NAMES.get(file)
        if job_id is None or file_name is None:
            return None
        with self._open().read() as connection:
            row = connection.execute("SELECT key, job_uid FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None or row["job_uid"] is None or key not in ("", row["key"]):
            return None
        try:
            descriptor = self._open_output(row["key"], file_name)
        except OSError:  # not there yet, or a link
            return None
        try:
            status = os.fstat(descriptor)
            # A second name for somebody else's file, or a device, is not the job's output.
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != row["job_uid"]:
                return None
            size = status.st_size
            start = min(max(size + offset, 0) if offset < 0 else offset, size)
            data = os.pread(descriptor, min(max(limit, 0), MAX_READ_BYTES, size - start), start)
        except OSError as error:
            raise SchedulerUnavailable(f"The {file} of job {native_id} can't be read: {error}") from error
        finally:
            os.close(descriptor)
        end = start + len(data)
        return OutputChunk(data=data, offset=start, next_offset=end, size=size, is_end=end >= size)

    def _open_output(self, key: str, file_name: str) -> int:
        """Open one of a job's files without following a link at the directory or the file. Raises OSError."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        directory = os.open(self._options.jobs_directory / key, flags | os.O_DIRECTORY)
        try:
            # O_NONBLOCK: opening a named pipe would wait for a writer.
            return os.open(file_name, flags | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=directory)
        finally:
            os.close(directory)

    def _open(self) -> Store:
        """The store, made ready on first use; so that a broken disk is "unavailable" and not a failed start."""
        with self._lock:
            if not self._is_prepared:
                self._store.prepare(directory_mode=0o711 if self._options.run_as else 0o700)
                text = self._options.to_json()
                with self._store.read() as connection:
                    is_known = rows.read_setting(connection, "options") == text
                if not is_known:
                    with self._store.write() as connection:
                        rows.write_setting(connection, "options", text)
                self._is_prepared = True
        return self._store

    def _advance_later_if_not_now(self, store: Store, *, forecast: bool = False) -> dict[int, float]:
        """Move the queue on. What the caller asked for is done already, so a failure here is only logged.

        Returns the expected starts by id, none after a failure.
        """
        try:
            return advance_queue(store, self._options, forecast=forecast)
        except (SchedulerUnavailable, OSError) as error:
            logger.warning("The queue of %s could not be moved on now: %s", self.alias, error)
            return {}


def _read_id(native_id: str) -> int | None:
    """The number of a job; None for text that is no id of ours."""
    is_number = native_id.isascii() and native_id.isdigit() and len(native_id) <= 18 and native_id[0] != "0"
    return int(native_id) if is_number else None


def _to_datetime(at: float | None) -> datetime | None:
    return None if at is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=at)
