"""Exposed time of the communication that parallel plans need: tensor, context, expert, pipeline and data ranks."""

import numpy as np

from jobs.estimation.collectives import collective_seconds, exchange_seconds, link_rates
from jobs.estimation.columns import QLORA_BYTES_PER_WEIGHT, Columns
from jobs.estimation.elementwise import ONE, ZERO, is_any, maximum, minimum, where
from jobs.estimation.geometry import Geometry
from jobs.estimation.plan import Floats


def compute_moe_age(columns: Columns) -> Floats:
    """How much slower mixture layers are in older software: kernels for them came late."""
    return np.exp(columns.everything.moe_yearly_gain * columns.model.software_age)


def compute_tensor_parallel(columns: Columns, geometry: Geometry) -> Floats:
    """Exposed time a layer and micro-batch.

    Shoeybi 2019 (arXiv 1909.08053), 3: two all-reduces of the layer's output forward and two backward; with sequence
    parallelism as many bytes as gathers and scatters (arXiv 2205.05198, 4.2.2), and two gathers more for the weight
    gradients; two all-reduces more where the layer is recomputed. Experts are not split, only their tokens.
    """
    plans = columns.plans
    if not is_any(plans.tp > 1):
        return ZERO
    dense = 1 - geometry.moe_share / 2
    count = 4 * dense + where(plans.recompute == 2, 2 * dense, 0.0) + where(plans.sequence, 1.0, 0.0)
    output = geometry.worked_tokens * columns.model.hidden * columns.model.weight_bytes
    sent = 2 * count * (plans.tp - 1) / plans.tp * output
    moving = collective_seconds(columns, sent_bytes=sent, ranks=plans.tp.astype(np.float64), stride=ONE, calls=count)
    return moving * (1 - columns.framework.tensor_overlap)


def compute_context_parallel(columns: Columns, geometry: Geometry, *, attention: Floats) -> Floats:
    """Exposed time a layer and micro-batch of ring attention (Liu 2023, arXiv 2310.01889).

    Keys and values go round once forward and, with their gradients, twice backward, behind the attention.
    """
    plans = columns.plans
    if not is_any(plans.cp > 1):
        return ZERO
    sent = 3 * 2 * (plans.cp - 1) * geometry.worked_tokens * geometry.kv_width * columns.model.weight_bytes
    moving = collective_seconds(
        columns,
        sent_bytes=sent,
        ranks=plans.cp.astype(np.float64),
        stride=plans.tp.astype(np.float64),
        calls=3 * (plans.cp - ONE),
    )
    return where(plans.cp > 1, maximum(moving / plans.cp, moving - attention), 0.0)


def compute_expert_parallel(columns: Columns, geometry: Geometry) -> Floats:
    """Exposed time a layer and micro-batch of sending tokens to experts and back.

    Lepikhin 2020 (arXiv 2006.16668), 3.2: a token goes to its experts and back, forward and backward: four exchanges
    of tokens x experts_per_token x hidden. A token goes to a domain of fast links once, however many of its experts
    are there (DeepSeek-V3, arXiv 2412.19437, 3.2.2, limits it to four nodes).
    """
    plans = columns.plans
    if not is_any(geometry.moe_share):
        return ZERO
    model = columns.model
    ranks = plans.ep.astype(np.float64)
    per_token = model.experts_per_token * (ranks - 1) / ranks
    again = where(plans.recompute == 2, 2.0, 0.0)
    count = 4.0 + again
    sent = (
        count * geometry.worked_tokens / plans.tp * geometry.moe_share * per_token * model.hidden * model.weight_bytes
    )
    moving = exchange_seconds(columns, sent_bytes=sent, ranks=ranks, calls=count * geometry.moe_share)
    return moving * (1 - columns.everything.dispatch_overlap) * compute_moe_age(columns)


def compute_pipeline_transfer(columns: Columns, geometry: Geometry) -> Floats:
    """Exposed time of a step for activations and their gradients between stages.

    Narayanan 2021 (arXiv 2104.04473), 4.1: 2 s b h bytes a boundary, split over tensor ranks (Megatron),
    v times if interleaved.
    """
    plans = columns.plans
    if not is_any(plans.pp > 1):
        return ZERO
    model = columns.model
    size = geometry.worked_tokens * model.hidden * model.weight_bytes
    size = size / where(model.sends_whole_activations, 1, plans.tp)
    intra, inter = link_rates(columns)
    within = plans.tp * plans.dp * plans.cp * plans.pp <= columns.machine.scale_up
    one = size / where(within, intra, inter) + 1e-6 * columns.everything.network_latency_us
    count = 2 * geometry.micro_batches * plans.virtual
    return where(plans.pp > 1, count * one * (1 - columns.everything.pipeline_overlap), 0.0)


