"""How the local backend runs a script: its surroundings, its limits, its end."""

import os
import pwd
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.backends.base import JobStatus
from jobs.states import JobState
from tests.backends.harness import LONG, Behaviour, LocalHarness, wait_until

PYTHON = sys.executable


def is_running(status: JobStatus) -> bool:
    return status.state is JobState.RUNNING


def wait_for_pids(local: LocalHarness, native_id: str, *names: str) -> list[int]:
    """The numbers that the script wrote into these files of its directory."""

    def read() -> list[int]:
        directory = local.work_directory(native_id)
        texts = [(directory / name).read_text().strip() for name in names if (directory / name).exists()]
        return [int(text) for text in texts if text] if len(texts) == len(names) and all(texts) else []

    return wait_until(read, f"the files {names}")


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def read_environment(local: LocalHarness, native_id: str) -> dict[str, str]:
    local.wait(native_id)
    return dict(line.split("=", 1) for line in local.read_text(native_id).splitlines())


def test_nothing_of_the_portals_environment_reaches_the_job(
    local: LocalHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "correct-horse")
    native_id = local.submit_script("env -0 | tr '\\0' '\\n'", "tr '\\0' '\\n' < /proc/$PPID/environ")
    local.wait(native_id)
    text = local.read_text(native_id)
    assert "SLURM_JOB_ID=" in text
    assert "DATABASE_PASSWORD" not in text
    assert "correct-horse" not in text
    names = {line.split("=", 1)[0] for line in text.splitlines()}
    own = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "PWD", "SHLVL", "_", "PYTHONPATH", "OLDPWD"}
    own |= {"CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"}
    assert {name for name in names - own if not name.startswith(("SLURM", "PORTAL_"))} == set()


