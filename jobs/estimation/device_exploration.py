"""How days, accelerator-hours and memory trade off over device counts, and the fewest devices that finish in time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from jobs.estimation.evaluation import Estimate
from jobs.estimation.flops import count_model_flop_per_step
from jobs.estimation.hardware import Machine
from jobs.estimation.pareto import find_front, thin_out
from jobs.estimation.plan import MAX_DEVICES, Floats, Integers, ParallelPlan
from jobs.estimation.plan_enumeration import list_possible_devices
from jobs.estimation.plan_ranking import RankedPlans, build_estimates, check_memory_margin, rank_by_count, rank_plans
from jobs.estimation.plan_rules import check_devices
from jobs.estimation.validation import InvalidInput, check_integer, check_number
from jobs.estimation.workload import Workload

MAX_COUNTS: Final = 1000
MAX_POINTS: Final = 60
DEFAULT_MOST_DEVICES: Final = 65_536

_DAY_S: Final = 86_400.0
_HOUR_S: Final = 3600.0
# Device counts evaluated at once.
_BLOCK: Final = 16
# A step can't be faster than its arithmetic at this share of the peak; above 1, since a tuned peak may be exceeded.
_LEAST_SHARE_OF_PEAK_TIME: Final = 0.9


@dataclass(frozen=True, kw_only=True)
class DevicePoint:
    """A plan on so many devices; `headroom` is the free share of a device's memory."""

    plan: ParallelPlan
    devices: int
    days: float
    accelerator_hours: float
    headroom: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "plan": self.plan.to_dict(),
            "devices": self.devices,
            "days": self.days,
            "accelerator_hours": self.accelerator_hours,
            "headroom": self.headroom,
        }


@dataclass(frozen=True, kw_only=True)
class DeviceExploration:
    """Plans over device counts.

    `pareto`: no other plan takes fewer days, fewer accelerator-hours and less memory; by days. `best`: of each count
    on which a plan fits the one that a search ranks first, by count. `impossible`: the counts on which none fits, with
    the reason: "out_of_memory", or the rule that ruled out most plans.
    """

    pareto: tuple[DevicePoint, ...]
    best: tuple[DevicePoint, ...]
    impossible: Mapping[int, str]
    plans_evaluated: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "pareto": [item.to_dict() for item in self.pareto],
            "best": [item.to_dict() for item in self.best],
            "impossible": {str(count): reason for count, reason in self.impossible.items()},
            "plans_evaluated": self.plans_evaluated,
        }


def explore_devices(
    workload: Workload,
    machine: Machine,
    device_counts: Iterable[int],
    *,
    memory_margin: float | None = None,
    most_points: int = MAX_POINTS,
) -> DeviceExploration:
    """The Pareto front of days, accelerator-hours and memory over `device_counts`, and the best plan of each count.

    Raises InvalidInput for a count the machine cannot give, or for more than MAX_COUNTS of them.
    """
    margin = check_memory_margin(memory_margin)
    most = check_integer("most_points", most_points, minimum=2, maximum=10_000)
    machine.peak_flop_per_s(workload.precision)
    counts = sorted({check_devices(machine, count) for count in device_counts})
    if not 1 <= len(counts) <= MAX_COUNTS:
        raise InvalidInput("device_counts", len(counts), f"1 to {MAX_COUNTS} counts")
    fronts: list[tuple[RankedPlans, Integers, Floats]] = []
    best: list[DevicePoint] = []
    impossible: dict[int, str] = {}
    evaluated = 0
    for count, ranked in _rank_in_blocks(workload, machine, counts, memory_margin=margin):
        evaluated += len(ranked.plans)
        if not len(ranked.order):
            impossible[count] = _explain_count(ranked)
            continue
        first = build_estimates(workload, machine, ranked, ranked.order[:1])[0]
        best.append(_describe_estimate(first))
        # Failures and checkpoints depend on the number of devices, not on the plan.
        days_per_step_s = first.duration_s / first.step_s / _DAY_S
        order = ranked.order
        rows = order[find_front(ranked.step_s[order], ranked.memory_bytes[order])]
        fronts.append((ranked, rows, days_per_step_s * ranked.step_s[rows]))
    return DeviceExploration(
        pareto=_join_fronts(machine, fronts, most=most),
        best=tuple(best),
        impossible=impossible,
        plans_evaluated=evaluated,
    )


def _rank_in_blocks(
    workload: Workload, machine: Machine, counts: Sequence[int], *, memory_margin: float
) -> Iterator[tuple[int, RankedPlans]]:
    for start in range(0, len(counts), _BLOCK):
        yield from rank_by_count(workload, machine, counts[start : start + _BLOCK], memory_margin=memory_margin)


def _explain_count(ranked: RankedPlans) -> str:
    if len(ranked.plans):
        return "out_of_memory"
    return max(ranked.broken, key=lambda code: ranked.broken[code]) if ranked.broken else "batch_not_divisible"


