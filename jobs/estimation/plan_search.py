"""Every plan for a workload on a machine, evaluated at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import numpy as np

from jobs.estimation.evaluation import Estimate, Evaluation, build_estimate, evaluate_plans
from jobs.estimation.geometry import check_devices, find_violations
from jobs.estimation.hardware import Machine
from jobs.estimation.plan import RECOMPUTATIONS, Integers, ParallelPlan, PlanColumns
from jobs.estimation.validation import InvalidInput, check_integer
from jobs.estimation.workload import Workload

MICRO_BATCH_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
VIRTUAL_STAGES: Final = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16)
ZERO_STAGES: Final = (0, 1, 2, 3)

# Context parallelism pays where a rank still has long sequences.
_LEAST_TOKENS_PER_CONTEXT_RANK: Final = 8192
_MAX_TOP: Final = 1000

ROOMY_MEMORY_SHARE: Final = 0.85
"""A plan that is estimated to use more of a device's memory is ranked after all that don't: the median published
reading is 6 % above the estimate (docs/estimation.md), and a job that runs out of memory is worse than a slower one."""

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
    """`ranked`: plans that fit, fastest first, those without head-room (`ROOMY_MEMORY_SHARE`) last.

    `pareto`: plans for which less memory means more time.

    `least_bad` is the plan that needs least memory where nothing fits, else None.
    """

    best: Estimate | None
    ranked: tuple[Estimate, ...]
    pareto: tuple[Estimate, ...]
    least_bad: Estimate | None
    plans_evaluated: int
    search_s: float
    rejected: tuple[Rejection, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "best": None if self.best is None else self.best.to_dict(),
            "ranked": [item.to_dict() for item in self.ranked],
            "pareto": [item.to_dict() for item in self.pareto],
            "least_bad": None if self.least_bad is None else self.least_bad.to_dict(),
            "plans_evaluated": self.plans_evaluated,
            "search_s": self.search_s,
            "rejected": [item.to_dict() for item in self.rejected],
        }


def search(workload: Workload, machine: Machine, devices: int, *, top: int = 10) -> SearchResult:
    """Rank the plans for exactly `devices` devices by head-room and step time.

    Raises InvalidInput for a device count the machine cannot give or a precision it lacks. That no plan is possible
    or fits is an answer, not an error.
    """
    started = perf_counter()
    count = check_devices(machine, devices)
    limit = check_integer("top", top, minimum=1, maximum=_MAX_TOP)
    machine.peak_flop_per_s(workload.precision)
    plans, broken = _enumerate_plans(workload, machine, count)
    rejected = [Rejection(reason=code, count=number) for code, number in broken.items() if number]
    if not len(plans):
        return SearchResult(
            best=None,
            ranked=(),
            pareto=(),
            least_bad=None,
            plans_evaluated=0,
            search_s=perf_counter() - started,
            rejected=tuple(rejected),
        )
    evaluation = evaluate_plans(workload, machine, plans)
    capacity = machine.accelerator.memory_bytes
    fitting = np.flatnonzero(evaluation.memory_bytes <= capacity)
    if len(fitting) < len(plans):
        rejected.insert(0, _describe_out_of_memory(evaluation, capacity))
    memory_bytes = evaluation.memory_bytes[fitting]
    is_tight = memory_bytes > ROOMY_MEMORY_SHARE * capacity
    order = fitting[np.lexsort((memory_bytes, evaluation.step_s[fitting], is_tight))]
    ranked = tuple(build_estimate(workload, machine, evaluation, int(row)) for row in order[:limit])
    by_time = fitting[np.lexsort((memory_bytes, evaluation.step_s[fitting]))]
    front = _find_pareto_rows(evaluation, by_time)
    least_bad = None
    if not len(order):
        least_bad = build_estimate(workload, machine, evaluation, int(evaluation.memory_bytes.argmin()))
    return SearchResult(
        best=ranked[0] if ranked else None,
        ranked=ranked,
        pareto=tuple(build_estimate(workload, machine, evaluation, int(row)) for row in front),
        least_bad=least_bad,
        plans_evaluated=len(plans),
        search_s=perf_counter() - started,
        rejected=tuple(rejected),
    )


def estimate_best(workload: Workload, machine: Machine, devices: int) -> Estimate:
    """The fastest plan that fits with head-room, or else that just fits.

    Where none fits, the one with least memory (`fits` is False and advice says why).

    Raises InvalidInput as `search` does, and if no plan at all is possible on so many devices, because no split
    divides batch, heads and layers.
    """
    result = search(workload, machine, devices, top=1)
    found = result.best or result.least_bad
    if found is None:
        reasons = ", ".join(item.reason for item in result.rejected)
        raise InvalidInput("devices", devices, f"a count over which batch, heads and layers divide (found: {reasons})")
    return found


def _find_pareto_rows(evaluation: Evaluation, order: Integers) -> Integers:
    """Rows of the Pareto front of step time against memory; `order` is by time, then memory."""
    memory = evaluation.memory_bytes[order]
    before = np.concatenate(([np.inf], np.minimum.accumulate(memory)[:-1])) if len(memory) else memory
    front = order[memory < before]
    if len(front) <= _MAX_PARETO:
        return front
    return front[np.linspace(0, len(front) - 1, _MAX_PARETO).round().astype(np.int64)]


def _describe_out_of_memory(evaluation: Evaluation, capacity: int) -> Rejection:
    too_large = np.flatnonzero(evaluation.memory_bytes > capacity)
    nearest = int(too_large[evaluation.memory_bytes[too_large].argmin()])
    return Rejection(
        reason="out_of_memory",
        count=len(too_large),
        nearest=evaluation.plans.plan(nearest),
        missing_bytes=float(evaluation.memory_bytes[nearest] - capacity),
    )


def _enumerate_plans(workload: Workload, machine: Machine, devices: int) -> tuple[PlanColumns, Mapping[str, int]]:
    """All possible plans, and how many were ruled out by each rule (a plan counts for the first it breaks)."""
    degrees = _list_degrees(workload, machine, devices)
    # First the choices that rules judge, then, on what is left, those that only cost or save.
    rows = _product(len(degrees), len(VIRTUAL_STAGES), len(MICRO_BATCH_SIZES))
    base = degrees[rows[0]]
    plans = _make_columns(base, virtual=np.array(VIRTUAL_STAGES)[rows[1]], micro=np.array(MICRO_BATCH_SIZES)[rows[2]])
    plans = plans.select((plans.virtual == 1) | (plans.pp > 1))
    counts: dict[str, int] = {}
    plans = _drop_broken(workload, machine, plans, counts)
    rows = _product(len(plans), len(ZERO_STAGES), len(RECOMPUTATIONS), 2)
    kept = plans.select(rows[0])
    plans = PlanColumns(
        tp=kept.tp,
        pp=kept.pp,
        dp=kept.dp,
        cp=kept.cp,
        virtual=kept.virtual,
        micro=kept.micro,
        zero=np.array(ZERO_STAGES)[rows[1]],
        recompute=rows[2],
        sequence=rows[3] == 1,
    )
    # Without ranks to shard over all stages are the same; sequence parallelism needs tensor parallelism.
    is_distinct = ((plans.zero == 0) | (plans.dp * plans.cp > 1)) & (~plans.sequence | (plans.tp > 1))
    return _drop_broken(workload, machine, plans.select(is_distinct), counts), counts


def _drop_broken(workload: Workload, machine: Machine, plans: PlanColumns, counts: dict[str, int]) -> PlanColumns:
    dropped = np.zeros(len(plans), dtype=np.bool_)
    for code, broken in find_violations(workload, machine, plans).items():
        counts[code] = counts.get(code, 0) + int(np.count_nonzero(broken & ~dropped))
        dropped |= broken
    return plans.select(~dropped)


def _product(*sizes: int) -> Integers:
    """Index columns of the Cartesian product."""
    return np.indices(sizes, dtype=np.int64).reshape(len(sizes), -1)


def _list_degrees(workload: Workload, machine: Machine, devices: int) -> Integers:
    """Rows of (tensor, pipeline, context, data) degrees whose product is `devices`."""
    layers = workload.architecture.num_hidden_layers
    longest = max(1, workload.sequence_length // _LEAST_TOKENS_PER_CONTEXT_RANK)
    rows = []
    for tensor in _list_divisors(machine.node_size):
        if devices % tensor:
            continue
        for pipeline in _list_divisors(devices // tensor, largest=layers):
            rest = devices // tensor // pipeline
            rows += [
                (tensor, pipeline, context, rest // context)
                for context in _list_divisors(rest, largest=longest)
                if context & (context - 1) == 0
            ]
    return np.array(rows, dtype=np.int64)


def _list_divisors(number: int, *, largest: int | None = None) -> list[int]:
    return [n for n in range(1, min(number, largest or number) + 1) if number % n == 0]


def _make_columns(degrees: Integers, *, virtual: Integers, micro: Integers) -> PlanColumns:
    size = len(degrees)
    return PlanColumns(
        tp=degrees[:, 0],
        pp=degrees[:, 1],
        cp=degrees[:, 2],
        dp=degrees[:, 3],
        virtual=virtual,
        micro=micro,
        zero=np.zeros(size, dtype=np.int64),
        recompute=np.zeros(size, dtype=np.int64),
        sequence=np.zeros(size, dtype=np.bool_),
    )
