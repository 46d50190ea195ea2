"""Memory of one device, by part, on the fullest pipeline stage."""

from dataclasses import dataclass
from typing import Final, cast

import numpy as np

from jobs.estimation.columns import QLORA_BYTES_PER_WEIGHT, Columns
from jobs.estimation.elementwise import ONE, ZERO, is_any, maximum, minimum, where
from jobs.estimation.geometry import Geometry
from jobs.estimation.plan import Booleans, Floats, add_up

MEMORY_PARTS: Final = ("weights", "gradients", "optimizer", "activations", "logits", "communication", "overhead")

_GIB: Final = 2**30
_YES: Final[Booleans] = cast("Booleans", np.True_)
_NO: Final[Booleans] = cast("Booleans", np.False_)
_RUNTIME_BYTES_ALONE: Final = 1.0 * _GIB


def activation_bytes_per_token(columns: Columns, geometry: Geometry) -> tuple[Floats, Floats, Floats]:
    """Bytes one layer keeps for the backward pass, a token: (without recomputation, selective, full)."""
    model = columns.model
    tensor = columns.plans.tp
    size = model.weight_bytes
    around = geometry.around
    # Korthikanti 2022 (arXiv 2205.05198), 4.1-4.2: norm inputs and outputs (2 + 2 tensors) and two dropout masks are
    # split only by sequence parallelism; the rest by tensor parallelism. With GPT's shape the sum is 34 + 5as/h.
    norm_outputs = 2 * size * model.hidden / around
    # RMS norms in plain code keep their input in fp32.
    outside = norm_outputs + model.keeps_fp32_norms * (8 - 2 * size) * model.hidden / around
    outside = outside + (2 * size + 2 * model.is_standard_attention) * model.hidden / around
    # Query, key, value; the attention's output is the projection's input. MLA keeps its low-rank inputs as well.
    latent = model.is_latent * (model.query_rank + model.kv_rank + model.rope_dim)
    key = where(model.is_latent, geometry.query_width, geometry.kv_width)
    value = where(model.is_latent, geometry.output_width, geometry.kv_width)
    inside = size * (geometry.query_width + key + value + geometry.output_width + latent)
    # FP8 products keep their inputs in 8 bits beside what 16-bit kernels need (Transformer Engine): MLP inputs halve.
    kept_size = where(model.is_quantised, 0.75 * size, size)
    activation_inputs = (model.mlp_matrices - 1) * size + kept_size
    # Plain code keeps the activation function's output beside the gated product, whose own use is as the input of the
    # last matrix: one that is frozen needs none.
    is_gated = model.mlp_matrices == 3
    is_down_frozen = model.is_adapter * (model.adapted_mlp_inputs == 0)
    activation_inputs = activation_inputs + model.is_eager * size * (is_gated - is_down_frozen)
    inside = inside + activation_inputs * geometry.mlp_width
    # Routed tokens: their input once more, and the experts' MLP, for each expert a token goes to.
    routed = geometry.moe_share * model.experts_per_token / tensor
    inside = inside + routed * (2 * kept_size * model.hidden + activation_inputs * model.expert_width)
    # Softmax output, dropout mask and dropout output over the whole score matrix: 5 a s at 2 bytes; log-sum-exp only
    # with the flash kernel.
    matrix = (2 * size + 1) * model.heads * model.sequence / tensor
    scores = where(model.is_standard_attention, matrix, 4 * model.heads / tensor)
    # LoRA's dropout keeps its output and mask.
    dropped = model.adapted_inputs * model.hidden + model.adapted_mlp_inputs * geometry.mlp_width
    # bitsandbytes keeps the input of each 4-bit product although its weight is frozen (MatMul4Bit), in a copy of its
    # own as litgpt's readings show.
    products = model.is_quantised_base * 2 * (3 * model.hidden + geometry.mlp_width)
    none = outside + inside + scores + model.is_eager * ((size + 1) * dropped + products)
    # Selective: the scores (standard kernel), or norm outputs and the activation function's output (flash kernel).
    # Megatron Core also recomputes MLA's up-projections, which are far wider than their low-rank inputs.
    cheap = norm_outputs + kept_size * (geometry.mlp_width + routed * model.expert_width)
    cheap = cheap + model.is_latent * size * (geometry.query_width + key + value)
    selective = none - where(model.is_standard_attention, scores, cheap)
    return none, selective, size * model.hidden / around


def count_in_flight(columns: Columns, geometry: Geometry, rank: Floats) -> Floats:
    """Micro-batches (of a whole stage) whose activations pipeline stage `rank` holds at once.

    1F1B: min(m, p - rank). Interleaved: warm-up of 2 (p - rank - 1) + (v - 1) p chunks, and one
    (Narayanan 2021, arXiv 2104.04473, 2.2; Megatron-LM schedules.py), which gives 1 + (p - 1)/(p v) for rank 0.
    """
    plans = columns.plans
    plain = minimum(geometry.micro_batches, plans.pp - rank)
    chunks = 2 * (plans.pp - rank - 1) + (plans.virtual - 1) * plans.pp + 1
    interleaved = minimum(chunks, geometry.micro_batches * plans.virtual) / plans.virtual
    return where(plans.virtual > 1, interleaved, plain)


