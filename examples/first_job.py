"""Walk a real training job through the portal, by its public REST API alone.

Signs in as a researcher, asks for an estimate, submits the character transformer, follows its state, log and loss to
the end, and prints estimate beside actual and the allocation's balance before, while reserved, and after.

    python -m examples.first_job [--url http://127.0.0.1:8000] [--user lin] [--home .portal]
"""

import argparse
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import httpx

from portal.embedded.state import Home, read_run

WORKLOAD = {"model": {"preset": "char-transformer-demo"}, "tokens": 1_536_000}
PLACE = {"project": "nlp-lab", "cluster": "demo", "partition": "host-cpu", "nodes": 1, "devices_per_node": 1}
SCRIPT = Path(__file__).resolve().parent / "char_transformer" / "job.sh"
HOUR_S = 3600
DEADLINE_S = 15 * 60


class Portal:
    """The API, with errors that say what the problem document says."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=f"{url}/api/v1", timeout=30)

    def sign_in(self, user: str, password: str) -> None:
        token = self.call("POST", "/auth/token", json={"username": user, "password": password})["token"]
        self._http.headers["Authorization"] = f"Bearer {token}"

    def call(self, method: str, path: str, **request: Any) -> Any:
        answer = self._http.request(method, path, **request)
        if answer.is_error:
            sys.exit(f"{method} {path}: {answer.status_code}\n{answer.text}")
        return answer.json()


def main() -> None:
    options = parse_options()
    url = options.url or find_portal(options.home)
    portal = Portal(url)
    portal.sign_in(options.user, read_password(options.home / "credentials", options.user))
    me = portal.call("GET", "/me")
    title(f"Signed in at {url} as {me['username']}")
    before = balance(portal)
    say(f"balance before     {before}")

    title("Estimate")
    answer = portal.call("POST", "/estimates", json={**PLACE, "workload": WORKLOAD})
    estimate = answer["estimate"]
    say(f"fits               {'yes' if estimate['fits'] else 'no'}")
    say(f"memory             {megabytes(estimate['memory_bytes'])}")
    say(f"step               {estimate['step_s'] * 1000:.1f} ms × {estimate['steps']} steps")
    say(
        f"duration           {estimate['duration_s']:.0f} s "
        f"({estimate['duration_p10_s']:.0f} to {estimate['duration_p90_s']:.0f} s)"
    )
    say(f"accelerator-hours  {estimate['accelerator_s'] / HOUR_S:.4f}")

    title("Submit")
    body = {
        **PLACE,
        "name": "alice-char-transformer",
        "workload": WORKLOAD,
        "entry": {"kind": "script", "script": SCRIPT.read_text(encoding="utf-8")},
    }
    key = {"Idempotency-Key": str(uuid.uuid4())}
    job = portal.call("POST", "/jobs", json=body, headers=key)
    again = portal.call("POST", "/jobs", json=body, headers=key)
    say(f"job                {job['id']}")
    say(f"sent twice         {'one job' if again['id'] == job['id'] else 'TWO JOBS'}")
    say(f"time limit         {job['time_limit_minutes']} min, from the estimate")

    title("Follow")
    job, last_metrics = follow(portal, job["id"])
    say("last lines of its log:")
    tail = portal.call("GET", f"/jobs/{job['id']}/log", params={"offset": -1200})
    for line in tail["text"].splitlines()[-3:]:
        say(f"  | {line[:150]}")

    title("Estimate beside actual")
    compare(estimate, job, last_metrics)
    after = balance(portal)
    say(f"balance before     {before}")
    say(f"balance after      {after}")
    say(f"page               {url}/jobs/{job['id']}")
    if job["state"] != "COMPLETED" or last_metrics.get("loss", 9) > 2.5:
        sys.exit(f"the job did not train as it should: {job['state']}, last loss {last_metrics.get('loss')}")


def follow(portal: Portal, job_id: str) -> tuple[dict[str, Any], dict[str, float]]:
    """Print each change of state and the loss, until the job is charged; show the balance while it is reserved."""
    deadline = time.monotonic() + DEADLINE_S
    state, offset, shown_at, point, shown_hold = "", 0, 0.0, {}, False
    while time.monotonic() < deadline:
        job = portal.call("GET", f"/jobs/{job_id}")
        if job["state"] != state:
            state = job["state"]
            say(f"{job['submitted_at'] if state == 'SUBMITTED' else clock()}  {state}")
        if state in {"QUEUED", "DISPATCHING", "PENDING", "RUNNING"} and not shown_hold:
            say(f"          balance while reserved: {balance(portal)}")
            shown_hold = True
        metrics = portal.call("GET", f"/jobs/{job_id}/metrics", params={"offset": offset})
        offset = metrics["next_offset"]
        if metrics["points"]:
            point = metrics["points"][-1]
            if time.monotonic() - shown_at > 4:
                say(f"          step {point['step']:>5.0f}  loss {point['loss']:.3f}")
                shown_at = time.monotonic()
        if job["settled_at"] is not None:
            say(f"          step {point.get('step', 0):>5.0f}  loss {point.get('loss', 0):.3f}")
            return job, point
        time.sleep(1)
    return sys.exit(f"job {job_id} did not end within {DEADLINE_S} s; its state is {state}")


def compare(estimate: dict[str, Any], job: dict[str, Any], point: dict[str, float]) -> None:
    usage = job["usage"]
    rows = [
        ("memory", megabytes(estimate["memory_bytes"]), megabytes(usage["max_rss_bytes"])),
        ("step", f"{estimate['step_s'] * 1000:.1f} ms", f"{usage['elapsed_s'] / estimate['steps'] * 1000:.1f} ms"),
        ("duration", f"{estimate['duration_s']:.0f} s", f"{usage['elapsed_s']:.0f} s"),
        (
            "accelerator-hours",
            f"{estimate['accelerator_s'] / HOUR_S:.4f}",
            f"{job['charged_s'] / HOUR_S:.4f} charged",
        ),
        ("loss", "4.277 (uniform)", f"{point.get('loss', float('nan')):.3f}"),
    ]
    say(f"{'':18} {'estimate':>18} {'actual':>18}")
    for name, expected, actual in rows:
        say(f"{name:18} {expected:>18} {actual:>18}")


def balance(portal: Portal) -> str:
    rows = portal.call("GET", "/allocations", params={"project": PLACE["project"], "resource_class": "cpu"})["results"]
    granted, used, reserved, available = (
        sum(row[f"{column}_s"] for row in rows) / HOUR_S for column in ("granted", "used", "reserved", "available")
    )
    return f"granted {granted:.2f} h, used {used:.4f} h, reserved {reserved:.4f} h, available {available:.4f} h"


def find_portal(home: Path) -> str:
    run = read_run(Home(home))
    return run.web_url if run is not None and run.web_url else sys.exit("no portal runs; start one with 'make up'")


def read_password(path: Path, user: str) -> str:
    try:
        people = dict(line.split() for line in path.read_text(encoding="utf-8").splitlines())
        return people[user]
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"{path} has no password for {user}: {error}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", help="address of the portal; default: the one that runs from --home")
    parser.add_argument("--user", default="lin")
    parser.add_argument("--home", type=Path, default=Path(__file__).resolve().parent.parent / ".portal")
    return parser.parse_args()


def megabytes(count: float | None) -> str:
    return "not measured" if count is None else f"{count / 1e6:.1f} MB"


def clock() -> str:
    return time.strftime("%H:%M:%S")


def title(text: str) -> None:
    print(f"\n== {text}", flush=True)


def say(text: str) -> None:
    print(f"   {text}", flush=True)


if __name__ == "__main__":
    main()
