"""A cluster that hangs neither slows nor blocks the others."""

import time
import uuid
from pathlib import Path

import httpx

from tests.integration.hanging_backend import HANGS_S
from tests.running_portal import RunningPortal, running_portal

SCHEDULER = """
[{code}]
BACKEND = "{backend}"
[{code}.OPTIONS]
ROOT = "{root}/{code}"
[{code}.OPTIONS.PARTITIONS.host-cpu]
nodes = 1
devices_per_node = 8
gres_name = "cpu"
gres_type = ""
max_time_limit_minutes = 60
"""
COPY_OF_DEMO = """
from accounts.models import Cluster, Partition
cluster = Cluster.objects.create(code="hangs", title="Hangs")
partition = Partition.objects.get(cluster__code="demo", name="host-cpu")
partition.pk, partition.cluster = None, cluster
partition._state.adding = True
partition.save()
"""


def submit(client: httpx.Client, cluster: str) -> str:
    body = {
        "project": "nlp-lab",
        "cluster": cluster,
        "partition": "host-cpu",
        "name": "true",
        "nodes": 1,
        "devices_per_node": 1,
        "time_limit_minutes": 1,
        "entry": {"kind": "script", "script": "#!/bin/bash\ntrue\n"},
    }
    answer = client.post("/jobs", json=body, headers={"Idempotency-Key": str(uuid.uuid4())})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def state_of(client: httpx.Client, job: str) -> str:
    return str(client.get(f"/jobs/{job}").json()["state"])


def wait_for(portal: RunningPortal, client: httpx.Client, job: str, *states: str, seconds: float) -> float:
    began = time.monotonic()
    while (state := state_of(client, job)) not in states:
        if time.monotonic() - began > seconds:
            log = (portal.home.logs / "all.log").read_text(errors="replace")[-3000:]
            raise AssertionError(f"{state} after {seconds} s, not {states}\n{log}")
        time.sleep(0.1)
    return time.monotonic() - began


def test_jobs_of_other_clusters_run_while_one_hangs(tmp_path: Path) -> None:
    file = tmp_path / "schedulers.toml"
    backends = {
        "demo": "jobs.backends.local.LocalBackend",
        "hangs": "tests.integration.hanging_backend.HangingBackend",
    }
    file.write_text(
        "".join(SCHEDULER.format(code=code, backend=name, root=tmp_path) for code, name in backends.items())
    )
    with running_portal({"SCHEDULERS_FILE": str(file), "DISPATCH_LEASE_S": "30"}) as portal:
        portal.manage("shell", "--command", COPY_OF_DEMO)
        client = portal.client("lin")
        stuck = [submit(client, "hangs") for _ in range(3)]
        wait_for(portal, client, stuck[0], "DISPATCHING", seconds=20)
        # Its first calls hang now. Whatever others are sent is taken, run and charged meanwhile.
        waited_s = [
            wait_for(portal, client, submit(client, "demo"), "COMPLETED", seconds=HANGS_S - 3) for _ in range(2)
        ]
        assert {state_of(client, job) for job in stuck} <= {"DISPATCHING", "QUEUED"}
        print("waited for", [f"{one:.1f} s" for one in waited_s])
