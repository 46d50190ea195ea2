"""Time of one optimizer step, by part."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from jobs.estimation.columns import Columns
from jobs.estimation.communication_time import (
    compute_context_parallel,
    compute_data_parallel,
    compute_expert_parallel,
    compute_moe_age,
    compute_pipeline_transfer,
    compute_tensor_parallel,
)
from jobs.estimation.elementwise import ZERO, is_any, maximum, minimum, where
from jobs.estimation.flops import MASKED_SHARE
from jobs.estimation.geometry import Geometry
from jobs.estimation.plan import Floats

STEP_PARTS: Final = (
    "matmul",
    "attention",
    "elementwise",
    "logits",
    "recomputation",
    "tensor_parallel",
    "context_parallel",
    "expert_parallel",
    "host_overhead",
    "pipeline_bubble",
    "pipeline_transfer",
    "data_parallel",
    "optimizer",
    "offload",
    "step_overhead",
)

# Passes of the flash kernel: backward does 5 products where forward does 2 (Dao 2022, arXiv 2205.14135, algorithm 4).
_FLASH_BACKWARD: Final = 2.5
# Recomputing the forward pass launches as many kernels as the forward pass, about a third of forward and backward.
_HOST_SHARE_OF_FORWARD: Final = 1 / 3
# Kernels work on tiles of 128 keys, so the diagonal of a causal mask costs half a tile more.
_TILE: Final = 128.0
# Of the fp32 peak, which vector units reach far more easily than matrix units reach theirs (NVIDIA's BERT tables).
_VECTOR_FRACTION: Final = 0.9
# Logits: fp32 copy, maximum, exponentials, gradient: about five passes over 4 bytes.
_LOGITS_TRAFFIC: Final = 20.0


@dataclass(kw_only=True, eq=False, repr=False)
class LayerTime:
    """Seconds of one layer (the mean of dense and mixture layers) and one micro-batch on one rank."""

    matmul: Floats
    attention: Floats
    elementwise: Floats
    recomputation: Floats


def compute_step_time(columns: Columns, geometry: Geometry) -> dict[str, Floats]:
    """Seconds of one step by part; their sum is the step.

    The slowest stage is busy for all micro-batches; the pipeline's fill and drain, the exposed part of the
    communication and the optimizer come on top.
    """
    plans = columns.plans
    layer = _compute_layer(columns, geometry)
    logits = _compute_logits(columns, geometry)
    tensor = compute_tensor_parallel(columns, geometry)
    context = compute_context_parallel(columns, geometry, attention=layer.attention)
    expert = compute_expert_parallel(columns, geometry)
    busy_layer = layer.matmul + layer.attention + layer.elementwise + layer.recomputation + tensor + context + expert

    # The stage with most work: an inner one, or the last with the output projection.
    inner = geometry.middle_layers * busy_layer
    last = geometry.last_layers * busy_layer + logits
    is_last_slowest = last >= where(plans.pp > 1, inner, 0.0)
    layers = where(is_last_slowest, geometry.last_layers, geometry.middle_layers)
    stage_logits = where(is_last_slowest, logits, 0.0)
    device = layers * busy_layer + stage_logits
    launch = _compute_launch(columns, geometry)
    host = layers * launch
    # A GPU works while the host launches ahead, so only the longer of the two counts; NumPy does one after the other.
    host = where(columns.machine.is_asynchronous, maximum(0.0, host - device), host)

    micro_batches = geometry.micro_batches
    times = micro_batches * layers
    parts = {
        "matmul": times * layer.matmul,
        "attention": times * layer.attention,
        "elementwise": times * layer.elementwise,
        "logits": micro_batches * stage_logits,
        "recomputation": times * layer.recomputation,
        "tensor_parallel": times * tensor,
        "context_parallel": times * context,
        "expert_parallel": times * expert,
        "host_overhead": micro_batches * host,
    }
    # Narayanan 2021 (arXiv 2104.04473), 2.2: (p - 1)/v times forward and backward of one micro-batch on one stage.
    # ZB-H1 (arXiv 2401.10241, table 2) fills a third of it with weight gradients.
    mean_device = (columns.model.layers * busy_layer + logits) / plans.pp
    mean_host = columns.model.layers * launch / plans.pp
    is_ahead = columns.machine.is_asynchronous
    mean_stage = where(is_ahead, maximum(mean_device, mean_host), mean_device + mean_host)
    filled = where(plans.schedule == 1, 1 / 3, 0.0)
    parts["pipeline_bubble"] = (plans.pp - 1) / plans.virtual * mean_stage * (1 - filled)
    parts["pipeline_transfer"] = compute_pipeline_transfer(columns, geometry)
    parts["data_parallel"] = compute_data_parallel(columns, geometry, micro_batch=device + host)
    parts["optimizer"] = _compute_optimizer(columns, geometry)
    parts["offload"] = _compute_offload(columns, geometry)
    # Synchronising and logging; nothing beside the work itself where one core does it all.
    parts["step_overhead"] = columns.framework.step_overhead_s * columns.machine.is_asynchronous
    slowdown = _straggling(columns) * np.exp(columns.everything.yearly_gain * columns.model.software_age)
    whole = np.zeros(columns.size)
    return {name: parts[name] * slowdown + whole for name in STEP_PARTS}


def _straggling(columns: Columns) -> Floats:
    """Slowdown of many nodes: the slowest of them sets the pace; grows with the logarithm of their number."""
    plans = columns.plans
    nodes = maximum(plans.tp * plans.pp * plans.dp * plans.cp / columns.machine.node, 1.0)
    return 1 + columns.everything.straggler * np.log2(nodes)


def _compute_launch(columns: Columns, geometry: Geometry) -> Floats:
    """Time of the host to launch one layer's kernels for a micro-batch."""
    model = columns.model
    framework = columns.framework
    everything = columns.everything
    again = where(columns.plans.recompute == 2, _HOST_SHARE_OF_FORWARD, 0.0)
    kernels = where(model.is_standard_attention, everything.standard_launch_factor, 1.0)
    plain = framework.launch_s_per_layer * kernels + geometry.moe_share * (
        everything.moe_launch_s_per_layer + everything.moe_launch_s_per_expert * model.experts / columns.plans.ep
    ) * compute_moe_age(columns)
    return columns.family.launch_factor * plain * (1 + again + model.is_preference * _HOST_SHARE_OF_FORWARD)


