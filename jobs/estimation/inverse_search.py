"""Questions asked the other way round: the largest model that a budget trains, the largest batch that fits."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np

from jobs.estimation.architecture import MAX_LAYERS, Architecture
from jobs.estimation.evaluation import Estimate
from jobs.estimation.flops import count_model_flop_per_step
from jobs.estimation.hardware import Machine
from jobs.estimation.plan import Integers, PlanColumns
from jobs.estimation.plan_enumeration import enumerate_single_micro_batches, list_possible_devices
from jobs.estimation.plan_ranking import (
    build_estimates,
    check_memory_margin,
    evaluate_in_bulk,
    rank_plans,
    rank_these,
)
from jobs.estimation.plan_rules import check_devices
from jobs.estimation.presets import presets
from jobs.estimation.validation import InvalidInput, check_integer, check_number
from jobs.estimation.workload import MAX_GLOBAL_BATCH_SIZE, MAX_TOKENS, Workload

_HOUR_S: Final = 3600.0
_DAY_S: Final = 86_400.0
# Possible device counts tried on each side of hours / days; and larger shapes tried beyond the largest found.
_COUNTS_EACH_SIDE: Final = 4
# By how much the arithmetic alone exceeds the budget in a model that isn't worth a search.
_HOPELESS: Final = 1000.0
_MAX_SCALE_STEPS: Final = 2_048
_HEADS_STEP: Final = 8


@dataclass(frozen=True, kw_only=True)
class Miss:
    """What the next larger one would need. `reason`: "out_of_memory", "too_long", "too_expensive" or "not_possible".

    `estimate` is the best there is of it; None if no plan is possible, or if the arithmetic alone takes a thousand
    times the budget.
    """

    name: str
    parameters: int
    reason: str
    estimate: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "parameters": self.parameters,
            "reason": self.reason,
            "estimate": None if self.estimate is None else self.estimate.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class LargestModel:
    """The largest model that is trained within a budget; all None if not even the smallest is."""

    name: str | None
    workload: Workload | None
    estimate: Estimate | None
    next_larger: Miss | None
    models_searched: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "workload": None if self.workload is None else self.workload.to_dict(),
            "estimate": None if self.estimate is None else self.estimate.to_dict(),
            "next_larger": None if self.next_larger is None else self.next_larger.to_dict(),
            "models_searched": self.models_searched,
        }


@dataclass(frozen=True, kw_only=True)
class _Budget:
    accelerator_s: float
    duration_s: float
    most_devices: int
    memory_margin: float

    @classmethod
    def check(
        cls, *, accelerator_hours: object, days: object, most_devices: object, memory_margin: float | None
    ) -> "_Budget":
        hours = check_number("accelerator_hours", accelerator_hours, minimum=1e-3, maximum=1e12)
        length = check_number("days", days, minimum=1e-3, maximum=1e4)
        return cls(
            accelerator_s=hours * _HOUR_S,
            duration_s=length * _DAY_S,
            most_devices=check_integer("most_devices", most_devices, minimum=1, maximum=1_000_000),
            memory_margin=check_memory_margin(memory_margin),
        )

    def list_counts(self, workload: Workload, machine: Machine) -> list[int]:
        """Device counts to try, nearest first to the one that uses all hours in all days.

        On fewer devices the days limit what is computed, on more the hours do, and larger jobs are less efficient.
        """
        ideal = self.accelerator_s / self.duration_s
        counts = np.array(list_possible_devices(workload, machine, least=1, most=self.most_devices), dtype=np.int64)
        below, above = counts[counts <= ideal], counts[counts > ideal]
        return [int(count) for count in (*below[::-1][:_COUNTS_EACH_SIDE], *above[:_COUNTS_EACH_SIDE])]


def largest_preset(
    machine: Machine,
    *,
    accelerator_hours: float,
    days: float,
    tokens: int | None = None,
    tokens_per_parameter: float | None = None,
    names: Iterable[str] | None = None,
    most_devices: int = 65_536,
    memory_margin: float | None = None,
    **settings: Any,
) -> LargestModel:
    """The preset with most parameters that is trained within the budget.

    Either a number of `tokens` for all models, or `tokens_per_parameter` of each (of the active ones in a mixture of
    experts: 20 by Hoffmann 2022, arXiv 2203.15556). `settings` are further keys of Workload.from_dict. Raises
    InvalidInput.
    """
    budget = _Budget.check(
        accelerator_hours=accelerator_hours, days=days, most_devices=most_devices, memory_margin=memory_margin
    )
    known = presets()
    chosen = list(known if names is None else names)
    for name in chosen:
        if name not in known:
            raise InvalidInput("names", name, "one of " + ", ".join(known))
    chosen.sort(key=lambda name: known[name].architecture.parameters)
    candidates: list[tuple[str, Callable[[], Workload]]] = []
    for name in chosen:
        count = _count_tokens(known[name].architecture, tokens, tokens_per_parameter)
        data = {**settings, "model": {"preset": name}, "tokens": count}
        candidates.append((name, partial(Workload.from_dict, data)))
    return _find_largest(candidates, machine, budget, is_ordered=False)


def largest_shape(
    workload: Workload,
    machine: Machine,
    *,
    accelerator_hours: float,
    days: float,
    tokens_per_parameter: float | None = None,
    most_devices: int = 65_536,
    memory_margin: float | None = None,
) -> LargestModel:
    """The largest model of the family of `workload`'s that is trained within the budget.

    The family has as many layers for its width, as many queries a key head and heads of the same size; experts grow
    with the width. Tokens are the workload's, or `tokens_per_parameter`. Raises InvalidInput.
    """
    budget = _Budget.check(
        accelerator_hours=accelerator_hours, days=days, most_devices=most_devices, memory_margin=memory_margin
    )
    candidates: list[tuple[str, Callable[[], Workload]]] = []
    for shape in list_family(workload.architecture):
        tokens = workload.tokens
        if tokens_per_parameter is not None:
            tokens = _count_tokens(shape, None, tokens_per_parameter)
        name = f"{shape.num_hidden_layers} x {shape.hidden_size}"
        candidates.append((name, partial(replace, workload, architecture=shape, tokens=tokens, preset=None)))
    return _find_largest(candidates, machine, budget, is_ordered=True)


def _count_tokens(architecture: Architecture, tokens: int | None, tokens_per_parameter: float | None) -> int:
    if (tokens is None) == (tokens_per_parameter is None):
        raise InvalidInput("tokens", tokens, "either tokens or tokens_per_parameter")
    if tokens is not None:
        return check_integer("tokens", tokens, minimum=1, maximum=MAX_TOKENS)
    ratio = check_number("tokens_per_parameter", tokens_per_parameter, minimum=1e-3, maximum=1e6)
    return min(max(1, round(ratio * architecture.active_parameters)), MAX_TOKENS)


def list_family(architecture: Architecture) -> list[Architecture]:
    """Shapes like `architecture`, smaller and larger, in order of size: steps of 8 heads (of one below 16 heads).

    Shapes that break a bound of Architecture are left out.
    """
    heads = architecture.num_attention_heads
    step = _HEADS_STEP if heads >= 2 * _HEADS_STEP else 1
    ratio = architecture.num_attention_heads // architecture.num_key_value_heads
    shapes = []
    for count in range(step, _MAX_SCALE_STEPS, step):
        shape = _scale(architecture, count, ratio=ratio)
        if shape is not None:
            shapes.append(shape)
    return shapes


def _scale(architecture: Architecture, heads: int, *, ratio: int) -> Architecture | None:
    factor = heads / architecture.num_attention_heads

    def scale(width: int, *, multiple: int) -> int:
        return max(multiple, round(width * factor / multiple) * multiple) if width else 0

    layers = max(1, round(architecture.num_hidden_layers * factor))
    moe_layers = round(layers * architecture.num_moe_layers / architecture.num_hidden_layers)
    if heads % ratio or layers > MAX_LAYERS:
        return None
    try:
        return replace(
            architecture,
            num_hidden_layers=layers,
            num_moe_layers=max(moe_layers, int(architecture.is_moe)),
            sliding_window_layers=round(layers * architecture.sliding_window_layers / architecture.num_hidden_layers),
            encoder_layers=round(architecture.encoder_layers * factor),
            hidden_size=scale(architecture.hidden_size, multiple=8),
            intermediate_size=scale(architecture.intermediate_size, multiple=8),
            expert_intermediate_size=scale(architecture.expert_intermediate_size, multiple=8),
            shared_expert_intermediate_size=scale(architecture.shared_expert_intermediate_size, multiple=8),
            q_lora_rank=scale(architecture.q_lora_rank, multiple=8),
            num_attention_heads=heads,
            num_key_value_heads=heads // ratio,
        )
    except InvalidInput:
        return None


def _find_largest(
    candidates: Sequence[tuple[str, Callable[[], Workload]]], machine: Machine, budget: _Budget, *, is_ordered: bool
) -> LargestModel:
    """The last candidate within the budget; `is_ordered` says that time and memory rise from one to the next."""
    tried: dict[int, tuple[Workload | None, Estimate | None, str | None]] = {}

    def attempt(index: int) -> bool:
        if index not in tried:
            tried[index] = _try_model(candidates[index][1], machine, budget)
        return tried[index][2] is None

    found = -1
    if is_ordered:
        low, high = -1, len(candidates)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if attempt(middle) else (low, middle)
        found = low
        # Shapes divide differently, so a larger one may do where one in between doesn't.
        for index in range(low + 1, min(low + 1 + _COUNTS_EACH_SIDE, len(candidates))):
            found = index if attempt(index) else found
    else:
        found = next((index for index in reversed(range(len(candidates))) if attempt(index)), -1)
    following = found + 1
    miss = None
    if following < len(candidates):
        attempt(following)
        workload, estimate, reason = tried[following]
        parameters = 0 if workload is None else workload.architecture.parameters
        miss = Miss(
            name=candidates[following][0], parameters=parameters, reason=reason or "not_possible", estimate=estimate
        )
    if found < 0:
        return LargestModel(name=None, workload=None, estimate=None, next_larger=miss, models_searched=len(tried))
    workload, estimate, _ = tried[found]
    return LargestModel(
        name=candidates[found][0],
        workload=workload,
        estimate=estimate,
        next_larger=miss,
        models_searched=len(tried),
    )


def _try_model(
    make: Callable[[], Workload], machine: Machine, budget: _Budget
) -> tuple[Workload | None, Estimate | None, str | None]:
    """(workload, its best estimate, why it isn't within the budget: None if it is)."""
    try:
        workload = make()
        machine.peak_flop_per_s(workload.precision)
    except InvalidInput:
        return None, None, "not_possible"
    peak = machine.peak_flop_per_s(workload.precision)
    if workload.steps * count_model_flop_per_step(workload) / peak > _HOPELESS * budget.accelerator_s:
        return workload, None, "too_expensive"
    closest: Estimate | None = None
    reason = "not_possible"
    for count in budget.list_counts(workload, machine):
        ranked = rank_plans(workload, machine, [count], memory_margin=budget.memory_margin)
        if not len(ranked.plans):
            continue
        if not len(ranked.order):
            if closest is None:
                closest = build_estimates(workload, machine, ranked, np.array([ranked.memory_bytes.argmin()]))[0]
                reason = "out_of_memory"
            continue
        estimate = build_estimates(workload, machine, ranked, ranked.order[:1])[0]
        excess = _exceed(estimate, budget)
        if excess <= 1:
            return workload, estimate, None
        if closest is None or not closest.fits or excess < _exceed(closest, budget):
            closest = estimate
            reason = "too_expensive" if estimate.accelerator_s > budget.accelerator_s else "too_long"
    return workload, closest, reason


def _exceed(estimate: Estimate, budget: _Budget) -> float:
    return max(estimate.accelerator_s / budget.accelerator_s, estimate.duration_s / budget.duration_s)


# -- batch


@dataclass(frozen=True, kw_only=True)
class LargestBatch:
    """The largest batch that a step takes in one go: without accumulating gradients over micro-batches.

    The first two are None where not even one sequence a rank fits. `next_global_batch_size` is what the same plan would
    take next, and `next_missing_bytes` what a device lacks for it (for its head-room, if the plan has it).
    """

    global_batch_size: int | None
    estimate: Estimate | None
    next_global_batch_size: int | None
    next_missing_bytes: float | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "global_batch_size": self.global_batch_size,
            "estimate": None if self.estimate is None else self.estimate.to_dict(),
            "next_global_batch_size": self.next_global_batch_size,
            "next_missing_bytes": self.next_missing_bytes,
        }