def compute_memory(columns: Columns, geometry: Geometry) -> dict[str, Floats]:
    """Bytes by part on the fullest stage: first (most in flight), second (no embedding) or last (logits)."""
    plans = columns.plans
    is_single = plans.pp == 1
    if not is_any(plans.pp > 1):
        stages = _Stages(layers=geometry.first_layers, rank=ZERO, has_embedding=_YES, has_head=_YES)
        return _compute_parts(columns, geometry, stages)
    if not isinstance(plans.pp, np.ndarray):
        return _compute_memory_of_one(columns, geometry)
    size = columns.size
    # One row a stage: the formulas are then run once for all three.
    stages = _Stages(
        layers=np.stack(
            [
                np.broadcast_to(values, size)
                for values in (geometry.first_layers, geometry.middle_layers, geometry.last_layers)
            ]
        ),
        rank=np.stack([np.zeros(size), np.ones(size), plans.pp - 1.0]),
        has_embedding=np.stack([np.ones(size, dtype=np.bool_), np.zeros(size, dtype=np.bool_), is_single]),
        has_head=np.stack([is_single, np.zeros(size, dtype=np.bool_), np.ones(size, dtype=np.bool_)]),
    )
    parts = _compute_parts(columns, geometry, stages)
    totals = add_up(parts)
    totals[1] = where(plans.pp > 2, totals[1], -1.0)
    fullest = totals.argmax(axis=0)
    row = np.arange(size)
    # What does not depend on the stage has one row only.
    return {name: values[fullest, row] if values.ndim == 2 else values for name, values in parts.items()}


def _compute_memory_of_one(columns: Columns, geometry: Geometry) -> dict[str, Floats]:
    """The same for a single plan with a pipeline."""
    last = columns.plans.pp - ONE
    no, yes = _NO, _YES
    stages = [
        _Stages(layers=geometry.first_layers, rank=ZERO, has_embedding=yes, has_head=no),
        _Stages(layers=geometry.last_layers, rank=last, has_embedding=no, has_head=yes),
    ]
    if last > 1:
        stages.append(_Stages(layers=geometry.middle_layers, rank=ONE, has_embedding=no, has_head=no))
    return max((_compute_parts(columns, geometry, stage) for stage in stages), key=lambda parts: float(add_up(parts)))


@dataclass(kw_only=True, eq=False, repr=False)
class _Stages:
    """Pipeline stages to look at: one, or three rows of them."""

    layers: Floats
    rank: Floats
    has_embedding: Booleans
    has_head: Booleans


def _kept_per_token(columns: Columns, geometry: Geometry) -> tuple[Floats, Floats, Floats]:
    """(kept by a layer that is not recomputed, by a recomputed one, at work in one layer), bytes a token."""
    recompute = columns.plans.recompute
    none, selective, full = activation_bytes_per_token(columns, geometry)
    plain = where(recompute == 1, selective, none)
    flowing = _flowing_per_token(columns, geometry)
    # The layer being recomputed exists once, and the gradients that flow through one layer.
    transient = flowing + where(recompute == 2, none, 0.0)
    return plain, where(recompute == 2, full, plain), transient


def _flowing_per_token(columns: Columns, geometry: Geometry) -> Floats:
    model = columns.model
    routed = geometry.moe_share * model.experts_per_token / columns.plans.tp
    width = (model.mlp_matrices - 1) * (geometry.mlp_width + routed * model.expert_width) + routed * model.hidden
    return model.weight_bytes * (2 * model.hidden / geometry.around + width)


def count_fixed_bytes(columns: Columns) -> Floats:
    """Memory that is taken before a tensor is: context, libraries, buffers for communication."""
    # Plain NumPy has no driver context and no communication library beside what the accelerator's entry says.
    libraries = _GIB * columns.framework.runtime_gib * columns.machine.is_asynchronous
    # One device has no communicators: what is left is the context and the workspace of the matrix library.
    plans = columns.plans
    is_alone = plans.tp * plans.pp * plans.dp * plans.cp == 1
    runtime = columns.machine.runtime_bytes
    return where(is_alone, minimum(runtime, _RUNTIME_BYTES_ALONE), runtime) + libraries


def _compute_parts(columns: Columns, geometry: Geometry, stages: _Stages) -> dict[str, Floats]:
    parts = _compute_states(columns, geometry, stages)
    parts |= _compute_activations(columns, geometry, stages)
    moving = parts["activations"] + parts["logits"] + parts["communication"]
    # The step comes after the backward pass: what it needs counts only as far as it is more than that pass did.
    parts["optimizer"] = parts["optimizer"] + maximum(_count_step_bytes(columns, parts) - moving, 0.0)
    fixed = count_fixed_bytes(columns)
    # A caching allocator keeps what it can, and gives it back before it fails: its loss never decides what fits.
    needed = add_up(parts) + fixed
    room = maximum(columns.machine.memory_bytes - needed, 0.0)
    parts["overhead"] = fixed + minimum(columns.everything.fragmentation * moving, room)
    return {name: parts[name] for name in MEMORY_PARTS}