def matmul_rate(columns: Columns) -> Floats:
    """FLOP/s of a very large product on one device."""
    machine = columns.machine
    family = columns.family
    fraction = where(columns.model.is_quantised, family.fp8_matmul_fraction, family.matmul_fraction)
    fraction = where(columns.model.is_fp32, _VECTOR_FRACTION, fraction)
    fraction = where(machine.is_measured, 1.0, fraction / columns.framework.slowdown)
    return machine.matmul_peak * fraction


def _memory_seconds(columns: Columns, moved_bytes: Floats) -> Floats:
    return moved_bytes / (columns.machine.memory_rate * columns.family.memory_fraction)


def _compute_layer(columns: Columns, geometry: Geometry) -> LayerTime:
    model = columns.model
    plans = columns.plans
    everything = columns.everything
    forward = _compute_products(columns, geometry)
    # Backward: gradients of inputs and of weights; frozen weights need only the first. Weight gradients are added to
    # the fp32 accumulator: read and written once a micro-batch.
    held = geometry.dense_parameters + geometry.expert_parameters
    accumulate = _memory_seconds(columns, columns.framework.gradient_traffic_bytes * held)
    passes = where(model.is_adapter, 1.0, 2.0)
    adapters = 6 * geometry.worked_tokens * model.adapter_parameters / plans.tp / matmul_rate(columns)
    reference = model.is_preference * forward
    matmul = (1 + passes) * forward + where(model.is_adapter, 2 * adapters, accumulate) + reference

    attention_forward = _compute_attention(columns, geometry)
    is_standard = model.is_standard_attention
    attention = attention_forward * (where(is_standard, 3.0, 1.0 + _FLASH_BACKWARD) + model.is_preference)

    moved = _count_elementwise_bytes(columns, geometry) * columns.framework.traffic_factor
    # Scores written, scaled, masked and normalised, dropped out, read: about 13 bytes an element at 2 bytes each.
    scores = 6.5 * model.weight_bytes * model.heads * model.sequence / plans.tp * is_standard
    elementwise_forward = _memory_seconds(columns, geometry.worked_tokens * (moved + scores))
    elementwise = (3 + model.is_preference) * elementwise_forward

    core_again = where(
        is_standard,
        attention_forward + _memory_seconds(columns, geometry.worked_tokens * scores),
        _memory_seconds(columns, geometry.worked_tokens * 8.0 * model.hidden / geometry.around),
    )
    whole_again = everything.recompute_factor * (forward + attention_forward + elementwise_forward)
    share = where(plans.recomputed_layers > 0, minimum(plans.recomputed_layers / geometry.middle_layers, 1.0), 1.0)
    again = where(plans.recompute == 2, whole_again, where(plans.recompute == 1, core_again, 0.0))
    return LayerTime(matmul=matmul, attention=attention, elementwise=elementwise, recomputation=share * again)


