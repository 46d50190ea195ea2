"""The run: see the package. `REQUESTS` says how many at least, `SEED` repeats what was made up."""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from tests.benchmarks.measure import read_size
from tests.running_portal import CHECKOUT, RunningPortal, running_portal

SETTINGS = "tests.fuzz.settings"
EXAMPLES = 10
"""Of each operation in each phase of one round."""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
    "use_after_free",
    "ensure_resource_availability",
)
# These would end the session that asks, and lock its name by wrong passwords.
LEFT_OUT = ("revoke_token", "create_token")
REFUSALS = (400, 401, 403, 404, 405, 406, 409, 412, 413, 415, 422)
# What is made up at random names nothing that is there: words of the portal are mixed in.
CONFIGURATION = """\
hooks = "tests.fuzz.hooks"
warnings = false

[dictionaries.words]
values = {words}

[generation.dictionaries]
string = {{ dictionary = "words", probability = 0.6 }}

[checks.negative_data_rejection]
expected-statuses = {refusals}
"""


def main() -> int:
    wanted = read_size("REQUESTS", 2000)
    seed = read_size("SEED", random.SystemRandom().randrange(10**6), low=0)
    asked, failed = 0, False
    with running_portal({"DJANGO_SETTINGS_MODULE": SETTINGS}) as portal, tempfile.TemporaryDirectory() as directory:
        while asked < wanted and not failed:
            print(f"seed {seed}", flush=True)
            report = Path(directory) / f"{seed}.json"
            failed = run_round(portal, seed, report) != 0
            asked += count_requests(report)
            seed += 1
    print(f"{asked} requests, {'with' if failed else 'no'} failures")
    return 1 if failed or asked < wanted else 0


def run_round(portal: RunningPortal, seed: int, report: Path) -> int:
    """All phases once; the exit code of schemathesis, whose findings are printed."""
    configuration = report.with_suffix(".toml")
    with portal.client("admin") as client, portal.client("chen") as pi:
        authorization = client.headers["Authorization"]
        words = json.dumps(find_words(pi))
    configuration.write_text(CONFIGURATION.format(words=words, refusals=list(REFUSALS)))
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(configuration),
        "run", f"{portal.url}/api/v1/openapi.json",
        "--header", f"Authorization: {authorization}",
        "--checks", ",".join(CHECKS),
        *(word for name in LEFT_OUT for word in ("--exclude-operation-id", name)),
        "--max-examples", str(EXAMPLES), "--seed", str(seed), "--workers", "2", "--continue-on-failure",
        "--report", "json", "--report-json-path", str(report),
    ]  # fmt: skip
    return subprocess.run(
        command, check=False, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}
    ).returncode


def find_words(pi: httpx.Client) -> list[str]:
    """Codes, names and ids of what there is, with a new job and a new request among it."""
    partition = _of(pi.get("partitions"))[0]
    project = _of(pi.get("projects"))[0]["code"]
    place = {"cluster": partition["cluster"], "partition": partition["name"], "devices_per_node": 1, "nodes": 1}
    entry = {"kind": "script", "script": "#!/bin/bash\nsleep 5\n"}
    job = pi.post("jobs", json={**place, "project": project, "name": "a", "time_limit_minutes": 5, "entry": entry})
    job.raise_for_status()
    asked = pi.post("requests", json={"kind": "END_OF_PROJECT", "project": project, "justification": "done"})
    requests = [asked.json(), *_of(pi.get("requests"))] if asked.is_success else _of(pi.get("requests"))
    allocations = _of(pi.get("allocations"))
    return [
        *(project, partition["cluster"], partition["name"], partition["resource_class"], "char-transformer-demo"),
        *("lin", "chen", "wang", job.json()["id"]),
        *(row["uuid"] for row in (*requests[:1], *allocations[:2])),
    ]


def _of(answer: httpx.Response) -> list[dict[str, Any]]:
    answer.raise_for_status()
    rows: list[dict[str, Any]] = answer.json()["results"]
    return rows


def count_requests(report: Path) -> int:
    """How many requests the round made."""
    return int(json.loads(report.read_text())["test_cases"]["generated"])


if __name__ == "__main__":
    sys.exit(main())
