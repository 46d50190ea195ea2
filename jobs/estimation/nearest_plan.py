"""For what isn't possible, the nearest thing that is: single changes of a plan or of the job, with what they cost."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from jobs.estimation.hardware import Machine
from jobs.estimation.pareto import thin_out
from jobs.estimation.plan import MAX_DEVICES, OFFLOADS, RECOMPUTATIONS, Integers, ParallelPlan, PlanColumns
from jobs.estimation.plan_enumeration import enumerate_plans, join_plans, list_possible_devices, list_splits
from jobs.estimation.plan_ranking import MEMORY_MARGIN, RankedPlans, check_memory_margin, rank_plans, rank_these
from jobs.estimation.plan_rules import check_devices, describe_rule, find_violations
from jobs.estimation.validation import InvalidInput
from jobs.estimation.workload import MAX_GLOBAL_BATCH_SIZE, Workload

MAX_ALTERNATIVES: Final = 8

# Device counts beyond this multiple of what was asked for are no "nearest thing".
_MOST_TIMES_DEVICES: Final = 64
_COUNTS_AT_ONCE: Final = 12
_AS_FAST: Final = 1.01
_LEAST_SEQUENCE: Final = 512

# What one changes in a plan: columns that belong together are one decision.
_DECISIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "tensor_parallel": ("tp",),
        "pipeline_parallel": ("pp",),
        "context_parallel": ("cp",),
        "expert_parallel": ("ep",),
        "virtual_stages": ("virtual",),
        "zero_stage": ("zero",),
        "micro_batch_size": ("micro",),
        "recomputation": ("recompute", "recomputed_layers"),
        "pipeline_schedule": ("schedule",),
        "offload": ("offload",),
    }
)


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """Something possible near what was asked for.

    `changes`: dotted field -> new value, such as "plan.zero_stage": 1, "workload.optimizer": "adamw_8bit" or
    "devices": 16; `plan` is the whole plan then. `saved_bytes` is what a device needs less than before, `time_ratio`
    the time a token takes over that of before; None where before can't be evaluated. `headroom` is the free share of a
    device's memory.
    """

    changes: Mapping[str, Any]
    plan: ParallelPlan
    devices: int
    memory_bytes: float
    saved_bytes: float | None
    headroom: float
    step_s: float
    time_ratio: float | None

    @property
    def text(self) -> str:
        what = ", ".join(f"{name.removeprefix('plan.')} {value}" for name, value in self.changes.items())
        parts = [f"{what or 'same plan'}: {self.memory_bytes / 1e9:.1f} GB a device"]
        if self.saved_bytes is not None:
            parts.append(f"{abs(self.saved_bytes) / 1e9:.1f} GB {'less' if self.saved_bytes >= 0 else 'more'}")
        if self.time_ratio is not None:
            percent = 100 * (self.time_ratio - 1)
            parts.append(f"{abs(percent):.0f} % {'slower' if percent >= 0 else 'faster'}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        data = {item.name: getattr(self, item.name) for item in fields(self)}
        return data | {"changes": dict(self.changes), "plan": self.plan.to_dict()}


@dataclass(frozen=True, kw_only=True)
class BrokenRule:
    """A rule that a plan breaks: a code of plan_rules.RULES, or "devices_not_allowed"."""

    code: str
    field: str
    value: Any
    allowed: str

    def to_dict(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a plan isn't possible, and what is. All empty for a plan that is possible and fits.

    `missing_bytes` is what a device lacks, None if it has enough.
    """

    broken: tuple[BrokenRule, ...]
    missing_bytes: float | None
    alternatives: tuple[Alternative, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "broken": [item.to_dict() for item in self.broken],
            "missing_bytes": self.missing_bytes,
            "alternatives": [item.to_dict() for item in self.alternatives],
        }