def _compute_products(columns: Columns, geometry: Geometry) -> Floats:
    """Seconds of a layer's matrix products forward.

    Roofline without overlap: arithmetic, and a share of the operands' traffic: a product of (M, K) and (K, N) moves
    MK + KN + MN values. Summed over products, M (K + N) is the tokens times the widths, and KN the weights.
    """
    model = columns.model
    tokens = geometry.worked_tokens
    rate = matmul_rate(columns)
    size = model.operand_bytes
    tensor = columns.plans.tp
    flop = 2 * tokens * geometry.dense_parameters
    mlp_widths = (model.mlp_matrices + 1) * geometry.mlp_width + 3 * model.hidden
    widths = 2 * model.hidden + geometry.query_width + 2 * geometry.kv_width + geometry.output_width + mlp_widths
    traffic = tokens * widths + geometry.dense_parameters
    seconds = flop / rate
    if is_any(geometry.moe_share):
        routed = tokens * geometry.moe_share * model.experts_per_token / tensor
        one_expert = model.mlp_matrices * model.hidden * model.expert_width
        narrow = columns.everything.narrow_expert_width / maximum(model.expert_width, 1.0)
        seconds = seconds + 2 * routed * one_expert / rate * (1 + narrow * compute_moe_age(columns))
        expert_widths = (model.mlp_matrices + 1) * model.expert_width + 3 * model.hidden
        traffic = traffic + routed * expert_widths + geometry.expert_parameters
    moved = _memory_seconds(columns, columns.everything.gemm_traffic * size * traffic)
    return seconds + moved


def _compute_attention(columns: Columns, geometry: Geometry) -> Floats:
    """Seconds of a layer's attention core forward: scores and weighted values."""
    model = columns.model
    # The unfused kernel computes the masked half of the scores, too.
    full = where(model.is_standard_attention, model.sequence, minimum(model.span + _TILE / 2, model.sequence))
    flop = 2 * geometry.worked_tokens * full * (geometry.query_width + geometry.output_width)
    family = columns.family
    everything = columns.everything
    fraction = where(model.has_vendor_attention, family.attention_fraction, family.portable_attention_fraction)
    head = (minimum(model.head_dim, 128.0) / 128.0) ** everything.head_size_exponent
    fraction = where(columns.machine.is_measured, family.attention_fraction, fraction * head)
    unaligned = where(np.mod(model.head_dim, 8.0) > 0, everything.unaligned_attention_slowdown, 1.0)
    return flop * unaligned * columns.framework.slowdown / (columns.machine.attention_peak * fraction)


