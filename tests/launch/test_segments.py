"""A segment of a longer run tells by its exit code whether there is something to go on from. Really run by bash."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.launch import CONTINUE_EXIT_CODE, NO_PROGRESS_EXIT_CODE, Command, LaunchRequest, UserScript
from jobs.spec import InvalidSpec

from .launch_requests import make_request
from .test_running_scripts import TORCHRUN, install, run, start, wait_for

FIRST = "5f0c1d2e-0001"
SAVES_AND_STOPS = """
import os, pathlib, signal, sys, time
directory = pathlib.Path(os.environ["PORTAL_CHECKPOINT_DIR"])
directory.mkdir(exist_ok=True)
def save(*_):
    (directory / "step-7").write_text("weights")
    sys.exit(int(sys.argv[1]))
if sys.argv[2] == "handles":
    signal.signal(signal.SIGUSR1, save)
elif sys.argv[2] == "drops":
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(int(sys.argv[1])))
pathlib.Path("ready").touch()
time.sleep(30)
"""


def make_segment(*words: str, number: int = 1, **changes: Any) -> LaunchRequest:
    entry = Command((sys.executable, "trainer.py", *words))
    key = FIRST if number == 1 else f"5f0c1d2e-000{number}"
    values = {"key": key, "segment_number": number, "home_key": FIRST, "signal_name": "USR1", "signal_lead_s": 60}
    return make_request(**{"entry": entry, **values, **changes})


def directory_of(request: LaunchRequest, root: Path) -> Path:
    directory = root / request.key
    directory.mkdir()
    (directory / "trainer.py").write_text(SAVES_AND_STOPS)
    return directory


def signal_and_wait(request: LaunchRequest, directory: Path, number: int = signal.SIGUSR1) -> tuple[int, str]:
    process = start(request, directory)
    wait_for(directory / "ready", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    return process.returncode, err.decode()


def test_a_program_that_saved_and_stopped_asks_for_another_segment(tmp_path: Path) -> None:
    request = make_segment("0", "handles")
    assert signal_and_wait(request, directory_of(request, tmp_path))[0] == CONTINUE_EXIT_CODE


def test_a_program_that_stopped_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    request = make_segment("85", "drops")
    code, err = signal_and_wait(request, directory_of(request, tmp_path))
    assert code == NO_PROGRESS_EXIT_CODE
    assert "no new checkpoint" in err


def test_a_program_without_a_handler_goes_on_only_from_a_new_checkpoint(tmp_path: Path) -> None:
    request = make_segment("0", "ignores")
    directory = directory_of(request, tmp_path)
    old = directory / "checkpoints" / "step-1"
    old.parent.mkdir()
    old.touch()
    os.utime(old, (1, 1))
    os.utime(old.parent, (1, 1))
    assert signal_and_wait(request, directory)[0] == NO_PROGRESS_EXIT_CODE

    saving = UserScript("#!/bin/bash\nsleep 0.1\ntouch $PORTAL_CHECKPOINT_DIR/step-2\ntouch ready\nexec sleep 30\n")
    (directory / "ready").unlink()
    assert signal_and_wait(make_segment(entry=saving), directory)[0] == CONTINUE_EXIT_CODE


def test_a_failure_after_the_signal_is_a_failure(tmp_path: Path) -> None:
    request = make_segment("3", "handles")
    assert signal_and_wait(request, directory_of(request, tmp_path))[0] == 3


def test_a_program_that_ends_by_itself_ends_the_run(tmp_path: Path) -> None:
    request = make_segment(entry=Command(("true",)))
    assert run(request, directory_of(request, tmp_path))[0] == 0
    assert run(make_segment(entry=Command(("false",))), tmp_path / FIRST)[0] == 1


def test_an_end_on_request_reaches_the_program(tmp_path: Path) -> None:
    request = make_segment("0", "handles")
    assert signal_and_wait(request, directory_of(request, tmp_path), signal.SIGTERM)[0] == 128 + signal.SIGTERM


def test_a_later_segment_finds_what_the_first_one_left(tmp_path: Path) -> None:
    tell = UserScript(
        '#!/bin/bash\necho "$PORTAL_SEGMENT_NUMBER"; ls "$PORTAL_CHECKPOINT_DIR"; cat "$PORTAL_METRICS_FILE"\n'
    )
    first = make_segment("0", "handles")
    signal_and_wait(first, directory_of(first, tmp_path))
    (tmp_path / FIRST / "metrics.jsonl").write_text('{"step": 7}\n')
    third = make_segment(number=3, entry=tell)
    # A backend names a metrics file of the segment's own: the run's is meant.
    code, out, err = run(third, directory_of(third, tmp_path), PORTAL_METRICS_FILE="/elsewhere")
    assert (code, out.split(), err) == (0, ["3", "step-7", '{"step":', "7}"], "")


def test_workers_of_torchrun_get_the_signal_in_a_segment_too(tmp_path: Path) -> None:
    install(tmp_path / "bin", "torchrun", TORCHRUN)
    request = make_segment(entry=Command(("worker.py",), "torchrun"), devices_per_node=2)
    directory = directory_of(request, tmp_path)
    (directory / "worker.py").write_text(
        "import os, pathlib, signal, sys, time\n"
        "def save(*_):\n"
        "    directory = pathlib.Path(os.environ['PORTAL_CHECKPOINT_DIR'])\n"
        "    directory.mkdir(exist_ok=True)\n"
        "    (directory / sys.argv[-1]).touch()\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGUSR1, save)\n"
        "pathlib.Path(f'ready{sys.argv[-1]}').touch()\n"
        "time.sleep(30)\n"
    )
    process = start(request, directory, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    wait_for(directory / "ready0", process)
    wait_for(directory / "ready1", process)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert process.returncode == CONTINUE_EXIT_CODE
    assert len(list((directory / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("home_key", {"home_key": "../../etc"}),
        ("home_key", {"home_key": ""}),
        ("signal_name", {"signal_name": "", "signal_lead_s": 0}),
        ("segment_number", {"segment_number": -1}),
    ],
)
def test_a_segment_that_could_not_go_on_is_refused(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        make_segment("0", "handles", **changes)
    assert refusal.value.field == field
