"""A machine, twenty people and one who floods it: `python -m tests.simulation.fair_share [seeds]`.

The order is made by `jobs.services.fair_ranking.rank`, the function that the portal itself uses; or first come, first
served, for the same jobs. Nothing else differs. No database is needed.
"""

import heapq
import sys
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import numpy as np

from jobs.services.fair_ranking import Ledgered, Waiting, rank

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
USERS = 20
FLOODER = 0
FLOOD = 1000
DEVICES = 64
HALF_LIFE_S = 14 * DAY_S
HORIZON_S = 7 * DAY_S
CLASS = 1


@dataclass(frozen=True)
class SimulatedJob:
    """One job of one person; everybody has a project of their own with the same grant."""

    number: int
    user: int
    submitted_s: float
    devices: int
    elapsed_s: float

    @property
    def cost_s(self) -> float:
        return self.devices * self.elapsed_s


Order = Callable[[list[SimulatedJob], dict[int, float], dict[int, float]], list[int]]


def make_jobs(seed: int, *, flood: int = FLOOD) -> list[SimulatedJob]:
    """One person submits `flood` jobs at once; the others a few each over the first three days."""
    random = np.random.default_rng(seed)
    drafts = [(FLOODER, 0.0)] * flood
    for user in range(1, USERS):
        drafts += [(user, float(at)) for at in random.uniform(HOUR_S, 3 * DAY_S, size=random.integers(1, 6))]
    drafts.sort(key=lambda draft: draft[1])
    return [
        SimulatedJob(number, user, at, int(random.choice([4, 8, 16])), float(random.uniform(1, 6)) * HOUR_S)
        for number, (user, at) in enumerate(drafts)
    ]


def first_come(waiting: list[SimulatedJob], used: dict[int, float], running: dict[int, float]) -> list[int]:
    """The order of submission."""
    return list(range(len(waiting)))


def by_fair_share(waiting: list[SimulatedJob], used: dict[int, float], running: dict[int, float]) -> list[int]:
    """The portal's own order."""
    amounts = {user: used.get(user, 0.0) + running.get(user, 0.0) for user in {*used, *running}}
    ledgered = Ledgered(
        by_project={(user, CLASS): amount for user, amount in amounts.items()},
        by_person={(user, CLASS, user): amount for user, amount in amounts.items()},
        granted={(user, CLASS): 1.0 for user in range(USERS)},
    )
    table = Waiting(
        ids=[UUID(int=job.number) for job in waiting],
        project=[(job.user, CLASS) for job in waiting],
        person=[(job.user, CLASS, job.user) for job in waiting],
        submitted_s=np.array([job.submitted_s for job in waiting]),
        cost_s=np.array([job.cost_s for job in waiting]),
    )
    return [int(index) for index in rank(table, ledgered, horizon_s=HORIZON_S).order]


def simulate(jobs: list[SimulatedJob], order: Order) -> dict[int, float]:
    """Wait of each job in seconds. Whoever is next in the order starts when there is room; nobody passes by."""
    waits: dict[int, float] = {}
    arriving = list(jobs)
    waiting: list[SimulatedJob] = []
    ends: list[tuple[float, int, SimulatedJob]] = []
    used: dict[int, float] = {}
    running: dict[int, float] = {}
    free, now = DEVICES, 0.0
    while arriving or waiting:
        times = [arriving[0].submitted_s] if arriving else []
        times += [ends[0][0]] if ends else []
        step = min(times)
        used = {user: amount * 0.5 ** ((step - now) / HALF_LIFE_S) for user, amount in used.items()}
        now = step
        while ends and ends[0][0] <= now:
            job = heapq.heappop(ends)[2]
            free += job.devices
            running[job.user] -= job.cost_s
            used[job.user] = used.get(job.user, 0.0) + job.cost_s
        while arriving and arriving[0].submitted_s <= now:
            waiting.append(arriving.pop(0))
        while waiting:
            job = waiting[order(waiting, used, running)[0]]
            if job.devices > free:
                break
            waiting.remove(job)
            free -= job.devices
            running[job.user] = running.get(job.user, 0.0) + job.cost_s
            waits[job.number] = now - job.submitted_s
            heapq.heappush(ends, (now + job.elapsed_s, job.number, job))
    return waits


def waits_by_user(jobs: list[SimulatedJob], waits: dict[int, float]) -> dict[int, list[float]]:
    """Waits in hours."""
    found: dict[int, list[float]] = {}
    for job in jobs:
        found.setdefault(job.user, []).append(waits[job.number] / HOUR_S)
    return found


def main() -> None:
    """Print the waits of each class of users for a few seeds, and of each user for the first."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print(f"{USERS} users, one with {FLOOD} jobs at once; {DEVICES} accelerators; waits in hours")
    print(f"{'seed':>4}  {'order':<11} {'others p50':>10} {'others p90':>10} {'flooder p50':>11} {'flooder p90':>11}")
    for seed in range(seeds):
        jobs = make_jobs(seed)
        by_order = {}
        for name, order in (("first come", first_come), ("fair share", by_fair_share)):
            found = waits_by_user(jobs, simulate(jobs, order))
            by_order[name] = found
            others = [wait for user, waits in found.items() if user != FLOODER for wait in waits]
            figures = [*np.percentile(others, [50, 90]), *np.percentile(found[FLOODER], [50, 90])]
            print(
                f"{seed:>4}  {name:<11} {figures[0]:>10.1f} {figures[1]:>10.1f} {figures[2]:>11.1f} {figures[3]:>11.1f}"
            )
        if seed == 0:
            print("      median by user, first come → fair share:")
            for user in sorted(by_order["first come"]):
                fifo, fair = (np.median(by_order[name][user]) for name in ("first come", "fair share"))
                count = len(by_order["fair share"][user])
                print(f"      user {user:>2} ({count:>4} jobs): {fifo:7.1f} → {fair:6.1f}")


if __name__ == "__main__":
    main()
