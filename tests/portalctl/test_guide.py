"""The guide is true: its blocks run as they stand, on a whole portal with real workers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from typer.main import get_command

from portalctl.app import app
from portalctl.exits import Exit
from tests.running_portal import running_portal

GUIDE = (Path(settings.BASE_DIR) / "docs" / "portalctl.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", GUIDE, re.DOTALL)


@pytest.mark.timeout(400)
def test_its_blocks_work_in_the_order_in_which_they_stand(tmp_path: Path) -> None:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python3").symlink_to(sys.executable)
    command = binaries / "portalctl"
    command.write_text(f'#!/bin/bash\nPYTHONPATH="{settings.BASE_DIR}" exec "{sys.executable}" -m portalctl "$@"\n')
    command.chmod(0o755)
    (job_file,) = blocks("yaml")
    (program,) = blocks("python")
    (tmp_path / "job.yaml").write_text(job_file, encoding="utf-8")
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    script = "".join(f"echo '== block {number}'\n{block}" for number, block in enumerate(blocks("bash"), start=1))
    with running_portal() as portal:
        environment = {
            "PATH": f"{binaries}:{os.defpath}",
            "HOME": str(tmp_path),
            "LANG": "C.UTF-8",
            "PORTAL": portal.url,
            "PORTAL_USER": "lin",
            "PORTAL_PASSWORD": portal.passwords["lin"],
        }

        def run(*words: str, typed: str = "", **variables: str) -> str:
            done = subprocess.run(
                words,
                cwd=tmp_path,
                env={**environment, **variables},
                input=typed,
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
                start_new_session=True,  # no terminal that a password could be asked on: standard input has it
            )
            assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
            assert portal.passwords["lin"] not in done.stdout + done.stderr
            return done.stdout

        output = run("bash", "-euo", "pipefail", "-c", script, typed=f"{portal.passwords['lin']}\n")
        assert re.search(r"\d\d:\d\d:\d\d  COMPLETED, exit code 0, ran .*, charged 0\.\d+ h", output)
        assert re.search(r"step \d+/75  loss \d", output)
        assert '"event": "summary"' in output
        assert len(re.findall(r"^\S+  CANCELLED  second", output, re.MULTILINE)) == 1
        said = run(sys.executable, "program.py", PYTHONPATH=str(settings.BASE_DIR)).splitlines()
        assert said[0].startswith("hello from ")
        assert said[1] == "COMPLETED"
        assert any(line.startswith("first-steps COMPLETED 0.") for line in said)
        assert said[-1].startswith("invalid-request [('nodes', ")


def test_its_table_has_every_exit_code() -> None:
    rows = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", GUIDE, re.MULTILINE)}
    assert rows == {code.name: code.value for code in Exit}


def test_it_names_every_command() -> None:
    commands = set(getattr(get_command(app), "commands"))  # noqa: B009 - a group, which mypy can't know
    assert {name for name in commands if not re.search(rf"`?portalctl {name}\b|`{name}\b", GUIDE)} == set()