def _count_step_bytes(columns: Columns, parts: dict[str, Floats]) -> Floats:
    """Temporary memory of the optimizer step.

    PyTorch's multi-tensor AdamW takes the root of all second moments at once, which is one more tensor in the states'
    type for each trained weight (torch/optim/adamw.py, `_multi_tensor_adamw`).
    """
    return parts["optimizer"] * columns.model.step_share


def _compute_states(columns: Columns, geometry: Geometry, stages: _Stages) -> dict[str, Floats]:
    """Weights, gradients, optimizer states and the buffers that sharding them costs."""
    model = columns.model
    plans = columns.plans
    size = model.weight_bytes
    layers = stages.layers
    ends = where(stages.has_embedding, geometry.embedding_parameters, 0.0)
    ends = ends + where(stages.has_head, geometry.head_parameters, 0.0)
    dense = layers * (geometry.dense_parameters + geometry.other_parameters) + ends
    experts = layers * geometry.expert_parameters
    adapters = layers * model.adapter_parameters / plans.tp
    trained = where(model.is_adapter, adapters, dense)
    trained_experts = where(model.is_adapter, 0.0, experts)
    zero = plans.zero
    shards = geometry.shards
    expert_shards = minimum(geometry.expert_shards, shards)
    # Rajbhandari 2019 (arXiv 1910.02054), figure 1: stage 1 shards states, 2 also gradients, 3 also weights.
    of_weights, of_gradients, of_states = (where(zero >= stage, shards, 1) for stage in (3, 2, 1))
    experts_of_weights, experts_of_gradients, experts_of_states = (
        where(zero >= stage, expert_shards, 1) for stage in (3, 2, 1)
    )
    quantised = layers * (geometry.dense_parameters + geometry.expert_parameters) * model.is_quantised_base
    base = size * (dense + experts) - (size - QLORA_BYTES_PER_WEIGHT) * quantised
    base = base + (4 - size) * ends * model.has_fp32_ends
    # A frozen reference model stands beside the trained one in preference tuning (Rafailov 2023, arXiv 2305.18290).
    copies = 1 + model.is_preference
    share = where(experts > 0, experts / maximum(dense + experts, 1.0), 0.0)
    weights = copies * base * ((1 - share) / of_weights + share / experts_of_weights)
    # FSDP shards the fp32 parameters, which are the master copy, and casts what it gathers.
    is_master_enough = (model.is_fsdp > 0) & (zero >= 3) & (shards > 1) & (model.is_adapter == 0)
    weights = where(is_master_enough, maximum(weights - base / of_weights, 0.0), weights)
    weights = weights + where(model.is_adapter, size * adapters / of_weights, 0.0)
    gradients = model.gradient_bytes * (trained / of_gradients + trained_experts / experts_of_gradients)
    states = model.state_bytes * (trained / of_states + trained_experts / experts_of_states)
    # Two layers gathered at a time (FSDP prefetch), and one layer's gradients before they are reduced.
    layer = geometry.dense_parameters + geometry.other_parameters
    layer = layer + where(expert_shards > 1, geometry.expert_parameters, 0.0)
    gathered = where((zero >= 3) & (shards > 1), 2 * size * layer + size * maximum(ends - layer, 0.0), 0.0)
    # Never more than what sharding saves, with what the allocator loses on the buffer.
    unsharded = copies * base + where(model.is_adapter, size * adapters, 0.0)
    saved = maximum(unsharded - weights, 0.0) / (1 + columns.everything.fragmentation)
    gathered = minimum(gathered, saved)
    bucket = where((zero >= 2) & (shards > 1), size * (trained + trained_experts) / maximum(layers, 1), 0.0)
    dequantised = size * model.is_quantised_base * geometry.dense_parameters
    # ZeRO-Offload (arXiv 2101.06840): states, or weights, too, live in host memory; two buckets stay on the device.
    is_offloaded = plans.offload >= 1
    states = where(is_offloaded, 0.0, states)
    weights = where(plans.offload >= 2, minimum(weights, 2 * size * layer), weights)
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": states,
        "communication": gathered + bucket + dequantised,
    }


def _compute_activations(columns: Columns, geometry: Geometry, stages: _Stages) -> dict[str, Floats]:
    model = columns.model
    plans = columns.plans
    plain, recomputed, transient = _kept_per_token(columns, geometry)
    layers = stages.layers
    again = where(plans.recomputed_layers > 0, minimum(plans.recomputed_layers, layers), layers)
    stage = again * recomputed + (layers - again) * plain
    in_flight = count_in_flight(columns, geometry, stages.rank)
    # Final norm's input and output, and the logits.
    head = (
        model.logits_bytes * np.ceil(model.vocabulary / plans.tp)
        + 2 * model.weight_bytes * model.hidden / geometry.around
    )
    return {
        "activations": geometry.tokens * (in_flight * stage + transient),
        "logits": where(stages.has_head, geometry.tokens * head, 0.0),
    }
