"""Depth, precision and shapes: the rounding rule against a network that is run in each format, and the remarks."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.estimation.advice import ADVICE_SOURCE, ADVICE_TEXT
from jobs.estimation.architecture import Architecture
from jobs.estimation.hardware import Machine
from jobs.estimation.numerics import (
    describe_depth,
    describe_numerics,
    estimate_rounding_error,
    fp32_stream_extra_bytes,
    pad_vocabulary,
    requires_loss_scaling,
    review_depth,
    review_numerics,
    review_shapes,
    share_of_head,
    solve_best_depth,
)
from jobs.estimation.plan import ParallelPlan
from jobs.estimation.presets import presets
from jobs.estimation.training_sanity import describe_training, estimate_critical_batch_tokens, review_training
from jobs.estimation.validation import InvalidInput
from jobs.estimation.workload import Workload

A100 = Machine.from_catalog("a100-80g")
SIGNIFICANT_BITS = {"bf16": 8, "fp16": 11, "fp8": 4, "fp4": 2}


def make_workload(preset="llama-2-7b", **changes):
    return Workload.from_dict({"model": {"preset": preset}, "tokens": 1e12, "sequence_length": 2048, **changes})


def make_card(layers, hidden, *, precision="bf16", **changes):
    block = 12 * layers * hidden**2
    return describe_depth(
        parameters=block, block_parameters=block, layers=layers, hidden_size=hidden, precision=precision, **changes
    )


def codes(advice):
    return [item.code for item in advice]


# -- rounding


def round_to(values, bits):
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)


def normalise(values):
    centred = values - values.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)


def measure_rounding_error(*, layers, precision, fp32_residual_stream, width=128, rows=32, seed=0):
    """Relative error of a random pre-norm residual network that rounds every tensor, against float64."""
    random = np.random.default_rng(seed)
    bits = SIGNIFICANT_BITS["bf16"] if precision in ("fp8", "fp4") else SIGNIFICANT_BITS[precision]
    operand_bits = SIGNIFICANT_BITS[precision]
    stream_bits = 24 if fp32_residual_stream else bits
    exact = random.standard_normal((rows, width))
    rounded = round_to(exact, stream_bits)
    for _ in range(2 * layers):
        up = random.standard_normal((width, 2 * width)) / math.sqrt(width)
        down = random.standard_normal((2 * width, width)) * 1.4 / math.sqrt(2 * layers) / math.sqrt(2 * width)
        exact = exact + np.maximum(normalise(exact) @ up, 0) @ down
        block = round_to(normalise(rounded), bits)
        for weights, activation in ((up, True), (down, False)):
            block = round_to(block, operand_bits) @ round_to(round_to(weights, bits), operand_bits)
            block = round_to(np.maximum(block, 0) if activation else block, bits)
        rounded = round_to(rounded + block, stream_bits)
    exact, rounded = normalise(exact), round_to(normalise(rounded), bits)
    return np.linalg.norm(exact - rounded) / np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("layers", "precision", "fp32_residual_stream"),
    [
        (6, "bf16", False),
        (24, "bf16", False),
        (96, "bf16", False),
        (6, "bf16", True),
        (96, "bf16", True),
        (24, "fp16", False),
        (24, "fp16", True),
        (24, "fp8", False),
        (96, "fp8", False),
        (24, "fp8", True),
        (24, "fp4", True),
    ],
)
def test_the_rounding_rule_is_what_a_network_shows(layers, precision, fp32_residual_stream):
    case = {"layers": layers, "precision": precision, "fp32_residual_stream": fp32_residual_stream}
    assert estimate_rounding_error(**case) == pytest.approx(measure_rounding_error(**case), rel=0.15)


@given(layers=st.integers(1, 2000), precision=st.sampled_from(["fp32", "bf16", "fp16", "fp8", "fp4"]))
def test_an_fp32_stream_never_hurts_and_does_not_mind_depth(layers, precision):
    plain = estimate_rounding_error(layers=layers, precision=precision)
    stream = estimate_rounding_error(layers=layers, precision=precision, fp32_residual_stream=True)
    assert stream <= plain
    assert stream == estimate_rounding_error(layers=1, precision=precision, fp32_residual_stream=True)
    assert estimate_rounding_error(layers=2 * layers, precision=precision) >= plain


# -- depth


@given(parameters=st.floats(1, 1e15))
def test_the_best_depth_solves_the_fit(parameters):
    depth = solve_best_depth(parameters)
    width = math.exp(5.039 + 0.0555 * depth)
    assert 12 * depth * width**2 == pytest.approx(parameters, rel=1e-6)


def test_a_trillion_parameters_want_a_width_of_thirty_thousand():
    # Levine 2020 (arXiv 2006.12467), abstract.
    assert math.exp(5.039 + 0.0555 * solve_best_depth(1e12)) == pytest.approx(30_000, rel=0.05)


def test_small_models_are_not_called_too_deep():
    # The fit starts at six layers.
    assert not make_card(2, 64).is_too_deep
    assert not make_card(6, 64).is_too_deep
    assert make_card(48, 512).is_too_deep


def test_width_over_depth_outside_published_shapes_is_remarked():
    assert "unusual_width_per_layer" in codes(review_depth(make_card(64, 1024)))
    assert "unusual_width_per_layer" in codes(review_depth(make_card(2, 1024)))
    assert "unusual_width_per_layer" not in codes(review_depth(make_card(32, 4096)))


def test_the_largest_error_can_be_set():
    assert "low_precision_residual_stream" not in codes(review_depth(make_card(32, 4096)))
    assert "low_precision_residual_stream" in codes(review_depth(make_card(32, 4096, largest_error=1e-2)))


def test_the_memory_of_an_fp32_stream_is_said_with_the_remark():
    plan = ParallelPlan(tensor_parallel=8, pipeline_parallel=4, data_parallel=4, sequence_parallel=True)
    workload = make_workload("gpt3-175b", global_batch_size=64)
    # 2 bytes x 2,048 / 8 tokens x 12,288 x two norms in 24 layers x four micro-batches in flight.
    assert fp32_stream_extra_bytes(workload, plan) == 2 * 256 * 12_288 * 48 * 4
    full = replace(plan, recomputation="full")
    assert fp32_stream_extra_bytes(workload, full) == fp32_stream_extra_bytes(workload, plan) / 2
    assert fp32_stream_extra_bytes(make_workload("gpt3-175b", precision="fp32"), plan) == 0
    remarks = {item.code: item for item in review_numerics(workload, plan, A100)}
    assert remarks["fp32_residual_stream_memory"].parameters["extra_gib"] == pytest.approx(1.125)
    assert "low_precision_residual_stream" not in codes(
        review_numerics(workload, plan, A100, fp32_residual_stream=True)
    )


def test_the_card_of_a_workload_has_its_figures():
    card = describe_numerics(make_workload("gpt3-175b"), ParallelPlan())
    assert (card.layers, card.hidden_size, card.width_per_layer) == (96, 12_288, 128)
    assert card.depth_threshold == pytest.approx(math.log(12_288, 3))
    assert json.loads(json.dumps(card.to_dict(), allow_nan=False))["is_too_deep"] is True


# -- number formats


def test_fp16_needs_loss_scaling_and_bf16_is_preferred_where_there_is_one():
    workload = make_workload(precision="fp16", global_batch_size=64)
    assert requires_loss_scaling(workload)
    assert not requires_loss_scaling(make_workload())
    with_bf16 = {item.code: item.severity for item in review_numerics(workload, ParallelPlan(), A100)}
    assert with_bf16["fp16_needs_loss_scaling"] == "warning"
    assert "prefer_bf16" in with_bf16
    without = {
        item.code: item.severity
        for item in review_numerics(workload, ParallelPlan(), Machine.from_catalog("ascend910a-32g"))
    }
    assert without["fp16_needs_loss_scaling"] == "info"
    assert "prefer_bf16" not in without


def test_fp8_is_remarked_with_its_error():
    remarks = review_depth(make_card(32, 4096, precision="fp8"))
    assert codes(remarks) == ["low_precision_blocks"]
    assert "FP8" in remarks[0].text


# -- shapes


def make_gpt2(**changes):
    return replace(presets()["gpt2-small"].architecture, **changes)


def workload_of(architecture: Architecture, **changes):
    return Workload(architecture=architecture, tokens=10**10, sequence_length=1024, **changes)


def test_the_vocabulary_of_gpt2_is_padded_to_50304():
    # nanoGPT: 50,304 rows instead of 50,257 made a step 25 % faster.
    assert pad_vocabulary(50_257) == 50_304
    assert pad_vocabulary(50_257, tensor_parallel=8) == 51_200
    workload = workload_of(make_gpt2(), framework="native")
    assert share_of_head(workload) == pytest.approx(0.31, abs=0.01)
    remark = next(item for item in review_shapes(workload, ParallelPlan()) if item.code == "pad_vocabulary")
    assert remark.parameters["better"] == 50_304
    assert remark.parameters["saving_percent"] == pytest.approx(20, abs=1)
    assert "pad_vocabulary" not in codes(review_shapes(workload_of(make_gpt2(), framework="megatron"), ParallelPlan()))
    padded = workload_of(make_gpt2(vocab_size=50_304), framework="native")
    assert "pad_vocabulary" not in codes(review_shapes(padded, ParallelPlan()))


@given(rows=st.integers(1, 10**6), split=st.integers(1, 64))
def test_padding_is_the_least_that_divides(rows, split):
    padded = pad_vocabulary(rows, tensor_parallel=split)
    assert padded % (128 * split) == 0
    assert rows <= padded < rows + 128 * split


def test_heads_of_80_and_odd_shards_are_remarked():
    # GPT-3 2.7B: 32 heads of 80 (arXiv 2401.14489 makes it faster with 40 of 64 or 20 of 128).
    odd = make_gpt2(hidden_size=2560, num_attention_heads=32, num_key_value_heads=32, head_dim=80)
    remarks = review_shapes(workload_of(odd), ParallelPlan())
    assert [(item.parameters["dimension"], item.parameters["better"]) for item in remarks] == [("head_dim", 128)]
    split = review_shapes(make_workload("llama-2-7b", global_batch_size=64), ParallelPlan(tensor_parallel=8))
    assert [(item.parameters["dimension"], item.parameters["size"]) for item in split] == [("intermediate_size", 1376)]
    assert review_shapes(make_workload("llama-3.1-8b"), ParallelPlan(tensor_parallel=8)) == []


# -- data and batch


def test_tokens_per_parameter_are_remarked_on_both_sides():
    assert "few_tokens_per_parameter" in codes(review_training(make_workload(tokens=3e10)))
    assert "many_tokens_per_parameter" in codes(review_training(make_workload("llama-3.1-8b", tokens=15e12)))
    assert review_training(make_workload(tokens=140e9)) == []
    assert review_training(make_workload(tokens=3e7, task="lora")) == []


@pytest.mark.parametrize(
    ("tokens", "batch_tokens"),
    [(300e9, 3.2e6), (366e9, 4.2e6), (1.4e12, 4e6), (15.6e12, 16.8e6), (14.8e12, 62.9e6)],
    ids=["gpt-3", "bloom", "llama-65b", "llama-3-405b", "deepseek-v3"],
)
def test_batches_of_published_runs_are_below_the_critical_one(tokens, batch_tokens):
    assert batch_tokens < estimate_critical_batch_tokens(tokens)


def test_a_batch_above_the_critical_one_is_remarked():
    workload = make_workload(tokens=10e9, global_batch_size=4096)
    remarks = review_training(workload)
    assert "batch_above_critical" in codes(remarks)
    card = describe_training(workload)
    assert card.extra_tokens_share == pytest.approx(card.batch_tokens / card.critical_batch_tokens)
    assert card.extra_tokens_share > 1
    assert "few_steps" in codes(review_training(make_workload(tokens=1e9, global_batch_size=512)))


def test_data_seen_often_is_remarked():
    assert "data_repeated" in codes(review_training(make_workload(tokens=140e9), unique_tokens=20e9))
    assert review_training(make_workload(tokens=140e9), unique_tokens=50e9) == []


def test_sequences_beyond_the_models_positions_are_remarked():
    assert codes(review_training(make_workload(tokens=140e9, sequence_length=8192, global_batch_size=64))) == [
        "sequence_beyond_positions"
    ]


@given(
    preset=st.sampled_from(sorted(presets())),
    precision=st.sampled_from(["bf16", "fp16", "fp32", "fp8"]),
    split=st.sampled_from([1, 2, 4, 8]),
)
def test_no_remark_is_an_error(preset, precision, split):
    positions = presets()[preset].architecture.max_position_embeddings
    workload = make_workload(
        preset, precision=precision, global_batch_size=64, sequence_length=min(positions, 2048), framework="fsdp"
    )
    plan = ParallelPlan(tensor_parallel=split, data_parallel=8)
    advice = review_numerics(workload, plan, A100) + review_training(workload)
    assert all(item.severity in ("info", "warning") and item.text and item.source for item in advice)


def test_sources_are_those_of_known_remarks():
    assert set(ADVICE_SOURCE) <= set(ADVICE_TEXT)


@pytest.mark.parametrize(
    ("name", "value"), [("layers", 0), ("hidden_size", 0), ("largest_error", 0.0), ("block_parameters", math.nan)]
)
def test_bad_values_are_named(name, value):
    good = {"parameters": 10**9, "block_parameters": 1e9, "layers": 24, "hidden_size": 2048, "precision": "bf16"}
    with pytest.raises(InvalidInput) as error:
        describe_depth(**(good | {name: value}))
    assert error.value.field == name
