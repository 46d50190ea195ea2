"""The portal on a real Slurm, beside that Slurm alone; as root, with Debian's packages, on a lab of its own."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from typing import Any, Final, LiteralString

import httpx
import psycopg

from portal.embedded.state import CHECKOUT, read_run
from tests.benchmarks.measure import describe_load, print_table, read_size
from tests.benchmarks.slurm_bare import occupy, rest_loop, sbatch_loop
from tests.benchmarks.slurm_reconcile import measure_reconciliation
from tests.integration.slurm.lab import SlurmLab, remove_lab
from tests.integration.slurm.portal import portal_on
from tests.running_portal import RunningPortal

_CLUSTERS: Final = ("slurm-cli", "slurm-rest")
_PARTS: Final = ("submission", "questions", "reconcile")
_PEOPLE: Final = 40
_PATIENCE_S: Final = 600.0
_ACTIVE: Final = 1000
_PAGES: Final = 100
_PAGE_INTERVAL_S: Final = 4.0


def run() -> None:
    jobs, pending = read_size("JOBS", 240, low=8) // 8 * 8, read_size("PENDING", 10_000, low=100)
    watch_s = read_size("WATCH_S", 60, low=10)
    parts = os.environ.get("PARTS", ",".join(_PARTS)).split(",")
    if unknown := sorted(set(parts) - set(_PARTS)):
        raise SystemExit(f"PARTS: {unknown[0]!r} is not allowed; allowed: {', '.join(_PARTS)}")
    lab = SlurmLab.create(f"bench-{os.getpid()}")
    try:
        if {"submission", "questions"} & set(parts):
            with portal_on(lab) as portal:
                tokens = _make_people(portal, _PEOPLE)
                if "submission" in parts:
                    _measure_submission(portal, lab, tokens, jobs)
                if "questions" in parts:
                    occupy(lab)
                    _measure_questions(portal, lab, tokens, watch_s)
        if "reconcile" in parts:
            occupy(lab)
            measure_reconciliation(lab, pending)
    finally:
        remove_lab(lab.layout.root)


def _measure_submission(portal: RunningPortal, lab: SlurmLab, tokens: list[str], jobs: int) -> None:
    bare = _measure_bare(lab, jobs)
    figures: list[tuple[str, float]] = []
    for cluster in _CLUSTERS:
        occupy(lab)
        for clients in (1, 8):
            rate = _measure_whole_way(portal, cluster, tokens, jobs, clients=clients)
            figures.append((f"API to {cluster}, {clients} client{'s' if clients > 1 else ''}", rate))
        for count in (1, 4):
            rate = _measure_dispatch(portal, cluster, tokens, jobs, dispatchers=count)
            figures.append((f"queue to {cluster}, {count} dispatcher{'s' if count > 1 else ''}", rate))
    again = _measure_bare(lab, jobs)
    base = (bare[0][1] + again[0][1]) / 2
    rows = [[name, f"{rate:.1f}", f"{rate / base:.2f}"] for name, rate in (*bare, *again, *figures)]
    print_table(
        f"slurm: {jobs} jobs each that wait behind one that has all nodes ({describe_load()})",
        ["", "jobs/s", "× sbatch loop"],
        rows,
    )


def _measure_bare(lab: SlurmLab, jobs: int) -> list[tuple[str, float]]:
    occupy(lab)
    return [
        ("bare sbatch, one after another", sbatch_loop(lab, jobs)),
        ("bare sbatch, 8 loops", sbatch_loop(lab, jobs, processes=8)),
        ("bare slurmrestd, 1 connection", rest_loop(lab, jobs)),
        ("bare slurmrestd, 8 connections", rest_loop(lab, jobs, connections=8)),
    ]


def _make_people(portal: RunningPortal, count: int) -> list[str]:
    tokens: list[str] = json.loads(_run_beside(portal, "tests.benchmarks.slurm_people", str(count)))
    return tokens


def _run_beside(portal: RunningPortal, module: str, *arguments: str) -> str:
    """What a program printed that runs with the portal's database and settings."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=CHECKOUT,
        env=portal.environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def _measure_whole_way(portal: RunningPortal, cluster: str, tokens: list[str], jobs: int, *, clients: int) -> float:
    """Jobs per second from the first request to the moment that Slurm has accepted the last."""
    before = _accepted(portal)[0]
    start = time.time()
    _post_jobs(portal, cluster, tokens, jobs, clients=clients)
    return jobs / (_wait_for_accepted(portal, before + jobs) - start)


def _measure_dispatch(portal: RunningPortal, cluster: str, tokens: list[str], jobs: int, *, dispatchers: int) -> float:
    """Jobs per second of dispatchers alone: all are admitted and wait, and the portal's own worker stands still."""
    workers = portal.processes("worker")
    for process in workers:
        process.suspend()
    try:
        _post_jobs(portal, cluster, tokens, jobs, clients=4)
        return float(_run_beside(portal, "tests.benchmarks.slurm_dispatch", str(dispatchers)))
    finally:
        for process in workers:
            process.resume()


