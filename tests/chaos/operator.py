"""Whoever looks after the cluster: restarts daemons that are down, resumes nodes that Slurm took out of service."""

import logging
import threading
import time
from collections import Counter

from tests.integration.slurm.lab import LabError, SlurmLab

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_RESUMABLE = ("drained", "draining", "drng", "down", "fail")


class Operator(threading.Thread):
    """The only one who starts daemons of the lab while the chaos goes on."""

    def __init__(self, lab: SlurmLab) -> None:
        super().__init__(name="operator", daemon=True)
        self._lab = lab
        self._due: dict[str, float] = {}
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self.acts: Counter[str] = Counter()
        self.mended: set[str] = set()
        # Apart from the restarts: while the controller is down, these questions wait for it.
        self._tidier = threading.Thread(target=self._keep_tidy, name="tidier", daemon=True)

    def start_later(self, daemon: str, *, after_s: float) -> None:
        """Start a daemon that was just killed, after so many seconds."""
        with self._lock:
            self._due[daemon] = time.monotonic() + after_s

    def is_waiting_for(self, daemon: str) -> bool:
        """Is the daemon down on purpose, or being started?"""
        with self._lock:
            return daemon in self._due

    def finish(self) -> None:
        """Start what is still down, and end."""
        with self._lock:
            self._due = dict.fromkeys(self._due, 0.0)
        self._is_over.set()
        self.join(timeout=120)
        self._tidier.join(timeout=120)
        self._start_due()
        self.tidy_up()

    def run(self) -> None:
        self._tidier.start()
        while not self._is_over.wait(0.1):
            self._start_due()

    def _keep_tidy(self) -> None:
        while not self._is_over.wait(_LOOK_EVERY_S):
            self.tidy_up()

    def _start_due(self) -> None:
        with self._lock:
            due = [daemon for daemon, at in self._due.items() if at <= time.monotonic()]
        for daemon in due:
            try:
                if self._lab.process(daemon) is None:
                    self._lab.start(daemon)
            except LabError as error:
                logger.warning("%s could not be started and is tried again: %s", daemon, error)
                self.acts[f"{daemon} started again"] += 1
                continue
            with self._lock:
                del self._due[daemon]

    def tidy_up(self) -> None:
        """What an operator would do on seeing `sinfo` and `squeue`."""
        if self.is_waiting_for("slurmctld"):
            return
        for line in self._lab.run("sinfo", "--noheader", "--Node", "--format=%N %T", check=False).splitlines():
            node, _, state = line.partition(" ")
            if state.strip("*").startswith(_RESUMABLE) and not state.endswith("*"):
                self._lab.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
                self.acts[f"node {state}, resumed"] += 1
        for line in self._lab.run(
            "squeue", "--noheader", "--states=PENDING", "--format=%A|%r", check=False
        ).splitlines():
            job_id, _, reason = line.partition("|")
            if "held" in reason.lower():
                self._lab.run("scontrol", "release", job_id, check=False)
                self.acts[f"job waits for “{reason}”, released"] += 1

    def end_runaway_jobs(self) -> None:
        """Jobs whose end never reached accounting: their controller died with it. sacctmgr gives them one.

        Only once all is calm: what is still on its way from the controller must not be mistaken for such.
        """
        # It lists them, and asks whether to mend them.
        command = ("sacctmgr", "show", "runawayjobs", "--parsable2", "--noheader")
        answer = self._lab.run(*command, input="n\n", check=False)
        found = [line for line in answer.splitlines() if line.count("|") > 2 and line[0].isdigit()]
        if found:
            self._lab.run(*command, input="y\n", check=False)
            self.mended |= {line.partition("|")[0] for line in found}
            self.acts["job that accounting held for running, ended"] += len(found)
