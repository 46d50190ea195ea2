"""Properties that hold for any plan."""

import itertools
import json
import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jobs.estimation import (
    ADVICE_TEXT,
    ASSUMPTION_TEXT,
    MEMORY_PARTS,
    STEP_PARTS,
    TASKS,
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
from jobs.estimation.evaluation import compute_checkpoint_interval, compute_goodput

MACHINE = Machine.from_catalog("h100-80g")
MODELS = ["gpt2-small", "llama-2-7b", "llama-3.1-8b", "qwen2.5-14b", "bloom-176b", "baichuan2-13b", "gpt3-175b"]


@st.composite
def make_case(draw):
    data = {
        "model": {"preset": draw(st.sampled_from(MODELS))},
        "tokens": draw(st.integers(10**6, 10**13)),
        "task": draw(st.sampled_from(TASKS)),
        "sequence_length": draw(st.sampled_from([256, 1024])),
        "global_batch_size": draw(st.sampled_from([64, 256])),
        "precision": draw(st.sampled_from(["bf16", "fp16", "fp32"])),
        "optimizer": draw(st.sampled_from(["adamw", "adamw_8bit", "sgd"])),
        "attention_kernel": draw(st.sampled_from(["flash", "standard"])),
    }
    tensor, pipeline = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([1, 2, 4]))
    plan = ParallelPlan(
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        data_parallel=draw(st.sampled_from([8, 16])),
        zero_stage=draw(st.integers(0, 1 if pipeline > 1 else 3)),
        micro_batch_size=draw(st.sampled_from([1, 2, 4])),
        recomputation=draw(st.sampled_from(["none", "selective", "full"])),
        sequence_parallel=tensor > 1 and draw(st.booleans()),
    )
    return Workload.from_dict(data), plan


def estimate_if_possible(workload, plan):
    try:
        return estimate(workload, MACHINE, plan)
    except InvalidInput:
        return None


@settings(deadline=None)
@given(case=make_case())
def test_parts_sum_to_the_whole_and_all_is_finite_json(case):
    result = estimate_if_possible(*case)
    assume(result is not None)
    assert tuple(result.memory_parts_bytes) == MEMORY_PARTS
    assert tuple(result.step_parts_s) == STEP_PARTS
    assert sum(result.memory_parts_bytes.values()) == result.memory_bytes
    assert sum(result.step_parts_s.values()) == result.step_s
    assert all(value >= 0 for value in (*result.memory_parts_bytes.values(), *result.step_parts_s.values()))
    assert result.fits == (result.memory_bytes <= result.memory_capacity_bytes)
    assert result.duration_p10_s < result.duration_s < result.duration_p90_s
    assert result.model_flop_per_step <= result.hardware_flop_per_step
    assert 0 < result.mfu < 1
    assert 0 < result.expected_goodput <= 1
    assert {item.code for item in result.advice} <= set(ADVICE_TEXT)
    assert set(result.assumptions) <= set(ASSUMPTION_TEXT)
    assert all(item.text for item in result.advice)
    assert Estimate.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False))) == result


@settings(deadline=None)
@given(case=make_case())
def test_memory_never_rises_with_the_zero_stage(case):
    workload, plan = case
    results = [estimate_if_possible(workload, replace(plan, zero_stage=stage)) for stage in range(4)]
    sizes = [result.memory_bytes for result in results if result is not None]
    assume(len(sizes) > 1)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(sizes))


@settings(deadline=None)
@given(case=make_case())
def test_memory_never_rises_with_tensor_parallelism(case):
    workload, plan = case
    sizes = []
    for degree in (1, 2, 4, 8):
        changed = replace(plan, tensor_parallel=degree, sequence_parallel=plan.sequence_parallel and degree > 1)
        result = estimate_if_possible(workload, changed)
        if result is not None:
            sizes.append(result.memory_bytes)
    assume(len(sizes) > 1)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(sizes))


@settings(deadline=None)
@given(case=make_case())
def test_memory_never_rises_with_more_recomputation(case):
    workload, plan = case
    results = [
        estimate_if_possible(workload, replace(plan, recomputation=mode)) for mode in ("none", "selective", "full")
    ]
    assume(None not in results)
    none, selective, full = (result.memory_parts_bytes["activations"] for result in results)
    assert selective <= none
    # One layer is whole while it is recomputed, so full recomputation of few layers on a stage may not save.
    if workload.architecture.num_hidden_layers // plan.pipeline_parallel >= 4:
        assert full <= none * (1 + 1e-12)


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


@given(write_s=st.floats(1e-3, 1e4), mtbf_s=st.floats(10, 1e9), restart_s=st.floats(0, 1e4))
def test_goodput_is_a_share_and_best_near_the_interval(write_s, mtbf_s, restart_s):
    interval = compute_checkpoint_interval(write_s=write_s, mtbf_s=mtbf_s)
    assert interval > 0
    assert math.isfinite(interval)
    share = compute_goodput(write_s=write_s, interval_s=interval, mtbf_s=mtbf_s, restart_s=restart_s)
    assert 0 < share <= 1
    if write_s < mtbf_s / 100:
        rest = {"write_s": write_s, "mtbf_s": mtbf_s, "restart_s": restart_s}
        worse = [compute_goodput(interval_s=k * interval, **rest) for k in (0.3, 3)]
        assert share >= max(worse)


def test_young_gives_blooms_interval():
    # 40 s to write, a stop every 3.093 h: sqrt(2 C M) = 15.7 minutes; Daly's is a little shorter.
    interval = compute_checkpoint_interval(write_s=40, mtbf_s=3.093 * 3600)
    assert interval / 60 == pytest.approx(15.7, abs=0.7)


@settings(deadline=None)
@given(case=make_case())
def test_inputs_survive_a_round_trip_through_json(case):
    workload, plan = case
    assert Workload.from_dict(json.loads(json.dumps(workload.to_dict()))) == workload
    assert ParallelPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


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
def test_every_accelerator_names_its_sources(code):
    accelerator = accelerators()[code]
    assert accelerator.source_url.startswith("https://")
    assert accelerator.source_status in ("seen", "recalled")
    assert accelerator.efficiency.source


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
    assert a100.step_parts_s["matmul"] == a800.step_parts_s["matmul"]
    assert a100.step_parts_s["tensor_parallel"] < a800.step_parts_s["tensor_parallel"]
