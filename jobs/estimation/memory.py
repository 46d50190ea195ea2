"""Memory of one device, by part, on the fullest pipeline stage."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from jobs.estimation.flops import adapter_parameters_per_layer
from jobs.estimation.geometry import Geometry
from jobs.estimation.hardware import Machine
from jobs.estimation.plan import Booleans, Floats, PlanColumns
from jobs.estimation.workload import Workload

MEMORY_PARTS: Final = ("weights", "gradients", "optimizer", "activations", "logits", "communication", "overhead")

# NF4 with double quantisation: 4 + 8/64 + 32/(64 x 256) = 4.127 bits (Dettmers 2023, arXiv 2305.14314, section 3).
QLORA_BYTES_PER_WEIGHT: Final = 4.127 / 8

# Optimizer state a parameter; with 16-bit weights a fp32 master copy is part of it.
# Rajbhandari 2019 (arXiv 1910.02054), 3.1: Adam K = 12. 8-bit states: Dettmers 2021 (arXiv 2110.02861).
_STATE_BYTES: Final[Mapping[str, float]] = {
    "adamw": 8.0,
    "adamw_8bit": 2.0,
    "lion": 4.0,
    "sgd_momentum": 4.0,
    "sgd": 0.0,
}

# Gradients are kept in fp32 while micro-batches accumulate (Megatron-LM main gradients).
_GRADIENT_BYTES: Final = 4.0

# Logits in fp32 and their gradient (4 s b V, Korthikanti 2022, 4.3, twice: the loss is not fused).
_LOGITS_BYTES: Final = 8.0

# Share of the moving part that a caching allocator loses. SimuMax documents 0.06 against the allocator's own count;
# device-level readings of BLOOM's and FlagPerf's logs need 0.10.
_FRAGMENTATION: Final = 0.10


def bytes_per_weight(workload: Workload) -> float:
    return 4.0 if workload.precision == "fp32" else 2.0


def optimizer_bytes_per_parameter(workload: Workload) -> float:
    """Optimizer states and, with 16-bit weights, the fp32 master copy."""
    master = 0.0 if workload.precision == "fp32" else 4.0
    return _STATE_BYTES[workload.optimizer] + master


def activation_bytes_per_token(workload: Workload, plans: PlanColumns, geometry: Geometry) -> tuple[Floats, Floats]:
    """Bytes one layer keeps for the backward pass, a token: (as the plan's recomputation says, without any)."""
    arch = workload.architecture
    size = bytes_per_weight(workload)
    hidden = arch.hidden_size
    is_standard = workload.attention_kernel == "standard"
    # Korthikanti 2022 (arXiv 2205.05198), 4.1-4.2: norm inputs and outputs (2 + 2 tensors) and two dropout masks are
    # split only by sequence parallelism; the rest by tensor parallelism. With GPT's shape the sum is 34 + 5as/h.
    around = np.where(plans.sequence, plans.tp, 1)
    norm_outputs = 2 * size * hidden / around
    outside = norm_outputs + (2 * size * hidden + (2 * hidden if is_standard else 0)) / around
    query = arch.query_size / plans.tp
    # Query, key, value; the attention's output is the projection's input; log-sum-exp of the flash kernel.
    inside = size * (2 * query + 2 * geometry.kv_width)
    inside = inside + size * (3 if arch.gated_mlp else 2) * arch.intermediate_size / plans.tp
    if is_standard:
        # Softmax output, dropout mask and dropout output over the whole score matrix: 5 a s at 2 bytes.
        scores = (2 * size + 1) * arch.num_attention_heads * workload.sequence_length / plans.tp
    else:
        scores = 4 * arch.num_attention_heads / plans.tp
    none = outside + inside + scores
    selective = none - (scores if is_standard else norm_outputs)
    full = size * hidden / around
    kept = np.choose(plans.recompute, [none, selective, full])
    return kept, none


def count_in_flight(plans: PlanColumns, geometry: Geometry, rank: Floats) -> Floats:
    """Micro-batches (of a whole stage) whose activations pipeline stage `rank` holds at once.

    1F1B: min(m, p - rank). Interleaved: warm-up of 2 (p - rank - 1) + (v - 1) p chunks, and one
    (Narayanan 2021, arXiv 2104.04473, 2.2; Megatron-LM schedules.py), which gives 1 + (p - 1)/(p v) for rank 0.
    """
    plain = np.minimum(geometry.micro_batches, plans.pp - rank)
    chunks = 2 * (plans.pp - rank - 1) + (plans.virtual - 1) * plans.pp + 1
    interleaved = np.minimum(chunks, geometry.micro_batches * plans.virtual) / plans.virtual
    return np.where(plans.virtual > 1, interleaved, plain).astype(np.float64)


def compute_memory(workload: Workload, machine: Machine, plans: PlanColumns, geometry: Geometry) -> dict[str, Floats]:
    """Bytes by part on the fullest stage: first (most in flight), second (no embedding) or last (logits)."""
    candidates = [
        _compute_stage(workload, machine, plans, geometry, stage=stage) for stage in ("first", "inner", "last")
    ]
    totals = np.stack([np.sum(list(parts.values()), axis=0) for parts in candidates])
    totals[1] = np.where(plans.pp > 2, totals[1], -1.0)
    fullest = totals.argmax(axis=0)
    return {name: np.choose(fullest, [parts[name] for parts in candidates]) for name in MEMORY_PARTS}


def _compute_stage(
    workload: Workload, machine: Machine, plans: PlanColumns, geometry: Geometry, *, stage: str
) -> dict[str, Floats]:
    is_single = plans.pp == 1
    ones = np.ones(len(plans))
    if stage == "first":
        layers, rank, has_embedding, has_head = geometry.first_layers, 0.0 * ones, ones > 0, is_single
    elif stage == "inner":
        layers, rank, has_embedding, has_head = geometry.middle_layers, ones, ones < 0, ones < 0
    else:
        layers, rank, has_embedding, has_head = geometry.last_layers, plans.pp - ones, is_single, ones > 0
    parts = _compute_states(workload, plans, geometry, layers=layers, has_embedding=has_embedding, has_head=has_head)
    parts |= _compute_activations(workload, plans, geometry, layers=layers, rank=rank, has_head=has_head)
    moving = parts["activations"] + parts["logits"] + parts["communication"]
    parts["overhead"] = machine.accelerator.runtime_overhead_bytes + _FRAGMENTATION * moving
    return parts


def _compute_states(
    workload: Workload,
    plans: PlanColumns,
    geometry: Geometry,
    *,
    layers: Floats,
    has_embedding: Booleans,
    has_head: Booleans,
) -> dict[str, Floats]:
    """Weights, gradients, optimizer states and the buffers that sharding them costs."""
    size = bytes_per_weight(workload)
    shards = geometry.shards
    ends = np.where(has_embedding, geometry.embedding_parameters, 0.0)
    ends = ends + np.where(has_head, geometry.head_parameters, 0.0)
    parameters = layers * geometry.layer_parameters + ends
    if workload.is_adapter:
        trainable = layers * adapter_parameters_per_layer(workload) / plans.tp
        base = size * parameters
        if workload.task == "qlora":
            matrices = layers * geometry.layer_matmul_parameters
            base = QLORA_BYTES_PER_WEIGHT * matrices + size * (parameters - matrices)
        weights = base + size * trainable
    else:
        trainable = parameters
        weights = size * parameters
    gradients = _GRADIENT_BYTES * trainable
    states = optimizer_bytes_per_parameter(workload) * trainable
    # Rajbhandari 2019 (arXiv 1910.02054), figure 1: stage 1 shards states, 2 also gradients, 3 also weights.
    kept_weights = np.where(plans.zero >= 3, weights / shards, weights)
    kept_gradients = np.where(plans.zero >= 2, gradients / shards, gradients)
    kept_states = np.where(plans.zero >= 1, states / shards, states)
    # Two layers gathered at a time (FSDP prefetch), and one layer's gradients before they are reduced; never more
    # than what sharding saved.
    gathered = np.where(plans.zero >= 3, np.minimum(2 * size * geometry.layer_parameters, weights - kept_weights), 0.0)
    bucket = np.where(plans.zero >= 2, np.minimum(gradients / np.maximum(layers, 1), gradients - kept_gradients), 0.0)
    dequantised = size * geometry.layer_matmul_parameters if workload.task == "qlora" else 0.0
    return {
        "weights": kept_weights,
        "gradients": kept_gradients,
        "optimizer": kept_states,
        "communication": gathered + bucket + dequantised,
    }


def _compute_activations(
    workload: Workload,
    plans: PlanColumns,
    geometry: Geometry,
    *,
    layers: Floats,
    rank: Floats,
    has_head: Booleans,
) -> dict[str, Floats]:
    arch = workload.architecture
    size = bytes_per_weight(workload)
    kept, whole_layer = activation_bytes_per_token(workload, plans, geometry)
    in_flight = count_in_flight(plans, geometry, rank)
    # The layer being recomputed, or else the gradients flowing through one layer, exist once.
    around = np.where(plans.sequence, plans.tp, 1)
    flowing = size * (2 * arch.hidden_size / around + (arch.mlp_matrices - 1) * arch.intermediate_size / plans.tp)
    transient = np.where(plans.recompute == 2, whole_layer + flowing, flowing)
    # Final norm's input and output, and the logits.
    head = geometry.tokens * (
        _LOGITS_BYTES * np.ceil(arch.vocab_size / plans.tp) + 2 * size * arch.hidden_size / around
    )
    return {
        "activations": geometry.tokens * (in_flight * layers * kept + transient),
        "logits": np.where(has_head, head, 0.0),
    }
