"""How the contract suite drives each scheduler: one class per backend. A real Slurm has its own file."""

import os
import sqlite3
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import psutil

from jobs.backends.base import JobStatus, SchedulerBackend, UsageRow
from jobs.backends.dummy import DummyBackend
from jobs.backends.local import LocalBackend
from jobs.backends.local.processes import MARKER_VARIABLE
from jobs.spec import JobSpec
from jobs.states import TERMINAL

PATIENCE_S = 30.0
"""No test waits this long unless something is wrong: everything is waited for, nothing is slept for."""

PARTITIONS: dict[str, dict[str, Any]] = {
    "gpu-a800": {
        "nodes": 2,
        "devices_per_node": 8,
        "gres_name": "gpu",
        "gres_type": "a800",
        "max_time_limit_minutes": 600,
    },
    "ascend910b": {"nodes": 1, "devices_per_node": 8, "gres_name": "npu", "gres_type": "910b"},
    "closed": {"nodes": 1, "devices_per_node": 8, "gres_name": "gpu", "gres_type": "a800", "state": "down"},
}


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What a job shall do, for schedulers that run scripts and for those that only pretend."""

    runs_s: float = 0.0
    exit_code: int = 0
    exit_signal: int | None = None
    output: str = ""
    metrics: str = ""

    def to_script(self) -> str:
        """A batch script that behaves so."""
        lines = ["#!/bin/bash"]
        if self.output:
            lines.append(f"printf '%s' '{self.output}'")
        if self.metrics:
            lines.append(f"printf '%s' '{self.metrics}' > \"$PORTAL_METRICS_FILE\"")
        if self.runs_s:
            lines.append(f"sleep {self.runs_s}")
        lines.append(f"kill -{self.exit_signal} $$" if self.exit_signal is not None else f"exit {self.exit_code}")
        return "\n".join(lines) + "\n"


LONG = Behaviour(runs_s=300)


def has_ended(status: JobStatus) -> bool:
    return status.state in TERMINAL


def wait_until(condition: Callable[[], Any], what: str, *, patience_s: float = PATIENCE_S) -> Any:
    """What `condition` returns as soon as that is true."""
    deadline = time.monotonic() + patience_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {patience_s:.0f} s for {what}"
        time.sleep(0.02)


class BackendHarness(ABC):
    """One scheduler under test, with the partitions above and nothing in its queue."""

    name: ClassVar[str]
    runs_scripts: ClassVar[bool]
    minute_s: ClassVar[float] = 60.0
    patience_s: ClassVar[float] = PATIENCE_S
    predicts_at_once: ClassVar[bool] = True
    """Does it know the expected start of a job at once, and to the second, or only estimate it after a while?"""
    forecasts_waiting: ClassVar[bool] = True
    """Does it tell when a job would start for which there is no room now?"""
    bad_options: ClassVar[tuple[tuple[dict[str, Any], str], ...]] = (
        ({"PARTITIONS": {}}, "PARTITIONS"),
        ({"PARTITIONS": None}, "PARTITIONS"),
        ({"PARTITIONS": {"a b": {}}}, "a b"),
        ({"PARTITIONS": {"p": {"nodes": 0}}}, "nodes"),
        ({"PARTITIONS": {"p": {"nodes": True}}}, "nodes"),
        ({"PARTITIONS": {"p": {"devices": 8}}}, "devices"),
        ({"PARTITIONS": {"p": {"state": "drain"}}}, "state"),
        ({"PARTITIONS": {"p": {"gres_type": "a b"}}}, "gres_type"),
        ({"PARTITIONS": {"p": []}}, "'p'"),
        ({"TYPO": 1}, "TYPO"),
    )
    """Changes of the options that must be refused, and what the refusal names."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.backend = self.open_backend()

    @abstractmethod
    def open_backend(self) -> SchedulerBackend:
        """A new object on the same scheduler, as another process of the portal would make."""

    @abstractmethod
    def submit(self, behaviour: Behaviour, **changes: Any) -> str:
        """Submit a job that behaves so; `changes` go into its spec."""

    @abstractmethod
    def let_time_pass(self) -> None:
        """One short step of the scheduler's time."""

    @abstractmethod
    def close(self) -> None:
        """Leave no process and no state behind."""

    @property
    def now(self) -> datetime:
        return datetime.now(UTC)

    def make_spec(self, behaviour: Behaviour = LONG, **changes: Any) -> JobSpec:
        values: dict[str, Any] = {
            "key": f"key-{uuid.uuid4().hex}",
            "name": "contract",
            "script": behaviour.to_script(),
            "partition": "gpu-a800",
            "nodes": 1,
            "devices_per_node": 1,
            "gres_type": "a800",
            "time_limit_minutes": 60,
        }
        return JobSpec(**{**values, **changes})

    def status(self, native_id: str) -> JobStatus:
        return self.backend.poll([native_id])[native_id]

    def usage(self, native_id: str, since: datetime) -> dict[str, UsageRow]:
        """What accounting says of all jobs that ended since; accounting that lags is waited for until it has one."""
        rows = {row.native_id: row for row in self.backend.usage(since)}
        assert native_id in rows
        return rows

    def wait(self, native_id: str, until: Callable[[JobStatus], bool] = has_ended) -> JobStatus:
        """Let time pass until the job's status satisfies `until`."""
        deadline = time.monotonic() + self.patience_s
        while True:
            status = self.status(native_id)
            if until(status):
                return status
            assert time.monotonic() < deadline, f"still {status}"
            assert status.state not in TERMINAL, f"ended as {status}"
            self.let_time_pass()


