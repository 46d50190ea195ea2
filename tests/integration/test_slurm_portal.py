"""The whole portal on a real Slurm: what is sent to the API runs there, and costs what Slurm's accounting says."""

import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from jobs.states import TERMINAL
from portal.embedded.state import CHECKOUT
from tests.integration.slurm.lab import SlurmLab
from tests.integration.slurm.layout import ALICE
from tests.integration.slurm.portal import portal_on
from tests.integration.slurm.sharing import take_turn
from tests.running_portal import RunningPortal

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]
JOB_SCRIPT = (CHECKOUT / "examples" / "char_transformer" / "job.sh").read_text(encoding="utf-8")
DEVICES = 2


@pytest.fixture(scope="module")
def portal(slurm_lab: SlurmLab) -> Iterator[RunningPortal]:
    with take_turn(slurm_lab), portal_on(slurm_lab) as running:
        yield running


def submit_sample_workload(client: httpx.Client, cluster: str) -> str:
    body = {
        "project": "nlp-lab",
        "cluster": cluster,
        "partition": "gpu-a800",
        "name": "char-transformer",
        "nodes": 1,
        "devices_per_node": DEVICES,
        "time_limit_minutes": 10,
        "workload": {"model": {"preset": "char-transformer-demo"}, "tokens": 153_600},
        "entry": {"kind": "script", "script": JOB_SCRIPT.replace('"$@"', '--steps 150 "$@"')},
    }
    answer = client.post("/jobs", json=body, headers={"Idempotency-Key": str(uuid.uuid4())})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def wait_until_charged(client: httpx.Client, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        job: dict[str, Any] = client.get(f"/jobs/{job_id}").json()
        if job["state"] in TERMINAL and job["settled_at"]:
            return job
        time.sleep(0.3)
    raise AssertionError(f"job {job_id} is {job['state']} and not charged")


@pytest.mark.parametrize("cluster", ["slurm-cli", "slurm-rest"])
def test_a_training_job_runs_as_its_researcher_and_is_charged_to_the_second(
    portal: RunningPortal, slurm_lab: SlurmLab, cluster: str
) -> None:
    client = portal.client("lin")
    job_id = submit_sample_workload(client, cluster)
    job = wait_until_charged(client, job_id)
    log = client.get(f"/jobs/{job_id}/log", params={"offset": -2000}).json()["text"]
    assert job["state"] == "COMPLETED", log

    columns = "JobIDRaw,User,Account,State,ElapsedRaw,AllocTRES,WorkDir"
    lines = slurm_lab.run("sacct", "-X", "-D", "-n", "-P", "-a", "-S", "now-1hours", "-o", columns).splitlines()
    rows = [line.split("|") for line in lines if line.endswith(f"/{job_id}-1")]
    assert len(rows) == 1, rows
    _, user, account, state, elapsed_s, tres, _ = rows[0]
    assert (user, account, state) == (ALICE, "laba", "COMPLETED")
    assert f"gres/gpu:a800={DEVICES}" in tres.split(",")
    assert int(elapsed_s) > 0
    assert job["charged_s"] == int(elapsed_s) * DEVICES
    points = client.get(f"/jobs/{job_id}/metrics").json()["points"]
    assert points[-1]["loss"] < points[0]["loss"]
    assert "0 differences" in portal.manage("verify_ledger")
