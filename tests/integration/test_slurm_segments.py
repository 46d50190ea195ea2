"""A run longer than the partition's limit, on a real Slurm: one job and one bill, resumed from checkpoints."""

import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from jobs.states import TERMINAL
from portal.embedded.state import CHECKOUT
from tests.integration.slurm.lab import SlurmLab
from tests.integration.slurm.portal import portal_on
from tests.integration.slurm.sharing import take_turn
from tests.running_portal import RunningPortal

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]
PARTITION = "ascend910b"
JOB_SCRIPT = (CHECKOUT / "examples" / "char_transformer" / "job.sh").read_text(encoding="utf-8")
NO_CHECKPOINT = "#!/bin/bash\ntrap 'exit 85' USR1\nwhile :; do sleep 0.2; done\n"


@pytest.fixture(scope="module")
def portal(slurm_lab: SlurmLab) -> Iterator[RunningPortal]:
    """With a partition where no job may be longer than a minute."""
    limit = slurm_lab.run("sinfo", "--noheader", f"--partition={PARTITION}", "--format=%l").strip()
    with take_turn(slurm_lab), portal_on(slurm_lab) as running:
        slurm_lab.run("scontrol", "update", f"partitionname={PARTITION}", "maxtime=1")
        try:
            client = running.client("lin")
            wait_until(lambda: limits_of(client) == {1}, "the inventory to show the partition's limit")
            yield running
        finally:
            slurm_lab.run("scontrol", "update", f"partitionname={PARTITION}", f"maxtime={limit}")


def wait_until(condition: Any, what: str, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.3)


def limits_of(client: httpx.Client) -> set[int]:
    found = client.get("/partitions").json()["results"]
    return {item["max_time_limit_minutes"] for item in found if item["name"] == PARTITION}


def submit(client: httpx.Client, cluster: str, script: str, **changes: Any) -> str:
    body = {
        "project": "nlp-lab",
        "cluster": cluster,
        "partition": PARTITION,
        "name": "long-run",
        "nodes": 1,
        "devices_per_node": 1,
        "time_limit_minutes": 10,
        "checkpoint_lead_s": 55,
        "entry": {"kind": "script", "script": script},
        **changes,
    }
    answer = client.post("/jobs", json=body, headers={"Idempotency-Key": str(uuid.uuid4())})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def signal_when_it_trains(lab: SlurmLab, client: httpx.Client, job_id: str, number: int) -> None:
    """Send a segment the signal that Slurm sends before the end, once it has trained for some steps."""

    def get_last_step() -> int:
        points = client.get(f"/jobs/{job_id}/metrics").json()["points"]
        return int(points[-1]["step"]) if points else 0

    wait_until(lambda: len(client.get(f"/jobs/{job_id}").json()["segments"]) >= number, f"segment {number}")
    before = get_last_step()
    wait_until(lambda: get_last_step() > before, f"segment {number} to train")
    native_id = client.get(f"/jobs/{job_id}").json()["segments"][number - 1]["native_id"]
    lab.run("scancel", "--batch", "--signal=USR1", native_id)


def wait_until_charged(client: httpx.Client, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = {}

    def is_charged() -> bool:
        job.update(client.get(f"/jobs/{job_id}").json())
        return job["state"] in TERMINAL and bool(job["settled_at"])

    wait_until(is_charged, "the job to be charged", seconds=200)
    return job


def elapsed_in_accounting(lab: SlurmLab, job_id: str) -> dict[str, int]:
    """Seconds by segment's key."""
    lines = lab.run("sacct", "-X", "-D", "-n", "-P", "-a", "-S", "now-1hours", "-o", "WorkDir,ElapsedRaw").splitlines()
    rows = [line.rsplit("|", 1) for line in lines if f"/{job_id}-" in line]
    assert len(rows) == len({directory for directory, _ in rows}), rows
    return {directory.rpartition("/")[2]: int(seconds) for directory, seconds in rows}


@pytest.mark.parametrize("cluster", ["slurm-cli", "slurm-rest"])
def test_training_goes_on_over_three_segments_and_more(
    portal: RunningPortal, slurm_lab: SlurmLab, cluster: str
) -> None:
    client = portal.client("lin")
    steps = 800 if cluster == "slurm-cli" else 1800  # of which a fast core does 500 in a segment
    script = JOB_SCRIPT.replace('"$@"', f'--steps {steps} "$@"')
    job_id = submit(client, cluster, script)
    if cluster == "slurm-cli":
        # slurmctld looks every 30 s for jobs to signal, by when all may be done: the same signal, sooner. What
        # slurmrestd was given signals itself after 5 s.
        for number in (1, 2):
            signal_when_it_trains(slurm_lab, client, job_id, number)
    job = wait_until_charged(client, job_id)
    segments = job["segments"]
    log = client.get(f"/jobs/{job_id}/log", params={"segment": 1}).json()["text"]
    assert (job["state"], job["exit_code"]) == ("COMPLETED", 0), log
    assert len(segments) >= 3
    reached = [segment["last_step"] for segment in segments]
    assert reached[:-1] == sorted(set(reached[:-1])), "each segment got further than the one before"
    assert reached[-1] == steps  # maybe reached before: the signal may come at the last step
    assert [segment["exit_code"] for segment in segments] == [85] * (len(segments) - 1) + [0]

    used_s = elapsed_in_accounting(slurm_lab, job_id)
    assert sorted(used_s) == sorted(f"{job_id}-{number}" for number in range(1, len(segments) + 1))
    assert job["charged_s"] == sum(used_s.values())
    points = client.get(f"/jobs/{job_id}/metrics").json()["points"]
    assert [point["step"] for point in points] == sorted({point["step"] for point in points})
    text = client.get(f"/jobs/{job_id}/log", params={"segment": len(segments)}).json()["text"]
    assert '"resumed_from": null' not in text
    assert "0 differences" in portal.manage("reconcile_usage", "--cluster", cluster, "--since", "1d")
    print(f"{cluster}: {len(segments)} segments reached steps {reached}; {job['charged_s']} accelerator-seconds")


def test_a_chain_that_writes_no_checkpoint_is_stopped_and_says_so(portal: RunningPortal) -> None:
    client = portal.client("lin")
    job = wait_until_charged(client, submit(client, "slurm-cli", NO_CHECKPOINT))
    assert (job["state"], job["reason"], len(job["segments"])) == ("TIMEOUT", "no_progress", 1)
