"""How the model lies on the devices under a plan: layers, widths and parameters of a rank."""

from dataclasses import dataclass

import numpy as np

from jobs.estimation.columns import Columns, ModelColumns
from jobs.estimation.elementwise import is_any, maximum, minimum, where
from jobs.estimation.plan import Booleans, Floats, PlanColumns


@dataclass(kw_only=True, eq=False, repr=False)
class Geometry:
    """Quantities that memory and time share; one value a row. A "layer" is the mean of dense and mixture layers."""

    tokens: Floats
    """Tokens of one micro-batch on one rank (micro-batch x sequence / context parallel)."""
    worked_tokens: Floats
    """Those that are no padding: encoders' kernels skip it."""
    micro_batches: Floats
    shards: Floats
    """Ranks that ZeRO shards dense parameters over."""
    expert_shards: Floats
    """Ranks that hold copies of the same experts."""
    first_layers: Floats
    middle_layers: Floats
    """Layers on an inner stage; the most that any stage holds."""
    last_layers: Floats
    has_uneven_stages: Booleans
    moe_share: Floats
    """Share of the layers that are mixtures."""
    query_width: Floats
    """Width of the query heads of a rank."""
    kv_width: Floats
    """Width of a rank's key heads; they are copied where there are fewer than tensor ranks."""
    output_width: Floats
    """Width of a rank's attention output."""
    mlp_width: Floats
    """Mean width of dense and shared MLPs on a rank."""
    dense_parameters: Floats
    """All matrices of one layer on one rank but routed experts."""
    expert_parameters: Floats
    """Matrices of the routed experts that a rank holds, a layer."""
    other_parameters: Floats
    embedding_parameters: Floats
    head_parameters: Floats
    """On one rank of the last stage; with tied embeddings a copy if that is not the first stage."""
    around: Floats
    """Ranks that what lies around attention and MLP is split over: the tensor ranks with sequence parallelism."""


def lay_out(columns: Columns) -> Geometry:
    """Place model and batch on the devices."""
    model = columns.model
    plans = columns.plans
    tensor = plans.tp
    first, middle, last, is_even = _divide_layers(model.layers, plans)
    moe_share = model.moe_layers / model.layers
    dense_share = 1 - moe_share
    heads = model.heads / tensor
    # Megatron-LM and vLLM copy key heads where there are fewer than ranks.
    kv_heads = maximum(model.kv_heads / tensor, 1.0)
    query = heads * model.head_dim
    output = heads * model.value_dim
    key = kv_heads * model.head_dim
    attention = model.hidden * (query + key + kv_heads * model.value_dim + output)
    if is_any(model.is_latent):
        attention = where(model.is_latent, _latent_attention_parameters(model, heads), attention)
    mlp = (dense_share * model.dense_width + moe_share * model.shared_width) / tensor
    router = moe_share * model.hidden * model.experts
    one_expert = model.mlp_matrices * model.hidden * model.expert_width
    vocabulary = np.ceil(model.vocabulary / tensor) * model.hidden
    is_copied = (plans.pp > 1) | (model.is_tied == 0)
    ranks = plans.dp * plans.cp
    tokens = plans.micro * model.sequence / plans.cp
    return Geometry(
        tokens=tokens,
        worked_tokens=tokens * where(model.is_masked, columns.everything.encoder_fill, 1.0),
        micro_batches=maximum(model.global_batch / (plans.dp * plans.micro), 1.0),
        shards=plans.zero_group.astype(np.float64),
        expert_shards=maximum(ranks * tensor / plans.ep, 1.0),
        first_layers=first,
        middle_layers=middle,
        last_layers=last,
        has_uneven_stages=~is_even,
        moe_share=moe_share,
        query_width=query,
        kv_width=key,
        output_width=output,
        mlp_width=mlp,
        dense_parameters=attention + model.mlp_matrices * model.hidden * mlp + router,
        expert_parameters=moe_share * model.experts / plans.ep * one_expert,
        other_parameters=model.other_parameters,
        embedding_parameters=vocabulary + model.other_embedding_parameters,
        head_parameters=where(is_copied, vocabulary, 0.0) + model.other_head_parameters,
        around=where(plans.sequence, tensor, 1),
    )


def _divide_layers(layers: Floats, plans: PlanColumns) -> tuple[Floats, Floats, Floats, Booleans]:
    """Layers of the first, an inner and the last stage, and whether all are equal.

    Llama 3 (arXiv 2407.21783, 3.3.2) and BLOOM count embedding and head as a layer each to balance the stages; else
    the inner stages are full and the ends share the rest.
    """
    stages = plans.pp * plans.virtual
    is_even = layers % stages == 0
    is_balanced = ~is_even & ((layers + 2) % stages == 0)
    fullest = np.ceil(layers / plans.pp)
    middle = where(is_even, layers / plans.pp, where(is_balanced, (layers + 2) / plans.pp, fullest))
    rest = maximum(layers - (plans.pp - 2) * middle, 1.0) / 2
    ends = where(is_even, middle, where(is_balanced, middle - 1, minimum(rest, middle)))
    ends = where(plans.pp == 1, layers, ends)
    return ends, where(plans.pp == 1, layers, middle), ends, is_even


def _latent_attention_parameters(model: ModelColumns, heads: Floats) -> Floats:
    """DeepSeek-V2 (arXiv 2405.04434), 2.1: queries and keys/values go through low ranks that tensor ranks copy."""
    down_query = model.hidden * model.query_rank
    up_query = where(model.query_rank > 0, model.query_rank, model.hidden) * heads * model.head_dim
    down_kv = model.hidden * (model.kv_rank + model.rope_dim)
    up_kv = model.kv_rank * heads * (model.head_dim - model.rope_dim + model.value_dim)
    return down_query + up_query + down_kv + up_kv + heads * model.value_dim * model.hidden
