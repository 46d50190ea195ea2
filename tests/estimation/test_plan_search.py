"""The search: nothing in its space beats it, and it says why plans were left out."""

import itertools
import json
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.estimation import InvalidInput, Machine, ParallelPlan, Workload, estimate, estimate_best, search
from jobs.estimation.geometry import find_violations
from jobs.estimation.plan import PlanColumns
from jobs.estimation.plan_search import MICRO_BATCH_SIZES, ROOMY_MEMORY_SHARE, VIRTUAL_STAGES

MACHINE = Machine.from_catalog("a800-80g")


def make_workload(preset="llama-2-13b", **changes):
    return Workload.from_dict({"model": {"preset": preset}, "tokens": 1e12, **changes})


def list_possible_plans(workload, devices):
    """The search's space enumerated naively, one plan at a time."""
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    plans = []
    for tp, pp in itertools.product([1, 2, 4, 8], divisors):
        if devices % (tp * pp):
            continue
        choices = itertools.product(
            VIRTUAL_STAGES if pp > 1 else (1,),
            MICRO_BATCH_SIZES,
            range(4) if devices > tp * pp else (0,),
            ("none", "selective", "full"),
            (False, True) if tp > 1 else (False,),
        )
        plans += [
            ParallelPlan(
                tensor_parallel=tp,
                pipeline_parallel=pp,
                data_parallel=devices // tp // pp,
                virtual_stages=v,
                micro_batch_size=micro,
                zero_stage=zero,
                recomputation=mode,
                sequence_parallel=sequence,
            )
            for v, micro, zero, mode, sequence in choices
        ]
    broken = np.any(list(find_violations(workload, MACHINE, PlanColumns.from_plans(plans)).values()), axis=0)
    return [plan for plan, is_broken in zip(plans, broken, strict=True) if not is_broken]


WORKLOAD = make_workload()
SPACE = list_possible_plans(WORKLOAD, 64)
FOUND = search(WORKLOAD, MACHINE, 64)


def test_search_evaluates_the_whole_space():
    assert FOUND.plans_evaluated == len(SPACE)


@given(plan=st.sampled_from(SPACE))
def test_no_plan_with_head_room_beats_the_best(plan):
    result = estimate(WORKLOAD, MACHINE, plan)
    has_room = result.memory_bytes <= ROOMY_MEMORY_SHARE * result.memory_capacity_bytes
    assert not has_room or result.step_s >= FOUND.best.step_s * (1 - 1e-12)


def test_a_tight_plan_is_ranked_after_all_that_have_head_room_and_chosen_only_if_none_has():
    ranked = search(WORKLOAD, MACHINE, 8, top=1000).ranked
    tight = [item.memory_bytes > ROOMY_MEMORY_SHARE * item.memory_capacity_bytes for item in ranked]
    assert tight == sorted(tight)
    assert {True, False} <= set(tight), "the space has both kinds"
    assert not tight[0]


def test_estimate_of_the_best_plan_is_the_searchs_own_answer():
    assert estimate(WORKLOAD, MACHINE, FOUND.best.plan) == FOUND.best


def test_ranking_is_by_step_time_and_all_fit():
    times = [item.step_s for item in FOUND.ranked]
    assert times == sorted(times)
    assert len(times) == 10
    assert all(item.fits for item in FOUND.ranked)


def test_on_the_pareto_front_less_memory_costs_time():
    for faster, slower in itertools.pairwise(FOUND.pareto):
        assert faster.step_s <= slower.step_s
        assert faster.memory_bytes > slower.memory_bytes


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


def test_a_batch_that_does_not_divide_is_an_error_that_says_so():
    with pytest.raises(InvalidInput, match="batch_not_divisible"):
        estimate_best(make_workload("gpt2-small", global_batch_size=7, sequence_length=1024), MACHINE, 1024)


@pytest.mark.parametrize("devices", [0, -8, 3, 12, True, 2.5, float("nan"), "8", None, 10**9])
def test_impossible_device_counts_are_refused_by_name(devices):
    with pytest.raises(InvalidInput) as caught:
        search(WORKLOAD, MACHINE, devices)
    assert caught.value.field == "devices"


def test_results_are_plain_json():
    assert json.loads(json.dumps(FOUND.to_dict(), allow_nan=False))["plans_evaluated"] == len(SPACE)


def test_long_sequences_make_context_parallelism_worth_trying():
    workload = make_workload("llama-3.1-8b", sequence_length=131072, global_batch_size=8)
    found = search(workload, Machine.from_catalog("h100-80g"), 64)
    assert found.best is not None
    assert found.best.plan.context_parallel > 1


@settings(deadline=None, max_examples=10)
@given(
    devices=st.sampled_from([1, 2, 4, 8, 16, 32]), preset=st.sampled_from(["gpt2-small", "qwen2.5-7b", "bloom-176b"])
)
def test_search_answers_for_every_model_and_size(devices, preset):
    found = search(make_workload(preset, global_batch_size=64, sequence_length=1024), MACHINE, devices, top=3)
    assert found.plans_evaluated > 0
    assert (found.best is None) != (found.least_bad is None)


def test_speed_is_printed():
    large = make_workload("llama-3.1-405b")
    machine = Machine.from_catalog("h100-80g")
    found = min((search(large, machine, 16384) for _ in range(3)), key=lambda item: item.search_s)
    print(f"405B on 16,384 devices: {found.plans_evaluated} plans in {1e3 * found.search_s:.1f} ms")
    small = min((search(WORKLOAD, MACHINE, 64) for _ in range(3)), key=lambda item: item.search_s)
    print(f"13B on 64 devices: {small.plans_evaluated} plans in {1e3 * small.search_s:.1f} ms")
    started = perf_counter()
    for _ in range(50):
        estimate(WORKLOAD, MACHINE, FOUND.best.plan)
    print(f"one estimate: {1e3 * (perf_counter() - started) / 50:.2f} ms")
    assert found.best is not None
