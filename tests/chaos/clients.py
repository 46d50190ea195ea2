"""People who submit jobs by the API, whatever dies meanwhile."""

import random
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from tests.running_portal import RunningPortal

PEOPLE: Final = {"lin": "nlp-lab", "chen": "nlp-lab", "wang": "protein"}
CLUSTERS: Final = ("slurm-cli", "slurm-rest")
TIME_LIMIT_MINUTES: Final = 5
_TIMEOUT_S: Final = 10.0
_PATIENCE_S: Final = 180.0


@dataclass
class Wish:
    """One job that somebody wants, and what came of asking for it."""

    name: str
    person: str
    cluster: str
    devices: int
    exit_code: int
    runs_s: float
    gives_up: bool
    """Does this client stop asking at the first failure, so that it never hears whether it has a job?"""
    repeats: bool
    """Does this client ask once more although it was answered?"""
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    job_id: str = ""
    attempts: int = 0
    problem: str = ""

    def body(self, marks: Path) -> dict[str, Any]:
        """The request: a job that leaves a mark at the beginning and at the end of each time that it really runs."""
        mark = f'echo "$PORTAL_JOB_KEY {{}} $SLURM_JOB_ID $(date +%s.%N)" >> {marks}'
        return {
            "project": PEOPLE[self.person],
            "cluster": self.cluster,
            "partition": "gpu-a800",
            "name": self.name,
            "nodes": 1,
            "devices_per_node": self.devices,
            "time_limit_minutes": TIME_LIMIT_MINUTES,
            "entry": {
                "kind": "script",
                "script": "\n".join(
                    (
                        "#!/bin/bash",
                        mark.format("begins"),
                        f"sleep {self.runs_s:.2f}",
                        mark.format("ends"),
                        f"exit {self.exit_code}\n",
                    )
                ),
            },
        }


def make_wishes(count: int, chance: random.Random) -> list[Wish]:
    """Jobs of all people on all clusters; most end well, some fail on purpose."""
    return [
        Wish(
            name=f"wish-{number}",
            person=list(PEOPLE)[number % len(PEOPLE)],
            cluster=CLUSTERS[chance.randrange(len(CLUSTERS))],
            devices=chance.choice((1, 1, 2)),
            exit_code=3 if chance.random() < 0.1 else 0,
            runs_s=chance.uniform(0.2, 3.0),
            gives_up=chance.random() < 0.1,
            repeats=chance.random() < 0.1,
        )
        for number in range(count)
    ]


class Client(threading.Thread):
    """One person's program: asks for one job after the other, spread over the time until it is told to hurry."""

    def __init__(self, portal: RunningPortal, person: str, wishes: list[Wish], marks: Path, *, pause_s: float) -> None:
        super().__init__(name=f"client of {person}", daemon=True)
        self._http = portal.client(person)
        self._http.timeout = httpx.Timeout(_TIMEOUT_S)
        self._wishes = [wish for wish in wishes if wish.person == person]
        self._marks = marks
        self._pause_s = pause_s
        self._hurry = threading.Event()

    def hurry(self) -> None:
        """Ask for the rest without pauses."""
        self._hurry.set()

    def run(self) -> None:
        for wish in self._wishes:
            self._hurry.wait(self._pause_s)
            try:
                self._ask_for(wish)
            except Exception as error:  # whatever it is, it belongs into the report, and the others still go on
                wish.problem = f"the client failed: {error!r}"

    def _ask_for(self, wish: Wish) -> None:
        body = wish.body(self._marks)
        deadline = time.monotonic() + _PATIENCE_S
        pause_s = 0.2
        while time.monotonic() < deadline:
            wish.attempts += 1
            answer = self._post(wish, body)
            if answer is not None and answer.status_code == 201:
                self._note(wish, str(answer.json()["id"]))
                if not wish.repeats:
                    return
                wish.repeats = False
                continue
            if answer is not None and answer.status_code < 500 and answer.status_code != 429:
                wish.problem = f"refused: {answer.status_code} {answer.text[:300]}"
                return
            if wish.gives_up:
                return
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 3.0)
        if not wish.job_id:
            wish.problem = f"no answer within {_PATIENCE_S:.0f} s"

    def _post(self, wish: Wish, body: dict[str, Any]) -> httpx.Response | None:
        """The answer; None if there was none, and the portal may or may not have the job."""
        try:
            return self._http.post("/jobs", json=body, headers={"Idempotency-Key": wish.key})
        except httpx.TransportError:
            return None

    def _note(self, wish: Wish, job_id: str) -> None:
        if wish.job_id and wish.job_id != job_id:
            wish.problem = f"one idempotency key, two jobs: {wish.job_id} and {job_id}"
        wish.job_id = job_id


def list_jobs(clients: Iterable[httpx.Client]) -> dict[str, dict[str, Any]]:
    """Every job of these people as the API shows it, by id."""
    found: dict[str, dict[str, Any]] = {}
    for client in clients:
        url = "/jobs?limit=200"
        while url:
            answer = client.get(url)
            answer.raise_for_status()
            page = answer.json()
            found |= {job["id"]: job for job in page["results"]}
            url = page["next"] or ""
    return found