def explain_impossible(
    workload: Workload,
    machine: Machine,
    plan: ParallelPlan,
    *,
    limit: int = MAX_ALTERNATIVES,
    memory_margin: float | None = None,
) -> Explanation:
    """Why `plan` can't run, and the nearest plans that can: of each kind of change the one that loses least time.

    The fewest changes win: those of one decision, or if there is none of two, and so on; and the best of all plans on
    as many devices. Twice and four times the devices count as one change. Raises InvalidInput for a precision that the
    accelerator lacks.
    """
    machine.peak_flop_per_s(workload.precision)
    margin = check_memory_margin(memory_margin)
    given = PlanColumns.from_plans([plan])
    broken = _list_broken_rules(workload, machine, plan, given)
    # The formulas give figures for a plan that breaks a rule, too, but they mean nothing.
    base = None if broken else rank_these(workload, machine, given, memory_margin=margin)
    if base is not None and len(base.order):
        return Explanation(broken=(), missing_bytes=None, alternatives=())
    capacity = machine.accelerator.memory_bytes
    missing = None if base is None else float(base.memory_bytes[0] - capacity)
    candidates = rank_these(workload, machine, _list_candidates(workload, machine, plan, given), memory_margin=margin)
    rows = _select_nearest(candidates, given, devices=plan.devices, limit=limit)
    alternatives = [
        _describe(
            machine,
            candidates,
            int(row),
            changes=_list_changes(candidates.plans, int(row), given, devices=plan.devices),
            base_memory_bytes=None if base is None else float(base.memory_bytes[0]),
            base_step_s=None if base is None else float(base.step_s[0]),
        )
        for row in rows
    ]
    return Explanation(broken=broken, missing_bytes=missing, alternatives=tuple(alternatives))


def _list_broken_rules(
    workload: Workload, machine: Machine, plan: ParallelPlan, given: PlanColumns
) -> tuple[BrokenRule, ...]:
    found = []
    try:
        check_devices(machine, plan.devices)
    except InvalidInput as error:
        found.append(BrokenRule(code="devices_not_allowed", field="devices", value=plan.devices, allowed=error.allowed))
    for code, is_broken in find_violations(workload, machine, given).items():
        if is_broken[0]:
            name, allowed = describe_rule(workload, machine, code)
            found.append(BrokenRule(code=code, field=f"plan.{name}", value=getattr(plan, name), allowed=allowed))
    return tuple(found)


def _list_candidates(workload: Workload, machine: Machine, plan: ParallelPlan, given: PlanColumns) -> PlanColumns:
    """Every plan on as many devices, and on two and four times as many; and the given plan with one change."""
    if _is_allowed(machine, plan.devices):
        counts = [count for count in (plan.devices, 2 * plan.devices, 4 * plan.devices) if count <= MAX_DEVICES]
        allowed = [count for count in counts if _is_allowed(machine, count)]
    else:
        node = machine.node_size
        below, above = plan.devices // node * node, -(-plan.devices // node) * node
        smaller = [count for count in machine.allowed_device_counts if count <= plan.devices][-1:]
        allowed = sorted(count for count in {below, above, *smaller} if count and _is_allowed(machine, count))
    space, _ = enumerate_plans(workload, machine, allowed, is_wide=True)
    single = join_plans(_vary_one(workload, plan, given, devices=allowed))
    broken = find_violations(workload, machine, single)
    possible = ~np.any(np.stack(list(broken.values())), axis=0)
    return join_plans([space, single.select(possible)])


def _is_allowed(machine: Machine, count: int) -> bool:
    try:
        check_devices(machine, count)
    except InvalidInput:
        return False
    return True