def _describe_estimate(estimate: Estimate) -> DevicePoint:
    return DevicePoint(
        plan=estimate.plan,
        devices=estimate.devices,
        days=estimate.duration_s / _DAY_S,
        accelerator_hours=estimate.accelerator_s / _HOUR_S,
        headroom=1 - estimate.memory_bytes / estimate.memory_capacity_bytes,
    )


def _join_fronts(
    machine: Machine, fronts: Sequence[tuple[RankedPlans, Integers, Floats]], *, most: int
) -> tuple[DevicePoint, ...]:
    if not fronts:
        return ()
    days = np.concatenate([values for _, _, values in fronts])
    devices = np.concatenate([ranked.devices[rows] for ranked, rows, _ in fronts])
    memory_bytes = np.concatenate([ranked.memory_bytes[rows] for ranked, rows, _ in fronts])
    hours = 24 * days * devices
    owners = [(ranked, int(row)) for ranked, rows, _ in fronts for row in rows]
    points = []
    for index in thin_out(find_front(days, hours, memory_bytes), most=most):
        ranked, row = owners[int(index)]
        points.append(
            DevicePoint(
                plan=ranked.plans.plan(row),
                devices=int(devices[index]),
                days=float(days[index]),
                accelerator_hours=float(hours[index]),
                headroom=float(1 - memory_bytes[index] / machine.accelerator.memory_bytes),
            )
        )
    return tuple(points)


# -- the other way round


@dataclass(frozen=True, kw_only=True)
class FewestDevices:
    """The fewest devices that finish in time.

    `next_smaller` is the best on the largest smaller count on which anything fits. It takes too long; None if there is
    none. Where no count up to the limit finishes in time, `estimate` is None, `fastest` the quickest there is (None if
    nothing fits) and `next_smaller` that on the most devices.
    """

    estimate: Estimate | None
    next_smaller: Estimate | None
    fastest: Estimate | None
    counts_searched: int

    def to_dict(self) -> dict[str, Any]:
        def describe(item: Estimate | None) -> Any:
            return None if item is None else item.to_dict()

        return {
            "estimate": describe(self.estimate),
            "next_smaller": describe(self.next_smaller),
            "fastest": describe(self.fastest),
            "counts_searched": self.counts_searched,
        }


def fewest_devices(
    workload: Workload,
    machine: Machine,
    *,
    finish_within_s: float,
    most_devices: int = DEFAULT_MOST_DEVICES,
    memory_margin: float | None = None,
) -> FewestDevices:
    """The smallest device count whose best plan finishes within `finish_within_s`, failures and checkpoints included.

    Counts are those the machine gives and over which batch, heads and layers can divide. Every one is searched, from
    where the arithmetic alone would take no longer: more devices are not always faster, as a count may divide badly.
    Raises InvalidInput.
    """
    limit_s = check_number("finish_within_s", finish_within_s, minimum=1.0, maximum=1e12)
    most = check_integer("most_devices", most_devices, minimum=1, maximum=MAX_DEVICES)
    margin = check_memory_margin(memory_margin)
    least = min(_count_least_devices(workload, machine, limit_s), most)
    counts = list_possible_devices(workload, machine, least=least, most=most)
    fastest: Estimate | None = None
    last: Estimate | None = None
    searched = 0
    for _, ranked in _rank_in_blocks(workload, machine, counts, memory_margin=margin):
        searched += 1
        if not len(ranked.order):
            continue
        found = build_estimates(workload, machine, ranked, ranked.order[:1])[0]
        if fastest is None or found.duration_s < fastest.duration_s:
            fastest = found
        if found.duration_s <= limit_s:
            smaller = last or _find_smaller(workload, machine, found.devices, memory_margin=margin)
            return FewestDevices(estimate=found, next_smaller=smaller, fastest=found, counts_searched=searched)
        last = found
    return FewestDevices(estimate=None, next_smaller=last, fastest=fastest, counts_searched=searched)


def _find_smaller(workload: Workload, machine: Machine, devices: int, *, memory_margin: float) -> Estimate | None:
    """The best on the largest smaller count on which anything fits."""
    for count in reversed(list_possible_devices(workload, machine, least=1, most=devices - 1)):
        ranked = rank_plans(workload, machine, [count], memory_margin=memory_margin)
        if len(ranked.order):
            return build_estimates(workload, machine, ranked, ranked.order[:1])[0]
    return None


def _count_least_devices(workload: Workload, machine: Machine, limit_s: float) -> int:
    """A count below which the arithmetic alone takes longer than `limit_s`."""
    peak = max(machine.peak_flop_per_s(workload.precision), 1.0)
    work_s = _LEAST_SHARE_OF_PEAK_TIME * workload.steps * count_model_flop_per_step(workload) / peak
    return max(1, int(work_s / limit_s))
