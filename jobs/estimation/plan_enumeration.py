"""The plans that a search tries: all combinations of degrees, stages, batches and recomputation that rules allow."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Final

import numpy as np

from jobs.estimation.hardware import Machine
from jobs.estimation.plan import RECOMPUTATIONS, Booleans, Integers, PlanColumns
from jobs.estimation.plan_rules import FRAMEWORK_RULES, find_indivisible_layers, find_violations
from jobs.estimation.supernode import find_crossings
from jobs.estimation.workload import Workload

MICRO_BATCH_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
RECOMPUTED_SHARES: Final = (1, 2, 3)
"""Quarters of a stage's layers that full recomputation may be limited to."""
VIRTUAL_STAGES: Final = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16)

_FULL: Final = RECOMPUTATIONS.index("full")

USUAL_TENSOR_PARALLEL: Final = 8
"""Widest tensor group across nodes (in a rack-scale domain); within a node it may be as wide as the node. Beyond 8 the
products get too thin (Narayanan 2021, arXiv 2104.04473, 3.2)."""

LEAST_TOKENS_PER_CONTEXT_RANK: Final = 8192
"""Ring attention hides its traffic only where a rank has thousands of tokens (Liu 2023, arXiv 2310.01889, 3.1)."""
LEAST_TOKENS_IF_WIDE: Final = 1024

EXPERTS_BEYOND_SUPERNODE: Final = "experts_beyond_supernode"
"""Code of plans that are possible, but that a search leaves out if another fits: expert groups over the edge of a
supernode, where the network is over-subscribed."""


def enumerate_plans(
    workload: Workload, machine: Machine, device_counts: Iterable[int], *, is_wide: bool = False
) -> tuple[PlanColumns, Mapping[str, int]]:
    """All possible plans on each of `device_counts`, and how many each rule ruled out (by the first that is broken).

    `is_wide` also tries what seldom pays: tensor groups as wide as the fast links reach, context ranks of 1,024
    tokens, and expert groups over the edge of a supernode.
    """
    degrees = _list_degrees(workload, machine, device_counts, is_wide=is_wide)
    counts: dict[str, int] = {}
    # First the choices that most rules judge, then, on what is left, those that only cost or save.
    rows = _product(len(degrees), len(VIRTUAL_STAGES), len(MICRO_BATCH_SIZES))
    plans = _make_columns(
        degrees[rows[0]], virtual=np.array(VIRTUAL_STAGES)[rows[1]], micro=np.array(MICRO_BATCH_SIZES)[rows[2]]
    )
    plans = plans.select((plans.virtual == 1) | (plans.pp > 1))
    plans = _drop_broken(workload, machine, plans, counts)
    plans = _vary_sharding(workload, machine, plans)
    dropped = np.zeros(len(plans), dtype=np.bool_)
    if workload.architecture.is_moe and not is_wide:
        devices = plans.tp * plans.pp * plans.dp * plans.cp
        dropped = (plans.ep > 1) & find_crossings(machine, span=plans.ep * plans.tp, devices=devices)
        if np.any(dropped):
            counts[EXPERTS_BEYOND_SUPERNODE] = int(np.count_nonzero(dropped))
    return _drop_broken(workload, machine, plans.select(~dropped), counts), counts


def list_splits(workload: Workload, machine: Machine, devices: int) -> PlanColumns:
    """The splits of so many devices into tensor, pipeline, context and data ranks, possible or not, else plain."""
    degrees = _list_degrees(workload, machine, [devices], is_wide=False)
    ones = np.ones(len(degrees), dtype=np.int64)
    return _make_columns(degrees, virtual=ones, micro=ones)