def _vary_one(
    workload: Workload, plan: ParallelPlan, given: PlanColumns, *, devices: list[int]
) -> Iterator[PlanColumns]:
    """The given plan with each other value of one decision, also such values as a search doesn't try."""

    def vary(**columns: Any) -> PlanColumns:
        size = len(next(iter(columns.values())))
        return replace(given.select(np.zeros(size, dtype=np.int64)), **columns)

    yield vary(zero=np.arange(4), zero_group=np.repeat(given.dp * given.cp, 4))
    layers = -(-workload.architecture.num_layers // plan.pipeline_parallel)
    yield vary(
        recompute=np.array([*range(len(RECOMPUTATIONS)), *[RECOMPUTATIONS.index("full")] * (layers - 1)]),
        recomputed_layers=np.array([0] * len(RECOMPUTATIONS) + list(range(1, layers))),
    )
    yield vary(micro=np.arange(1, plan.micro_batch_size + 1))
    offloads = np.arange(len(OFFLOADS))
    yield vary(offload=offloads)
    yield vary(offload=offloads, zero=np.where(offloads == len(OFFLOADS) - 1, 3, given.zero))
    yield vary(sequence=np.array([plan.tensor_parallel > 1]))
    yield vary(schedule=np.array([0]), virtual=given.virtual)
    others = plan.tensor_parallel * plan.pipeline_parallel * plan.context_parallel
    data = np.array([count // others for count in devices if count % others == 0], dtype=np.int64)
    if len(data):
        yield vary(dp=data, zero_group=data * plan.context_parallel)


def _find_changes(plans: PlanColumns, given: PlanColumns, *, devices: int) -> tuple[Integers, Integers]:
    """(bit mask, number) of the decisions in which each plan differs from the given one.

    The data-parallel degree follows from the others, and sequence parallelism from the tensor degree.
    """
    differs = [
        np.any([getattr(plans, column) != getattr(given, column) for column in columns], axis=0)
        for columns in _DECISIONS.values()
    ]
    differs.append((plans.sequence != given.sequence) & (plans.tp == given.tp))
    differs.append(plans.tp * plans.pp * plans.dp * plans.cp != devices)
    table = np.stack(differs)
    return (table * (1 << np.arange(len(table)))[:, None]).sum(axis=0), table.sum(axis=0)


def _select_nearest(candidates: RankedPlans, given: PlanColumns, *, devices: int, limit: int) -> Integers:
    """Rows of the best plan of each kind of change, and of the best on as many devices; least time lost first."""
    order = candidates.order
    if not len(order):
        return order
    masks, numbers = _find_changes(candidates.plans.select(order), given, devices=devices)
    nearest = np.flatnonzero((numbers > 0) & (numbers == numbers[numbers > 0].min(initial=len(_DECISIONS) + 2)))
    kinds, kind = np.unique(masks[nearest] * 2 + candidates.is_tight[order[nearest]], return_inverse=True)
    step_s = candidates.step_s[order[nearest]]
    fastest = np.full(len(kinds), np.inf)
    np.minimum.at(fastest, kind, step_s)
    # Of plans as fast within a per cent, the lower ZeRO stage is the smaller change.
    is_slower = step_s > _AS_FAST * fastest[kind]
    nearest = nearest[
        np.lexsort((step_s, candidates.plans.zero[order[nearest]], is_slower, candidates.is_tight[order[nearest]]))
    ]
    _, firsts = np.unique(masks[nearest], return_index=True)
    best = np.flatnonzero(candidates.devices[order] == devices)[:1]
    # `order` is by preference, so sorted positions are, too.
    chosen = np.unique(np.concatenate((nearest[np.sort(firsts)][:limit], best)))
    return order[chosen]


def _list_changes(plans: PlanColumns, row: int, given: PlanColumns, *, devices: int) -> dict[str, Any]:
    plan, before = plans.plan(row), given.plan(0)
    changes: dict[str, Any] = {}
    if plan.devices != devices:
        changes["devices"] = plan.devices
    names = [item.name for item in fields(ParallelPlan)]
    changed = {name: getattr(plan, name) for name in names if getattr(plan, name) != getattr(before, name)}
    if len(changed) + len(changes) > 1:
        changed.pop("data_parallel", None)
    return changes | {f"plan.{name}": value for name, value in changed.items()}


def _describe(
    machine: Machine,
    ranked: RankedPlans,
    row: int,
    *,
    changes: Mapping[str, Any],
    base_memory_bytes: float | None,
    base_step_s: float | None,
    tokens_ratio: float = 1.0,
) -> Alternative:
    """`tokens_ratio`: tokens of a step after the change over those of before."""
    memory_bytes, step_s = float(ranked.memory_bytes[row]), float(ranked.step_s[row])
    plan = ranked.plans.plan(row)
    return Alternative(
        changes=changes,
        plan=plan,
        devices=plan.devices,
        memory_bytes=memory_bytes,
        saved_bytes=None if base_memory_bytes is None else base_memory_bytes - memory_bytes,
        headroom=1 - memory_bytes / machine.accelerator.memory_bytes,
        step_s=step_s,
        time_ratio=None if base_step_s is None else step_s / base_step_s / tokens_ratio,
    )


# -- where no plan on so many devices is possible or fits


def find_nearest_possible(
    workload: Workload,
    machine: Machine,
    devices: int,
    ranked: RankedPlans,
    *,
    memory_margin: float = MEMORY_MARGIN,
    limit: int = MAX_ALTERNATIVES,
) -> tuple[Alternative, ...]:
    """What would make a plan possible where a search over `devices` found none: one change each, least time lost first.

    `ranked` is that search. Saved memory is told against the plan that needs least, time against the fastest plan if
    memory were no limit. Tried are more devices (or, if nothing divides, also fewer, and another batch), offloading
    to host memory, and changes of the job that save memory: 16-bit gradients, 8-bit optimizer states, adapters instead
    of full fine-tuning, shorter sequences.
    """
    base = int(ranked.memory_bytes.argmin()) if len(ranked.plans) else None
    found: list[Alternative] = []

    def add(changed: Workload, result: RankedPlans, changes: Mapping[str, Any]) -> bool:
        if not len(result.order):
            return False
        found.append(
            _describe(
                machine,
                result,
                int(result.order[0]),
                changes=changes,
                base_memory_bytes=None if base is None else float(ranked.memory_bytes[base]),
                base_step_s=None if base is None else float(ranked.step_s.min()),
                tokens_ratio=changed.tokens_per_step / workload.tokens_per_step,
            )
        )
        return True

    is_possible = base is not None
    for count, result in _find_other_counts(
        workload, machine, devices, is_possible=is_possible, memory_margin=memory_margin
    ):
        add(workload, result, {"devices": count})
    if base is None:
        for batch in _list_other_batches(workload, machine, devices):
            changed = replace(workload, global_batch_size=batch)
            result = rank_plans(changed, machine, [devices], memory_margin=memory_margin)
            add(changed, result, {"workload.global_batch_size": batch})
    else:
        offloaded = _rank_offloaded(workload, machine, ranked.plans, memory_margin=memory_margin)
        if offloaded is not None and len(offloaded.order):
            offload = offloaded.plans.plan(int(offloaded.order[0])).offload
            add(workload, offloaded, {"plan.offload": offload})
        # The rules don't depend on these, so the same plans are possible.
        for changes in _list_lighter_jobs(workload):
            changed = replace(workload, **changes)
            result = rank_these(changed, machine, ranked.plans, memory_margin=memory_margin)
            add(changed, result, {f"workload.{name}": value for name, value in changes.items()})
        for changed, result in _find_shorter_sequence(workload, machine, devices, memory_margin=memory_margin):
            add(changed, result, {"workload.sequence_length": changed.sequence_length})
    found.sort(key=lambda item: item.time_ratio or 0.0)
    return tuple(found[:limit])


def _find_other_counts(
    workload: Workload, machine: Machine, devices: int, *, is_possible: bool, memory_margin: float
) -> Iterator[tuple[int, RankedPlans]]:
    """The smallest larger count on which a plan fits; where nothing divides also the largest smaller one.

    Counts are tried by octaves, all of an octave at once, and in large ones not each of them.
    """
    if not is_possible:
        smaller = list_possible_devices(workload, machine, least=1, most=devices - 1)
        yield from _rank_counts(
            workload, machine, smaller[-_COUNTS_AT_ONCE:], memory_margin=memory_margin, is_largest=True
        )
    most = min(_MOST_TIMES_DEVICES * max(devices, machine.node_size), MAX_DEVICES)
    low = devices
    while low < most:
        octave = list_possible_devices(workload, machine, least=low + 1, most=min(2 * low, most))
        spread = thin_out(np.array(octave, dtype=np.int64), most=_COUNTS_AT_ONCE)
        found = list(_rank_counts(workload, machine, [int(count) for count in spread], memory_margin=memory_margin))
        if found:
            yield from found
            return
        low *= 2


def _rank_counts(
    workload: Workload, machine: Machine, counts: list[int], *, memory_margin: float, is_largest: bool = False
) -> Iterator[tuple[int, RankedPlans]]:
    """The smallest (or largest) of `counts` on which a plan fits, with its plans."""
    plans, _ = enumerate_plans(workload, machine, counts)
    ranked = rank_these(workload, machine, plans, memory_margin=memory_margin)
    if len(ranked.order):
        fitting = ranked.devices[ranked.order]
        count = int(fitting.max() if is_largest else fitting.min())
        yield count, replace(ranked, order=ranked.order[fitting == count])


def _list_other_batches(workload: Workload, machine: Machine, devices: int) -> list[int]:
    """The two batches nearest to the given one that divide over a data-parallel degree of so many devices."""
    batch = workload.global_batch_size
    plans = list_splits(workload, machine, devices)
    broken = find_violations(workload, machine, plans)
    others = [values for code, values in broken.items() if code != "batch_not_divisible"]
    data = np.unique(plans.dp[~np.any(np.stack(others), axis=0)])
    candidates = np.unique(np.concatenate((np.maximum(batch // data, 1) * data, -(-batch // data) * data)))
    candidates = candidates[(candidates != batch) & (candidates <= MAX_GLOBAL_BATCH_SIZE)]
    nearest = np.argsort(np.abs(candidates - batch), kind="stable")[:2]
    return [int(candidates[row]) for row in nearest]


def _rank_offloaded(
    workload: Workload, machine: Machine, plans: PlanColumns, *, memory_margin: float
) -> RankedPlans | None:
    """The same plans with optimizer states, or weights, too, in host memory; None where there is no such memory."""
    if not machine.has_host_memory:
        return None
    both = join_plans([replace(plans, offload=np.full(len(plans), kind)) for kind in range(1, len(OFFLOADS))])
    broken = np.any(np.stack(list(find_violations(workload, machine, both).values())), axis=0)
    return rank_these(workload, machine, both.select(~broken), memory_margin=memory_margin)


def _list_lighter_jobs(workload: Workload) -> Iterator[dict[str, Any]]:
    if workload.precision == "fp32":
        return
    if workload.fp32_gradients and workload.framework not in ("fsdp", "jax"):
        yield {"fp32_gradients": False}
    if workload.optimizer == "adamw" and not workload.is_adapter:
        yield {"optimizer": "adamw_8bit"}
    if workload.task == "full_finetuning":
        yield {"task": "lora"}
    if workload.task in ("full_finetuning", "lora"):
        yield {"task": "qlora"}


def _find_shorter_sequence(
    workload: Workload, machine: Machine, devices: int, *, memory_margin: float
) -> Iterator[tuple[Workload, RankedPlans]]:
    """The longest of half, a quarter … of the sequence with which a plan fits."""
    lengths = [workload.sequence_length >> power for power in range(1, workload.sequence_length.bit_length())]
    lengths = [length for length in lengths if length >= _LEAST_SEQUENCE]
    for length in lengths:
        changed = replace(workload, sequence_length=length)
        result = rank_plans(changed, machine, [devices], memory_margin=memory_margin)
        if len(result.order):
            yield changed, result
            return