def _count_elementwise_bytes(columns: Columns, geometry: Geometry) -> Floats:
    """Bytes a token that norms, residuals, rotations, activation functions and casts move in a forward pass."""
    model = columns.model
    size = model.weight_bytes
    # Two norms (read, write) and two residual sums (read twice, write); GPT's dropouts ride on the sums.
    outside = size * 10 * model.hidden / geometry.around
    rotation = size * 2 * (geometry.query_width + geometry.kv_width)
    routed = geometry.moe_share * model.experts_per_token / columns.plans.tp
    activation = size * model.mlp_matrices * (geometry.mlp_width + routed * model.expert_width)
    dispatched = (
        size * 2 * columns.everything.dispatch_traffic_passes * routed * model.hidden * compute_moe_age(columns)
    )
    inputs = 2 * model.hidden + geometry.output_width + geometry.mlp_width
    inputs = inputs + routed * (model.hidden + model.expert_width)
    casts = model.is_quantised * columns.everything.fp8_cast_passes * inputs
    return outside + rotation + activation + dispatched + casts


def _compute_logits(columns: Columns, geometry: Geometry) -> Floats:
    """Output projection and loss of one micro-batch."""
    model = columns.model
    width = np.ceil(model.vocabulary / columns.plans.tp)
    passes = 3.0 - model.is_adapter + model.is_preference
    tokens = geometry.worked_tokens * where(model.is_masked, MASKED_SHARE, 1.0)
    # The output projection stays in 16 bits where the layers run in FP8.
    rate = columns.machine.attention_peak * columns.family.matmul_fraction / columns.framework.slowdown
    rate = where(columns.machine.is_measured, columns.machine.matmul_peak, rate)
    product = 2 * tokens * model.hidden * width / rate
    traffic = model.weight_bytes * (tokens * (model.hidden + width) + model.hidden * width)
    moved = passes * columns.everything.gemm_traffic * traffic + tokens * width * _LOGITS_TRAFFIC
    return passes * product + _memory_seconds(columns, moved)


def _owned_parameters(columns: Columns, geometry: Geometry) -> Floats:
    """Trained parameters whose optimizer state the fullest rank holds."""
    plans = columns.plans
    model = columns.model
    layers = geometry.first_layers
    ends = where(
        plans.pp == 1,
        geometry.embedding_parameters + geometry.head_parameters,
        maximum(geometry.embedding_parameters, geometry.head_parameters),
    )
    dense = layers * (geometry.dense_parameters + geometry.other_parameters) + ends
    dense = where(model.is_adapter, layers * model.adapter_parameters / plans.tp, dense)
    experts = where(model.is_adapter, 0.0, layers * geometry.expert_parameters)
    is_sharded = plans.zero >= 1
    dense = where(is_sharded, dense / geometry.shards, dense)
    return dense + where(is_sharded, experts / minimum(geometry.expert_shards, geometry.shards), experts)


def _compute_optimizer(columns: Columns, geometry: Geometry) -> Floats:
    """Reading and writing states, gradients (twice: norm and update) and weights; bound by memory."""
    model = columns.model
    moved = 2 * model.state_bytes + 3 * model.gradient_bytes + model.weight_bytes
    return _memory_seconds(columns, _owned_parameters(columns, geometry) * moved)


def _compute_offload(columns: Columns, geometry: Geometry) -> Floats:
    """Traffic to host memory: gradients down and weights up a step (ZeRO-Offload, arXiv 2101.06840, 4), and with
    offloaded weights each of them up twice a micro-batch (ZeRO-Infinity, arXiv 2104.07857, 4.1)."""
    plans = columns.plans
    if not is_any(plans.offload):
        return ZERO
    model = columns.model
    owned = _owned_parameters(columns, geometry)
    states = owned * (model.weight_bytes + model.gradient_bytes)
    weights = 2 * geometry.micro_batches * model.weight_bytes * geometry.first_layers * geometry.dense_parameters
    moved = states + where(plans.offload >= 2, weights, 0.0)
    return where(plans.offload >= 1, moved / columns.machine.host_rate, 0.0)
