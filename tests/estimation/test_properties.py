"""Properties that hold for any model, machine and plan."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jobs.estimation import (
    ADVICE_TEXT,
    ASSUMPTION_TEXT,
    MEMORY_PARTS,
    STEP_PARTS,
    Architecture,
    Estimate,
    InvalidInput,
    Machine,
    ParallelPlan,
    Workload,
    accelerators,
    count_model_flop_per_step,
    estimate,
    presets,
)
from jobs.estimation.columns import stack_columns
from jobs.estimation.evaluation import evaluate_columns, evaluate_plan, evaluate_plans
from jobs.estimation.plan import PlanColumns
from jobs.estimation.plan_rules import check_plan
from jobs.estimation.run_total import compute_checkpoint_interval, compute_goodput
from jobs.estimation.workload import MAX_GLOBAL_BATCH_SIZE
from tests.estimation.possible_cases import possible_cases

MACHINE = Machine.from_catalog("h100-80g")
# Sums of many parts in another order.
ROUNDING = 1 + 1e-12
FEW_LAYERS = 8


def evaluate(workload, machine, *plans):
    return evaluate_plans(workload, machine, PlanColumns.from_plans(plans))


def list_possible(case, **values):
    """The case's plan with each of the values of its fields (as many of each), where that is possible."""
    found = []
    for changes in zip(*values.values(), strict=True):
        try:
            plan = replace(case.plan, **dict(zip(values, changes, strict=True)))
            check_plan(case.workload, case.machine, plan)
        except InvalidInput:
            continue
        found.append(plan)
    return found


# -- any case


@settings(deadline=None, max_examples=300)
@given(case=possible_cases())
def test_every_part_is_a_finite_amount_and_the_parts_sum_to_the_whole(case):
    evaluation = evaluate(*case)
    assert tuple(evaluation.memory_parts_bytes) == MEMORY_PARTS
    assert tuple(evaluation.step_parts_s) == STEP_PARTS
    for parts, whole in (
        (evaluation.memory_parts_bytes, evaluation.memory_bytes),
        (evaluation.step_parts_s, evaluation.step_s),
    ):
        values = np.array([np.broadcast_to(part, 1)[0] for part in parts.values()])
        assert np.all(np.isfinite(values))
        assert np.all(values >= 0)
        assert values.sum() == pytest.approx(np.broadcast_to(whole, 1)[0], rel=1e-12)
        assert np.all(np.asarray(whole) > 0)


@settings(deadline=None, max_examples=150)
@given(case=possible_cases())
def test_an_estimate_is_consistent_and_plain_json(case):
    workload, _, _ = case
    result = estimate(*case)
    assert sum(result.memory_parts_bytes.values()) == pytest.approx(result.memory_bytes, rel=1e-12)
    assert sum(result.step_parts_s.values()) == pytest.approx(result.step_s, rel=1e-12)
    assert result.fits == (result.memory_bytes <= result.memory_capacity_bytes)
    assert result.duration_p10_s < result.duration_s < result.duration_p90_s
    assert result.model_flop_per_step <= result.hardware_flop_per_step
    assert result.duration_s >= workload.steps * result.step_s
    assert result.tokens_per_s * result.step_s == pytest.approx(workload.tokens_per_step)
    assert 0 < result.expected_goodput <= 1
    assert {item.code for item in result.advice} <= set(ADVICE_TEXT)
    assert set(result.assumptions) <= set(ASSUMPTION_TEXT)
    assert all(item.text for item in result.advice)
    assert Estimate.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False))) == result


@settings(deadline=None, max_examples=150)
@given(case=possible_cases())
def test_no_run_beats_the_peak(case):
    assert 0 < estimate(*case).mfu < 1


@settings(deadline=None, max_examples=40)
@given(cases=st.lists(possible_cases(), min_size=2, max_size=12))
def test_rows_evaluated_together_are_what_each_is_alone(cases):
    together = evaluate_columns(stack_columns(cases))
    for row, case in enumerate(cases):
        alone = evaluate(*case)
        for joint, single in (
            (together.memory_parts_bytes, alone.memory_parts_bytes),
            (together.step_parts_s, alone.step_parts_s),
        ):
            for name, values in joint.items():
                one = float(np.broadcast_to(single[name], 1)[0])
                many = float(np.broadcast_to(values, len(cases))[row])
                assert many == pytest.approx(one, rel=1e-12, abs=1e-15), name


