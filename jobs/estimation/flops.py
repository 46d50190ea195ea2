"""Floating-point operations: model FLOP (what the mathematics needs) and hardware FLOP (with recomputation).

Causal attention is counted once (half of the score matrix), as Megatron-LM and Megatron-Bridge do today; older papers
count it in full, which is 2 % more at 2k tokens and up to 1.7 times at 128k. The two kinds of FLOP are never mixed.
"""

from typing import Final

import numpy as np

from jobs.estimation.architecture import Architecture
from jobs.estimation.plan import RECOMPUTATIONS, Floats, PlanColumns
from jobs.estimation.workload import Workload

SECONDS_PER_DAY: Final = 86_400

_ADAPTED: Final = {
    "attention_qv": ("query", "value"),
    "attention": ("query", "key", "value", "output"),
    "all_linear": ("query", "key", "value", "output", "mlp"),
}


def count_flop_6nd(parameters: int, tokens: int) -> float:
    """FLOP of a whole training by the rule 6ND (Kaplan 2020, arXiv 2001.08361, section 2.1): no attention."""
    return 6.0 * parameters * tokens


def to_pflop_per_s_days(flop: float) -> float:
    """An amount of FLOP in PFLOP/s-days (1e15 x 86,400)."""
    return flop / (1e15 * SECONDS_PER_DAY)


def attention_span(architecture: Architecture, sequence_length: int) -> float:
    """Mean number of keys a query attends to under a causal mask, with a sliding window if there is one."""
    window = architecture.sliding_window
    if window and window < sequence_length:
        return window - window**2 / (2 * sequence_length)
    return sequence_length / 2


def adapter_parameters_per_layer(workload: Workload) -> int:
    """Trainable parameters that LoRA adds to a layer: r (d_in + d_out) a matrix (Hu 2021, arXiv 2106.09685, 4.1)."""
    arch = workload.architecture
    sizes = {
        "query": arch.hidden_size + arch.query_size,
        "key": arch.hidden_size + arch.key_value_size,
        "value": arch.hidden_size + arch.key_value_size,
        "output": arch.hidden_size + arch.query_size,
        "mlp": arch.mlp_matrices * (arch.hidden_size + arch.intermediate_size),
    }
    return workload.lora_rank * sum(sizes[name] for name in _ADAPTED[workload.lora_targets])


def trainable_parameters(workload: Workload) -> int:
    """Parameters with gradients: all of them, or the adapters only."""
    if not workload.is_adapter:
        return workload.architecture.parameters
    return workload.architecture.num_hidden_layers * adapter_parameters_per_layer(workload)


def forward_layer_flop_per_token(workload: Workload) -> tuple[float, float]:
    """Forward FLOP a token of one layer: (matrix products, attention core)."""
    arch = workload.architecture
    # Narayanan 2021 (arXiv 2104.04473), appendix, with grouped queries and gated MLP: 2 FLOP a weight.
    matmul = 2.0 * arch.layer_matmul_parameters
    # Scores and weighted values: 2 products of 2 x span x query width each.
    attention = 4.0 * arch.query_size * attention_span(arch, workload.sequence_length)
    return matmul, attention


def count_model_flop_per_step(workload: Workload) -> float:
    """Model FLOP of one optimizer step.

    Forward once and backward twice (weights and inputs); with LoRA the frozen weights need no gradient, so 4 instead
    of 6 FLOP a weight (arXiv 2106.09685), and the adapters 6.
    """
    arch = workload.architecture
    matmul, attention = forward_layer_flop_per_token(workload)
    head = 2.0 * arch.vocab_size * arch.hidden_size
    passes = 2.0 if workload.is_adapter else 3.0
    per_token = arch.num_hidden_layers * (passes * matmul + 3.0 * attention) + passes * head
    if workload.is_adapter:
        per_token += 6.0 * trainable_parameters(workload)
    return per_token * workload.tokens_per_step


def count_recomputed_flop_per_step(workload: Workload, plans: PlanColumns) -> Floats:
    """FLOP done again in the backward pass, for each plan.

    Full: the forward pass of all layers; selective with the standard kernel: the attention core
    (Korthikanti 2022, arXiv 2205.05198, section 5); selective with the flash kernel: norms, no matrix product.
    """
    matmul, attention = forward_layer_flop_per_token(workload)
    layers = workload.architecture.num_hidden_layers
    selective = attention if workload.attention_kernel == "standard" else 0.0
    per_token = np.array([0.0, layers * selective, layers * (matmul + attention)])
    assert len(per_token) == len(RECOMPUTATIONS)  # noqa: S101 - two tables of this package that must agree
    return per_token[plans.recompute] * workload.tokens_per_step
