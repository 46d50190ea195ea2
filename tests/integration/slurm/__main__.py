"""The command line: see the package."""

import argparse
import sys
import time

from tests.integration.slurm.lab import LabError, SlurmLab, directory_of, remove_lab
from tests.integration.slurm.packages import install_packages, missing_programs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.integration.slurm", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status"])
    parser.add_argument("--name", default="default", help="of the lab; several may run at once")
    arguments = parser.parse_args()
    commands = {"up": _up, "down": _down, "status": _status}
    try:
        return commands[arguments.command](arguments.name)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1


def _up(name: str) -> int:
    began = time.monotonic()
    if missing_programs():
        print("installing Debian's Slurm packages")
        install_packages()
    SlurmLab.create(name)
    print(f"up in {time.monotonic() - began:.1f} s")
    return _status(name)


def _down(name: str) -> int:
    remove_lab(directory_of(name))
    print("down")
    return 0


def _status(name: str) -> int:
    lab = SlurmLab.open(name)
    missing = 0
    for daemon in lab.daemons:
        process = lab.process(daemon)
        missing += process is None
        state = f"process {process.pid}, {process.memory_info().rss // 2**20} MiB" if process else "does not run"
        print(f"{daemon:12} {state}")
    if not missing:
        print(lab.run("sinfo"))
    print(f"clients:  export SLURM_CONF={lab.layout.slurm_conf}\nREST:     {lab.layout.rest_url}")
    print(f"tokens:   {lab.layout.broker_socket}")
    return 3 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
