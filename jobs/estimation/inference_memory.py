"""Memory of serving a model: weights and the cache of keys and values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from jobs.estimation.architecture import Architecture
from jobs.estimation.validation import check_choice, check_integer, check_number

# Bytes a number. int4: 4 bits and a 16-bit scale and zero point for each 128 (GPTQ, arXiv 2210.17323; AWQ, 2306.00978).
WEIGHT_BYTES: Final[Mapping[str, float]] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5 + 4 / 128,
}
CACHE_BYTES: Final[Mapping[str, float]] = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0}

_QUANTISED: Final = ("fp8", "int8", "int4")
_GIB: Final = 2**30
# Context of the runtime and buffers of the collectives, as in training (traps of memory definitions: 1 to 3 GiB).
DEFAULT_RUNTIME_BYTES: Final = 2 * _GIB


def cache_bytes_per_token(architecture: Architecture, *, precision: str = "bf16", tensor_parallel: int = 1) -> float:
    """Bytes that one token of context adds on a device, in layers without a sliding window all alike.

    Keys and values of each key-value head (Ainslie 2023, arXiv 2305.13245, for grouped queries), split over tensor
    ranks as far as there are heads and copied beyond. The latent vector of MLA (DeepSeek-V2, arXiv 2405.04434, 2.1)
    serves all heads, so every rank keeps all of it.
    """
    check_choice("cache_precision", precision, CACHE_BYTES)
    check_integer("tensor_parallel", tensor_parallel, minimum=1, maximum=65_536)
    return architecture.num_hidden_layers * _cache_numbers(architecture, tensor_parallel) * CACHE_BYTES[precision]


def _cache_numbers(architecture: Architecture, tensor_parallel: int) -> float:
    """Numbers a layer keeps for a token on one rank."""
    if architecture.is_mla:
        return architecture.cache_size
    heads = -(-architecture.num_key_value_heads // tensor_parallel)
    return architecture.cache_size / architecture.num_key_value_heads * heads


def count_cached_tokens(architecture: Architecture, context_length: int) -> float:
    """Tokens that a layer keeps of a sequence, the mean over layers: those with a sliding window keep the window."""
    check_integer("context_length", context_length, minimum=1, maximum=1_000_000_000)
    window = architecture.sliding_window
    if not window or window >= context_length:
        return float(context_length)
    layers = architecture.num_hidden_layers
    limited = architecture.sliding_window_layers or layers
    return (limited * window + (layers - limited) * context_length) / layers


@dataclass(frozen=True, kw_only=True)
class ServingMemory:
    """Memory of one device that serves a model, by part, and what else would fit."""

    weights_bytes: float
    cache_bytes: float
    workspace_bytes: float
    runtime_bytes: float
    total_bytes: float
    capacity_bytes: float | None
    fits: bool | None
    cache_bytes_per_token: float
    largest_batch: int | None
    """Sequences of the given context that fit; None without a capacity."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compute_serving_memory(
    architecture: Architecture,
    *,
    batch_size: int,
    context_length: int,
    precision: str = "bf16",
    cache_precision: str | None = None,
    tensor_parallel: int = 1,
    prefill_tokens: int = 2048,
    capacity_bytes: float | None = None,
    runtime_bytes: float = DEFAULT_RUNTIME_BYTES,
) -> ServingMemory:
    """Memory of serving `batch_size` sequences of `context_length` tokens (prompt and answer) at once.

    Quantised weights (fp8, int8, int4) leave embedding and head in 16 bits, as quantisers do. The cache is in 16 bits
    unless `cache_precision` says otherwise. The workspace holds one layer's activations of `prefill_tokens` tokens (the
    piece of a prompt that is processed at once) and fp32 logits of the batch. Tensor parallelism splits all weights.
    Raises InvalidInput.
    """
    check_choice("precision", precision, WEIGHT_BYTES)
    check_integer("batch_size", batch_size, minimum=1, maximum=10_000_000)
    check_integer("prefill_tokens", prefill_tokens, minimum=1, maximum=10_000_000)
    check_number("runtime_bytes", runtime_bytes, minimum=0.0, maximum=1e15)
    if capacity_bytes is not None:
        check_number("capacity_bytes", capacity_bytes, minimum=1.0, maximum=1e18)
    size = 4.0 if precision == "fp32" else 2.0
    per_token = cache_bytes_per_token(
        architecture,
        precision=cache_precision or ("fp32" if precision == "fp32" else "bf16"),
        tensor_parallel=tensor_parallel,
    )
    weights = count_weight_bytes(architecture, precision=precision) / tensor_parallel
    per_sequence = per_token * count_cached_tokens(architecture, context_length)
    widest = max(architecture.intermediate_size, architecture.experts_per_token * architecture.expert_intermediate_size)
    layer = 2 * architecture.hidden_size + (architecture.mlp_matrices - 1) * widest / tensor_parallel
    logits_per_sequence = 4.0 * architecture.vocab_size / tensor_parallel
    workspace = size * min(prefill_tokens, batch_size * context_length) * layer + logits_per_sequence * batch_size
    total = weights + per_sequence * batch_size + workspace + runtime_bytes
    largest = None
    if capacity_bytes is not None:
        room = capacity_bytes - (total - batch_size * (per_sequence + logits_per_sequence))
        largest = max(0, int(room // (per_sequence + logits_per_sequence)))
    return ServingMemory(
        weights_bytes=weights,
        cache_bytes=per_sequence * batch_size,
        workspace_bytes=workspace,
        runtime_bytes=runtime_bytes,
        total_bytes=total,
        capacity_bytes=capacity_bytes,
        fits=None if capacity_bytes is None else total <= capacity_bytes,
        cache_bytes_per_token=per_token,
        largest_batch=largest,
    )


def count_weight_bytes(architecture: Architecture, *, precision: str) -> float:
    """Bytes of all weights; quantisation leaves embedding and head in 16 bits."""
    check_choice("precision", precision, WEIGHT_BYTES)
    parameters = architecture.parameters
    if precision not in _QUANTISED:
        return WEIGHT_BYTES[precision] * parameters
    ends = architecture.embedding_parameters + architecture.head_parameters
    return WEIGHT_BYTES[precision] * (parameters - ends) + 2.0 * ends
