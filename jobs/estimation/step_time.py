"""Time of one optimizer step, by part, on the slowest pipeline stage."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from jobs.estimation.flops import (
    adapter_parameters_per_layer,
    forward_layer_flop_per_token,
)
from jobs.estimation.geometry import Geometry
from jobs.estimation.hardware import Machine
from jobs.estimation.memory import bytes_per_weight, optimizer_bytes_per_parameter
from jobs.estimation.plan import Booleans, Floats, Integers, PlanColumns
from jobs.estimation.workload import Workload

STEP_PARTS: Final = (
    "matmul",
    "attention",
    "elementwise",
    "logits",
    "recomputation",
    "tensor_parallel",
    "context_parallel",
    "host_overhead",
    "pipeline_bubble",
    "pipeline_transfer",
    "data_parallel",
    "optimizer",
)

# Passes of the flash kernel: backward does 5 products where forward does 2 (Dao 2022, arXiv 2205.14135, algorithm 4).
_FLASH_BACKWARD: Final = 2.5
# Recomputing the forward pass launches as many kernels as the forward pass, about a third of forward and backward.
_HOST_SHARE_OF_FORWARD: Final = 1 / 3


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """Seconds of one layer and one micro-batch on one rank."""

    matmul: Floats
    attention: Floats
    elementwise: Floats
    recomputation: Floats


def compute_step_time(
    workload: Workload, machine: Machine, plans: PlanColumns, geometry: Geometry
) -> dict[str, Floats]:
    """Seconds of one step by part; their sum is the step.

    The slowest stage is busy for all micro-batches; the pipeline's fill and drain, the exposed part of the
    communication and the optimizer come on top.
    """
    constants = machine.accelerator.efficiency
    layer = _compute_layer(workload, machine, plans, geometry)
    logits = _compute_logits(workload, machine, plans, geometry)
    tensor = _compute_tensor_parallel(workload, machine, plans, geometry)
    context = _compute_context_parallel(workload, machine, plans, geometry, attention=layer.attention)
    busy_layer = layer.matmul + layer.attention + layer.elementwise + layer.recomputation + tensor + context

    # The stage with most work: an inner one, or the last with the output projection.
    inner = geometry.middle_layers * busy_layer
    last = geometry.last_layers * busy_layer + logits
    is_last_slowest = last >= np.where(plans.pp > 1, inner, 0.0)
    layers = np.where(is_last_slowest, geometry.last_layers, geometry.middle_layers)
    stage_logits = np.where(is_last_slowest, logits, 0.0)
    device = layers * busy_layer + stage_logits

    launches = 1 + np.where(plans.recompute == 2, _HOST_SHARE_OF_FORWARD, 0.0)
    host = layers * constants.host_launch_s_per_layer * launches
    # A GPU works while the host launches ahead, so only the longer of the two counts; NumPy does one after the other.
    host = np.maximum(0.0, host - device) if constants.asynchronous_launch else host
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
        "host_overhead": micro_batches * host,
    }
    # Narayanan 2021 (arXiv 2104.04473), 2.2: (p - 1)/v times forward and backward of one micro-batch on one stage.
    mean_stage = (workload.architecture.num_hidden_layers * busy_layer + logits) / plans.pp + host
    parts["pipeline_bubble"] = (plans.pp - 1) / plans.virtual * mean_stage
    parts["pipeline_transfer"] = _compute_pipeline_transfer(workload, machine, plans, geometry)
    parts["data_parallel"] = _compute_data_parallel(workload, machine, plans, geometry, micro_batch=device + host)
    parts["optimizer"] = _compute_optimizer(workload, machine, plans, geometry)
    return {name: parts[name] for name in STEP_PARTS}


def _matmul_seconds(workload: Workload, machine: Machine, plans: PlanColumns, flop: Floats) -> Floats:
    """One matrix product: F/(peak x fraction) x (1 + half/F), so that small ones reach less of the peak."""
    half_flop = 1e9 * machine.accelerator.efficiency.matmul_half_gflop
    rate = machine.matmul_flop_per_s(workload.precision) * _sharded_efficiency(machine, plans)
    return (flop + half_flop) / rate


def _sharded_efficiency(machine: Machine, plans: PlanColumns) -> Floats:
    """FSDP and DeepSpeed (ZeRO 2, 3) reach less than Megatron: gathers share the device, kernels are less tuned."""
    return np.where(plans.zero >= 2, machine.accelerator.efficiency.sharded_efficiency, 1.0)


def _memory_seconds(machine: Machine, moved_bytes: Floats) -> Floats:
    accelerator = machine.accelerator
    return moved_bytes / (accelerator.memory_bytes_per_s * accelerator.efficiency.memory_peak_fraction)


def _compute_layer(workload: Workload, machine: Machine, plans: PlanColumns, geometry: Geometry) -> LayerTime:
    arch = workload.architecture
    tokens = geometry.tokens
    is_standard = workload.attention_kernel == "standard"
    # Four products a layer: query-key-value, output, up (and gate), down.
    query = arch.query_size / plans.tp
    inner = arch.intermediate_size / plans.tp
    products = (query + 2 * geometry.kv_width, query, (arch.mlp_matrices - 1) * inner, inner)
    forward = np.sum(
        [_matmul_seconds(workload, machine, plans, 2 * tokens * arch.hidden_size * width) for width in products], axis=0
    )
    # Backward: gradients of inputs and of weights; frozen weights need only the first.
    backward_passes = 1.0 if workload.is_adapter else 2.0
    matmul = (1 + backward_passes) * forward
    if workload.is_adapter:
        adapter_flop = 6 * tokens * adapter_parameters_per_layer(workload) / plans.tp
        matmul = matmul + _matmul_seconds(workload, machine, plans, adapter_flop)

    _, attention_flop = forward_layer_flop_per_token(workload)
    # The unfused kernel computes the masked half of the scores, too.
    done = 2.0 if is_standard and not arch.sliding_window else 1.0
    rate = machine.peak_flop_per_s(workload.precision) * machine.accelerator.efficiency.attention_peak_fraction
    attention_forward = tokens * done * attention_flop / plans.tp / (rate * _sharded_efficiency(machine, plans))
    attention = attention_forward * (3.0 if is_standard else 1.0 + _FLASH_BACKWARD)

    elementwise_forward = _memory_seconds(machine, tokens * _count_elementwise_bytes(workload, plans, geometry))
    # Stages 2 and 3 mean FSDP or DeepSpeed, whose norms, rotations and activations are mostly separate eager kernels.
    factor = machine.accelerator.efficiency.sharded_elementwise_factor
    elementwise_forward = elementwise_forward * np.where(plans.zero >= 2, factor, 1.0)
    scores = np.zeros(len(plans))
    if is_standard:
        # Scores written, scaled, masked and normalised, dropped out, read: about 13 bytes an element at 2 bytes each.
        moved = 6.5 * bytes_per_weight(workload) * arch.num_attention_heads * workload.sequence_length / plans.tp
        scores = _memory_seconds(machine, tokens * moved)
    elementwise = 3 * (elementwise_forward + scores)

    core_again = (
        attention_forward + scores if is_standard else _memory_seconds(machine, tokens * 8.0 * arch.hidden_size)
    )
    whole_again = forward + attention_forward + elementwise_forward + scores
    recomputation = np.choose(plans.recompute, [np.zeros(len(plans)), core_again, whole_again])
    return LayerTime(matmul=matmul, attention=attention, elementwise=elementwise, recomputation=recomputation)


def _count_elementwise_bytes(workload: Workload, plans: PlanColumns, geometry: Geometry) -> Floats:
    """Bytes a token that norms, residuals, rotations and activation functions read and write in a forward pass."""
    arch = workload.architecture
    size = bytes_per_weight(workload)
    around = np.where(plans.sequence, plans.tp, 1)
    # Two norms (read, write) and two residual sums (read twice, write); GPT's dropouts ride on the sums.
    outside = size * 10 * arch.hidden_size / around
    rotation = size * 2 * (arch.query_size / plans.tp + geometry.kv_width)
    activation = size * arch.mlp_matrices * arch.intermediate_size / plans.tp
    return outside + rotation + activation


def _compute_logits(workload: Workload, machine: Machine, plans: PlanColumns, geometry: Geometry) -> Floats:
    """Output projection and loss of one micro-batch."""
    arch = workload.architecture
    width = np.ceil(arch.vocab_size / plans.tp)
    passes = 2.0 if workload.is_adapter else 3.0
    product = _matmul_seconds(workload, machine, plans, 2 * geometry.tokens * arch.hidden_size * width)
    # fp32 copy, maximum, exponentials, gradient: about five passes over 4 bytes.
    return passes * product + _memory_seconds(machine, geometry.tokens * width * 20.0)


def _ring_seconds(machine: Machine, *, sent_bytes: Floats, ranks: Integers, in_node: Integers) -> Floats:
    """A ring collective that sends `sent_bytes` from every rank; `in_node` ranks of the group share a node.

    NCCL-tests PERFORMANCE.md: (n - 1)/n M bytes for gather or scatter, twice that for all-reduce. Between nodes a
    rank has its own network card, and in_node ** nic_sharing of them serve the ring.
    """
    constants = machine.accelerator.efficiency
    intra = machine.intra_bytes_per_s * constants.intra_link_fraction
    inter = machine.inter_bytes_per_s * constants.inter_link_fraction * in_node**constants.nic_sharing
    crosses = ranks > in_node
    rate = np.where(crosses, np.minimum(inter, intra), intra)
    latency = 1e-6 * constants.link_latency_us * np.ceil(np.log2(np.maximum(ranks, 1)))
    return np.where(ranks > 1, sent_bytes / rate + latency, 0.0)


def _compute_tensor_parallel(workload: Workload, machine: Machine, plans: PlanColumns, geometry: Geometry) -> Floats:
    """Exposed time a layer and micro-batch.

    Shoeybi 2019 (arXiv 1909.08053), 3: two all-reduces of the layer's output forward and two backward; as many bytes
    with sequence parallelism (gather and scatter, arXiv 2205.05198, 4.2.2); two more where the layer is recomputed.
    """
    count = 4 + np.where(plans.recompute == 2, 2, 0)
    output = geometry.tokens * workload.architecture.hidden_size * bytes_per_weight(workload)
    sent = 2 * (plans.tp - 1) / plans.tp * output
    one = _ring_seconds(machine, sent_bytes=sent, ranks=plans.tp, in_node=plans.tp)
    return count * one * (1 - machine.accelerator.efficiency.tensor_overlap)


def _compute_context_parallel(
    workload: Workload, machine: Machine, plans: PlanColumns, geometry: Geometry, *, attention: Floats
) -> Floats:
    """Exposed time a layer and micro-batch of ring attention (Liu 2023, arXiv 2310.01889).

    Keys and values go round once forward and, with their gradients, twice backward, behind the attention.
    """
    sent = 3 * 2 * (plans.cp - 1) * geometry.tokens * geometry.kv_width * bytes_per_weight(workload)
    in_node = np.minimum(plans.cp, np.maximum(1, machine.node_size // plans.tp))
    moving = _ring_seconds(machine, sent_bytes=sent, ranks=plans.cp, in_node=in_node)
    return np.where(plans.cp > 1, np.maximum(0.0, moving - attention), 0.0)


def _compute_pipeline_transfer(workload: Workload, machine: Machine, plans: PlanColumns, geometry: Geometry) -> Floats:
    """Exposed time of a step for activations and their gradients between stages.

    Narayanan 2021 (arXiv 2104.04473), 4.1: 2 s b h bytes a boundary, split over tensor ranks, v times if interleaved.
    """
    constants = machine.accelerator.efficiency
    size = geometry.tokens * workload.architecture.hidden_size * bytes_per_weight(workload) / plans.tp
    within = plans.tp * geometry.shards * plans.pp <= machine.node_size
    intra = machine.intra_bytes_per_s * constants.intra_link_fraction
    inter = machine.inter_bytes_per_s * constants.inter_link_fraction
    one = size / np.where(within, intra, inter) + 1e-6 * constants.link_latency_us
    count = 2 * geometry.micro_batches * plans.virtual
    return np.where(plans.pp > 1, count * one * (1 - constants.pipeline_overlap), 0.0)


def _count_trainable(workload: Workload, plans: PlanColumns, geometry: Geometry) -> tuple[Floats, Floats]:
    """Parameters on the fullest rank: (trainable, all)."""
    ends = np.where(
        plans.pp == 1,
        geometry.embedding_parameters + geometry.head_parameters,
        np.maximum(geometry.embedding_parameters, geometry.head_parameters),
    )
    whole = geometry.first_layers * geometry.layer_parameters + ends
    if not workload.is_adapter:
        return whole, whole
    return geometry.first_layers * adapter_parameters_per_layer(workload) / plans.tp, whole


def _compute_data_parallel(
    workload: Workload, machine: Machine, plans: PlanColumns, geometry: Geometry, *, micro_batch: Floats
) -> Floats:
    """Exposed time of a step for gradients, and for weights where they are sharded.

    Rajbhandari 2019 (arXiv 1910.02054), 7: reduce-scatter of gradients and all-gather of weights, together what an
    all-reduce moves; stage 3 gathers the weights twice for every micro-batch, and stages 2 and 3 reduce after each.
    """
    constants = machine.accelerator.efficiency
    trainable, whole = _count_trainable(workload, plans, geometry)
    size = bytes_per_weight(workload)
    ranks = geometry.shards
    in_node = np.minimum(ranks, np.maximum(1, machine.node_size // plans.tp))
    share = (ranks - 1) / ranks
    micro_batches = geometry.micro_batches
    # Megatron reduces fp32 gradients once a step; FSDP and ZeRO-2/3 reduce 16-bit ones every micro-batch.
    once = share * trainable * (4.0 + np.where(plans.zero >= 1, size, 4.0))
    stage_2 = share * trainable * size * (micro_batches + 1)
    stage_3 = share * micro_batches * (2 * size * whole + size * trainable)
    sent = np.choose(plans.zero, [once, once, stage_2, stage_3])
    buckets: Floats = geometry.first_layers * np.choose(plans.zero, [2, 2, micro_batches + 1, 3 * micro_batches])
    moving = _ring_seconds(machine, sent_bytes=sent, ranks=ranks, in_node=in_node)
    latency: Floats = 1e-6 * constants.link_latency_us * np.log2(ranks) * buckets
    # Stages 0 and 1 hide behind the last backward pass, stages 2 and 3 behind the whole step.
    is_every: Booleans = plans.zero >= 2
    window = np.where(is_every, micro_batches * micro_batch, 2 / 3 * micro_batch)
    hidden = constants.data_overlap * window
    # The last bucket (one layer) has nothing to hide behind.
    exposed = np.maximum(
        moving - hidden, moving / (np.maximum(geometry.first_layers, 1) * np.where(is_every, micro_batches, 1))
    )
    return np.where(ranks > 1, exposed + latency, 0.0)


def _compute_optimizer(workload: Workload, machine: Machine, plans: PlanColumns, geometry: Geometry) -> Floats:
    """Reading and writing states, gradients (twice: norm and update) and weights; bound by memory."""
    trainable, _ = _count_trainable(workload, plans, geometry)
    owned = np.where(plans.zero >= 1, trainable / geometry.shards, trainable)
    moved = 2 * optimizer_bytes_per_parameter(workload) + 3 * 4.0 + bytes_per_weight(workload)
    return _memory_seconds(machine, owned * moved)
