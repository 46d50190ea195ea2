"""One whole run: people, kills, quiet, audit."""

import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from jobs.states import TERMINAL, JobState
from tests.chaos.audit import Audit, jobs_directories, read_marks
from tests.chaos.clients import CLUSTERS, PEOPLE, Client, list_jobs, make_wishes
from tests.chaos.kills import Killer
from tests.chaos.operator import Operator
from tests.integration.slurm.lab import SlurmLab
from tests.integration.slurm.portal import portal_on
from tests.running_portal import RunningPortal

_RUNAWAY_AFTER_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of everything. `gap_s` is the shortest and longest time between two kills."""

    kills: int
    jobs: int
    seed: int
    gap_s: tuple[float, float] = (1.0, 3.0)
    down_s: float = 6.0
    lost_after_s: int = 20
    lease_s: int = 20
    quiet_s: float = 120.0
    kills_controller_hard: bool = True


@dataclass
class Report:
    """What happened, and what must not have."""

    plan: Plan
    problems: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    recovery_s: dict[str, list[float]] = field(default_factory=dict)
    jobs: int = 0
    states: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    acts: Counter[str] = field(default_factory=Counter)
    quiet_after_s: float = 0.0

    def describe(self) -> str:
        """All of it in words."""
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        lines = [
            f"seed {self.plan.seed}: {self.kills.total()} kills, {self.jobs} jobs ({states}), {self.requests} requests;"
            f" quiet {self.quiet_after_s:.0f} s after the last kill",
            "",
            f"{'killed':<42} times  back after, median and longest (s)",
        ]
        for kind, count in sorted(self.kills.items()):
            times = self.recovery_s.get(kind) or [float("nan")]
            lines.append(f"{kind:<42} {count:5}  {statistics.median(times):6.1f} {max(times):6.1f}")
        lines += ["", *(f"seen {count:3} × {what}" for what, count in sorted(self.seen.items()))]
        lines += [f"operator {count:3} × {what}" for what, count in sorted(self.acts.items())]
        excused = f"; {self.seen.total()} times Slurm's own doing, see above" if self.seen else ""
        lines += ["", *(self.problems or [f"0 lost, 0 run twice, 0 charged wrongly, 0 stuck; ledger exact{excused}"])]
        return "\n".join(lines)


def run_chaos(lab: SlurmLab, plan: Plan) -> Report:
    """Raises nothing for what it finds: see `Report.problems`."""
    report = Report(plan)
    settings = {"DISPATCH_LEASE_S": str(plan.lease_s), "LOST_AFTER_S": str(plan.lost_after_s)}
    with portal_on(lab, settings) as portal, _marks(lab) as marks:
        chance = random.Random(plan.seed)
        wishes = make_wishes(plan.jobs, chance)
        pause_s = plan.kills * statistics.mean(plan.gap_s) * 0.9 / max(plan.jobs / len(PEOPLE), 1)
        clients = [Client(portal, person, wishes, marks, pause_s=pause_s) for person in PEOPLE]
        operator = Operator(lab)
        killer = Killer(
            portal, lab, operator, chance, down_s=plan.down_s, kills_controller_hard=plan.kills_controller_hard
        )
        for thread in (operator, *clients):
            thread.start()
        while len(killer.kills) < plan.kills:
            time.sleep(chance.uniform(*plan.gap_s))
            killer.strike()
        over_at = time.monotonic()
        report.problems += [f"{name} never came back" for name in killer.finish()]
        for client in clients:
            client.hurry()
        for client in clients:
            client.join(timeout=plan.quiet_s)
        operator.finish()
        jobs = _wait_for_quiet(portal, operator, plan.quiet_s)
        report.quiet_after_s = time.monotonic() - over_at
        roots = jobs_directories(Path(portal.environment["SCHEDULERS_FILE"]))
        audit = Audit(
            lab, roots, read_marks(marks), jobs, wishes, killer.kills, operator.mended, plan.kills_controller_hard
        )
        audit.check()
        _check_that_it_works_still(portal, report)
        if "0 differences" not in (said := portal.manage("verify_ledger")):
            report.problems.append(f"the ledger: {said}")
        report.problems += audit.problems
        report.kills = Counter(kill.kind for kill in killer.kills)
        report.recovery_s = dict(killer.recovery_s)
        report.jobs, report.states = len(jobs), Counter(job["state"] for job in jobs.values())
        report.requests = sum(wish.attempts for wish in wishes)
        report.seen, report.acts = audit.seen, operator.acts
        if report.problems:
            _keep_logs(portal, lab)
    return report


@contextmanager
def _marks(lab: SlurmLab) -> Iterator[Path]:
    """A file that the jobs of all users can append to."""
    file = lab.layout.root / "marks"
    file.write_text("")
    file.chmod(0o666)
    yield file
    file.unlink()


def _wait_for_quiet(portal: RunningPortal, operator: Operator, patience_s: float) -> dict[str, dict[str, Any]]:
    """All jobs, as soon as each has ended and is charged, or when patience is at its end."""
    deadline = time.monotonic() + patience_s
    mended_at = time.monotonic()
    with ExitStack() as stack:
        clients = [stack.enter_context(portal.client(person)) for person in PEOPLE]
        while True:
            jobs = list_jobs(clients)
            is_quiet = all(
                job["charged_s"] is not None if job["state"] in TERMINAL else job["state"] == JobState.LOST
                for job in jobs.values()
            )
            if is_quiet or time.monotonic() > deadline:
                return jobs
            operator.tidy_up()
            if time.monotonic() - mended_at > _RUNAWAY_AFTER_S:
                operator.end_runaway_jobs()
                mended_at = time.monotonic()
            time.sleep(1)


def _check_that_it_works_still(portal: RunningPortal, report: Report) -> None:
    """After all that, one more job on each cluster, without anybody's help."""
    for cluster in CLUSTERS:
        with portal.client("wang") as client:
            state = _run_one_more(client, cluster)
        if state != "COMPLETED":
            report.problems.append(f"a job on {cluster} after it all is {state}")


def _run_one_more(client: httpx.Client, cluster: str) -> str:
    body = {
        "project": "protein",
        "cluster": cluster,
        "partition": "gpu-a800",
        "name": "after-all",
        "nodes": 1,
        "devices_per_node": 1,
        "time_limit_minutes": 1,
        "entry": {"kind": "script", "script": "#!/bin/bash\ntrue\n"},
    }
    answer = client.post("/jobs", json=body)
    answer.raise_for_status()
    deadline = time.monotonic() + 60
    while True:
        state = str(client.get(f"/jobs/{answer.json()['id']}").json()["state"])
        if state in TERMINAL or time.monotonic() > deadline:
            return state
        time.sleep(0.3)


def _keep_logs(portal: RunningPortal, lab: SlurmLab) -> None:
    """What the portal and Slurm said, for whoever wants to know why; both directories vanish."""
    target = lab.layout.root.with_name(f"{lab.layout.root.name}.chaos-logs")
    target.mkdir(exist_ok=True)
    for file in (portal.home.logs / "all.log", lab.layout.log / "slurmctld.log", lab.layout.log / "slurmdbd.log"):
        (target / file.name).write_bytes(file.read_bytes())
    print(f"logs are kept in {target}")
