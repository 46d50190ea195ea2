"""All plans of a search with their memory and time, in order of preference: arrays, before any estimate is built."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from jobs.estimation.columns import make_columns
from jobs.estimation.evaluation import Estimate, build_estimate, evaluate_columns, evaluate_plans
from jobs.estimation.hardware import Machine
from jobs.estimation.plan import Booleans, Floats, Integers, PlanColumns
from jobs.estimation.plan_enumeration import enumerate_plans
from jobs.estimation.validation import check_number
from jobs.estimation.workload import Workload

ROOMY_MEMORY_SHARE: Final = 0.85
"""A plan that is estimated to use more of a device's memory is ranked after all that don't: the median published
reading is 6 % above the estimate (docs/estimation.md), and a job that runs out of memory is worse than a slower one."""

MEMORY_MARGIN: Final = 1 / ROOMY_MEMORY_SHARE - 1
"""By how much memory may exceed its estimate in a plan with head-room."""

_MAX_MARGIN: Final = 10.0
# Temporary arrays of this many rows stay in a core's second-level cache.
_CHUNK: Final = 8192


@dataclass(frozen=True, kw_only=True)
class RankedPlans:
    """Possible plans, one entry each, and the order of those that fit."""

    plans: PlanColumns
    memory_bytes: Floats
    step_s: Floats
    is_tight: Booleans
    """Without head-room; true of all that don't fit."""
    order: Integers
    """Rows that fit, best first: those with head-room before those without, then by step time, then by memory."""
    broken: Mapping[str, int]
    """How many plans each rule ruled out."""

    @property
    def devices(self) -> Integers:
        return self.plans.tp * self.plans.pp * self.plans.dp * self.plans.cp


def check_memory_margin(memory_margin: object) -> float:
    """The margin as a number; None is MEMORY_MARGIN. Raises InvalidInput."""
    if memory_margin is None:
        return MEMORY_MARGIN
    return check_number("memory_margin", memory_margin, minimum=0.0, maximum=_MAX_MARGIN)


def rank_plans(
    workload: Workload,
    machine: Machine,
    device_counts: Iterable[int],
    *,
    memory_margin: float = MEMORY_MARGIN,
) -> RankedPlans:
    """Rank all plans on any of `device_counts`; what seldom pays is tried only where nothing else fits."""
    counts = list(device_counts)
    ranked = _rank(workload, machine, *enumerate_plans(workload, machine, counts), memory_margin=memory_margin)
    if len(ranked.order):
        return ranked
    wide = enumerate_plans(workload, machine, counts, is_wide=True)
    return _rank(workload, machine, *wide, memory_margin=memory_margin)


def rank_by_count(
    workload: Workload, machine: Machine, device_counts: Iterable[int], *, memory_margin: float = MEMORY_MARGIN
) -> Iterator[tuple[int, RankedPlans]]:
    """(count, its plans ranked) of each of `device_counts`, in order; many counts are evaluated at once."""
    counts = list(device_counts)
    if not counts:
        return
    narrow, broken = enumerate_plans(workload, machine, counts)
    together = _rank(workload, machine, narrow, broken, memory_margin=memory_margin)
    devices = together.devices
    with_fitting = set(devices[together.order].tolist())
    for count in counts:
        if count not in with_fitting:
            # Also plans that seldom pay, and for what ruled out the plans on this count.
            yield count, rank_plans(workload, machine, [count], memory_margin=memory_margin)
            continue
        rows = np.flatnonzero(devices == count)
        order = together.order[devices[together.order] == count]
        yield (
            count,
            RankedPlans(
                plans=narrow.select(rows),
                memory_bytes=together.memory_bytes[rows],
                step_s=together.step_s[rows],
                is_tight=together.is_tight[rows],
                order=np.searchsorted(rows, order),
                broken={},
            ),
        )


def rank_these(
    workload: Workload, machine: Machine, plans: PlanColumns, *, memory_margin: float = MEMORY_MARGIN
) -> RankedPlans:
    """Rank the given plans, which the rules must allow."""
    return _rank(workload, machine, plans, {}, memory_margin=memory_margin)


def _rank(
    workload: Workload, machine: Machine, plans: PlanColumns, broken: Mapping[str, int], *, memory_margin: float
) -> RankedPlans:
    memory_bytes, step_s = evaluate_in_bulk(workload, machine, plans)
    capacity = machine.accelerator.memory_bytes
    is_tight = memory_bytes * (1 + memory_margin) > capacity
    fitting = np.flatnonzero(memory_bytes <= capacity)
    order = fitting[np.lexsort((memory_bytes[fitting], step_s[fitting], is_tight[fitting]))]
    return RankedPlans(
        plans=plans, memory_bytes=memory_bytes, step_s=step_s, is_tight=is_tight, order=order, broken=broken
    )


def evaluate_in_bulk(
    workload: Workload, machine: Machine, plans: PlanColumns, *, global_batch: Integers | None = None
) -> tuple[Floats, Floats]:
    """(bytes of a device, seconds of a step) of each plan; `global_batch` of each, if not the workload's."""
    memory_bytes, step_s = np.empty(len(plans)), np.empty(len(plans))
    columns = make_columns(workload, machine, plans)
    model = columns.model
    for start in range(0, len(plans), _CHUNK):
        rows = slice(start, min(start + _CHUNK, len(plans)))
        part = plans if len(plans) <= _CHUNK else plans.select(np.arange(rows.start, rows.stop))
        if global_batch is not None:
            model = replace(model, global_batch=global_batch[rows].astype(np.float64))
        evaluation = evaluate_columns(replace(columns, size=len(part), model=model, plans=part))
        memory_bytes[rows] = evaluation.memory_bytes
        step_s[rows] = evaluation.step_s
    return memory_bytes, step_s


def build_estimates(workload: Workload, machine: Machine, ranked: RankedPlans, rows: Integers) -> list[Estimate]:
    """Full estimates of some of the plans."""
    if not len(rows):
        return []
    evaluation = evaluate_plans(workload, machine, ranked.plans.select(rows))
    return [build_estimate(workload, machine, evaluation, row) for row in range(len(rows))]