@settings(deadline=None, max_examples=100)
@given(case=possible_cases())
def test_one_plan_as_numbers_is_what_it_is_as_arrays(case):
    numbers, arrays = evaluate_plan(*case), evaluate(*case)
    for one, other in (
        (numbers.memory_parts_bytes, arrays.memory_parts_bytes),
        (numbers.step_parts_s, arrays.step_parts_s),
    ):
        assert {name: float(value[0]) for name, value in one.items()} == pytest.approx(
            {name: float(np.broadcast_to(value, 1)[0]) for name, value in other.items()}, rel=1e-12, abs=1e-15
        )


@settings(deadline=None, max_examples=40)
@given(case=possible_cases(), micro=st.lists(st.integers(1, 64), min_size=2, max_size=50))
def test_plans_in_bulk_are_what_each_is_alone(case, micro):
    workload, machine, plan = case
    plans = [replace(plan, micro_batch_size=size) for size in micro]
    bulk = evaluate(workload, machine, *plans)
    for row, other in enumerate(plans):
        alone = evaluate(workload, machine, other)
        assert bulk.step_s[row] == pytest.approx(alone.step_s[0], rel=1e-12)
        assert bulk.memory_bytes[row] == pytest.approx(alone.memory_bytes[0], rel=1e-12)


# -- monotonic


@settings(deadline=None, max_examples=200)
@given(case=possible_cases())
def test_memory_never_rises_with_the_zero_stage(case):
    plans = list_possible(case, zero_stage=range(4), offload=["none"] * 4)
    few = case.workload.architecture.num_layers < FEW_LAYERS * case.plan.pipeline_parallel
    if few or case.workload.task == "qlora":
        # Stage 2 fills a bucket with a layer's gradients, and stage 3 gathers two layers at a time, and the embedding:
        # more than they save of few or quantised layers.
        plans = [plan for plan in plans if plan.zero_stage < 2]
    assume(len(plans) > 1)
    sizes = evaluate(case.workload, case.machine, *plans).memory_bytes
    assert np.all(sizes[1:] <= sizes[:-1] * ROUNDING)


@settings(deadline=None, max_examples=200)
@given(case=possible_cases())
def test_memory_never_rises_with_tensor_parallelism(case):
    degrees = [1, 2, 4, 8, 16]
    is_split = case.plan.tensor_parallel == 1 or case.plan.sequence_parallel
    plans = list_possible(case, tensor_parallel=degrees, sequence_parallel=[n > 1 and is_split for n in degrees])
    # A single device has no communication library.
    plans = [plan for plan in plans if plan.devices > 1]
    assume(len(plans) > 1)
    sizes = evaluate(case.workload, case.machine, *plans).memory_bytes
    assert np.all(sizes[1:] <= sizes[:-1] * ROUNDING)


@settings(deadline=None, max_examples=200)
@given(case=possible_cases())
def test_memory_never_rises_with_smaller_micro_batches_or_sequence_parallelism(case):
    workload, machine, plan = case
    smaller = [replace(plan, micro_batch_size=size) for size in (1, 2, 4, 8)]
    sizes = evaluate(workload, machine, *smaller).memory_bytes
    assert np.all(sizes[:-1] <= sizes[1:] * ROUNDING)
    if plan.tensor_parallel > 1:
        split = [replace(plan, sequence_parallel=is_split) for is_split in (True, False)]
        with_split, without = evaluate(workload, machine, *split).memory_bytes
        assert with_split <= without * ROUNDING


