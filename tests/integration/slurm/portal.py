"""A portal whose clusters are a lab: for developers (`make slurm`), and for tests.

python -m tests.integration.slurm.portal up      bring up whatever of lab and portal doesn't run yet
python -m tests.integration.slurm.portal down    stop and remove both
"""

import argparse
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from portal.embedded.state import Home, read_run
from tests.integration.slurm.lab import CHECKOUT, MARKER, LabError, SlurmLab, directory_of, remove_lab
from tests.integration.slurm.layout import ALICE, MESSAGE_TIMEOUT_S, PORTAL_USER
from tests.integration.slurm.packages import install_packages, missing_programs
from tests.integration.slurm.tokens import fresh_tokens, spawn_renewal, write_tokens
from tests.running_portal import RunningPortal, running_portal

SETTLE_S: Final = 2 * MESSAGE_TIMEOUT_S
_FOREIGN: Final = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DJANGO_SETTINGS_MODULE", "PORTAL_URL", "STATIC_ROOT")
"""What of a developer's own environment would make it another portal."""


def write_schedulers(lab: SlurmLab, file: Path, *, suffix: str = "", **changes: Mapping[str, str]) -> None:
    """What SCHEDULERS_FILE names: both backends on the lab, each with a directory of its own for its jobs.

    `suffix` tells these directories from those of other portals on the lab. `changes` replaces entries by cluster,
    such as `slurm_cli={"BACKEND": …}`. Raises LabError.
    """
    layout = lab.layout
    common = {"TIMEOUT_S": MESSAGE_TIMEOUT_S + 10, "SETTLE_S": SETTLE_S}
    rest = {"URL": layout.rest_url, "USER": PORTAL_USER, "TOKEN_DIRECTORY": str(layout.tokens)}
    clusters: dict[str, tuple[str, dict[str, Any]]] = {
        "slurm-cli": ("jobs.backends.slurm.SlurmCliBackend", {"SLURM_CONF": str(layout.slurm_conf)}),
        "slurm-rest": ("jobs.backends.slurm.SlurmRestBackend", rest),
    }
    environment = job_environment(lab)
    lines = []
    for code, (backend, options) in clusters.items():
        backend = changes.get(code.replace("-", "_"), {}).get("BACKEND", backend)
        lines += [f"[{code}]", f"BACKEND = {json.dumps(backend)}", f"[{code}.OPTIONS]"]
        options = {"JOBS_DIRECTORY": f"{layout.jobs}/{code}{suffix}", **common, **options}
        lines += [f"{name} = {json.dumps(value)}" for name, value in options.items()]
        lines += [f"[{code}.OPTIONS.ENVIRONMENT]", *(f"{name} = {json.dumps(v)}" for name, v in environment.items())]
    file.write_text("\n".join(lines) + "\n")


def job_environment(lab: SlurmLab) -> dict[str, str]:
    """What the sample workload needs to run as one of the lab's users. Raises LabError."""
    examples = CHECKOUT / "examples"
    site_packages = next(path for path in sys.path if path.endswith("site-packages"))
    # A virtual environment's interpreter often lives under somebody's home, where others can't go.
    for python, path in ((sys.executable, ""), ("/usr/bin/python3", site_packages)):
        found = {"PORTAL_PYTHON": python, "PORTAL_EXAMPLES": str(examples), **({"PYTHONPATH": path} if path else {})}
        test = f"import numpy; open({str(examples / 'char_transformer' / 'train.py')!r})"
        command = ["runuser", "-u", ALICE, "--", "env", *(f"{name}={value}" for name, value in found.items())]
        if subprocess.run([*command, python, "-c", test], capture_output=True, check=False, cwd="/").returncode == 0:
            return found
    raise LabError(f"{ALICE} can use neither {sys.executable} nor /usr/bin/python3 with {site_packages} and {examples}")


def populate(lab: SlurmLab, environment: Mapping[str, str], *, is_unlimited: bool = False) -> None:
    """Make the rows of the lab's clusters in a portal that runs. Raises LabError."""
    command = [sys.executable, "-m", "tests.integration.slurm.centre", "--name", lab.name]
    command += ["--unlimited"] if is_unlimited else []
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"the centre could not be made: {done.stdout}{done.stderr}")


@contextmanager
def portal_on(lab: SlurmLab, extra: Mapping[str, str] | None = None) -> Iterator[RunningPortal]:
    """A portal of its own on a lab that nobody else uses now, without limits for its people; nothing is left of it."""
    suffix = f"-{uuid.uuid4().hex[:8]}"
    file = lab.layout.root / f"schedulers{suffix}.toml"
    write_schedulers(lab, file, suffix=suffix)
    with fresh_tokens(lab), running_portal({"SCHEDULERS_FILE": str(file), **(extra or {})}) as portal:
        populate(lab, portal.environment, is_unlimited=True)
        yield portal


# For developers


def _up(name: str) -> None:
    if missing_programs():
        print("installing Debian's Slurm packages")
        install_packages()
    try:
        lab = SlurmLab.open(name)
        lab.start_missing()
    except LabError as error:
        print(f"a new lab is made: {error}")
        _stop_portal(name)
        lab = SlurmLab.create(name)
    file = lab.layout.root / "schedulers.toml"
    write_schedulers(lab, file)
    write_tokens(lab)
    spawn_renewal(lab).returncode = 0  # it ends with the lab
    environment = _portal_environment(name)
    run = read_run(_home_of(name))
    if run is None or not run.supervisor.is_alive():
        subprocess.run([sys.executable, "-m", "portal", "up", "--detach"], cwd=CHECKOUT, env=environment, check=True)
    populate(lab, environment)
    run = read_run(_home_of(name))
    if run is None:
        raise LabError(f"the portal has ended again; see {_home_of(name).logs}")
    print(f"\nportal   {run.web_url}   clusters slurm-cli and slurm-rest, partitions gpu-a800 and ascend910b")
    print(f"sign in  {_home_of(name).credentials_file} (lin, chen: project nlp-lab; wang: project protein)")
    print(f"Slurm    export SLURM_CONF={lab.layout.slurm_conf}; squeue")
    print("stop     make slurm-down")


def _down(name: str) -> None:
    _stop_portal(name)
    remove_lab(directory_of(name))
    print("the lab is down")


def _stop_portal(name: str) -> None:
    if _home_of(name).path.exists():
        command = [sys.executable, "-m", "portal", "down"]
        subprocess.run(command, cwd=CHECKOUT, env=_portal_environment(name), check=True)


def _home_of(name: str) -> Home:
    """In the lab's directory: jobs of a Slurm that is gone would be no use to the next one's portal."""
    return Home(directory_of(name) / "portal")


def _portal_environment(name: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in _FOREIGN}
    root = directory_of(name)
    own = {"PORTAL_HOME": str(_home_of(name).path), "SCHEDULERS_FILE": str(root / "schedulers.toml")}
    return {**kept, **own, MARKER: str(root)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.integration.slurm.portal", description=__doc__)
    parser.add_argument("command", choices=["up", "down"])
    parser.add_argument("--name", default="default", help="of the lab")
    arguments = parser.parse_args()
    try:
        {"up": _up, "down": _down}[arguments.command](arguments.name)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