def _post_jobs(portal: RunningPortal, cluster: str, tokens: list[str], jobs: int, *, clients: int) -> None:
    body = {
        "project": "nlp-lab",
        "cluster": cluster,
        "partition": "gpu-a800",
        "name": "bench",
        "nodes": 1,
        "devices_per_node": 1,
        "time_limit_minutes": 60,
        "entry": {"kind": "script", "script": "#!/bin/bash\necho hello\n"},
    }

    def post(share: list[str]) -> None:
        with httpx.Client(base_url=f"{portal.url}/api/v1", timeout=60) as client:
            for token in share:
                headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid.uuid4())}
                answer = client.post("/jobs", json=body, headers=headers)
                if answer.status_code != 201:
                    raise SystemExit(f"POST /jobs: {answer.status_code} {answer.text[:300]}")

    turns = list(islice(cycle(tokens), jobs))
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(post, [turns[number::clients] for number in range(clients)]))


def _accepted(portal: RunningPortal) -> tuple[int, float]:
    """How many jobs Slurm has accepted, and when the last, in seconds since the epoch."""
    count, last = _execute(
        portal,
        "SELECT count(*), coalesce(extract(epoch FROM max(accepted_at)), 0) FROM jobs_jobsegment WHERE native_id <> ''",
    )[0]
    return int(count), float(last)


def _wait_for_accepted(portal: RunningPortal, count: int) -> float:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        found, last = _accepted(portal)
        if found >= count:
            return last
        if time.monotonic() > deadline:
            raise SystemExit(f"only {found} of {count} jobs have reached Slurm")
        time.sleep(0.1)


def _execute(portal: RunningPortal, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
    run = read_run(portal.home)
    if run is None:
        raise SystemExit("the portal has ended")
    with psycopg.connect(run.environment["DATABASE_URL"], autocommit=True) as connection:
        cursor = connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


# Questions to the controller


def _measure_questions(portal: RunningPortal, lab: SlurmLab, tokens: list[str], watch_s: int) -> None:
    """RPCs that slurmctld gets, with and without people who look at their jobs' pages."""
    before = _accepted(portal)[0]
    _post_jobs(portal, "slurm-rest", tokens, _ACTIVE, clients=4)
    _wait_for_accepted(portal, before + _ACTIVE)
    ids = [str(row[0]) for row in _execute(portal, "SELECT id FROM jobs_job WHERE state = 'PENDING' LIMIT %s", _PAGES)]
    active = _execute(portal, "SELECT count(*) FROM jobs_job WHERE state IN ('PENDING', 'RUNNING')")[0][0]
    quiet = _count_rpcs(lab, watch_s)
    with _Pages(portal, ids) as pages:
        looked_at = _count_rpcs(lab, watch_s)
        requests, failures = pages.requests, pages.failures
    print_table(
        f"slurm: questions to slurmctld with {active} active jobs, in {watch_s} s ({describe_load()})",
        ["", "requests of pages/s", "RPCs/min"],
        [
            ["no page open", "0", f"{quiet * 60 / watch_s:.0f}"],
            [f"{_PAGES} job pages open", f"{requests / watch_s:.0f}", f"{looked_at * 60 / watch_s:.0f}"],
        ],
    )
    if failures:
        raise SystemExit(f"{failures} of {requests} requests of the pages failed")


def _count_rpcs(lab: SlurmLab, seconds: int) -> int:
    """All RPCs of clients; those of the lab's own nodes and of these questions are left out."""
    lab.run("sdiag", "--reset")
    time.sleep(seconds)
    text = lab.run("sdiag")
    part = text.partition("message type")[2].partition("Remote Procedure Call statistics by user")[0]
    counts = {name: int(count) for name, count in re.findall(r"^\s+(\w+)\s+\(\s*\d+\) count:(\d+)", part, re.MULTILINE)}
    own = ("REQUEST_STATS_INFO", "MESSAGE_NODE_REGISTRATION_STATUS", "REQUEST_NODE_REGISTRATION_STATUS")
    print("  ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    return sum(count for name, count in counts.items() if name not in own)


class _Pages:
    """Browsers that have a job's page open: what the page asks for again and again, as often as it does."""

    def __init__(self, portal: RunningPortal, job_ids: list[str]) -> None:
        self._portal = portal
        self._job_ids = job_ids
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._look, args=(job_id,), daemon=True) for job_id in job_ids]
        self._lock = threading.Lock()
        self.requests = self.failures = 0

    def __enter__(self) -> "_Pages":
        self._cookies = self._sign_in()
        for thread in self._threads:
            thread.start()
        time.sleep(_PAGE_INTERVAL_S)
        with self._lock:
            self.requests = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def _sign_in(self) -> httpx.Cookies:
        """As somebody who may see all of the project's jobs."""
        with httpx.Client(base_url=self._portal.url, timeout=60) as client:
            page = client.get("/account/login/")
            token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
            form = {"login": "chen", "password": self._portal.passwords["chen"]}
            headers = {"Referer": f"{self._portal.url}/account/login/"}
            client.post(
                "/account/login/", data={**form, "csrfmiddlewaretoken": token[1] if token else ""}, headers=headers
            )
            return client.cookies

    def _look(self, job_id: str) -> None:
        with httpx.Client(base_url=self._portal.url, cookies=self._cookies, timeout=60) as client:
            while not self._is_over.wait(_PAGE_INTERVAL_S):
                for part in ("live", "log?offset=0", "metrics?offset=0"):
                    answer = client.get(f"/jobs/{job_id}/{part}", headers={"HX-Request": "true", "X-Live": "true"})
                    with self._lock:
                        self.requests += 1
                        self.failures += answer.status_code not in (200, 204, 286, 304)
