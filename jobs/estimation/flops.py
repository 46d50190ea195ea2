"""Floating-point operations: model FLOP (what the mathematics needs) and hardware FLOP (with recomputation).

Causal attention is counted once (half of the score matrix), as Megatron-LM and Megatron-Bridge do today; older papers
count it in full, which is 2 % more at 2k tokens and up to 1.7 times at 128k. The two kinds of FLOP are never mixed.
Sequences are taken as full: packed documents attend across their borders (no block-diagonal mask), which is an upper
bound for sequences of variable length.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from jobs.estimation.architecture import Architecture
from jobs.estimation.constants import load_constants
from jobs.estimation.plan import Floats, PlanColumns
from jobs.estimation.workload import Workload

SECONDS_PER_DAY: Final = 86_400
MASKED_FAMILIES: Final = ("bert", "roberta")
MASKED_SHARE: Final = 0.15

_ADAPTED: Final = {
    "attention_qv": ("query", "value"),
    "attention": ("query", "key", "value", "output"),
    "all_linear": ("query", "key", "value", "output", "mlp"),
}


def count_flop_6nd(parameters: int, tokens: int) -> float:
    """FLOP of a whole training by the rule 6ND (Kaplan 2020, arXiv 2001.08361, section 2.1): no attention."""
    return 6.0 * parameters * tokens


def count_flop_8nd(parameters: int, tokens: int) -> float:
    """Hardware FLOP by the rule 8ND: 6ND and one more forward pass for full recomputation (arXiv 2104.04473, 5)."""
    return 8.0 * parameters * tokens


def to_pflop_per_s_days(flop: float) -> float:
    """An amount of FLOP in PFLOP/s-days (1e15 x 86,400)."""
    return flop / (1e15 * SECONDS_PER_DAY)


def mean_attention_span(architecture: Architecture, sequence_length: int) -> float:
    """Mean keys a query attends to, over the layers: causal masks halve it, sliding windows cap it."""
    full = sequence_length / 2 if architecture.is_causal else float(sequence_length)
    window = architecture.sliding_window
    if not window or window >= sequence_length:
        return full
    limited = window - window**2 / (2 * sequence_length) if architecture.is_causal else float(window)
    layers = architecture.num_hidden_layers
    share = (architecture.sliding_window_layers or layers) / layers
    return share * limited + (1 - share) * full


def adapter_parameters_per_layer(workload: Workload) -> int:
    """Trainable parameters that LoRA adds to a layer: r (d_in + d_out) a matrix (Hu 2021, arXiv 2106.09685, 4.1).

    The MLP's are those of a dense or shared one; routed experts get no adapters.
    """
    arch = workload.architecture
    width = arch.shared_expert_intermediate_size if arch.num_moe_layers else arch.intermediate_size
    sizes = {
        "query": arch.hidden_size + arch.query_size,
        "key": arch.hidden_size + arch.key_value_size,
        "value": arch.hidden_size + arch.key_value_size,
        "output": arch.hidden_size + arch.query_size,
        "mlp": arch.mlp_matrices * (arch.hidden_size + width) if width else 0,
    }
    return workload.lora_rank * sum(sizes[name] for name in _ADAPTED[workload.lora_targets])


def trainable_parameters(workload: Workload) -> int:
    """Parameters with gradients: all of them, or the adapters only."""
    if not workload.is_adapter:
        return workload.architecture.parameters
    return workload.architecture.num_hidden_layers * adapter_parameters_per_layer(workload)


@dataclass(frozen=True, kw_only=True)
class FlopCount:
    """FLOP of one optimizer step by component, without recomputation; their sums are the model FLOP."""

    attention_projections: float
    attention_core: float
    mlp: float
    router: float
    output_projection: float
    adapters: float

    @property
    def total(self) -> float:
        return float(sum(asdict(self).values()))

    def to_dict(self) -> Mapping[str, float]:
        return asdict(self)


@lru_cache(maxsize=256)
def count_forward_flop(workload: Workload) -> FlopCount:
    """FLOP of one forward pass over the tokens of a step.

    Narayanan 2021 (arXiv 2104.04473), appendix, with grouped queries, gated MLP and experts: 2 FLOP a weight that a
    token is multiplied with; scores and weighted values 2 x span x head size each. Encoder layers see as many tokens.
    """
    arch = workload.architecture
    layers = arch.num_hidden_layers + arch.encoder_layers
    dense = layers - arch.num_moe_layers
    active = arch.experts_per_token * arch.expert_parameters + arch.shared_expert_parameters
    value_size = arch.num_attention_heads * (arch.v_head_dim or arch.head_dim)
    span = mean_attention_span(arch, workload.sequence_length)
    # Encoders skip padding, and predict the masked tokens only (Devlin 2018, arXiv 1810.04805, 3.1).
    is_masked = arch.family in MASKED_FAMILIES
    tokens = workload.tokens_per_step * (load_constants().everything["encoder_fill"] if is_masked else 1.0)
    predicted = tokens * (MASKED_SHARE if is_masked else 1.0)
    adapters = arch.num_hidden_layers * adapter_parameters_per_layer(workload) if workload.is_adapter else 0
    return FlopCount(
        attention_projections=2.0 * tokens * layers * arch.attention_matmul_parameters,
        attention_core=2.0 * tokens * layers * span * (arch.num_attention_heads * arch.head_dim + value_size),
        mlp=2.0 * tokens * (dense * arch.dense_mlp_parameters + arch.num_moe_layers * active),
        router=2.0 * tokens * arch.num_moe_layers * arch.router_parameters,
        output_projection=2.0 * predicted * arch.vocab_size * arch.hidden_size,
        adapters=2.0 * tokens * adapters,
    )


def count_backward_flop(workload: Workload) -> FlopCount:
    """FLOP of the backward pass: twice the forward pass (inputs and weights).

    Frozen weights need no gradient (LoRA, arXiv 2106.09685): once for their inputs. Preference tuning runs a frozen
    reference model forward, too, which counts here.
    """
    forward = count_forward_flop(workload)
    frozen = 1.0 if workload.is_adapter else 2.0
    reference = 1.0 if workload.task == "preference_tuning" else 0.0
    return FlopCount(
        attention_projections=(frozen + reference) * forward.attention_projections,
        attention_core=(2.0 + reference) * forward.attention_core,
        mlp=(frozen + reference) * forward.mlp,
        router=(frozen + reference) * forward.router,
        output_projection=(frozen + reference) * forward.output_projection,
        adapters=2.0 * forward.adapters,
    )


@lru_cache(maxsize=256)
def count_model_flop_per_step(workload: Workload) -> float:
    """Model FLOP of one optimizer step: forward and backward, nothing recomputed."""
    return count_forward_flop(workload).total + count_backward_flop(workload).total


def count_recomputed_flop_per_step(workload: Workload, plans: PlanColumns) -> Floats:
    """FLOP done again in the backward pass, for each plan.

    Full: the forward pass of all layers; selective with the standard kernel: the attention core
    (Korthikanti 2022, arXiv 2205.05198, section 5); selective with the flash kernel: norms, no matrix product.
    """
    forward = count_forward_flop(workload)
    selective = forward.attention_core if workload.attention_kernel == "standard" else 0.0
    full = forward.total - forward.output_projection - forward.adapters
    layers = workload.architecture.num_hidden_layers
    share = np.where(plans.recomputed_layers > 0, np.minimum(plans.recomputed_layers * plans.pp / layers, 1.0), 1.0)
    again: Floats = share * np.array([0.0, selective, full])[plans.recompute]
    return again