@settings(deadline=None, max_examples=200)
@given(case=possible_cases())
def test_memory_never_rises_with_more_recomputation_and_time_never_falls(case):
    workload, machine, plan = case
    layers = -(-workload.architecture.num_layers // plan.pipeline_parallel)
    recipes = [("none", 0), ("selective", 0), *(("full", count) for count in (*range(1, layers), 0))]
    plans = [replace(plan, recomputation=recipe, recomputed_layers=count) for recipe, count in recipes]
    evaluation = evaluate(workload, machine, *plans)
    sizes, seconds = evaluation.memory_bytes, evaluation.step_parts_s["recomputation"]
    assert sizes[1] <= sizes[0] * ROUNDING
    assert np.all(sizes[3:] <= sizes[2:-1] * ROUNDING)
    # One layer is whole while it is recomputed, so full recomputation of few layers on a stage may not save.
    if layers >= FEW_LAYERS:
        assert sizes[-1] <= sizes[0] * ROUNDING
    assert seconds[0] == 0
    assert np.all(seconds[3:] * ROUNDING >= seconds[2:-1])


HIGHEST_PEAK = 1e18
"""FLOP/s: what a catalogue may say at most."""


def speed_up(machine, rate, factor):
    accelerator = machine.accelerator
    if rate == "memory":
        return replace(
            machine,
            accelerator=replace(accelerator, memory_bytes_per_s=factor * accelerator.memory_bytes_per_s),
            host_bytes_per_s=machine.host_rate_bytes_per_s,
        )
    if rate == "peak":
        factor = min(factor, HIGHEST_PEAK / max(accelerator.peak_flop_per_s.values()))
        peaks = {name: factor * value for name, value in accelerator.peak_flop_per_s.items()}
        return replace(machine, accelerator=replace(accelerator, peak_flop_per_s=peaks))
    name = {"intra": "intra_node_bytes_per_s", "inter": "inter_node_bytes_per_s", "host": "host_bytes_per_s"}[rate]
    value = machine.host_rate_bytes_per_s if rate == "host" else getattr(machine, name)
    return replace(machine, **{name: factor * value})


@settings(deadline=None, max_examples=100)
@given(
    case=possible_cases(),
    rate=st.sampled_from(["memory", "peak", "intra", "inter", "host"]),
    factor=st.floats(1.01, 100.0),
)
def test_nothing_gets_slower_with_a_faster_part(case, rate, factor):
    workload, machine, plan = case
    (before,) = evaluate(workload, machine, plan).step_s
    (after,) = evaluate(workload, speed_up(machine, rate, factor), plan).step_s
    assert after <= before * ROUNDING
    assert after >= before / factor / ROUNDING


@settings(deadline=None, max_examples=100)
@given(case=possible_cases(), factor=st.integers(2, 9))
def test_a_step_of_more_micro_batches_takes_longer_but_no_more_than_in_proportion(case, factor):
    workload, machine, plan = case
    assume(factor * workload.global_batch_size <= MAX_GLOBAL_BATCH_SIZE)
    larger = replace(workload, global_batch_size=factor * workload.global_batch_size)
    (before,), (after,) = (evaluate(item, machine, plan).step_s for item in (workload, larger))
    assert before < after <= factor * before * ROUNDING


@settings(deadline=None)
@given(steps=st.integers(1, 10**7), factor=st.integers(2, 9), batch=st.sampled_from([8, 64, 512]))
def test_flop_and_duration_are_linear_in_tokens(steps, factor, batch):
    base = {"model": {"preset": "llama-2-7b"}, "global_batch_size": batch}
    once, often = (Workload.from_dict({**base, "tokens": steps * batch * 4096 * k}) for k in (1, factor))
    larger = Workload.from_dict({**base, "tokens": 1, "global_batch_size": batch * factor})
    assert count_model_flop_per_step(larger) == pytest.approx(factor * count_model_flop_per_step(once))
    short, long = (estimate(w, MACHINE, ParallelPlan(data_parallel=8, zero_stage=1)) for w in (once, often))
    assert long.steps == factor * short.steps
    assert long.flop_6nd == pytest.approx(factor * short.flop_6nd)
    assert long.duration_s == pytest.approx(factor * short.duration_s)


@settings(deadline=None)
@given(case=possible_cases(), factor=st.integers(2, 9))
def test_the_flop_of_a_step_are_linear_in_its_sequences(case, factor):
    workload, _, _ = case
    workload = replace(workload, global_batch_size=min(workload.global_batch_size, 10_000))
    larger = replace(workload, global_batch_size=factor * workload.global_batch_size)
    assert count_model_flop_per_step(larger) == pytest.approx(factor * count_model_flop_per_step(workload), rel=1e-12)


# -- failures


@given(write_s=st.floats(1e-3, 1e4), mtbf_s=st.floats(10, 1e9), restart_s=st.floats(0, 1e4))
def test_goodput_is_a_share_and_best_near_the_interval(write_s, mtbf_s, restart_s):
    interval = compute_checkpoint_interval(write_s=write_s, mtbf_s=mtbf_s)
    assert interval > 0
    assert math.isfinite(interval)
    share = compute_goodput(write_s=write_s, interval_s=interval, mtbf_s=mtbf_s, restart_s=restart_s)
    assert 0 < share <= 1
    # An interval is never shorter than a second.
    if write_s < mtbf_s / 100 and interval > 1:
        rest = {"write_s": write_s, "mtbf_s": mtbf_s, "restart_s": restart_s}
        worse = [compute_goodput(interval_s=k * interval, **rest) for k in (0.3, 3)]
        assert share >= max(worse)


def test_young_gives_blooms_interval():
    # 40 s to write, a stop every 3.093 h: sqrt(2 C M) = 15.7 minutes; Daly's is a little shorter.
    interval = compute_checkpoint_interval(write_s=40, mtbf_s=3.093 * 3600)
    assert interval / 60 == pytest.approx(15.7, abs=0.7)


# -- JSON


@settings(deadline=None)
@given(case=possible_cases())
def test_inputs_survive_a_round_trip_through_json(case):
    workload, machine, plan = case
    assert Workload.from_dict(json.loads(json.dumps(workload.to_dict()))) == workload
    assert Machine.from_dict(json.loads(json.dumps(machine.to_dict()))) == machine
    assert ParallelPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    columns = PlanColumns.from_plans([plan])
    assert PlanColumns.from_plans([columns.plan(0)]).plan(0) == columns.plan(0)


@pytest.mark.parametrize("name", list(presets()))
def test_architectures_survive_a_round_trip_through_json(name):
    architecture = presets()[name].architecture
    assert Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture


@pytest.mark.parametrize("code", list(accelerators()))
def test_machines_survive_a_round_trip_through_json(code):
    machine = Machine.from_catalog(code, storage_bytes_per_s=5e9, mtbf_hours_per_device=1e4)
    assert Machine.from_dict(json.loads(json.dumps(machine.to_dict()))) == machine
    own = replace(machine, accelerator=replace(machine.accelerator, code="our-own", tdp_w=1.0))
    assert Machine.from_dict(json.loads(json.dumps(own.to_dict()))) == own


@pytest.mark.parametrize("code", list(accelerators()))
def test_every_accelerator_names_its_source(code):
    accelerator = accelerators()[code]
    assert accelerator.source_url.startswith("https://")
    assert accelerator.source_status in ("seen", "recalled")


# -- single machines


def test_measured_peak_replaces_the_catalogues():
    workload = Workload.from_dict({"model": {"preset": "char-transformer-demo"}, "tokens": 1_000_000})
    slow, fast = (
        estimate(workload, Machine.from_catalog("host-cpu", measured_peak_flop_per_s=peak), ParallelPlan())
        for peak in (1e10, 1e11)
    )
    assert slow.step_s > fast.step_s
    assert fast.basis == "measured_peak"
    assert fast.memory_bytes < 200 * 2**20


def test_demo_on_a_cpu_core_takes_seconds_not_days():
    workload = Workload.from_dict({"model": {"preset": "char-transformer-demo"}, "tokens": 1500 * 16 * 64})
    result = estimate(workload, Machine.from_catalog("host-cpu"), ParallelPlan(micro_batch_size=16))
    # Measured: 39 ms of processor time a step on a busy core.
    assert result.step_s == pytest.approx(0.039, rel=0.2)
    assert result.steps == 1500


def test_a100_and_a800_differ_by_their_links_only():
    workload = Workload.from_dict({"model": {"preset": "llama-2-13b"}, "tokens": 1e12})
    plan = ParallelPlan(tensor_parallel=8, data_parallel=8, zero_stage=1, sequence_parallel=True)
    a100, a800 = (estimate(workload, Machine.from_catalog(code), plan) for code in ("a100-80g", "a800-80g"))
    # What was measured on each differs by a little.
    assert a100.step_parts_s["matmul"] == pytest.approx(a800.step_parts_s["matmul"], rel=0.01)
    assert a100.step_parts_s["tensor_parallel"] < a800.step_parts_s["tensor_parallel"]