def test_no_open_file_of_the_portals_reaches_the_job(local: LocalHarness, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    descriptor = os.open(secret, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    try:
        native_id = local.submit_script("ls -l /proc/self/fd", "readlink /proc/self/fd/0")
        local.wait(native_id)
    finally:
        os.close(descriptor)
    text = local.read_text(native_id)
    assert "/dev/null" in text
    assert str(secret) not in text
    assert "state.sqlite3" not in text


def test_the_job_is_told_what_slurm_would_tell_it(local: LocalHarness) -> None:
    native_id = local.submit_script("env", nodes=2, devices_per_node=3, environment={"WANDB_MODE": "offline"})
    environment = read_environment(local, native_id)
    status = local.status(native_id)
    directory = str(local.work_directory(native_id))
    expected = {
        "SLURM_JOB_ID": native_id,
        "SLURM_JOB_NAME": "contract",
        "SLURM_JOB_PARTITION": "gpu-a800",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "gpu-a800-01,gpu-a800-02",
        "SLURM_GPUS_ON_NODE": "3",
        "CUDA_VISIBLE_DEVICES": "0,1,2",
        "PORTAL_JOB_KEY": status.key,
        "PORTAL_METRICS_FILE": f"{directory}/metrics.jsonl",
        "HOME": directory,
        "PWD": directory,
        "WANDB_MODE": "offline",
    }
    assert {name: environment.get(name) for name in expected} == expected
    assert "PYTHONPATH" not in environment, "that is the supervisor's own"
    assert status.nodes == ("gpu-a800-01", "gpu-a800-02")


def test_devices_are_named_by_the_variable_of_their_kind(local: LocalHarness) -> None:
    first = local.submit(LONG, partition="ascend910b", gres_name="npu", gres_type="910b", devices_per_node=2)
    local.wait(first, is_running)
    native_id = local.submit_script(
        "env", partition="ascend910b", gres_name="npu", gres_type="910b", devices_per_node=3
    )
    environment = read_environment(local, native_id)
    assert environment["ASCEND_RT_VISIBLE_DEVICES"] == "2,3,4"
    assert "CUDA_VISIBLE_DEVICES" not in environment


def test_a_job_without_devices_sees_none(local: LocalHarness) -> None:
    environment = read_environment(local, local.submit_script("env", devices_per_node=0))
    assert environment["CUDA_VISIBLE_DEVICES"] == ""


def test_the_operators_variables_reach_every_job_but_not_over_the_schedulers_own(tmp_path: Path) -> None:
    added = {"PATH": "/opt/bin:/usr/bin:/bin", "NCCL_DEBUG": "WARN", "SLURM_JOB_ID": "77", "HOME": "/"}
    local = LocalHarness(tmp_path, ENVIRONMENT=added)
    try:
        native_id = local.submit_script("env", environment={"NCCL_DEBUG": "INFO"})
        environment = read_environment(local, native_id)
    finally:
        local.close()
    assert (environment["PATH"], environment["HOME"]) == ("/opt/bin:/usr/bin:/bin", "/")
    assert environment["NCCL_DEBUG"] == "INFO"
    assert environment["SLURM_JOB_ID"] == native_id


def test_errors_go_to_the_same_file_as_output(local: LocalHarness) -> None:
    native_id = local.submit_script("echo out", "echo err >&2")
    local.wait(native_id)
    assert local.read_text(native_id) == "out\nerr\n"
    assert local.backend.read_log(native_id, 0, file="stderr") is None


def test_files_of_a_job_are_for_its_owner_only(local: LocalHarness) -> None:
    native_id = local.submit_script("echo x > result")
    local.wait(native_id)
    directory = local.work_directory(native_id)
    assert directory.stat().st_mode & 0o777 == 0o700
    for name in ("stdout.log", "result", "batch.sh"):
        assert (directory / name).stat().st_mode & 0o077 == 0
    assert (local.root / "state.sqlite3").stat().st_mode & 0o777 == 0o600


def test_an_interpreter_that_does_not_exist_fails_the_job_with_127_and_says_so(local: LocalHarness) -> None:
    native_id = local.submit(LONG, script="#!/no/such/shell\necho hi\n")
    status = local.wait(native_id)
    assert (status.state, status.exit_code, status.reason) == (JobState.FAILED, 127, "NonZeroExitCode")
    assert "execve()" in local.read_text(native_id)


def test_a_working_directory_that_cannot_be_made_is_a_launch_failure(local: LocalHarness) -> None:
    spec = local.make_spec(Behaviour())
    local.backend.ping()
    (local.root / "jobs" / spec.key).write_text("in the way")
    native_id = local.backend.submit(spec, key=spec.key)
    status = local.wait(native_id)
    assert (status.state, status.exit_code, status.exit_signal) == (JobState.FAILED, 0, 53)
    assert status.reason == "JobLaunchFailure"


def test_the_signal_before_the_end_reaches_the_script_in_time(local: LocalHarness) -> None:
    native_id = local.submit_script(
        "trap 'echo checkpoint; exit 42' USR1",
        "sleep 300 & wait",
        time_limit_minutes=20,
        signal_name="USR1",
        signal_lead_s=19,
    )
    status = local.wait(native_id)
    assert (status.state, status.exit_code) == (JobState.FAILED, 42)
    assert local.read_text(native_id) == "checkpoint\n"
    assert status.started_at is not None
    assert status.ended_at is not None
    assert 0.9 < (status.ended_at - status.started_at).total_seconds() < 20


def test_a_script_that_ends_after_the_signal_has_completed(local: LocalHarness) -> None:
    native_id = local.submit_script(
        "trap 'exit 0' TERM", "sleep 300 & wait", time_limit_minutes=20, signal_name="TERM", signal_lead_s=3600
    )
    assert local.wait(native_id).state is JobState.COMPLETED


def test_at_the_limit_the_script_may_still_end_by_itself(local: LocalHarness) -> None:
    native_id = local.submit_script("trap 'echo bye; exit 5' TERM", "sleep 300 & wait", time_limit_minutes=1)
    status = local.wait(native_id)
    assert (status.state, status.exit_code) == (JobState.TIMEOUT, 5)
    assert local.read_text(native_id) == "bye\n"


def test_a_script_that_ignores_terminate_is_killed_at_its_limit(local: LocalHarness) -> None:
    native_id = local.submit_script("trap '' TERM", "echo $$ > script.pid", "sleep 300", time_limit_minutes=1)
    (pid,) = wait_for_pids(local, native_id, "script.pid")
    status = local.wait(native_id)
    assert (status.state, status.exit_signal) == (JobState.TIMEOUT, signal.SIGKILL)
    assert is_gone(pid)
    wait_until(lambda: not local.live_processes(), "the supervisor to go")


@pytest.mark.parametrize("defence", ["trap '' TERM", "kill -STOP $$"])
def test_a_script_that_resists_is_killed_on_cancel(local: LocalHarness, defence: str) -> None:
    native_id = local.submit_script("echo $$ > script.pid", defence, "sleep 300")
    (pid,) = wait_for_pids(local, native_id, "script.pid")
    local.backend.cancel(native_id)
    status = local.wait(native_id)
    assert (status.state, status.exit_code, status.exit_signal) == (JobState.CANCELLED, 0, None)
    assert is_gone(pid)


def test_a_job_that_is_being_ended_is_completing_and_still_holds_its_devices(tmp_path: Path) -> None:
    local = LocalHarness(tmp_path, KILL_WAIT_S=300)
    try:
        native_id = local.submit_script("trap '' TERM", "touch ready", "until [ -e go ]; do sleep 0.02; done")
        local.wait(native_id, is_running)
        directory = local.work_directory(native_id)
        wait_until((directory / "ready").exists, "the trap to be set")
        local.backend.cancel(native_id)
        local.wait(native_id, lambda status: status.state is JobState.COMPLETING)
        main = local.backend.partitions()[0]
        assert (main.devices_in_use, main.jobs_running) == (1, 1)
        (directory / "go").touch()
        assert local.wait(native_id).state is JobState.CANCELLED
        assert local.backend.partitions()[0].devices_in_use == 0
    finally:
        local.close()


DAEMONS = (
    "(setsid env -i sleep 300 & echo $! > daemon.pid)",
    "(setsid bash -c 'trap \"\" TERM HUP; echo $$ > stubborn.pid; while :; do sleep 0.1; done' &)",
)


@pytest.mark.parametrize("ending", ["cancel", "exit", "time limit"])
def test_daemons_of_a_job_end_with_it(local: LocalHarness, ending: str) -> None:
    last = "until [ -s stubborn.pid ]; do sleep 0.02; done" if ending == "exit" else "sleep 300"
    limit = 1 if ending == "time limit" else 60
    native_id = local.submit_script(*DAEMONS, last, time_limit_minutes=limit)
    pids = wait_for_pids(local, native_id, "daemon.pid", "stubborn.pid")
    if ending == "cancel":
        local.backend.cancel(native_id)
    status = local.wait(native_id)
    expected = {"cancel": JobState.CANCELLED, "exit": JobState.COMPLETED, "time limit": JobState.TIMEOUT}
    assert status.state is expected[ending]
    assert all(is_gone(pid) for pid in pids)


def test_memory_over_what_was_asked_ends_the_job(local: LocalHarness) -> None:
    program = "import time; block = bytearray(150_000_000); time.sleep(300)"
    native_id = local.submit_script(f'{PYTHON} -c "{program}"', memory_bytes_per_node=60_000_000)
    status = local.wait(native_id)
    assert (status.state, status.exit_signal) == (JobState.OUT_OF_MEMORY, 125)
    assert status.ended_at is not None
    (row,) = local.backend.usage(status.ended_at)
    assert row.max_rss_bytes is not None
    assert row.max_rss_bytes > 60_000_000
    wait_until(lambda: not local.live_processes(), "the supervisor to go")


def test_memory_shared_by_processes_counts_once(local: LocalHarness) -> None:
    program = (
        "import os, time; block = bytearray(100_000_000); "
        "[time.sleep(1) or os._exit(0) for _ in range(3) if os.fork() == 0]; "
        "[os.wait() for _ in range(3)]"
    )
    native_id = local.submit_script(f'{PYTHON} -c "{program}"', memory_bytes_per_node=220_000_000)
    status = local.wait(native_id)
    assert status.state is JobState.COMPLETED
    assert status.ended_at is not None
    (row,) = local.backend.usage(status.ended_at)
    assert row.max_rss_bytes is not None
    assert row.max_rss_bytes > 220_000_000, "the sum of resident sets was over the limit, and yet it went on"


def test_accounting_knows_processor_time_of_all_processes(local: LocalHarness) -> None:
    burn = f'{PYTHON} -c "import time\nwhile time.process_time() < 0.4: pass"'
    native_id = local.submit_script(f"{burn} &", "wait")
    status = local.wait(native_id)
    assert status.ended_at is not None
    (row,) = local.backend.usage(status.ended_at)
    assert row.cpu_s is not None
    assert 0.4 <= row.cpu_s < 5


@pytest.fixture
def run_as() -> Iterator[tuple[LocalHarness, pwd.struct_passwd]]:
    """A scheduler that runs jobs as an unprivileged user; as ourselves if we are one."""
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o711)  # noqa: S103  (others must be able to go through it)
        local = LocalHarness(Path(directory), RUN_AS=user.pw_name)
        try:
            yield local, user
        finally:
            local.close()


def test_jobs_run_as_the_user_who_is_set_for_them(run_as: tuple[LocalHarness, pwd.struct_passwd]) -> None:
    local, user = run_as
    native_id = local.submit_script("id -u", "id -g", "id -G", "echo '{}' > metrics.jsonl", "cat ../../state.sqlite3")
    status = local.wait(native_id)
    uid, gid, groups, *rest = local.read_text(native_id).splitlines()
    assert (int(uid), int(gid)) == (user.pw_uid, user.pw_gid)
    assert set(map(int, groups.split())) == set(os.getgrouplist(user.pw_name, user.pw_gid))
    assert local.work_directory(native_id).stat().st_uid == user.pw_uid
    metrics = local.backend.read_log(native_id, 0, file="metrics")
    assert metrics is not None
    assert metrics.data == b"{}\n"
    if os.geteuid() == 0:
        assert status.state is JobState.FAILED
        assert "Permission denied" in "".join(rest)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ROOT": "relative/path"}, "ROOT"),
        ({"ROOT": None}, "ROOT"),
        ({"ENVIRONMENT": ["A=1"]}, "ENVIRONMENT"),
        ({"ENVIRONMENT": {"A B": "1"}}, "A B"),
        ({"ENVIRONMENT": {"A": 1}}, "'A'"),
        ({"KILL_WAIT_S": -1}, "KILL_WAIT_S"),
        ({"KILL_WAIT_S": "5"}, "KILL_WAIT_S"),
        ({"POLL_S": 0}, "POLL_S"),
        ({"MINUTE_S": float("nan")}, "MINUTE_S"),
        ({"LOCK_WAIT_S": True}, "LOCK_WAIT_S"),
        ({"PYTHON": "/no/such/python"}, "PYTHON"),
        ({"PYTHON": "python3"}, "PYTHON"),
        ({"RUN_AS": "nobody-of-this-name"}, "RUN_AS"),
        ({"RUN_AS": "root"}, "RUN_AS"),
        ({"RUN_AS": 0}, "RUN_AS"),
    ],
)
def test_bad_options_of_the_local_backend_are_named(local: LocalHarness, change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        LocalHarness(local.directory, **change)
