"""The best plans for a workload on so many devices, and why the others are not."""

from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import numpy as np

from jobs.estimation.evaluation import Estimate
from jobs.estimation.hardware import Machine
from jobs.estimation.nearest_plan import Alternative, find_nearest_possible
from jobs.estimation.pareto import find_front, thin_out
from jobs.estimation.plan import Integers, ParallelPlan
from jobs.estimation.plan_ranking import (
    ROOMY_MEMORY_SHARE,
    RankedPlans,
    build_estimates,
    check_memory_margin,
    rank_plans,
)
from jobs.estimation.plan_rules import check_devices
from jobs.estimation.validation import InvalidInput, check_integer
from jobs.estimation.workload import Workload

__all__ = ["ROOMY_MEMORY_SHARE", "Rejection", "SearchResult", "estimate_best", "search"]

_MAX_TOP: Final = 1000
_MAX_PARETO: Final = 20


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Why plans were not ranked. For "out_of_memory" with the plan that came nearest and what it lacks."""

    reason: str
    count: int
    nearest: ParallelPlan | None = None
    missing_bytes: float | None = None

    @property
    def text(self) -> str:
        detail = "" if self.missing_bytes is None else f"; nearest needs {self.missing_bytes / 1e9:.1f} GB more"
        return f"{self.reason}: {self.count} plans{detail}"

    def to_dict(self) -> dict[str, Any]:
        nearest = None if self.nearest is None else self.nearest.to_dict()
        return {
            "reason": self.reason,
            "count": self.count,
            "nearest": nearest,
            "missing_bytes": self.missing_bytes,
        }


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found.

    `ranked`: plans that fit, fastest first, those without head-room last. `pareto`: plans for which less memory means
    more time (at a fixed number of devices, days and accelerator-hours say the same). `plans_evaluated`: plans that
    the rules allow, all of them evaluated with memory and step time. Where nothing fits, `least_bad` is the plan that
    needs least memory, and `nearest` what would be possible instead, least time lost first.
    """

    best: Estimate | None
    ranked: tuple[Estimate, ...]
    pareto: tuple[Estimate, ...]
    least_bad: Estimate | None
    nearest: tuple[Alternative, ...]
    plans_evaluated: int
    search_s: float
    rejected: tuple[Rejection, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "best": None if self.best is None else self.best.to_dict(),
            "ranked": [item.to_dict() for item in self.ranked],
            "pareto": [item.to_dict() for item in self.pareto],
            "least_bad": None if self.least_bad is None else self.least_bad.to_dict(),
            "nearest": [item.to_dict() for item in self.nearest],
            "plans_evaluated": self.plans_evaluated,
            "search_s": self.search_s,
            "rejected": [item.to_dict() for item in self.rejected],
        }


def search(
    workload: Workload, machine: Machine, devices: int, *, top: int = 10, memory_margin: float | None = None
) -> SearchResult:
    """Rank the plans for exactly `devices` devices by head-room and step time.

    `memory_margin` is by how much memory may exceed its estimate in a plan with head-room (None: MEMORY_MARGIN).
    Raises InvalidInput for a device count the machine cannot give or a precision it lacks. That no plan is possible
    or fits is an answer, not an error.
    """
    started = perf_counter()
    count = check_devices(machine, devices)
    limit = check_integer("top", top, minimum=1, maximum=_MAX_TOP)
    margin = check_memory_margin(memory_margin)
    machine.peak_flop_per_s(workload.precision)
    ranked = rank_plans(workload, machine, [count], memory_margin=margin)
    fits = len(ranked.order) > 0
    best_rows = ranked.order[:limit]
    front = _find_front(ranked)
    # One evaluation for all that is shown.
    estimates = build_estimates(workload, machine, ranked, np.concatenate((best_rows, front)))
    least_bad = None if fits else _build_least_bad(workload, machine, ranked)
    nearest: tuple[Alternative, ...] = ()
    if not fits:
        nearest = find_nearest_possible(workload, machine, count, ranked, memory_margin=margin)
    return SearchResult(
        best=estimates[0] if fits else None,
        ranked=tuple(estimates[: len(best_rows)]),
        pareto=tuple(estimates[len(best_rows) :]),
        least_bad=least_bad,
        nearest=nearest,
        plans_evaluated=len(ranked.plans),
        search_s=perf_counter() - started,
        rejected=_describe_rejected(machine, ranked),
    )


def estimate_best(
    workload: Workload, machine: Machine, devices: int, *, memory_margin: float | None = None
) -> Estimate:
    """The fastest plan that fits with head-room, or else that just fits.

    Where none fits, the one with least memory (`fits` is False and advice says why).

    Raises InvalidInput as `search` does, and if no plan at all is possible on so many devices, because no split
    divides batch, heads and layers.
    """
    count = check_devices(machine, devices)
    margin = check_memory_margin(memory_margin)
    machine.peak_flop_per_s(workload.precision)
    ranked = rank_plans(workload, machine, [count], memory_margin=margin)
    if len(ranked.order):
        return build_estimates(workload, machine, ranked, ranked.order[:1])[0]
    found = _build_least_bad(workload, machine, ranked)
    if found is None:
        reasons = ", ".join(ranked.broken)
        raise InvalidInput("devices", devices, f"a count over which batch, heads and layers divide (found: {reasons})")
    return found


def _find_front(ranked: RankedPlans) -> Integers:
    order = ranked.order
    return thin_out(order[find_front(ranked.step_s[order], ranked.memory_bytes[order])], most=_MAX_PARETO)


def _build_least_bad(workload: Workload, machine: Machine, ranked: RankedPlans) -> Estimate | None:
    if not len(ranked.plans):
        return None
    rows = np.array([ranked.memory_bytes.argmin()])
    return build_estimates(workload, machine, ranked, rows)[0]


def _describe_rejected(machine: Machine, ranked: RankedPlans) -> tuple[Rejection, ...]:
    rejected = [Rejection(reason=code, count=number) for code, number in ranked.broken.items()]
    capacity = machine.accelerator.memory_bytes
    too_large = np.flatnonzero(ranked.memory_bytes > capacity)
    if len(too_large):
        nearest = int(too_large[ranked.memory_bytes[too_large].argmin()])
        out_of_memory = Rejection(
            reason="out_of_memory",
            count=len(too_large),
            nearest=ranked.plans.plan(nearest),
            missing_bytes=float(ranked.memory_bytes[nearest] - capacity),
        )
        rejected.insert(0, out_of_memory)
    return tuple(rejected)