def enumerate_single_micro_batches(workload: Workload, machine: Machine, devices: int) -> PlanColumns:
    """The plans without virtual stages that keep each of so many devices busy with one micro-batch of one sequence.

    The batch is theirs (data x pipeline ranks), so no rule about the workload's applies.
    """
    plans = _vary_sharding(workload, machine, list_splits(workload, machine, devices))
    broken = find_violations(workload, machine, plans)
    del broken["batch_not_divisible"], broken["interleaving_needs_full_rounds"]
    return plans.select(~np.any(np.stack(list(broken.values())), axis=0))


def join_plans(parts: Iterable[PlanColumns]) -> PlanColumns:
    """One after the other."""
    plans = list(parts)
    return PlanColumns(
        **{item.name: np.concatenate([getattr(part, item.name) for part in plans]) for item in fields(PlanColumns)}
    )


def list_possible_devices(workload: Workload, machine: Machine, *, least: int, most: int) -> list[int]:
    """Device counts from `least` to `most` that the machine gives and over which batch, heads and layers can divide."""
    arch = workload.architecture
    rules = FRAMEWORK_RULES[workload.framework]
    tensor = [n for n in _list_tensor_degrees(machine, is_wide=False) if arch.num_attention_heads % n == 0]
    data = np.array(_list_divisors(workload.global_batch_size))
    context = np.array(_list_context_degrees(workload, is_wide=False))
    stages = np.arange(1, arch.num_layers + 1 if rules.has_pipeline else 2)
    virtual = np.array(VIRTUAL_STAGES if rules.has_interleaving else (1,))[:, None]
    pipeline = stages[~np.all(find_indivisible_layers(arch.num_layers, stages, virtual), axis=0)]
    found = np.multiply.outer(np.multiply.outer(np.array(tensor if rules.has_tensor else [1]), pipeline), context)
    found = np.unique(np.multiply.outer(np.unique(found[found <= most]), data))
    found = found[(found >= least) & (found <= most)]
    node = machine.node_size
    is_given = np.where(found > node, found % node == 0, np.isin(found, machine.allowed_device_counts))
    return [int(count) for count in found[is_given]]


