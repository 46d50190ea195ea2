"""What a job writes is read by web workers: no file of any kind or size may hang, crash or mislead them."""

import json
import os
import time
from pathlib import Path

import pytest
from django.test import Client

from jobs.backends.base import OutputFile
from jobs.services.output import MAX_CHUNK_BYTES, read_metrics
from tests.api.conftest import ApiClient
from tests.backends.conftest import local
from tests.backends.harness import LocalHarness
from tests.jobs.conftest import Centre, native_id

__all__ = ["local"]

LINES = {
    "a whole number beyond floating point": b'{"step": 1' + b"0" * 400 + b"}",
    "a value beyond floating point": b'{"step": 1, "loss": -1' + b"0" * 4000 + b"}",
    "a number too long to read": b'{"step": 1' + b"0" * 5000 + b"}",
    "infinity": b'{"step": 1, "loss": Infinity}',
    "an overflow": b'{"step": 1, "loss": 1e999}',
    "half a surrogate pair": b'{"step": 1, "loss\\ud800": 2}',
    "a NUL": b'{"step": 1, "loss\\u0000": 2}',
    "deep nesting": b"[" * 200_000,
    "no UTF-8": b'\xff\xfe{"step": 1}',
    "a truth value": b'{"step": true}',
    "a list": b"[1, 2]",
    "many names": json.dumps({"step": 1, **{f"loss{number}": number for number in range(20_000)}}).encode(),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_no_line_of_metrics_keeps_the_good_ones_from_being_read(centre: Centre, line: bytes) -> None:
    job = centre.submit()
    centre.tick()
    good = b'{"step": 7, "loss": 0.5}'
    centre.backend.write_output(native_id(job), b"\n".join([good, line, good]) + b"\n", file="metrics")
    page = Client()
    page.force_login(centre.user)
    for answer in (page.get(f"{job.get_absolute_url()}/metrics"), ApiClient(centre.user).get(f"jobs/{job.pk}/metrics")):
        assert answer.status_code == 200
        points = json.loads(answer.content, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["points"]
        assert [points[0], points[-1]] == [{"step": 7, "loss": 0.5}] * 2


def test_metrics_of_one_endless_line_are_passed_over_piece_by_piece(centre: Centre) -> None:
    job = centre.submit()
    centre.tick()
    centre.backend.write_output(native_id(job), b"9" * (3 * MAX_CHUNK_BYTES) + b'\n{"step": 1}\n', file="metrics")
    offset, calls, points = 0, 0, []
    while True:
        read = read_metrics(job, offset)
        calls += 1
        assert read.next_offset > offset, "the reader stands still"
        offset = read.next_offset
        points += read.points
        if read.is_end:
            break
    assert points == [{"step": 1}]
    assert calls <= 5


# --- On a real file system -------------------------------------------------------------------------------------------

FILES: dict[str, OutputFile] = {"stdout.log": "stdout", "metrics.jsonl": "metrics"}


def finished_job(local: LocalHarness) -> tuple[str, Path]:
    native_id = local.submit_script('touch "$PORTAL_METRICS_FILE"')
    local.wait(native_id)
    return native_id, local.work_directory(native_id)


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_in_place_of_a_file_hangs_nobody(local: LocalHarness, name: str) -> None:
    native_id, directory = finished_job(local)
    (directory / name).unlink()
    os.mkfifo(directory / name, 0o600)
    started = time.monotonic()
    for offset in (0, -1000, 5):
        assert local.backend.read_log(native_id, offset, file=FILES[name]) is None
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_terabyte_is_read_in_pieces_from_any_place(local: LocalHarness, name: str) -> None:
    native_id, directory = finished_job(local)
    os.truncate(directory / name, 2**40)
    for offset in (0, 2**39, -1, -(2**62), 2**62):
        chunk = local.backend.read_log(native_id, offset, limit=2**40, file=FILES[name])
        assert chunk is not None
        assert len(chunk.data) <= 4 * 1024 * 1024
        assert 0 <= chunk.offset <= chunk.next_offset <= chunk.size == 2**40


def test_a_log_that_shrinks_or_grows_between_two_reads_ends_all_the_same(local: LocalHarness) -> None:
    run, directory = finished_job(local)
    path = directory / "stdout.log"
    path.write_bytes(b"x" * 1000)
    first = local.backend.read_log(run, 0, limit=600)
    assert first is not None
    os.truncate(path, 100)
    after = local.backend.read_log(run, first.next_offset, limit=600)
    assert after is not None
    assert (after.data, after.is_end) == (b"", True)
    path.write_bytes(b"y" * 2000)
    grown = local.backend.read_log(run, first.next_offset, limit=600)
    assert grown is not None
    assert (grown.data, grown.is_end) == (b"y" * 600, False)
