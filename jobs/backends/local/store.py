"""The queue and the accounting: one SQLite file that any number of processes share.

Every change is one `BEGIN IMMEDIATE` transaction, and every change of a job's state is a compare-and-set. A
connection lives for one operation: it survives forks, threads and kills at any moment.
"""

import fcntl
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from jobs.backends.base import SchedulerUnavailable
from jobs.backends.local.processes import ProcessIdentity
from jobs.backends.local.scheduling import Placement
from jobs.spec import JobSpec
from jobs.states import JobState

SCHEMA_VERSION: Final = 1

_SCHEMA: Final = (
    """
    CREATE TABLE jobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- AUTOINCREMENT: an id is never used again
        key TEXT NOT NULL UNIQUE,
        marker TEXT NOT NULL UNIQUE,
        spec TEXT NOT NULL,
        partition TEXT NOT NULL,
        nodes INTEGER NOT NULL,
        devices_per_node INTEGER NOT NULL,
        time_limit_s REAL NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL DEFAULT '',
        cancel_requested INTEGER NOT NULL DEFAULT 0,
        launch_tried_at REAL,
        placements TEXT NOT NULL DEFAULT '[]',
        node_names TEXT NOT NULL DEFAULT '[]',
        job_uid INTEGER,
        supervisor_pid INTEGER,
        supervisor_start_ticks INTEGER,
        supervisor_boot_id TEXT,
        submitted_at REAL NOT NULL,
        started_at REAL,
        ended_at REAL,
        exit_code INTEGER,
        exit_signal INTEGER,
        elapsed_s REAL NOT NULL DEFAULT 0,
        max_rss_bytes INTEGER,
        cpu_s REAL
    )
    """,
    "CREATE INDEX jobs_waiting ON jobs (partition, id) WHERE state = 'PENDING'",
    "CREATE INDEX jobs_active ON jobs (id) WHERE state IN ('RUNNING', 'COMPLETING')",
    "CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL",
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)

_SIGNALS: Final = (
    "CREATE TABLE IF NOT EXISTS signals (id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL, name TEXT NOT NULL)"
)
"""Signals that were asked for and not yet sent. Earlier releases have no such table, and need none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredJob:
    """A row of the queue, with all that running it needs."""

    id: int
    key: str
    marker: str
    spec: JobSpec
    time_limit_s: float
    state: JobState
    placements: tuple[Placement, ...]
    node_names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Which process runs which job, since when (seconds since the epoch)."""

    job_id: int
    marker: str
    supervisor: ProcessIdentity
    started_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnd:
    """How a job ended: what its row gets last. `exit_code` and `exit_signal` are Slurm's pair."""

    state: JobState
    ended_at: float
    elapsed_s: float
    reason: str = ""
    exit_code: int | None = 0
    exit_signal: int | None = None
    max_rss_bytes: int | None = None
    cpu_s: float | None = None


class Store:
    """Access to one state file. All methods raise SchedulerUnavailable if it can't be read or written."""

    def __init__(self, path: Path, *, lock_wait_s: float) -> None:
        self.path = path
        self._lock_wait_s = lock_wait_s

    def prepare(self, *, directory_mode: int) -> None:
        """Make the directories and the tables unless they are there. Many may do so at once."""
        root = self.path.parent
        with self._reporting():
            root.parent.mkdir(parents=True, exist_ok=True)
            _make_directory(root, mode=directory_mode)
            _make_directory(root / "jobs", mode=directory_mode)
            _make_directory(root / "heartbeats", mode=0o700)
            with _locked_directory(root):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
                with closing(self._connect()) as connection:
                    if _read_version(connection) == 0:
                        _create_schema(connection)
                    if _read_version(connection) == SCHEMA_VERSION:
                        connection.execute(_SIGNALS)

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one moment of the queue."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A connection that holds the one write lock; everything in it is kept together or not at all."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._reporting(), closing(self._connect()) as connection:
            version = _read_version(connection)
            if version != SCHEMA_VERSION:
                raise SchedulerUnavailable(
                    f"The local scheduler's state file {self.path} has schema version {version}; "
                    f"this release reads version {SCHEMA_VERSION}."
                )
            connection.execute(begin)
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _connect(self) -> sqlite3.Connection:
        # mode=rw: a file that was taken away must be an error, not an empty queue.
        address = f"file:{quote(str(self.path))}?mode=rw"
        connection = sqlite3.connect(address, uri=True, timeout=self._lock_wait_s, isolation_level=None)
        connection.row_factory = sqlite3.Row
        return connection

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise SchedulerUnavailable(
                f"The local scheduler can't use its state file {self.path}: {error}. "
                "Is the disk full, the file damaged, or another process holding it?"
            ) from error


def _make_directory(path: Path, *, mode: int) -> None:
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    path.chmod(mode)  # whatever the umask is


def _read_version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _create_schema(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def read_clock() -> float:
    """Seconds since the epoch in whole microseconds: what a datetime holds too, so that both compare alike."""
    return round(time.time(), 6)


@contextmanager
def _locked_directory(directory: Path) -> Iterator[None]:
    """Hold an advisory lock: switching a file to WAL doesn't wait for others as other statements do."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_setting(connection: sqlite3.Connection, name: str) -> str | None:
    """A text kept beside the queue."""
    row = connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
    return None if row is None else row[0]


def write_setting(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Keep a text beside the queue."""
    connection.execute("INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)", (name, value))


def insert_job(connection: sqlite3.Connection, spec: JobSpec, *, time_limit_s: float, now: float) -> int:
    """Queue a job and return its id."""
    cursor = connection.execute(
        "INSERT INTO jobs (key, marker, spec, partition, nodes, devices_per_node, time_limit_s, state, submitted_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            spec.key,
            uuid.uuid4().hex,
            _encode_spec(spec),
            spec.partition,
            spec.nodes,
            spec.devices_per_node,
            time_limit_s,
            JobState.PENDING,
            now,
        ),
    )
    if cursor.lastrowid is None:
        raise sqlite3.DatabaseError("the inserted job has no id")
    return cursor.lastrowid