def largest_batch(
    workload: Workload, machine: Machine, devices: int, *, memory_margin: float | None = None
) -> LargestBatch:
    """The largest global batch that keeps each device busy with one micro-batch (a stage of a pipeline with one each).

    Any larger batch runs as well if gradients are accumulated over more micro-batches. The workload's own batch does
    not matter. Raises InvalidInput.
    """
    count = check_devices(machine, devices)
    margin = check_memory_margin(memory_margin)
    machine.peak_flop_per_s(workload.precision)
    plans = enumerate_single_micro_batches(workload, machine, count)
    none = LargestBatch(global_batch_size=None, estimate=None, next_global_batch_size=None, next_missing_bytes=None)
    if not len(plans):
        return none
    capacity = machine.accelerator.memory_bytes
    ranks = plans.dp * plans.pp
    for limit_bytes in (capacity / (1 + margin), float(capacity)):
        micro = _find_largest_micro(workload, machine, plans, limit_bytes=limit_bytes)
        if np.any(micro):
            break
    else:
        memory_bytes, _ = evaluate_in_bulk(workload, machine, plans, global_batch=ranks)
        least = int(memory_bytes.argmin())
        missing = float(memory_bytes[least] - capacity)
        return replace(none, next_global_batch_size=int(ranks[least]), next_missing_bytes=missing)
    batch = int((ranks * micro).max())
    rows = np.flatnonzero(ranks * micro == batch)
    chosen = replace(plans.select(rows), micro=micro[rows])
    whole = replace(workload, global_batch_size=batch)
    ranked = rank_these(whole, machine, chosen, memory_margin=margin)
    best = int(ranked.order[0])
    larger = replace(chosen, micro=chosen.micro + 1)
    following = ranks[rows] * larger.micro
    memory_bytes, _ = evaluate_in_bulk(workload, machine, larger, global_batch=following)
    return LargestBatch(
        global_batch_size=batch,
        estimate=build_estimates(whole, machine, ranked, np.array([best]))[0],
        next_global_batch_size=int(following[best]),
        next_missing_bytes=max(float(memory_bytes[best] - limit_bytes), 0.0),
    )


def _find_largest_micro(workload: Workload, machine: Machine, plans: PlanColumns, *, limit_bytes: float) -> Integers:
    """The largest micro-batch of each plan within `limit_bytes`, 0 if there is none: a bisection of all at once."""
    ranks = plans.dp * plans.pp
    low, high = np.zeros(len(plans), dtype=np.int64), MAX_GLOBAL_BATCH_SIZE // ranks + 1
    while np.any(high - low > 1):
        middle = np.maximum((low + high) // 2, 1)
        tried = replace(plans, micro=middle)
        memory_bytes, _ = evaluate_in_bulk(workload, machine, tried, global_batch=ranks * middle)
        fits = memory_bytes <= limit_bytes
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return low