def compute_data_parallel(columns: Columns, geometry: Geometry, *, micro_batch: Floats) -> Floats:
    """Exposed time of a step for gradients, and for weights where they are sharded.

    Rajbhandari 2019 (arXiv 1910.02054), 7: reduce-scatter of gradients and all-gather of weights, together what an
    all-reduce moves; stage 3 gathers the weights twice for every micro-batch, and stages 2 and 3 reduce after each.
    """
    plans = columns.plans
    ranks = (plans.dp * plans.cp).astype(np.float64)
    if not is_any(ranks > 1):
        return ZERO
    model = columns.model
    layers = geometry.first_layers
    ends = where(
        plans.pp == 1,
        geometry.embedding_parameters + geometry.head_parameters,
        maximum(geometry.embedding_parameters, geometry.head_parameters),
    )
    whole = layers * (geometry.dense_parameters + geometry.other_parameters) + ends
    trained = where(model.is_adapter, layers * model.adapter_parameters / plans.tp, whole)
    seconds = _reduce_seconds(
        columns, geometry, whole=whole, trained=trained, ranks=ranks, stride=plans.tp.astype(np.float64)
    )
    if is_any(geometry.moe_share):
        experts = layers * geometry.expert_parameters
        trained_experts = where(model.is_adapter, 0.0, experts)
        ranks_of_experts = maximum(ranks * plans.tp / plans.ep, 1.0)
        more = _reduce_seconds(
            columns,
            geometry,
            whole=experts,
            trained=trained_experts,
            ranks=ranks_of_experts,
            stride=plans.ep.astype(np.float64),
        )
        seconds = seconds + where(geometry.moe_share > 0, more, 0.0)
    is_every = plans.zero >= 2
    micro_batches = geometry.micro_batches
    window = where(is_every, micro_batches, where(plans.pp > 1, 1 / plans.virtual, 2 / 3)) * micro_batch
    hidden = columns.framework.data_overlap * window
    # The last bucket (one layer) has nothing to hide behind.
    last = seconds / (maximum(layers, 1.0) * where(is_every, micro_batches, 1.0))
    return where(ranks > 1, maximum(seconds - hidden, last), 0.0)


def _reduce_seconds(
    columns: Columns, geometry: Geometry, *, whole: Floats, trained: Floats, ranks: Floats, stride: Floats
) -> Floats:
    """Time of a step to move `trained` of `whole` parameters on each rank over `ranks`."""
    model = columns.model
    plans = columns.plans
    size = model.weight_bytes
    micro_batches = geometry.micro_batches
    zero = plans.zero
    layers = geometry.first_layers
    # Hybrid sharding: weights and gradients move within a group; what is left of the gradients between groups.
    group = minimum(plans.zero_group.astype(np.float64), ranks)
    sharded_ranks = where(zero >= 2, group, ranks)
    share = (sharded_ranks - 1) / sharded_ranks
    once = trained * (model.reduced_bytes + where(zero >= 1, size, model.reduced_bytes))
    stage_2 = trained * size * (micro_batches + 1)
    # QLoRA's frozen weights travel in their four bits.
    stored = where(model.is_quantised_base, QLORA_BYTES_PER_WEIGHT, size)
    stage_3 = micro_batches * (2 * stored * whole + model.reduced_bytes * trained)
    sent = share * where(zero >= 3, stage_3, where(zero == 2, stage_2, once))
    calls = layers * where(zero >= 3, 3 * micro_batches, where(zero == 2, micro_batches + 1, 1.0))
    seconds = collective_seconds(columns, sent_bytes=sent, ranks=sharded_ranks, stride=stride, calls=calls)
    copies = ranks / sharded_ranks
    between = 2 * (copies - 1) / copies * model.reduced_bytes * trained / sharded_ranks
    extra = collective_seconds(
        columns, sent_bytes=between, ranks=copies, stride=stride * sharded_ranks, calls=layers * (copies > 1)
    )
    return seconds + extra
