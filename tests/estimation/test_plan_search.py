"""The search: nothing in its space beats it, it says why plans were left out and what is possible instead."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.estimation import InvalidInput, Machine, ParallelPlan, Workload, estimate, estimate_best, search
from jobs.estimation.device_exploration import explore_devices, fewest_devices
from jobs.estimation.inverse_search import largest_batch, largest_preset, largest_shape, list_family
from jobs.estimation.nearest_plan import explain_impossible
from jobs.estimation.pareto import find_front, thin_out
from jobs.estimation.plan import PlanColumns
from jobs.estimation.plan_enumeration import (
    MICRO_BATCH_SIZES,
    RECOMPUTED_SHARES,
    VIRTUAL_STAGES,
    enumerate_plans,
    list_possible_devices,
)
from jobs.estimation.plan_ranking import MEMORY_MARGIN, ROOMY_MEMORY_SHARE, evaluate_in_bulk, rank_by_count, rank_plans
from jobs.estimation.plan_rules import FRAMEWORK_RULES, RULES, check_devices, check_plan, find_violations
from jobs.estimation.workload import FRAMEWORKS

MACHINE = Machine.from_catalog("a800-80g")
DAY_S = 86_400.0


def make_workload(preset="llama-2-13b", **changes):
    return Workload.from_dict({"model": {"preset": preset}, "tokens": 1e12, **changes})


WORKLOAD = make_workload()
FOUND = search(WORKLOAD, MACHINE, 64)


# -- what is searched


def list_recipes(workload, pp):
    """(recomputation, recomputed layers) that a search tries."""
    on_stage = -(-workload.architecture.num_layers // pp)
    shares = RECOMPUTED_SHARES if FRAMEWORK_RULES[workload.framework].has_partial_recomputation else ()
    counts = {-(-on_stage * share // 4) for share in shares}
    partial = [("full", count) for count in sorted(counts) if count < on_stage]
    return [("none", 0), ("selective", 0), ("full", 0), *partial]


def list_possible_plans(workload, machine, devices):
    """The search's space enumerated naively, one plan at a time."""
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    experts = max(workload.architecture.num_experts, 1)
    plans = []
    for tp, pp in itertools.product(
        [n for n in range(1, machine.node_size + 1) if not machine.node_size % n], divisors
    ):
        if devices % (tp * pp):
            continue
        ranks = devices // (tp * pp)
        groups = {0, machine.node_size // tp} if FRAMEWORK_RULES[workload.framework].has_hybrid_sharding else {0}
        choices = itertools.product(
            VIRTUAL_STAGES if pp > 1 else (1,),
            MICRO_BATCH_SIZES,
            range(4) if ranks > 1 else (0,),
            groups,
            list_recipes(workload, pp),
            (False, True) if tp > 1 else (False,),
            [n for n in range(1, experts + 1) if experts % n == 0 and ranks * tp % n == 0],
        )
        plans += [
            ParallelPlan(
                tensor_parallel=tp,
                pipeline_parallel=pp,
                data_parallel=ranks,
                virtual_stages=virtual,
                micro_batch_size=micro,
                zero_stage=zero,
                zero_group=group,
                recomputation=recipe,
                recomputed_layers=layers,
                sequence_parallel=sequence,
                expert_parallel=expert,
            )
            for virtual, micro, zero, group, (recipe, layers), sequence, expert in choices
            if group == 0 or (zero >= 2 and 1 < group < ranks and ranks % group == 0)
        ]
    broken = np.any(list(find_violations(workload, machine, PlanColumns.from_plans(plans)).values()), axis=0)
    return [plan for plan, is_broken in zip(plans, broken, strict=True) if not is_broken]


@pytest.mark.parametrize(
    ("preset", "changes", "devices"),
    [
        ("llama-2-13b", {}, 64),
        ("llama-2-13b", {"framework": "fsdp"}, 32),
        ("qwen2.5-7b", {"framework": "deepspeed"}, 24),
        ("gpt2-small", {"framework": "native", "sequence_length": 1024}, 8),
        ("mixtral-8x7b", {"global_batch_size": 16}, 16),
    ],
)
def test_search_evaluates_the_whole_space_once(preset, changes, devices):
    workload = make_workload(preset, **changes)
    plans, _ = enumerate_plans(workload, MACHINE, [devices])
    searched = [plans.plan(row) for row in range(len(plans))]
    assert len(set(searched)) == len(searched)
    assert set(searched) == set(list_possible_plans(workload, MACHINE, devices))
    assert search(workload, MACHINE, devices, top=1).plans_evaluated == len(searched)


SMALL_PRESETS = ("gpt2-small", "llama-2-13b", "qwen3-30b-a3b", "mixtral-8x7b", "deepseek-v2-lite")


def list_stages(workload, most):
    """(pipeline, virtual) that share the layers."""
    layers = workload.architecture.num_layers
    rules = FRAMEWORK_RULES[workload.framework]
    choices = [(1, 1)]
    for pp, virtual in itertools.product(range(2, most + 1) if rules.has_pipeline else (), VIRTUAL_STAGES):
        is_uneven = virtual == 1 and layers - (pp - 2) * -(-layers // pp) >= 2
        if (virtual == 1 or rules.has_interleaving) and (
            layers % (pp * virtual) == 0 or (layers + 2) % (pp * virtual) == 0 or is_uneven
        ):
            choices.append((pp, virtual))
    return choices


@st.composite
def make_searched_case(draw):
    """A workload, a machine, and a plan with any values that a search tries."""
    preset = draw(st.sampled_from(SMALL_PRESETS))
    workload = make_workload(
        preset,
        framework=draw(st.sampled_from(FRAMEWORKS)),
        task=draw(st.sampled_from(["pretraining", "lora", "preference_tuning"])),
        sequence_length=1024 if preset == "gpt2-small" else draw(st.sampled_from([2048, 32768])),
    )
    rules = FRAMEWORK_RULES[workload.framework]
    machine = Machine.from_catalog(draw(st.sampled_from(["a800-80g", "h100-80g", "gb200-186g", "ascend910b-64g"])))
    heads, experts = workload.architecture.num_key_value_heads, max(workload.architecture.num_experts, 1)
    tensor = [n for n in (1, 2, 4, 8) if heads % n == 0 and machine.scale_up_size % n == 0] if rules.has_tensor else [1]
    long = workload.sequence_length // 8192 if rules.has_context else 1
    tp, cp, dp = (
        draw(st.sampled_from(sizes)) for sizes in (tensor, [n for n in (1, 2, 4) if n <= long or n == 1], [2, 4, 8])
    )
    pp, virtual = draw(st.sampled_from(list_stages(workload, 6)))
    while (tp * pp * cp * dp) % machine.node_size:
        dp *= 2
    micro = draw(st.sampled_from(MICRO_BATCH_SIZES))
    recipe, layers = draw(st.sampled_from(list_recipes(workload, pp)))
    spread = [n for n in (1, 2, 4, 8, 16) if experts % n == 0 and dp * cp * tp % n == 0] if rules.has_experts else [1]
    ep = draw(st.sampled_from(spread))
    plan = ParallelPlan(
        tensor_parallel=tp,
        pipeline_parallel=pp,
        context_parallel=cp,
        data_parallel=dp,
        expert_parallel=ep,
        virtual_stages=virtual,
        micro_batch_size=micro,
        zero_stage=draw(st.sampled_from([n for n in rules.zero_stages if pp == 1 or n < 2])),
        recomputation=recipe,
        recomputed_layers=layers,
        sequence_parallel=tp > 1 and (ep > 1 or draw(st.booleans())),
    )
    workload = replace(workload, global_batch_size=dp * micro * pp * draw(st.integers(1, 3)))
    check_plan(workload, machine, plan)
    return workload, machine, plan


@settings(deadline=None, max_examples=100)
@given(case=make_searched_case())
def test_no_possible_plan_with_head_room_beats_the_best(case):
    workload, machine, plan = case
    result = estimate(workload, machine, plan)
    best = search(workload, machine, plan.devices, top=1).best
    if result.memory_bytes * (1 + MEMORY_MARGIN) <= result.memory_capacity_bytes:
        assert best is not None
        assert best.memory_bytes * (1 + MEMORY_MARGIN) <= best.memory_capacity_bytes
        assert result.step_s >= best.step_s * (1 - 1e-12)
    elif result.fits:
        assert best is not None


def test_a_search_is_deterministic():
    again = search(WORKLOAD, MACHINE, 64)
    assert replace(again, search_s=FOUND.search_s) == FOUND


def test_a_tight_plan_is_ranked_after_all_that_have_head_room_and_chosen_only_if_none_has():
    ranked = search(WORKLOAD, MACHINE, 8, top=1000).ranked
    tight = [item.memory_bytes > ROOMY_MEMORY_SHARE * item.memory_capacity_bytes for item in ranked]
    assert tight == sorted(tight)
    assert {True, False} <= set(tight), "the space has both kinds"
    assert not tight[0]


def test_the_memory_margin_says_what_head_room_is():
    plain = search(WORKLOAD, MACHINE, 64, top=1, memory_margin=0.0).best
    careful = search(WORKLOAD, MACHINE, 64, top=1, memory_margin=1.0).best
    assert plain.step_s <= FOUND.best.step_s <= careful.step_s
    assert 2 * careful.memory_bytes <= careful.memory_capacity_bytes < 2 * FOUND.best.memory_bytes
    with pytest.raises(InvalidInput, match="memory_margin"):
        search(WORKLOAD, MACHINE, 64, memory_margin=-0.1)


def test_estimate_of_the_best_plan_is_the_searchs_own_answer():
    assert estimate(WORKLOAD, MACHINE, FOUND.best.plan) == FOUND.best
    assert estimate_best(WORKLOAD, MACHINE, 64) == FOUND.best


def test_ranking_is_by_step_time_and_all_fit():
    times = [item.step_s for item in FOUND.ranked]
    assert times == sorted(times)
    assert len(times) == 10
    assert all(item.fits for item in FOUND.ranked)
    assert FOUND.nearest == ()


def test_on_the_pareto_front_less_memory_costs_time():
    assert len(FOUND.pareto) > 1
    for faster, slower in itertools.pairwise(FOUND.pareto):
        assert faster.step_s <= slower.step_s
        assert faster.memory_bytes > slower.memory_bytes


def test_long_sequences_make_context_parallelism_worth_trying():
    workload = make_workload("llama-3.1-8b", sequence_length=131072, global_batch_size=8)
    found = search(workload, Machine.from_catalog("h100-80g"), 64)
    assert found.best is not None
    assert found.best.plan.context_parallel > 1


def test_experts_are_spread_over_ranks():
    best = estimate_best(make_workload("deepseek-v3"), Machine.from_catalog("h800-80g"), 2048)
    assert best.fits
    assert best.plan.expert_parallel > 8


def test_what_seldom_pays_is_tried_only_where_nothing_else_fits():
    workload = make_workload("llama-2-7b", sequence_length=8192, global_batch_size=4)
    machine = Machine.from_catalog("a100-40g")
    narrow, _ = enumerate_plans(workload, machine, [16])
    assert narrow.cp.max() == 1
    machine = Machine.from_catalog("v100-32g")
    workload = make_workload("llama-2-7b", sequence_length=8192, global_batch_size=1, precision="fp16", task="lora")
    assert not len(enumerate_plans(workload, machine, [512])[0])
    assert search(workload, machine, 512).best.plan.context_parallel > 1


def test_expert_groups_stay_within_a_supernode_unless_nothing_else_fits():
    machine = Machine.from_catalog("a800-80g", supernode_devices=16, oversubscription=4.0)
    workload = make_workload("qwen3-30b-a3b")
    narrow, counts = enumerate_plans(workload, machine, [64])
    assert narrow.ep.max() == 16
    assert counts["experts_beyond_supernode"] > 0
    wide, counts = enumerate_plans(workload, machine, [64], is_wide=True)
    assert wide.ep.max() == 64
    assert "experts_beyond_supernode" not in counts


@settings(deadline=None, max_examples=10)
@given(
    devices=st.sampled_from([1, 2, 4, 8, 16, 32]), preset=st.sampled_from(["gpt2-small", "qwen2.5-7b", "bloom-176b"])
)
def test_search_answers_for_every_model_and_size(devices, preset):
    found = search(make_workload(preset, global_batch_size=64, sequence_length=1024), MACHINE, devices, top=3)
    assert found.plans_evaluated > 0
    assert (found.best is None) != (found.least_bad is None)


# -- rules


def test_fsdp_shards_over_a_node_or_over_all_and_has_no_pipeline():
    plans, _ = enumerate_plans(make_workload(framework="fsdp"), MACHINE, [64])
    assert set(plans.pp) == {1}
    assert set(plans.zero) == {0, 2, 3}
    whole = plans.zero_group == plans.dp * plans.cp
    assert set(plans.zero[~whole]) == {2, 3}
    assert np.all(plans.zero_group[~whole] * plans.tp[~whole] == MACHINE.node_size)


def test_tensor_groups_reach_over_nodes_where_fast_links_do():
    workload = make_workload("llama-3.1-8b")
    rack = Machine.from_catalog("gb200-186g")
    assert (rack.node_size, rack.scale_up_size) == (4, 72)
    assert enumerate_plans(workload, rack, [64])[0].tp.max() == 8
    plan = ParallelPlan(tensor_parallel=8, data_parallel=8, zero_stage=1)
    check_plan(workload, rack, plan)
    with pytest.raises(InvalidInput, match=r"in a node \(4\)"):
        check_plan(workload, replace(rack, scale_up_devices=4), plan)


BREAKING = {
    "heads_not_divisible": ({}, {"tensor_parallel": 16, "data_parallel": 4}),
    "kv_heads_not_divisible": ({}, {"tensor_parallel": 16, "data_parallel": 4}),
    "tensor_parallel_beyond_node": ({"preset": "llama-3.1-8b"}, {"tensor_parallel": 16, "data_parallel": 4}),
    "tensor_parallel_beyond_fast_links": (
        {"preset": "llama-3.1-8b", "machine": "gb200-186g"},
        {"tensor_parallel": 16, "data_parallel": 4},
    ),
    "tensor_parallel_not_in_framework": ({"framework": "native"}, {"tensor_parallel": 8}),
    "sequence_not_divisible": ({"sequence_length": 4095}, {"context_parallel": 2, "data_parallel": 4}),
    "context_parallel_not_in_framework": ({"framework": "native"}, {"context_parallel": 8}),
    "layers_not_divisible": ({}, {"pipeline_parallel": 8, "virtual_stages": 3}),
    "pipeline_not_in_framework": ({"framework": "fsdp"}, {"pipeline_parallel": 2, "data_parallel": 4}),
    "interleaving_not_in_framework": (
        {"framework": "deepspeed"},
        {"pipeline_parallel": 8, "virtual_stages": 5},
    ),
    "interleaving_needs_full_rounds": (
        {"global_batch_size": 12},
        {"pipeline_parallel": 8, "virtual_stages": 5},
    ),
    "zero_bubble_with_interleaving": (
        {},
        {"pipeline_parallel": 8, "virtual_stages": 5, "pipeline_schedule": "zero_bubble"},
    ),
    "batch_not_divisible": ({"global_batch_size": 12}, {"data_parallel": 8}),
    "experts_missing": ({}, {"data_parallel": 8, "expert_parallel": 2}),
    "experts_not_divisible": ({"preset": "mixtral-8x7b"}, {"data_parallel": 48, "expert_parallel": 3}),
    "expert_parallel_not_in_framework": (
        {"preset": "mixtral-8x7b", "framework": "native"},
        {"data_parallel": 8, "expert_parallel": 2},
    ),
    "experts_need_sequence_parallel": (
        {"preset": "mixtral-8x7b"},
        {"tensor_parallel": 2, "data_parallel": 4, "expert_parallel": 2},
    ),
    "zero_stage_with_pipeline": ({}, {"pipeline_parallel": 2, "data_parallel": 4, "zero_stage": 2}),
    "zero_stage_not_in_framework": ({"framework": "fsdp"}, {"data_parallel": 8, "zero_stage": 1}),
    "weights_offloaded_without_sharding": ({}, {"data_parallel": 8, "offload": "optimizer_and_weights"}),
    "offload_without_host_memory": (
        {"machine": "mt-3000", "precision": "fp16"},
        {"data_parallel": 8, "offload": "optimizer"},
    ),
}


@pytest.mark.parametrize("code", RULES)
def test_each_rule_can_be_broken_and_says_what_is_allowed(code):
    if code == "expert_ranks_not_divisible":
        # A plan refuses this itself; columns of an enumeration do not.
        plans = PlanColumns.from_plans([ParallelPlan(data_parallel=8)])
        broken = find_violations(make_workload("mixtral-8x7b"), MACHINE, replace(plans, ep=np.array([3])))
        assert broken[code][0]
        return
    changes, degrees = BREAKING[code]
    changes = dict(changes)
    machine = Machine.from_catalog(changes.pop("machine", "a800-80g"))
    workload = make_workload(changes.pop("preset", "llama-2-13b"), **changes)
    plan = ParallelPlan(**degrees)
    explained = {item.code: item for item in explain_impossible(workload, machine, plan).broken}
    assert explained[code].field == f"plan.{RULES[code][0]}"
    assert "{" not in explained[code].allowed
    with pytest.raises(InvalidInput) as caught:
        check_plan(workload, machine, plan)
    assert caught.value.field in {item.field for item in explained.values()}


def test_uneven_stages_are_possible_where_the_ends_keep_a_layer_each():
    workload = make_workload("deepseek-v3")
    machine = Machine.from_catalog("h800-80g")
    plan = ParallelPlan(pipeline_parallel=16, data_parallel=64, expert_parallel=64, zero_stage=1)
    assert estimate(workload, machine, plan).devices == 1024
    with pytest.raises(InvalidInput, match="pipeline_parallel"):
        estimate(workload, machine, replace(plan, pipeline_parallel=64, data_parallel=16, expert_parallel=16))


@pytest.mark.parametrize("devices", [0, -8, 3, 12, True, 2.5, float("nan"), "8", None, 10**9])
def test_impossible_device_counts_are_refused_by_name(devices):
    with pytest.raises(InvalidInput) as caught:
        search(WORKLOAD, MACHINE, devices)
    assert caught.value.field == "devices"


def test_a_batch_that_does_not_divide_is_an_error_that_says_so():
    with pytest.raises(InvalidInput, match="batch_not_divisible"):
        estimate_best(make_workload("gpt2-small", global_batch_size=7, sequence_length=1024), MACHINE, 1024)


# -- what isn't possible, and what is instead


def test_a_model_too_large_gets_the_nearest_miss_and_the_least_bad_plan():
    workload = make_workload("llama-3.1-405b", global_batch_size=8)
    found = search(workload, MACHINE, 8)
    assert found.best is None
    assert found.least_bad is not None
    assert not found.least_bad.fits
    rejection = found.rejected[0]
    assert rejection.reason == "out_of_memory"
    assert rejection.missing_bytes == pytest.approx(found.least_bad.memory_bytes - 80 * 2**30)
    assert "GB more" in rejection.text
    best = estimate_best(workload, MACHINE, 8)
    assert not best.fits
    assert any(item.severity == "error" for item in best.advice)


def test_where_nothing_fits_the_search_names_changes_that_fit_least_time_lost_first():
    found = search(make_workload("llama-2-7b", task="full_finetuning"), Machine.from_catalog("a100-40g"), 2)
    assert found.best is None
    assert {"devices", "workload.task"} <= {name for item in found.nearest for name in item.changes}
    assert [item.time_ratio for item in found.nearest] == sorted(item.time_ratio for item in found.nearest)
    for item in found.nearest:
        changed = {name.removeprefix("workload."): value for name, value in item.changes.items() if "workload" in name}
        workload = make_workload("llama-2-7b", **{"task": "full_finetuning", **changed})
        result = estimate(workload, Machine.from_catalog("a100-40g"), item.plan)
        assert result.fits
        assert result.memory_bytes == pytest.approx(item.memory_bytes, rel=1e-12)
        assert found.least_bad.memory_bytes - item.saved_bytes == pytest.approx(item.memory_bytes, rel=1e-9)


def test_more_devices_than_needed_are_not_named():
    machine = Machine.from_catalog("a100-40g")
    workload = make_workload("llama-2-7b", task="full_finetuning")
    found = search(workload, machine, 1)
    (named,) = [item.changes["devices"] for item in found.nearest if "devices" in item.changes]
    assert estimate_best(workload, machine, named).fits
    assert not any(estimate_best(workload, machine, count).fits for count in (1, 2, 4, 8) if count < named)


def test_where_nothing_divides_other_counts_and_batches_are_named():
    workload = make_workload("gpt2-small", global_batch_size=7, sequence_length=1024)
    found = search(workload, MACHINE, 1024)
    assert (found.best, found.least_bad, found.plans_evaluated) == (None, None, 0)
    changes = [dict(item.changes) for item in found.nearest]
    (batch, *_) = [item["workload.global_batch_size"] for item in changes if "workload.global_batch_size" in item]
    assert search(replace(workload, global_batch_size=batch), MACHINE, 1024).best is not None
    (devices,) = [item["devices"] for item in changes if "devices" in item]
    assert search(workload, MACHINE, devices).best is not None


def test_a_plan_without_enough_memory_is_told_single_changes_that_fit():
    # 6.5B parameters a device with all their states: 18 bytes each.
    given_plan = ParallelPlan(tensor_parallel=2, data_parallel=4, sequence_parallel=True, recomputation="selective")
    explained = explain_impossible(WORKLOAD, MACHINE, given_plan)
    assert explained.broken == ()
    before = estimate(WORKLOAD, MACHINE, given_plan)
    assert explained.missing_bytes == pytest.approx(before.memory_bytes - before.memory_capacity_bytes)
    zero = next(item for item in explained.alternatives if set(item.changes) == {"plan.zero_stage"})
    stages = {stage: estimate(WORKLOAD, MACHINE, replace(given_plan, zero_stage=stage)) for stage in (1, 2, 3)}
    roomy = [n for n, item in stages.items() if item.memory_bytes <= ROOMY_MEMORY_SHARE * item.memory_capacity_bytes]
    assert zero.plan == replace(given_plan, zero_stage=roomy[0]), "the lowest stage with head-room, if as fast"
    after = stages[roomy[0]]
    assert zero.saved_bytes == pytest.approx(before.memory_bytes - after.memory_bytes)
    assert zero.time_ratio == pytest.approx(after.step_s / before.step_s)
    assert f"zero_stage {roomy[0]}: " in zero.text
    lost = [(item.headroom < 1 - ROOMY_MEMORY_SHARE, item.time_ratio) for item in explained.alternatives]
    assert len(lost) > 2
    assert lost == sorted(lost), "what has head-room first, then what loses least time"


def test_a_plan_that_breaks_a_rule_is_told_the_nearest_that_breaks_none():
    explained = explain_impossible(
        WORKLOAD, MACHINE, ParallelPlan(pipeline_parallel=2, data_parallel=4, zero_stage=3, recomputation="full")
    )
    assert [item.code for item in explained.broken] == ["zero_stage_with_pipeline"]
    assert explained.missing_bytes is None
    assert explained.alternatives
    for item in explained.alternatives:
        assert estimate(WORKLOAD, MACHINE, item.plan).fits
    assert any(item.plan.pipeline_parallel == 1 and item.plan.zero_stage == 3 for item in explained.alternatives)


def test_a_count_that_the_machine_cannot_give_is_explained_with_counts_that_it_can():
    explained = explain_impossible(WORKLOAD, MACHINE, ParallelPlan(data_parallel=12, zero_stage=3))
    assert "devices_not_allowed" in [item.code for item in explained.broken]
    assert explained.alternatives
    assert {item.devices for item in explained.alternatives} <= {8, 16}


def test_a_plan_that_is_possible_and_fits_needs_no_explanation():
    explained = explain_impossible(WORKLOAD, MACHINE, FOUND.best.plan)
    assert (explained.broken, explained.missing_bytes, explained.alternatives) == ((), None, ())


@settings(deadline=None, max_examples=40)
@given(case=make_searched_case(), micro=st.sampled_from([1, 5, 64]), batch=st.sampled_from([40, 256]))
def test_every_alternative_is_possible_and_fits(case, micro, batch):
    workload, machine, plan = case
    workload = replace(workload, global_batch_size=batch)
    explained = explain_impossible(workload, machine, replace(plan, micro_batch_size=micro))
    for item in explained.alternatives:
        result = estimate(workload, machine, item.plan)
        assert result.fits
        assert result.step_s == pytest.approx(item.step_s, rel=1e-12)
        assert item.headroom == pytest.approx(1 - result.memory_bytes / result.memory_capacity_bytes, abs=1e-12)
        assert item.changes


# -- over device counts


def test_many_counts_are_ranked_as_each_alone():
    counts = [8, 16, 24, 40, 64]
    for count, ranked in rank_by_count(WORKLOAD, MACHINE, counts):
        alone = rank_plans(WORKLOAD, MACHINE, [count])
        assert np.array_equal(ranked.devices, np.full(len(ranked.plans), count))
        assert len(ranked.plans) == len(alone.plans)
        for row, other in zip(ranked.order[:20], alone.order[:20], strict=True):
            assert ranked.plans.plan(row) == alone.plans.plan(other)


def test_more_devices_cost_more_hours_for_fewer_days():
    found = explore_devices(WORKLOAD, MACHINE, [8, 16, 64, 256, 1024, 7 * 8])
    assert [item.devices for item in found.best] == sorted(item.devices for item in found.best)
    for item in found.pareto:
        result = estimate(WORKLOAD, MACHINE, item.plan)
        assert (item.devices, result.fits) == (item.plan.devices, True)
        assert item.days == pytest.approx(result.duration_s / DAY_S)
        assert item.accelerator_hours == pytest.approx(result.accelerator_s / 3600)
        assert item.headroom == pytest.approx(1 - result.memory_bytes / result.memory_capacity_bytes)
    for one, other in itertools.permutations(found.pareto, 2):
        better = (
            one.days <= other.days,
            one.accelerator_hours <= other.accelerator_hours,
            one.headroom >= other.headroom,
        )
        assert not all(better)
    assert len({item.devices for item in found.pareto}) > 2
    json.dumps(found.to_dict(), allow_nan=False)


def test_counts_without_a_plan_are_listed_with_the_reason():
    found = explore_devices(make_workload("llama-2-70b", global_batch_size=16), MACHINE, [1, 8, 47 * 8, 64])
    assert found.impossible[1] == "out_of_memory"
    assert found.impossible[47 * 8] in RULES
    assert [item.devices for item in found.best] == [64]
    with pytest.raises(InvalidInput, match="devices"):
        explore_devices(WORKLOAD, MACHINE, [8, 9])
    with pytest.raises(InvalidInput, match="device_counts"):
        explore_devices(WORKLOAD, MACHINE, [])


@pytest.mark.parametrize("days", [20, 60, 200])
def test_fewest_devices_is_what_trying_every_count_finds(days):
    workload = make_workload("llama-2-13b", global_batch_size=96)
    found = fewest_devices(workload, MACHINE, finish_within_s=days * DAY_S, most_devices=400)
    counts = [1, 2, 4, *range(8, 401, 8)]
    best = {count: search(workload, MACHINE, count, top=1).best for count in counts}
    in_time = [count for count, item in best.items() if item is not None and item.duration_s <= days * DAY_S]
    assert found.estimate == best[in_time[0]]
    smaller = [item for count, item in best.items() if item is not None and count < in_time[0]]
    assert found.next_smaller == smaller[-1]
    json.dumps(found.to_dict(), allow_nan=False)


def test_too_little_time_is_answered_with_the_fastest_there_is():
    found = fewest_devices(WORKLOAD, MACHINE, finish_within_s=3600, most_devices=512)
    assert found.estimate is None
    assert found.fastest.devices <= 512
    assert found.fastest.duration_s > 3600
    with pytest.raises(InvalidInput, match="finish_within_s"):
        fewest_devices(WORKLOAD, MACHINE, finish_within_s=0)


def test_every_count_with_a_plan_is_among_the_possible_ones():
    workload = make_workload("qwen2.5-7b", global_batch_size=48)
    possible = list_possible_devices(workload, MACHINE, least=1, most=400)
    for count in possible:
        check_devices(MACHINE, count)
    with_plans = [n for n in (1, 2, 4, *range(8, 401, 8)) if len(enumerate_plans(workload, MACHINE, [n])[0])]
    assert set(with_plans) <= set(possible)


# -- the largest for a budget


def test_the_largest_preset_of_a_budget_is_within_it_and_the_next_is_not():
    names = ["gpt2-small", "qwen2.5-7b", "llama-2-13b", "qwen2.5-32b", "llama-2-70b"]
    budget = {"accelerator_hours": 100_000, "days": 30}
    found = largest_preset(MACHINE, tokens_per_parameter=20, names=names, sequence_length=1024, **budget)
    assert found.name in names[1:-1]
    assert found.estimate.accelerator_s <= 100_000 * 3600
    assert found.estimate.duration_s <= 30 * DAY_S
    assert found.estimate.fits
    assert found.next_larger.name == names[names.index(found.name) + 1]
    assert found.next_larger.reason in ("too_long", "too_expensive")
    assert found.next_larger.estimate.duration_s > 30 * DAY_S or found.next_larger.estimate.accelerator_s > 3.6e8
    richer = largest_preset(
        MACHINE, tokens_per_parameter=20, names=names, sequence_length=1024, accelerator_hours=1e7, days=60
    )
    assert names.index(richer.name) > names.index(found.name)


def test_a_limit_of_devices_makes_memory_the_reason():
    budget = {"accelerator_hours": 1e9, "days": 1e4, "tokens": 10**9, "most_devices": 8}
    found = largest_preset(MACHINE, names=["qwen2.5-7b", "llama-3.1-405b"], **budget)
    assert (found.name, found.next_larger.reason) == ("qwen2.5-7b", "out_of_memory")
    assert not found.next_larger.estimate.fits


def test_a_budget_for_nothing_is_answered_with_what_the_smallest_needs():
    found = largest_preset(MACHINE, accelerator_hours=1, days=1, tokens=10**12, names=["llama-2-70b"])
    assert (found.name, found.workload, found.estimate) == (None, None, None)
    assert found.next_larger.name == "llama-2-70b"
    json.dumps(found.to_dict(), allow_nan=False)
    with pytest.raises(InvalidInput, match="tokens"):
        largest_preset(MACHINE, accelerator_hours=1, days=1)
    with pytest.raises(InvalidInput, match="names"):
        largest_preset(MACHINE, accelerator_hours=1, days=1, tokens=1, names=["no-such-model"])


def test_a_family_keeps_its_shape_and_contains_the_model_itself():
    architecture = WORKLOAD.architecture
    family = list_family(architecture)
    assert architecture in family
    assert [item.parameters for item in family] == sorted(item.parameters for item in family)
    for item in family:
        assert item.hidden_size / item.num_hidden_layers == pytest.approx(5120 / 40, rel=0.1)
        assert item.head_dim == architecture.head_dim


def test_the_largest_shape_of_a_budget_grows_with_it():
    found = [
        largest_shape(WORKLOAD, MACHINE, accelerator_hours=hours, days=30, tokens_per_parameter=20)
        for hours in (10_000, 100_000, 1_000_000)
    ]
    sizes = [item.workload.architecture.parameters for item in found]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    for item, hours in zip(found, (10_000, 100_000, 1_000_000), strict=True):
        assert item.estimate.accelerator_s <= hours * 3600
        assert item.next_larger.parameters > item.workload.architecture.parameters


@pytest.mark.parametrize("devices", [8, 64])
def test_the_largest_batch_fits_and_the_next_does_not(devices):
    workload = make_workload("llama-2-7b")
    found = largest_batch(workload, MACHINE, devices)
    assert found.estimate.memory_bytes * (1 + MEMORY_MARGIN) <= found.estimate.memory_capacity_bytes
    plan = found.estimate.plan
    assert found.global_batch_size == plan.data_parallel * plan.pipeline_parallel * plan.micro_batch_size
    larger = replace(plan, micro_batch_size=plan.micro_batch_size + 1)
    next_size = found.next_global_batch_size
    assert next_size == larger.data_parallel * larger.pipeline_parallel * larger.micro_batch_size
    columns = PlanColumns.from_plans([larger])
    memory_bytes, _ = evaluate_in_bulk(replace(workload, global_batch_size=next_size), MACHINE, columns)
    limit = found.estimate.memory_capacity_bytes / (1 + MEMORY_MARGIN)
    assert found.next_missing_bytes == pytest.approx(memory_bytes[0] - limit)
    assert found.next_missing_bytes > 0
    # Nothing that a search can do with that batch in one go beats it.
    assert search(replace(workload, global_batch_size=found.global_batch_size), MACHINE, devices).best is not None


def test_a_model_too_large_for_any_batch_says_what_is_missing():
    found = largest_batch(make_workload("llama-2-70b"), MACHINE, 1)
    assert (found.global_batch_size, found.estimate) == (None, None)
    assert found.next_missing_bytes > 2**30


# -- fronts and JSON


@given(
    costs=st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=0, max_size=60),
    columns=st.sampled_from([2, 3]),
)
def test_a_front_holds_exactly_what_nothing_beats(costs, columns):
    table = np.array([row[:columns] for row in costs], dtype=np.float64).reshape(-1, columns)
    front = find_front(*table.T)

    def is_beaten(row):
        others = np.all(table <= table[row], axis=1) & np.any(table < table[row], axis=1)
        return bool(np.any(others))

    expected = {tuple(table[row]) for row in range(len(table)) if not is_beaten(row)}
    assert sorted(expected) == [tuple(table[row]) for row in front]


def test_thinning_keeps_both_ends():
    rows = np.arange(100)
    assert list(thin_out(rows, most=3)) == [0, 50, 99]
    assert list(thin_out(rows[:2], most=3)) == [0, 1]


@pytest.mark.parametrize("found", [FOUND, search(make_workload("llama-2-70b"), MACHINE, 1)], ids=["fits", "too large"])
def test_results_are_plain_json(found):
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["plans_evaluated"] == found.plans_evaluated
    assert set(data) == {
        *("best", "ranked", "pareto", "least_bad", "nearest"),
        *("plans_evaluated", "search_s", "rejected"),
    }
    json.dumps(explain_impossible(WORKLOAD, MACHINE, ParallelPlan(data_parallel=12)).to_dict(), allow_nan=False)
    json.dumps(largest_batch(WORKLOAD, MACHINE, 8).to_dict(), allow_nan=False)
