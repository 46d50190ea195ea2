"""The local queue under kills, restarts, crowds and broken disks."""

import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.backends.base import SchedulerUnavailable
from jobs.backends.local import LocalBackend
from jobs.backends.local.processes import identify_process, is_alive, send_signal
from jobs.states import TERMINAL, JobState
from tests.backends.harness import LONG, Behaviour, LocalHarness, has_ended, wait_until
from tests.backends.test_local_jobs import is_gone, is_running, wait_for_pids

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def fork(action: Callable[[], None]) -> int:
    """Run `action` in a child of its own; its exit code says whether that went well."""
    pid = os.fork()
    if pid:
        return pid
    try:
        action()
        os._exit(0)
    finally:
        os._exit(1)


def supervisor_pid(local: LocalHarness, native_id: str) -> int:
    ((pid,),) = local.query("SELECT supervisor_pid FROM jobs WHERE id = ?", native_id)
    return int(pid)


def test_the_queue_moves_on_while_nobody_looks(local: LocalHarness) -> None:
    local.submit_script("sleep 0.2", nodes=2, devices_per_node=8)
    second = local.submit_script("touch ran", nodes=2, devices_per_node=8)
    key = local.status(second).key
    wait_until((local.root / "jobs" / key / "ran").exists, "the second job, started by the end of the first")


def test_submitting_leaves_no_child_behind(local: LocalHarness) -> None:
    before = {child.pid for child in psutil.Process().children()}
    native_id = local.submit(Behaviour())
    local.wait(native_id)
    assert {child.pid for child in psutil.Process().children()} == before


