"""Output of jobs on a real Slurm: a huge file is read piece by piece, and no trick with links shows another file."""

import time
import tracemalloc

import pytest

from jobs.backends.base import OutputChunk
from jobs.states import JobState
from tests.backends.slurm_harness import SlurmHarness, is_running

pytestmark = pytest.mark.slurm

GIB = 2**30
SECRET = "/etc/shadow"
SWAPPER = f"""
cp stdout.log kept
while :; do
  ln -sfn {SECRET} link && mv -fT link stdout.log
  cp kept new && mv -fT new stdout.log
  ln -f /etc/passwd hard 2>/dev/null && mv -fT hard stdout.log
done
"""


def read(slurm: SlurmHarness, native_id: str, offset: int) -> OutputChunk | None:
    return slurm.backend.read_log(native_id, offset, key=slurm.status(native_id).key, limit=65536)


def test_a_file_of_a_gigabyte_is_followed_without_loading_it(slurm: SlurmHarness) -> None:
    native_id = slurm.submit_script(f"truncate -s {GIB} stdout.log", "echo the end")
    assert slurm.wait(native_id).state is JobState.COMPLETED
    tracemalloc.start()
    try:
        tail = read(slurm, native_id, -65536)
        middle = read(slurm, native_id, GIB // 2)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert tail is not None
    assert middle is not None
    assert (tail.size > GIB, tail.is_end, len(tail.data)) == (True, True, 65536)
    assert tail.data.endswith(b"the end\n")
    assert (middle.offset, len(middle.data), middle.is_end) == (GIB // 2, 65536, False)
    assert peak_bytes < 8 * 2**20


def test_a_log_that_is_swapped_for_links_while_it_is_read_never_shows_another_file(slurm: SlurmHarness) -> None:
    native_id = slurm.submit_script("echo my own words", *SWAPPER.strip().splitlines())
    slurm.wait(native_id, is_running)
    key = slurm.status(native_id).key
    seen = set()
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        chunk = slurm.backend.read_log(native_id, 0, key=key)
        seen.add(None if chunk is None else chunk.data)
    assert b"my own words\n" in seen
    assert not any(data is not None and b"root:" in data for data in seen)
    slurm.backend.cancel(native_id, key=key)
