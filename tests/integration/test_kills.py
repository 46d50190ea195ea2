"""A worker that is killed in the middle of its work loses nothing and doubles nothing. Nothing here is a stand-in."""

import os
import random
import sqlite3
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from jobs.states import TERMINAL
from tests.running_portal import RunningPortal, running_portal

KILLS = int(os.environ.get("KILLS", "3"))  # more in a long run: KILLS=50 make test PYTEST_ARGS=tests/integration
JOBS_PER_KILL = 3

SCHEDULERS = """
[demo]
BACKEND = "tests.integration.slow_backend.SlowLocalBackend"
[demo.OPTIONS]
ROOT = "{root}"
[demo.OPTIONS.PARTITIONS.host-cpu]
nodes = 1
devices_per_node = 8
gres_name = "cpu"
gres_type = ""
max_time_limit_minutes = 60
"""


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[RunningPortal]:
    file = tmp_path / "schedulers.toml"
    root = tmp_path / "scheduler"
    file.write_text(SCHEDULERS.format(root=root))
    with running_portal({"SCHEDULERS_FILE": str(file), "DISPATCH_LEASE_S": "10"}) as running:
        yield running


def submit(client: httpx.Client, marks: Path) -> str:
    """A job that leaves one mark each time that it is run."""
    body = {
        "project": "nlp-lab",
        "cluster": "demo",
        "partition": "host-cpu",
        "name": "mark",
        "nodes": 1,
        "devices_per_node": 1,
        "time_limit_minutes": 1,
        "entry": {"kind": "script", "script": f'#!/bin/bash\necho "$PORTAL_JOB_KEY" >> {marks}\n'},
    }
    answer = client.post("/jobs", json=body, headers={"Idempotency-Key": str(uuid.uuid4())})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def kill(processes: list[psutil.Process]) -> bool:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return bool(processes)


@pytest.mark.timeout(120 + 40 * KILLS)
def test_killing_the_worker_in_the_middle_of_dispatch_loses_no_job_and_doubles_none(
    portal: RunningPortal, tmp_path: Path
) -> None:
    chance = random.Random(2026)
    marks = tmp_path / "marks"
    client = portal.client("lin")
    jobs: list[str] = []
    kills = 0
    while kills < KILLS:
        jobs += [submit(client, marks) for _ in range(JOBS_PER_KILL)]
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            states = [client.get(f"/jobs/{job}").json()["state"] for job in jobs[-JOBS_PER_KILL:]]
            if "DISPATCHING" in states:
                break
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.6))
        kills += kill(portal.processes("worker"))

    deadline = time.monotonic() + 120
    open_jobs = set(jobs)
    while open_jobs and time.monotonic() < deadline:
        for job in list(open_jobs):
            answer = client.get(f"/jobs/{job}").json()
            if answer["state"] in TERMINAL and answer["settled_at"]:
                open_jobs.discard(job)
        time.sleep(0.3)

    assert open_jobs == set(), "stuck"
    keys = sorted(f"{job}-1" for job in jobs)
    assert sorted(marks.read_text().split()) == keys, "lost or run twice"
    with sqlite3.connect(next((tmp_path / "scheduler").glob("*.sqlite3"))) as queue:
        assert sorted(row[0] for row in queue.execute("SELECT key FROM jobs")) == keys
    assert "0 differences" in portal.manage("verify_ledger")
    print(f"{kills} kills, {len(jobs)} jobs: 0 lost, 0 run twice")
