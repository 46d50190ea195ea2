"""What is killed, how, and when it counts as back."""

import os
import random
import shutil
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psutil

from portal.embedded.startup import ask_health
from tests.chaos.operator import Operator
from tests.integration.slurm.lab import SlurmLab
from tests.running_portal import RunningPortal

_POOL_SIZE: Final = 2
"""Celery's and gunicorn's processes below the one that is supervised."""

_GIVEN_UP_AFTER_S: Final = 300.0


@dataclass(frozen=True)
class Kill:
    """One kill that hit something. Times are of the wall clock, as Slurm's are."""

    kind: str
    at: float


@dataclass(frozen=True)
class Kind:
    """A way of killing: `strike` returns whether there was anything to kill, `is_back` whether it works again."""

    name: str
    strike: Callable[[], bool]
    is_back: Callable[[], bool]


class Killer:
    """Kills one of the kinds at a time and notes how long each takes to come back."""

    def __init__(
        self,
        portal: RunningPortal,
        lab: SlurmLab,
        operator: Operator,
        chance: random.Random,
        *,
        down_s: float,
        kills_controller_hard: bool,
    ) -> None:
        self._portal = portal
        self._lab = lab
        self._operator = operator
        self._chance = chance
        self._down_s = down_s
        self._controller_signal = signal.SIGKILL if kills_controller_hard else signal.SIGTERM
        self.kills: list[Kill] = []
        self.recovery_s: dict[str, list[float]] = defaultdict(list)
        self._awaited: list[tuple[Kind, float]] = []
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="recovery", daemon=True)
        self._watcher.start()
        # One round of all before any comes a second time, in an order by chance.
        self._round: list[Kind] = []

    def strike(self) -> None:
        """Kill something that is up."""
        if not self._round:
            self._round = self._kinds()
            self._chance.shuffle(self._round)
        for kind in list(self._round):
            at = time.time()
            if kind.strike():
                self._round.remove(kind)
                self.kills.append(Kill(kind.name, at))
                with self._lock:
                    self._awaited.append((kind, time.monotonic()))
                return

    def finish(self) -> list[str]:
        """Wait until all is back. Returns what never came back."""
        deadline = time.monotonic() + _GIVEN_UP_AFTER_S
        while self._awaited and time.monotonic() < deadline:
            time.sleep(0.1)
        self._is_over.set()
        self._watcher.join(timeout=30)
        return [kind.name for kind, _ in self._awaited]

    def _watch(self) -> None:
        while not self._is_over.wait(0.1):
            with self._lock:
                awaited = list(self._awaited)
            for kind, since in awaited:
                if kind.is_back():
                    self.recovery_s[kind.name].append(time.monotonic() - since)
                    with self._lock:
                        self._awaited.remove((kind, since))

    def _kinds(self) -> list[Kind]:
        return [
            self._part_kind("worker", "worker", is_back=lambda: self._has_pool("worker")),
            self._part_kind("worker, of its pool", "worker", of_pool=True, is_back=lambda: self._has_pool("worker")),
            self._part_kind("beat", "beat", is_back=lambda: True),
            self._part_kind("web", "web", is_back=self._is_healthy),
            self._part_kind("web, of its pool", "web", of_pool=True, is_back=lambda: self._has_pool("web")),
            self._part_kind("Valkey with all its data", "valkey", is_back=self._is_healthy),
            self._part_kind("PostgreSQL, restart", "postgres", number=signal.SIGINT, is_back=self._is_healthy),
            self._part_kind("PostgreSQL, SIGKILL", "postgres", is_back=self._is_healthy),
            self._daemon_kind("slurmctld", f"slurmctld, {self._controller_signal.name} and restart", 0.0),
            self._daemon_kind("slurmctld", f"slurmctld, down for {self._down_s:g} s", self._down_s),
            self._daemon_kind("slurmdbd", "slurmdbd", self._chance.uniform(0, 4)),
            self._daemon_kind("slurmrestd", "slurmrestd", self._chance.uniform(0, 2)),
        ]

    def _part_kind(
        self, name: str, part: str, *, is_back: Callable[[], bool], of_pool: bool = False, number: int = signal.SIGKILL
    ) -> Kind:
        """A part of the portal, which its supervisor starts again; back when it is another process and works."""
        victims: list[int] = []

        def strike() -> bool:
            processes = self._portal.processes(part)
            candidates = processes[1:] if of_pool else processes[:1]
            if not candidates:
                return False
            victim = self._chance.choice(candidates)
            victims.append(victim.pid)
            if not _send(victim, number):
                return False
            if part == "valkey":
                self._delete_valkey_data()
            return True

        def is_replaced() -> bool:
            processes = self._portal.processes(part)
            return bool(processes) and all(process.pid not in victims for process in processes) and is_back()

        return Kind(name, strike, is_replaced)

    def _daemon_kind(self, daemon: str, name: str, down_s: float) -> Kind:
        number = self._controller_signal if daemon == "slurmctld" else signal.SIGKILL

        def strike() -> bool:
            if self._operator.is_waiting_for(daemon) or self._lab.process(daemon) is None:
                return False
            self._lab.stop(daemon, signal_number=number)
            self._operator.start_later(daemon, after_s=down_s)
            return True

        return Kind(name, strike, lambda: not self._operator.is_waiting_for(daemon))

    def _delete_valkey_data(self) -> None:
        """Before its supervisor starts it again, which takes a second."""
        for path in self._portal.home.valkey.iterdir():
            if path.name != "valkey.conf":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _has_pool(self, part: str) -> bool:
        return len(self._portal.processes(part)) > _POOL_SIZE

    def _is_healthy(self) -> bool:
        return ask_health(self._portal.url, timeout_s=2) == 200


def _send(process: psutil.Process, number: int) -> bool:
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True
