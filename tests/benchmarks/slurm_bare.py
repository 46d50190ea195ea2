"""What Slurm alone does: submissions without the portal, on a lab whose nodes are taken so that jobs only wait."""

import http.client
import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit

from tests.integration.slurm.lab import SlurmLab, as_user
from tests.integration.slurm.layout import ACCOUNTS, ALICE

_SCRIPT: Final = "#!/bin/bash\necho hello\n"
_LOOP: Final = """
for number in $(seq "$1"); do
    printf %s "$2" | sbatch --parsable --gres=gpu:a800:1 --time=60 --output=/dev/null || exit 1
done
"""


def occupy(lab: SlurmLab) -> None:
    """One job that holds all accelerators of the partition, and nothing else in the queue."""
    lab.cancel_all()
    options = ("--parsable", "--nodes=2", "--gres=gpu:a800:8", "--exclusive", "--time=600", "-o", "/dev/null")
    job_id = lab.run("sbatch", *options, "--chdir=/", "--wrap=sleep 36000", user=ALICE).strip()

    def is_running() -> bool:
        return lab.run("squeue", "--noheader", f"--jobs={job_id}", "--format=%T").strip() == "RUNNING"

    lab.wait_until(is_running, "the job that holds all nodes")


def sbatch_loop(lab: SlurmLab, jobs: int, *, processes: int = 1) -> float:
    """Jobs per second of shell loops as the researcher, each one sbatch after the other."""
    start = time.perf_counter()
    loops = [
        subprocess.Popen(
            ["bash", "-c", _LOOP, "loop", str(jobs // processes), _SCRIPT],
            env=lab.environment,
            cwd="/",
            stdout=subprocess.DEVNULL,
            **as_user(ALICE),
        )
        for _ in range(processes)
    ]
    codes = [loop.wait() for loop in loops]
    seconds = time.perf_counter() - start
    if any(codes):
        raise SystemExit(f"sbatch failed: exit codes {codes}")
    return jobs // processes * processes / seconds


def rest_loop(lab: SlurmLab, jobs: int, *, connections: int = 1) -> float:
    """Jobs per second by slurmrestd, each connection kept open and used for one job after the other."""
    headers = {
        "Content-Type": "application/json",
        "X-SLURM-USER-NAME": ALICE,
        "X-SLURM-USER-TOKEN": lab.mint_token(ALICE),
    }
    job = {
        "name": "bare",
        "account": ACCOUNTS[ALICE],
        "partition": "gpu-a800",
        "gres": "gpu:a800:1",
        "time_limit": 60,
        "environment": {"PATH": "/usr/bin:/bin"},
        "current_working_directory": "/",
        "standard_output": "/dev/null",
    }
    body = json.dumps({"script": _SCRIPT, "job": job})
    address = urlsplit(lab.layout.rest_url)

    def submit(count: int) -> None:
        connection = http.client.HTTPConnection(str(address.hostname), address.port)
        for _ in range(count):
            connection.request("POST", "/slurm/v0.0.38/job/submit", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise SystemExit(f"slurmrestd: {answer.status} {text[:300]!r}")
        connection.close()

    start = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(submit, [jobs // connections] * connections))
    return jobs // connections * connections / (time.perf_counter() - start)
