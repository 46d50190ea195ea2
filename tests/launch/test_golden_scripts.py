"""The scripts, byte for byte. After a wanted change: `python -m tests.launch.test_golden_scripts` writes them."""

import subprocess
from pathlib import Path

import pytest

from jobs.launch import render_batch_script

from .launch_requests import list_golden_requests

GOLDEN = Path(__file__).parent.parent / "golden" / "launch"
REQUESTS = list_golden_requests()


@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_script_is_the_golden_one(name: str) -> None:
    assert render_batch_script(REQUESTS[name]).script == (GOLDEN / f"{name}.sh").read_text()


def test_every_golden_file_has_a_request() -> None:
    assert {path.stem for path in GOLDEN.glob("*.sh")} == set(REQUESTS)


@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_bash_accepts_the_golden_script(name: str) -> None:
    subprocess.run(["bash", "-n", str(GOLDEN / f"{name}.sh")], check=True, capture_output=True, timeout=20)


if __name__ == "__main__":
    for name, request in REQUESTS.items():
        (GOLDEN / f"{name}.sh").write_text(render_batch_script(request).script)