def _vary_sharding(workload: Workload, machine: Machine, plans: PlanColumns) -> PlanColumns:
    """Each plan with every expert degree, ZeRO stage, sharding group, recomputation, and with sequence parallelism.

    Choices that change nothing are left out: stages without ranks to shard over, expert degrees without experts.
    """
    rules = FRAMEWORK_RULES[workload.framework]
    arch = workload.architecture
    experts = np.array(_list_divisors(arch.num_experts) if arch.is_moe and rules.has_experts else [1])
    stages = np.array(rules.zero_stages)
    groups = 2 if rules.has_hybrid_sharding else 1
    recipes = len(RECOMPUTATIONS) + (len(RECOMPUTED_SHARES) if rules.has_partial_recomputation else 0)
    rows = _product(len(plans), len(experts), len(stages), groups, recipes, 2)
    base = plans.select(rows[0])
    zero = stages[rows[2]]
    recompute = np.minimum(rows[4], _FULL)
    recomputed_layers, is_distinct = _count_recomputed_layers(arch.num_layers, base.pp, rows[4])
    ranks = base.dp * base.cp
    # Hybrid sharding: over the ranks of a node, with copies between nodes.
    in_node = np.maximum(machine.node_size // base.tp, 1)
    is_hybrid = rows[3] == 1
    is_distinct &= (zero == 0) | (ranks > 1)
    is_distinct &= ~is_hybrid | ((zero >= 2) & (in_node > 1) & (in_node < ranks) & (ranks % in_node == 0))
    sequence = rows[5] == 1
    is_distinct &= ~sequence | (base.tp > 1)
    ep = experts[rows[1]]
    # Experts without a group to share them are the same as before.
    is_distinct &= (ranks * base.tp) % ep == 0
    return PlanColumns(
        tp=base.tp,
        pp=base.pp,
        dp=base.dp,
        cp=base.cp,
        ep=ep,
        virtual=base.virtual,
        zero=zero,
        zero_group=np.where(is_hybrid, in_node, ranks),
        micro=base.micro,
        recompute=recompute,
        recomputed_layers=recomputed_layers,
        sequence=sequence,
        schedule=base.schedule,
        offload=base.offload,
    ).select(is_distinct)


def _count_recomputed_layers(layers: int, pipeline: Integers, recipe: Integers) -> tuple[Integers, Booleans]:
    """Recomputed layers a stage of each recipe (0: all, or none), and whether no recipe before means the same."""
    quarters = np.array([0] * len(RECOMPUTATIONS) + list(RECOMPUTED_SHARES))[recipe]
    on_stage = -(-layers // pipeline)
    count = -(-on_stage * quarters // 4)
    # On a stage of few layers, a quarter and two quarters can be the same number of them.
    is_distinct = (count == 0) | ((count < on_stage) & (count != -(-on_stage * (quarters - 1) // 4)))
    return count, is_distinct


def _drop_broken(workload: Workload, machine: Machine, plans: PlanColumns, counts: dict[str, int]) -> PlanColumns:
    dropped: Booleans = np.zeros(len(plans), dtype=np.bool_)
    for code, broken in find_violations(workload, machine, plans).items():
        number = int(np.count_nonzero(broken & ~dropped))
        if number:
            counts[code] = counts.get(code, 0) + number
            dropped = dropped | broken
    return plans.select(~dropped) if np.any(dropped) else plans


def _product(*sizes: int) -> Integers:
    """Index columns of the Cartesian product."""
    return np.indices(sizes, dtype=np.int64).reshape(len(sizes), -1)


def _list_degrees(workload: Workload, machine: Machine, device_counts: Iterable[int], *, is_wide: bool) -> Integers:
    """Rows of (tensor, pipeline, context, data) degrees whose product is one of `device_counts`."""
    rules = FRAMEWORK_RULES[workload.framework]
    layers = workload.architecture.num_layers if rules.has_pipeline else 1
    tensor_degrees = _list_tensor_degrees(machine, is_wide=is_wide) if rules.has_tensor else [1]
    context_degrees = _list_context_degrees(workload, is_wide=is_wide) if rules.has_context else [1]
    rows = []
    for devices in device_counts:
        for tensor in tensor_degrees:
            if devices % tensor:
                continue
            for pipeline in _list_divisors(devices // tensor, largest=layers):
                rest = devices // tensor // pipeline
                rows += [
                    (tensor, pipeline, context, rest // context) for context in context_degrees if rest % context == 0
                ]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def _list_tensor_degrees(machine: Machine, *, is_wide: bool) -> list[int]:
    node, scale_up = machine.node_size, machine.scale_up_size
    beyond = _list_divisors(scale_up, largest=scale_up if is_wide else USUAL_TENSOR_PARALLEL)
    return sorted({*_list_divisors(node), *beyond})


def _list_context_degrees(workload: Workload, *, is_wide: bool) -> list[int]:
    least = LEAST_TOKENS_IF_WIDE if is_wide else LEAST_TOKENS_PER_CONTEXT_RANK
    longest = max(1, workload.sequence_length // least)
    return [1 << power for power in range(longest.bit_length())]


def _list_divisors(number: int, *, largest: int | None = None) -> list[int]:
    return [n for n in range(1, min(number, largest or number) + 1) if number % n == 0]


def _make_columns(degrees: Integers, *, virtual: Integers, micro: Integers) -> PlanColumns:
    none = np.zeros(len(degrees), dtype=np.int64)
    return PlanColumns(
        tp=degrees[:, 0],
        pp=degrees[:, 1],
        cp=degrees[:, 2],
        dp=degrees[:, 3],
        ep=none + 1,
        virtual=virtual,
        micro=micro,
        zero=none,
        zero_group=degrees[:, 2] * degrees[:, 3],
        recompute=none,
        recomputed_layers=none,
        sequence=none > 0,
        schedule=none,
        offload=none,
    )