def find_id(connection: sqlite3.Connection, key: str) -> int | None:
    """The id of the job with `key`."""
    row = connection.execute("SELECT id FROM jobs WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def load_job(connection: sqlite3.Connection, job_id: int) -> StoredJob | None:
    """One job with everything that running it needs."""
    row = connection.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return None if row is None else _decode_job(row)


def load_claims(connection: sqlite3.Connection) -> list[Claim]:
    """All jobs that hold devices, by who runs them."""
    rows = connection.execute(
        "SELECT id, marker, supervisor_pid, supervisor_start_ticks, supervisor_boot_id, started_at FROM jobs"
        " WHERE state IN ('RUNNING', 'COMPLETING') ORDER BY id"
    )
    return [
        Claim(job_id=row[0], marker=row[1], supervisor=ProcessIdentity(row[2], row[3], row[4]), started_at=row[5])
        for row in rows
    ]


def claim_job(
    connection: sqlite3.Connection,
    claim: Claim,
    *,
    placements: tuple[Placement, ...],
    node_names: tuple[str, ...],
    job_uid: int,
) -> bool:
    """Make `claim.supervisor` the one process that runs the job; False if the job no longer waits."""
    cursor = connection.execute(
        "UPDATE jobs SET state = ?, reason = '', placements = ?, node_names = ?, job_uid = ?, supervisor_pid = ?,"
        " supervisor_start_ticks = ?, supervisor_boot_id = ?, started_at = ? WHERE id = ? AND state = ?",
        (
            JobState.RUNNING,
            json.dumps([[placement.node, placement.devices] for placement in placements]),
            json.dumps(node_names),
            job_uid,
            claim.supervisor.pid,
            claim.supervisor.start_ticks,
            claim.supervisor.boot_id,
            claim.started_at,
            claim.job_id,
            JobState.PENDING,
        ),
    )
    return cursor.rowcount == 1


def mark_completing(connection: sqlite3.Connection, job_id: int) -> None:
    """The job was told to end."""
    connection.execute(
        "UPDATE jobs SET state = ? WHERE id = ? AND state = ?", (JobState.COMPLETING, job_id, JobState.RUNNING)
    )


def is_cancel_requested(connection: sqlite3.Connection, job_id: int, *, marker: str) -> bool:
    """Whether the job shall end; also if it isn't known any more, since then nobody could ever end it."""
    row = connection.execute(
        "SELECT cancel_requested FROM jobs WHERE id = ? AND marker = ?", (job_id, marker)
    ).fetchone()
    return row is None or bool(row[0])


def ask_for_signal(connection: sqlite3.Connection, job_id: int, name: str) -> None:
    """Leave a signal for the job's supervisor to send."""
    connection.execute("INSERT INTO signals (job_id, name) VALUES (?, ?)", (job_id, name))


def has_signals(connection: sqlite3.Connection, job_id: int) -> bool:
    """Is there a signal to send?"""
    return connection.execute("SELECT 1 FROM signals WHERE job_id = ?", (job_id,)).fetchone() is not None


def take_signals(connection: sqlite3.Connection, job_id: int) -> list[str]:
    """The names of the signals to send now, in order; nobody gets them again."""
    found = connection.execute("DELETE FROM signals WHERE job_id = ? RETURNING id, name", (job_id,)).fetchall()
    return [row["name"] for row in sorted(found, key=lambda row: row["id"])]


def end_job(connection: sqlite3.Connection, claim: Claim, end: JobEnd) -> bool:
    """Write the end of a job that was run under `claim`; False if somebody else wrote it before."""
    cursor = connection.execute(
        "UPDATE jobs SET state = ?, reason = ?, ended_at = ?, elapsed_s = ?, exit_code = ?, exit_signal = ?,"
        " max_rss_bytes = ?, cpu_s = ? WHERE id = ? AND marker = ? AND state IN ('RUNNING', 'COMPLETING')"
        " AND supervisor_pid = ? AND supervisor_start_ticks = ? AND supervisor_boot_id = ?",
        (
            end.state,
            end.reason,
            end.ended_at,
            end.elapsed_s,
            end.exit_code,
            end.exit_signal,
            end.max_rss_bytes,
            end.cpu_s,
            claim.job_id,
            claim.marker,
            claim.supervisor.pid,
            claim.supervisor.start_ticks,
            claim.supervisor.boot_id,
        ),
    )
    return cursor.rowcount == 1


def _encode_spec(spec: JobSpec) -> str:
    values = {field.name: getattr(spec, field.name) for field in fields(spec)}
    values["environment"] = dict(spec.environment)
    return json.dumps(values)


def _decode_job(row: sqlite3.Row) -> StoredJob:
    spec: dict[str, Any] = json.loads(row["spec"])
    return StoredJob(
        id=row["id"],
        key=row["key"],
        marker=row["marker"],
        spec=JobSpec(**spec),
        time_limit_s=row["time_limit_s"],
        state=JobState(row["state"]),
        placements=decode_placements(row["placements"]),
        node_names=tuple(json.loads(row["node_names"])),
    )


def decode_placements(text: str) -> tuple[Placement, ...]:
    """Placements as the column `placements` keeps them."""
    return tuple(Placement(node, tuple(devices)) for node, devices in json.loads(text))