def test_many_submitters_with_one_key_make_one_job(local: LocalHarness, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    spec = local.make_spec(
        script='#!/bin/bash\necho "$PORTAL_JOB_KEY" >> "$COUNTER"\n', environment={"COUNTER": str(counter)}
    )
    go, ids = tmp_path / "go", tmp_path / "ids"

    def submit_at_once() -> None:
        wait_until(go.exists, "the start")
        native_id = LocalBackend("local", local.options).submit(spec, key=spec.key)
        with ids.open("a") as file:
            file.write(f"{native_id}\n")

    children = [fork(submit_at_once) for _ in range(6)]
    go.touch()  # also nobody has made the state file yet
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
    assert Counter(ids.read_text().split()) == {local.backend.find(spec.key): 6}
    local.wait(ids.read_text().split()[0])
    assert counter.read_text().split() == [spec.key]
    assert local.query("SELECT count(*) FROM jobs") == [(1,)]


def test_killing_submitters_at_random_moments_loses_and_doubles_nothing(local: LocalHarness, tmp_path: Path) -> None:
    counter, acknowledged = tmp_path / "counter", tmp_path / "acknowledged"
    counter.touch()
    acknowledged.touch()
    script = '#!/bin/bash\necho "$PORTAL_JOB_KEY" >> "$COUNTER"\n'
    local.backend.ping()

    def submit_and_tell(number: int) -> None:
        backend = LocalBackend("local", local.options)
        descriptor = os.open(acknowledged, os.O_WRONLY | os.O_APPEND)
        for turn in range(2):
            key = f"killed-{number:03d}-{turn}"
            spec = local.make_spec(key=key, script=script, devices_per_node=4, environment={"COUNTER": str(counter)})
            os.write(descriptor, f"{key} {backend.submit(spec, key=key)}\n".encode())

    for number in range(20):
        child = fork(lambda number=number: submit_and_tell(number))  # type: ignore[misc]
        time.sleep(random.uniform(0.0, 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    told = dict(line.split() for line in acknowledged.read_text().splitlines())
    ids = [str(native_id) for (native_id,) in local.query("SELECT id FROM jobs")]
    wait_until(lambda: all(status.state in TERMINAL for status in local.backend.poll(ids).values()), "all jobs to end")
    assert {key: local.backend.find(key) for key in told} == told
    assert {status.state for status in local.backend.poll(ids).values()} <= {JobState.COMPLETED}
    keys = {status.key for status in local.backend.poll(ids).values()}
    assert Counter(counter.read_text().split()) == dict.fromkeys(keys, 1)


def test_a_dead_supervisor_is_a_node_failure_and_no_process_survives(local: LocalHarness) -> None:
    native_id = local.submit_script(
        "echo $$ > script.pid",
        "(setsid env -i sleep 300 & echo $! > daemon.pid)",
        "sleep 300 & echo $! > sleep.pid; wait",
    )
    pids = wait_for_pids(local, native_id, "script.pid", "daemon.pid", "sleep.pid")
    heartbeat = local.root / "heartbeats" / native_id
    wait_until(
        lambda: heartbeat.exists() and all(str(pid) in heartbeat.read_text() for pid in pids),
        "the supervisor to have seen them all",
    )
    os.kill(supervisor_pid(local, native_id), signal.SIGKILL)
    status = local.wait(native_id)
    assert (status.state, status.reason) == (JobState.NODE_FAIL, "NodeFail")
    assert all(is_gone(pid) for pid in pids)
    assert local.backend.partitions()[0].devices_in_use == 0
    assert not heartbeat.exists()


def test_supervisors_killed_at_random_moments_leave_no_process_and_no_doubt(local: LocalHarness) -> None:
    ids = []
    for _ in range(5):
        native_id = local.submit_script("sleep 300 & wait")
        local.wait(native_id, is_running)
        time.sleep(random.uniform(0.0, 0.05))
        os.kill(supervisor_pid(local, native_id), signal.SIGKILL)
        ids.append(native_id)
    assert {local.wait(native_id).state for native_id in ids} == {JobState.NODE_FAIL}
    assert local.live_processes() == []


@pytest.mark.parametrize(
    "change",
    ["supervisor_boot_id = 'an-earlier-boot'", "supervisor_start_ticks = supervisor_start_ticks - 1"],
    ids=["machine restarted", "number used again"],
)
def test_another_process_with_the_supervisors_number_is_not_taken_for_it(local: LocalHarness, change: str) -> None:
    native_id = local.submit(LONG)
    local.wait(native_id, is_running)
    local.query(f"UPDATE jobs SET {change} WHERE id = ?", native_id)  # noqa: S608
    assert local.status(native_id).state is JobState.NODE_FAIL
    assert local.live_processes() == []


def test_a_node_failure_is_charged_until_the_supervisor_was_last_seen(local: LocalHarness) -> None:
    native_id = local.submit(LONG)
    local.wait(native_id, is_running)
    heartbeat = local.root / "heartbeats" / native_id
    wait_until(heartbeat.exists, "a first heartbeat")
    pid = supervisor_pid(local, native_id)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid), "the supervisor to be gone")
    started_at = time.time() - 1000
    local.query("UPDATE jobs SET started_at = ? WHERE id = ?", started_at, native_id)
    os.utime(heartbeat, (started_at + 400, started_at + 400))
    status = local.wait(native_id)
    assert status.ended_at is not None
    assert (datetime.now(UTC) - status.ended_at).total_seconds() < 60
    (row,) = local.backend.usage(status.ended_at)
    assert row.elapsed_s == 400


def test_a_supervisor_that_is_told_to_end_ends_its_job_first(local: LocalHarness) -> None:
    native_id = local.submit_script("echo $$ > script.pid", "sleep 300")
    (pid,) = wait_for_pids(local, native_id, "script.pid")
    os.kill(supervisor_pid(local, native_id), signal.SIGTERM)
    assert local.wait(native_id).state is JobState.NODE_FAIL
    assert is_gone(pid)


def test_the_end_is_written_as_soon_as_the_disk_lets_it(local: LocalHarness) -> None:
    native_id = local.submit_script("until [ -e go ]; do sleep 0.02; done", "exit 3")
    local.wait(native_id, is_running)
    directory = local.work_directory(native_id)
    with closing(sqlite3.connect(local.root / "state.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        (directory / "go").touch()
        script = supervisor_pid(local, native_id)
        wait_until(lambda: not psutil.Process(script).children(), "the script to end")
        assert local.query("SELECT state FROM jobs") == [("RUNNING",)]
        other.execute("ROLLBACK")
    assert local.wait(native_id).exit_code == 3


def test_a_launch_that_was_lost_is_tried_again(local: LocalHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*_: Any, **__: Any) -> None:
        """A launcher that dies before it has started anything."""

    with monkeypatch.context() as context:
        context.setattr("jobs.backends.local.advance.spawn_detached", lose)
        native_id = local.submit(Behaviour())
        assert local.status(native_id).state is JobState.PENDING
    monkeypatch.setattr("jobs.backends.local.advance.RELAUNCH_AFTER_S", 0.1)
    assert local.wait(native_id).state is JobState.COMPLETED


def test_a_launch_that_fails_does_not_fail_the_submit(local: LocalHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("out of processes")

    monkeypatch.setattr("jobs.backends.local.advance.spawn_detached", fail)
    assert local.status(local.submit(LONG)).state is JobState.PENDING


def test_two_supervisors_for_one_job_run_it_once(local: LocalHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.backends.local.advance.RELAUNCH_AFTER_S", 0.0)
    native_id = local.submit_script("echo ran >> count")
    for _ in range(4):
        local.status(native_id)
    local.wait(native_id)
    wait_until(lambda: not local.live_processes(), "the superfluous supervisors to go")
    assert (local.work_directory(native_id) / "count").read_text() == "ran\n"


def test_a_partition_that_was_closed_starts_nothing_and_says_so(local: LocalHarness) -> None:
    blocker = local.submit(LONG, nodes=2, devices_per_node=8)
    local.wait(blocker, is_running)
    native_id = local.submit(LONG)
    spec = local.make_spec(key=local.status(native_id).key)
    partitions = {**local.options["PARTITIONS"]}
    partitions["gpu-a800"] = {**partitions["gpu-a800"], "state": "down"}
    local.options = {**local.options, "PARTITIONS": partitions}
    local.backend = local.open_backend()
    local.backend.cancel(blocker)
    local.wait(blocker)
    status = local.status(native_id)
    assert (status.state, status.reason) == (JobState.PENDING, "PartitionDown")
    assert local.backend.submit(spec, key=spec.key) == native_id, "what was accepted stays so"
    assert not local.backend.partitions()[0].is_up
    local.backend.cancel(native_id)


def test_a_job_too_large_for_a_partition_made_smaller_says_so_and_blocks_nobody(local: LocalHarness) -> None:
    blocker = local.submit(LONG, nodes=2, devices_per_node=8)
    local.wait(blocker, is_running)
    native_id = local.submit(LONG, nodes=2, devices_per_node=8)
    small = local.submit(Behaviour())
    partitions = {**local.options["PARTITIONS"]}
    partitions["gpu-a800"] = {**partitions["gpu-a800"], "nodes": 1}
    local.options = {**local.options, "PARTITIONS": partitions}
    local.backend = local.open_backend()
    local.backend.cancel(blocker)
    local.wait(small)
    assert local.status(native_id).reason == "PartitionConfig"


CALLS: list[Callable[[LocalHarness], Any]] = [
    lambda local: local.backend.ping(),
    lambda local: local.submit(LONG),
    lambda local: local.backend.find("key-nobody-has"),
    lambda local: local.backend.poll(["1"]),
    lambda local: local.backend.usage(datetime(2026, 1, 1, tzinfo=UTC)),
    lambda local: local.backend.cancel("1"),
    lambda local: local.backend.partitions(),
    lambda local: local.backend.expected_start("1"),
    lambda local: local.backend.read_log("1", 0),
]


def damage(local: LocalHarness) -> None:
    (local.root / "state.sqlite3").write_bytes(b"this is not a database" * 1000)


def take_away(local: LocalHarness) -> None:
    (local.root / "state.sqlite3").unlink()


def come_from_the_future(local: LocalHarness) -> None:
    local.query("PRAGMA user_version = 99")


@pytest.mark.parametrize("breaking", [damage, take_away, come_from_the_future])
def test_a_broken_state_file_is_an_unavailable_scheduler(
    local: LocalHarness, breaking: Callable[[LocalHarness], None]
) -> None:
    local.backend.ping()
    breaking(local)
    for call in CALLS:
        with pytest.raises(SchedulerUnavailable, match=r"state\.sqlite3"):
            call(local)


def test_a_root_that_cannot_be_made_is_an_unavailable_scheduler(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    local = LocalHarness(tmp_path, ROOT=str(tmp_path / "file" / "scheduler"))
    for call in CALLS:
        with pytest.raises(SchedulerUnavailable, match="File exists"):
            call(local)


def test_a_lock_held_too_long_is_an_unavailable_scheduler(tmp_path: Path) -> None:
    local = LocalHarness(tmp_path, LOCK_WAIT_S=0.05)
    local.backend.ping()
    with closing(sqlite3.connect(local.root / "state.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SchedulerUnavailable, match="locked"):
            local.submit(LONG)
        assert local.backend.poll(["1"]) == {}, "reading needs no lock"
    local.close()


def test_a_full_disk_is_an_unavailable_scheduler_that_queued_nothing(local: LocalHarness) -> None:
    local.backend.ping()
    spec = local.make_spec(script="#!/bin/bash\n#" + "x" * 300_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SchedulerUnavailable, match=r"state\.sqlite3"):
            local.backend.submit(spec, key=spec.key)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert local.backend.find(spec.key) is None
    assert local.wait(local.submit(Behaviour()), has_ended).state is JobState.COMPLETED


def test_a_process_is_known_by_more_than_its_number() -> None:
    child = subprocess.Popen(["sleep", "300"])
    identity = identify_process(child.pid)
    assert identity is not None
    assert is_alive(identity)
    child.kill()
    wait_until(lambda: not is_alive(identity), "the zombie to count as dead")
    child.wait()
    assert identify_process(child.pid) is None
    assert send_signal(identity, signal.SIGTERM) is False


def test_supervisors_load_no_web_framework() -> None:
    code = (
        "import sys, jobs.backends.local.supervisor, jobs.backends.dummy; "
        "print([name for name in sys.modules if name.split('.')[0] in ('django', 'celery', 'numpy')])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"