class DummyHarness(BackendHarness):
    name = "dummy"
    runs_scripts = False
    backend: DummyBackend

    def open_backend(self) -> DummyBackend:
        return DummyBackend(str(self.directory), {"PARTITIONS": PARTITIONS})

    def submit(self, behaviour: Behaviour, **changes: Any) -> str:
        spec = self.make_spec(behaviour, **changes)
        native_id = self.backend.submit(spec, key=spec.key)
        self.backend.set_outcome(
            native_id,
            elapsed_s=behaviour.runs_s,
            exit_code=behaviour.exit_code,
            exit_signal=behaviour.exit_signal,
        )
        if behaviour.output:
            self.backend.write_output(native_id, behaviour.output.encode())
        if behaviour.metrics:
            self.backend.write_output(native_id, behaviour.metrics.encode(), file="metrics")
        return native_id

    def let_time_pass(self) -> None:
        self.backend.advance(0.25)

    @property
    def now(self) -> datetime:
        return self.backend.now

    def close(self) -> None:
        DummyBackend.reset(str(self.directory))


class LocalHarness(BackendHarness):
    name = "local"
    runs_scripts = True
    minute_s = 1.0

    def __init__(self, directory: Path, **options: Any) -> None:
        self.options: dict[str, Any] = {
            "ROOT": str(directory / "scheduler"),
            "PARTITIONS": PARTITIONS,
            "MINUTE_S": self.minute_s,
            "KILL_WAIT_S": 0.3,
            "POLL_S": 0.1,
            **options,
        }
        super().__init__(directory)

    def open_backend(self) -> LocalBackend:
        return LocalBackend("local", self.options)

    def submit(self, behaviour: Behaviour, **changes: Any) -> str:
        spec = self.make_spec(behaviour, **changes)
        return self.backend.submit(spec, key=spec.key)

    def submit_script(self, *lines: str, **changes: Any) -> str:
        return self.submit(LONG, script="\n".join(("#!/bin/bash", *lines)) + "\n", **changes)

    def let_time_pass(self) -> None:
        time.sleep(0.02)

    @property
    def root(self) -> Path:
        return Path(self.options["ROOT"])

    def work_directory(self, native_id: str) -> Path:
        return self.root / "jobs" / self.status(native_id).key

    def read_text(self, native_id: str) -> str:
        chunk = self.backend.read_log(native_id, 0)
        return "" if chunk is None else chunk.data.decode()

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.root / "state.sqlite3", timeout=10)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def live_processes(self) -> list[psutil.Process]:
        """Everything that carries the marker of one of this queue's jobs: scripts and supervisors."""
        markers = {f"{marker}" for (marker,) in self.query("SELECT marker FROM jobs")}
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get(MARKER_VARIABLE) in markers
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def close(self) -> None:
        if not (self.root / "state.sqlite3").exists():
            return
        try:
            self.query("UPDATE jobs SET state = 'CANCELLED' WHERE state = 'PENDING'")
        except sqlite3.DatabaseError:  # a test damaged the file; such a test starts no job
            return

        def kill_what_lives() -> bool:
            processes = self.live_processes()
            for process in processes:
                if process.pid != os.getpid():
                    process.kill()
            return not processes

        wait_until(kill_what_lives, "the processes of this test to be gone")
