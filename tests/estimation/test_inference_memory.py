"""Memory of serving: published cache sizes, splits, windows, and what fits."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.estimation.architecture import Architecture
from jobs.estimation.inference_memory import (
    WEIGHT_BYTES,
    cache_bytes_per_token,
    compute_serving_memory,
    count_cached_tokens,
    count_weight_bytes,
)
from jobs.estimation.presets import presets
from jobs.estimation.validation import InvalidInput

GIB = 2**30
LLAMA_8B = presets()["llama-3.1-8b"].architecture
DEEPSEEK_V3 = presets()["deepseek-v3"].architecture


def serve(architecture=LLAMA_8B, **changes):
    return compute_serving_memory(architecture, **({"batch_size": 8, "context_length": 8192} | changes))


@pytest.mark.parametrize(
    ("architecture", "published_bytes"),
    [
        # Zhao 2025 (arXiv 2505.09343), table 1: KV cache a token in BF16.
        (DEEPSEEK_V3, 70_272),
        (presets()["qwen2.5-72b"].architecture, 327_680),
        (presets()["llama-3.1-405b"].architecture, 516_096),
    ],
    ids=["latent", "grouped-72b", "grouped-405b"],
)
def test_a_token_takes_the_published_cache(architecture, published_bytes):
    assert cache_bytes_per_token(architecture) == published_bytes


def test_a_latent_cache_is_copied_to_every_rank_and_heads_are_split():
    assert cache_bytes_per_token(DEEPSEEK_V3, tensor_parallel=8) == cache_bytes_per_token(DEEPSEEK_V3)
    whole = cache_bytes_per_token(LLAMA_8B)
    assert cache_bytes_per_token(LLAMA_8B, tensor_parallel=8) == whole / 8
    # Eight key heads on sixteen ranks: copied.
    assert cache_bytes_per_token(LLAMA_8B, tensor_parallel=16) == whole / 8


def test_layers_with_a_window_keep_the_window():
    mistral = presets()["mistral-7b"].architecture
    assert count_cached_tokens(mistral, 32_768) == 4096
    assert count_cached_tokens(mistral, 1000) == 1000
    shape = {**LLAMA_8B.to_dict(), "sliding_window": 1024, "sliding_window_layers": 16}
    half = Architecture.from_dict(shape)
    assert count_cached_tokens(half, 9216) == (1024 + 9216) / 2


def test_weights_follow_the_precision():
    sizes = {name: count_weight_bytes(LLAMA_8B, precision=name) for name in WEIGHT_BYTES}
    assert sizes["bf16"] == 2 * LLAMA_8B.parameters
    # Meta-Llama-3.1-8B-Instruct in AWQ int4, embedding and head in 16 bits: 5.7 GB of files.
    assert sizes["int4"] == pytest.approx(5.7e9, rel=0.02)
    assert sizes["int4"] < sizes["int8"] == sizes["fp8"] < sizes["bf16"] < sizes["fp32"]


def test_parts_sum_to_the_whole_and_the_largest_batch_just_fits():
    result = serve(capacity_bytes=80 * GIB)
    parts = result.weights_bytes + result.cache_bytes + result.workspace_bytes + result.runtime_bytes
    assert result.total_bytes == pytest.approx(parts)
    assert result.fits
    assert result.cache_bytes == 8 * 8192 * 131_072
    most = result.largest_batch
    assert serve(batch_size=most, capacity_bytes=80 * GIB).fits
    assert not serve(batch_size=most + 1, capacity_bytes=80 * GIB).fits
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["largest_batch"] == most


def test_a_model_that_does_not_fit_says_so():
    result = serve(presets()["llama-3.1-405b"].architecture, capacity_bytes=80 * GIB)
    assert (result.fits, result.largest_batch) == (False, 0)
    assert serve(presets()["llama-3.1-405b"].architecture, tensor_parallel=16, capacity_bytes=80 * GIB).fits
    assert serve().fits is None


@given(
    batch=st.integers(1, 512),
    context=st.integers(1, 200_000),
    split=st.sampled_from([1, 2, 4, 8]),
    precision=st.sampled_from(sorted(WEIGHT_BYTES)),
)
def test_memory_rises_with_batch_and_context_and_falls_with_ranks(batch, context, split, precision):
    base = {"batch_size": batch, "context_length": context, "precision": precision}
    size = serve(tensor_parallel=split, **base).total_bytes
    assert serve(tensor_parallel=split, **(base | {"batch_size": batch + 1})).total_bytes > size
    assert serve(tensor_parallel=split, **(base | {"context_length": context + 1})).total_bytes > size
    assert serve(tensor_parallel=2 * split, **base).total_bytes < size or split == 8


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("batch_size", {"batch_size": 0}),
        ("context_length", {"context_length": 0}),
        ("precision", {"precision": "int3"}),
        ("cache_precision", {"cache_precision": "int4"}),
        ("tensor_parallel", {"tensor_parallel": 0}),
        ("capacity_bytes", {"capacity_bytes": math.nan}),
        ("runtime_bytes", {"runtime_bytes": -1.0}),
    ],
)
def test_bad_values_are_named(field, change):
    with pytest.raises(InvalidInput) as error:
        serve(**change)
    assert error.value.field == field
