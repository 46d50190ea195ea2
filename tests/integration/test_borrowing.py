"""Borrowing from end to end, on the local backend: nothing here is a stand-in."""

import json
import math
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.running_portal import RunningPortal, running_portal

SCHEDULERS = """
[demo]
BACKEND = "jobs.backends.local.LocalBackend"
[demo.OPTIONS]
ROOT = "{root}"
[demo.OPTIONS.PARTITIONS.host-cpu]
nodes = 1
devices_per_node = 8
gres_name = "cpu"
gres_type = ""
max_time_limit_minutes = 60
"""

SHARES = """
from decimal import Decimal
from accounts.models import Cohort, CohortShare, Partition, Project
Partition.objects.filter(name="host-cpu").update(nodes=1, devices_per_node=8)
cohort = Cohort.objects.create(
    partition=Partition.objects.get(cluster__code="demo", name="host-cpu"),
    preemptible_weight=Decimal("0.4"),
    grace_s=30,
)
CohortShare.objects.create(cohort=cohort, project=Project.objects.get(code="{owner}"), nominal=6)
CohortShare.objects.create(cohort=cohort, project=Project.objects.get(code="{borrower}"), nominal=2)
"""

STEPS = 80
BORROWERS = f"""#!/bin/bash
mkdir -p "$PORTAL_CHECKPOINT_DIR"
saved="$PORTAL_CHECKPOINT_DIR/step"
step=$(cat "$saved" 2>/dev/null || echo 0)
trap 'echo $step > "$saved"; echo "checkpoint at $step"; exit 85' USR1
echo "from step $step"
while [ "$step" -lt {STEPS} ]; do
  sleep 0.1 & wait $!
  step=$((step + 1))
  echo "{{\\"step\\": $step, \\"loss\\": 1.5}}" >> "$PORTAL_METRICS_FILE"
done
echo "done at step $step"
"""
"""Trains for some seconds; on the signal it writes where it is and asks for more."""

OWNERS = "#!/bin/bash\nsleep 4\n"


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[RunningPortal]:
    file = tmp_path / "schedulers.toml"
    file.write_text(SCHEDULERS.format(root=tmp_path / "scheduler"))
    with running_portal({"SCHEDULERS_FILE": str(file)}) as running:
        yield running


def submit(client: httpx.Client, project: str, script: str, *, devices: int, **fields: Any) -> str:
    body = {
        "project": project,
        "cluster": "demo",
        "partition": "host-cpu",
        "name": "share",
        "nodes": 1,
        "devices_per_node": devices,
        "time_limit_minutes": 10,
        "entry": {"kind": "script", "script": script},
        **fields,
    }
    answer = client.post("/jobs", json=body, headers={"Idempotency-Key": str(uuid.uuid4())})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def wait_until(condition: Callable[[], Any], what: str, *, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.1)
    return value


@pytest.mark.timeout(600)
def test_a_borrower_makes_room_for_the_owner_and_goes_on_from_its_checkpoint(
    portal: RunningPortal, tmp_path: Path
) -> None:
    portal.manage("shell", "-c", SHARES.format(owner="nlp-lab", borrower="protein"))
    borrowing, owning = portal.client("wang"), portal.client("lin")

    borrower = submit(borrowing, "protein", BORROWERS, devices=8, is_preemptible=True)

    def look(client: httpx.Client, job: str) -> dict[str, Any]:
        found: dict[str, Any] = client.get(f"/jobs/{job}").json()
        return found

    def points() -> list[Any]:
        return list(borrowing.get(f"/jobs/{borrower}/metrics").json()["points"])

    wait_until(points, "the borrower to train on all 8 accelerators, of which 2 are its own")
    owner = submit(owning, "nlp-lab", OWNERS, devices=6)
    wait_until(lambda: look(owning, owner)["state"] == "RUNNING", "the owner to run")
    waiting = look(borrowing, borrower)
    assert (waiting["state"], waiting["reason"], waiting["preemptions"]) == ("QUEUED", "nothing_idle", 1)
    assert waiting["charged_s"] is None
    wait_until(lambda: look(owning, owner)["settled_at"], "the owner to be charged")
    wait_until(lambda: look(borrowing, borrower)["settled_at"], "the borrower to be charged")

    ended = look(borrowing, borrower)
    assert ended["state"] == "COMPLETED"
    first, second = ended["segments"]
    assert (first["end_state"], first["exit_code"], second["end_state"]) == ("PREEMPTED", 85, "COMPLETED")
    reached = first["last_step"]
    assert 0 < reached < STEPS
    logs = [borrowing.get(f"/jobs/{borrower}/log", params={"segment": n}).json()["text"] for n in (1, 2)]
    assert logs == [f"from step 0\ncheckpoint at {reached}\n", f"from step {reached}\ndone at step {STEPS}\n"]
    steps = [point["step"] for point in points()]
    assert steps == list(range(1, STEPS + 1)), "no step was lost, and none was made twice"

    with sqlite3.connect(next((tmp_path / "scheduler").glob("*.sqlite3"))) as queue:
        elapsed = {key: round(seconds) for key, seconds in queue.execute("SELECT key, elapsed_s FROM jobs")}
    billing = Decimal(str(ended["billing_weight"]))
    used = [elapsed[f"{borrower}-1"], elapsed[f"{borrower}-2"]]
    assert ended["charged_s"] == sum(math.ceil(8 * seconds * billing) for seconds in used)
    full = look(owning, owner)
    assert Decimal(str(full["billing_weight"])) * Decimal("0.4") == billing
    assert full["charged_s"] == math.ceil(6 * elapsed[f"{owner}-1"] * Decimal(str(full["billing_weight"])))
    events = borrowing.get(f"/jobs/{borrower}/events").json()["results"]
    assert [event["kind"] for event in events].count("preempt_requested") == 1
    assert "0 differences" in portal.manage("verify_ledger")
    assert "0 differences" in portal.manage("reconcile_usage", "--cluster", "demo")
    print(json.dumps({"borrower": used, "charged": ended["charged_s"], "owner": full["charged_s"]}))
