"""Reading output of jobs that may wish us ill."""

import os
from pathlib import Path

import pytest

from jobs.backends.local.backend import MAX_READ_BYTES
from tests.backends.harness import LocalHarness


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("for nobody's eyes")
    return path


def test_a_link_put_in_place_of_the_output_is_not_followed(local: LocalHarness, secret: Path) -> None:
    native_id = local.submit_script(f"rm stdout.log; ln -s {secret} stdout.log; ln -s {secret} metrics.jsonl")
    local.wait(native_id)
    assert (local.work_directory(native_id) / "stdout.log").is_symlink()
    assert local.backend.read_log(native_id, 0) is None
    assert local.backend.read_log(native_id, 0, file="metrics") is None


def test_a_second_name_of_another_file_is_not_read(local: LocalHarness, secret: Path) -> None:
    native_id = local.submit_script(f"ln {secret} metrics.jsonl")
    local.wait(native_id)
    assert (local.work_directory(native_id) / "metrics.jsonl").samefile(secret)
    assert local.backend.read_log(native_id, 0, file="metrics") is None


@pytest.mark.parametrize("make", ["mkfifo metrics.jsonl", "mkdir metrics.jsonl", "ln -s /dev/zero metrics.jsonl"])
def test_what_is_no_regular_file_is_not_read_and_blocks_nobody(local: LocalHarness, make: str) -> None:
    native_id = local.submit_script(make)
    local.wait(native_id)
    assert local.backend.read_log(native_id, 0, file="metrics") is None


def test_a_link_in_place_of_the_working_directory_is_not_followed(local: LocalHarness, tmp_path: Path) -> None:
    native_id = local.submit_script("echo hello")
    local.wait(native_id)
    directory = local.work_directory(native_id)
    directory.rename(tmp_path / "elsewhere")
    directory.symlink_to(tmp_path / "elsewhere")
    assert local.backend.read_log(native_id, 0) is None


def test_a_left_over_link_is_not_written_through(local: LocalHarness, secret: Path) -> None:
    spec = local.make_spec()
    local.backend.ping()
    directory = local.root / "jobs" / spec.key
    directory.mkdir()
    (directory / "stdout.log").symlink_to(secret)
    (directory / "batch.sh").symlink_to(secret)
    native_id = local.backend.submit(spec, key=spec.key)
    assert local.wait(native_id).reason == "JobLaunchFailure"
    assert secret.read_text() == "for nobody's eyes"


def test_only_so_much_is_read_in_one_call(local: LocalHarness) -> None:
    native_id = local.submit_script(f"head -c {MAX_READ_BYTES + 10} /dev/zero")
    local.wait(native_id)
    chunk = local.backend.read_log(native_id, 0, limit=10**12)
    assert chunk is not None
    assert (len(chunk.data), chunk.is_end) == (MAX_READ_BYTES, False)
    nothing = local.backend.read_log(native_id, 0, limit=-5)
    assert nothing is not None
    assert (nothing.data, nothing.next_offset) == (b"", 0)


def test_output_grows_while_the_job_runs(local: LocalHarness) -> None:
    native_id = local.submit_script("echo first", "until [ -e go ]; do sleep 0.02; done", "echo second")
    local.wait(native_id, lambda status: local.read_text(native_id) == "first\n")
    (local.work_directory(native_id) / "go").touch()
    local.wait(native_id)
    chunk = local.backend.read_log(native_id, len("first\n"))
    assert chunk is not None
    assert chunk.data == b"second\n"
    assert os.path.getsize(local.work_directory(native_id) / "stdout.log") == chunk.size
