"""FLOP counts against published totals and formulas."""

import pytest

from jobs.estimation import (
    Machine,
    ParallelPlan,
    Workload,
    count_flop_6nd,
    count_model_flop_per_step,
    estimate,
    presets,
    to_pflop_per_s_days,
)


def make_workload(**changes):
    return Workload.from_dict({"model": {"preset": "gpt3-175b"}, "tokens": 300e9, "sequence_length": 2048, **changes})


def test_gpt3_takes_3637_pflop_per_s_days_by_6nd():
    parameters = presets()["gpt3-175b"].architecture.parameters
    assert to_pflop_per_s_days(count_flop_6nd(parameters, 300 * 10**9)) == pytest.approx(3637.5, rel=0.005)


def test_model_flop_follow_the_formula_of_megatron_with_causal_attention_counted_once():
    # 72 B s L h^2 (1 + s/(12 h) + V/(12 L h)): arXiv 2104.04473 with half of the attention term s/(6 h).
    workload = make_workload()
    batch, s, layers, h, vocab = workload.global_batch_size, 2048, 96, 12288, 50257
    expected = 72 * batch * s * layers * h**2 * (1 + s / (12 * h) + vocab / (12 * layers * h))
    assert count_model_flop_per_step(workload) == pytest.approx(expected, rel=1e-12)


def test_full_recomputation_adds_a_forward_pass_to_hardware_flop_only():
    workload = make_workload(global_batch_size=64)
    machine = Machine.from_catalog("a100-80g")
    plain, full = (
        estimate(workload, machine, ParallelPlan(tensor_parallel=8, pipeline_parallel=8, recomputation=mode))
        for mode in ("none", "full")
    )
    assert plain.hardware_flop_per_step == plain.model_flop_per_step == full.model_flop_per_step
    assert 1.30 < full.hardware_flop_per_step / plain.hardware_flop_per_step < 4 / 3


def test_lora_takes_about_two_thirds_of_the_flop():
    ratio = count_model_flop_per_step(make_workload(task="lora", global_batch_size=64)) / count_model_flop_per_step(
        make_workload(global_batch_size=64)
    )
    assert 0.66 < ratio < 0.70


def test_sliding_window_saves_attention_beyond_it():
    config = {"model": {"preset": "mistral-7b"}, "tokens": 1e9, "global_batch_size": 1}
    short, long = (Workload.from_dict({**config, "sequence_length": n}) for n in (4096, 32768))
    per_token = [count_model_flop_per_step(w) / w.tokens_per_step for w in (short, long)]
    assert per_token[1] < 1.1 * per_token[0]
