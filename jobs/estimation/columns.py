"""Everything the formulas read, as columns: one value a row, so that rows may differ in model, machine and plan.

A search has one workload and machine and many plans: the plan's columns are arrays, the others scalars that broadcast.
A table of published runs has a different model and machine in each row: all columns are arrays. The formulas in
geometry.py, memory.py and step_time.py are written once for both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from jobs.estimation.constants import (
    ConstantTable,
    FamilyConstants,
    FrameworkConstants,
    GlobalConstants,
    load_constants,
    pick,
)
from jobs.estimation.flops import MASKED_FAMILIES, adapter_parameters_per_layer, mean_attention_span
from jobs.estimation.hardware import Machine
from jobs.estimation.plan import Floats, ParallelPlan, PlanColumns
from jobs.estimation.workload import REFERENCE_YEAR, Workload

# NF4 with double quantisation: 4 + 8/64 + 32/(64 x 256) = 4.127 bits (Dettmers 2023, arXiv 2305.14314, section 3).
QLORA_BYTES_PER_WEIGHT: Final = 4.127 / 8

# Optimizer states a parameter, without the master copy. Adam: Rajbhandari 2019 (arXiv 1910.02054), 3.1.
# 8-bit states: Dettmers 2021 (arXiv 2110.02861). Adafactor keeps rows and columns only (Shazeer 2018, arXiv
# 1804.04235). Muon keeps one momentum (Jordan 2024; arXiv 2502.16982, 2.3).
STATE_BYTES: Final = {
    "adamw": 8.0,
    "adamw_8bit": 2.0,
    "adafactor": 0.02,
    "muon": 4.0,
    "lion": 4.0,
    "sgd_momentum": 4.0,
    "sgd": 0.0,
}
MASTER_BYTES: Final = 4.0

# Logits and their gradient in fp32 (4 s b V, Korthikanti 2022, arXiv 2205.05198, 4.3, twice) in old stacks; today's
# keep 16-bit logits and the fp32 softmax, whose gradient takes its place.
_LOGITS_BYTES_STANDARD: Final = 8.0
_LOGITS_BYTES: Final = 6.0
# Transformers under autocast: 16-bit logits, their fp32 copy, the log-softmax and its gradient.
_LOGITS_BYTES_UPCAST: Final = 14.0

# Inputs that LoRA's dropout copies, a layer, for each choice of targets: (hidden sizes, MLP widths).
_ADAPTED_INPUTS: Final = {"attention_qv": (1.0, 0.0), "attention": (2.0, 0.0), "all_linear": (4.0, 1.0)}

PRETRAINING_TASKS: Final = ("pretraining", "continued_pretraining")


@dataclass(kw_only=True, eq=False, repr=False)
class ModelColumns:
    """Shape of the model and what is done with it. Parameters are of the whole model, unsharded."""

    layers: Floats
    moe_layers: Floats
    hidden: Floats
    heads: Floats
    kv_heads: Floats
    head_dim: Floats
    value_dim: Floats
    is_latent: Floats
    """1 with multi-head latent attention (MLA), else 0."""
    query_rank: Floats
    kv_rank: Floats
    rope_dim: Floats
    mlp_matrices: Floats
    dense_width: Floats
    expert_width: Floats
    shared_width: Floats
    experts: Floats
    experts_per_token: Floats
    vocabulary: Floats
    is_tied: Floats
    other_parameters: Floats
    """Norms and biases of one layer."""
    other_embedding_parameters: Floats
    """Positions and norms beside the word embedding."""
    other_head_parameters: Floats
    span: Floats
    """Mean number of keys that a query attends to, over all layers."""
    is_masked: Floats
    """1 for encoders that predict masked tokens and skip padding (BERT), else 0."""
    is_fp32: Floats
    adapter_parameters: Floats
    """LoRA's weights in one layer; 0 where all weights are trained."""
    is_adapter: Floats
    is_quantised_base: Floats
    has_fp32_ends: Floats
    """1 where embedding and head of a quantised model are in fp32 (PEFT's prepare_model_for_kbit_training)."""
    is_preference: Floats
    is_eager: Floats
    """1 where the model's plain PyTorch code runs (Transformers, litgpt), without fused norms and activations."""
    keeps_fp32_norms: Floats
    """1 where RMS norms are written out in fp32, which keeps their input in it; LayerNorm is one kernel."""
    adapted_inputs: Floats
    """Inputs of one layer's adapted matrices that are as wide as the hidden size."""
    adapted_mlp_inputs: Floats
    """The same for those as wide as the MLP."""
    logits_bytes: Floats
    """Of the logits, their copies and their gradient, an element."""
    sequence: Floats
    global_batch: Floats
    is_standard_attention: Floats
    weight_bytes: Floats
    """Of a weight or activation: 2, or 4 in fp32."""
    operand_bytes: Floats
    """Of an operand of a matrix product: 1 with FP8, 0.5 with FP4."""
    is_quantised: Floats
    """1 with FP8 or FP4 products, else 0."""
    state_bytes: Floats
    """Optimizer states and master copy of a trained parameter."""
    step_share: Floats
    """Temporary memory of the optimizer step, relative to states and master copy."""
    gradient_bytes: Floats
    """Of an accumulated gradient."""
    reduced_bytes: Floats
    """Of a gradient on the wire."""
    is_fsdp: Floats
    sends_whole_activations: Floats
    """1 where every tensor rank sends the whole activation to the next stage (DeepSpeed), else 0."""
    has_vendor_attention: Floats
    """1 where the framework uses the vendor's attention kernel, else 0."""
    software_age: Floats
    """Years before REFERENCE_YEAR."""


@dataclass(kw_only=True, eq=False, repr=False)
class MachineColumns:
    """Rates of one device: FLOP/s and bytes/s; links per device and direction."""

    matmul_peak: Floats
    """Dense peak of the operands' precision."""
    attention_peak: Floats
    """Dense 16-bit peak (or that of the precision, in fp32)."""
    memory_rate: Floats
    intra_rate: Floats
    inter_rate: Floats
    host_rate: Floats
    node: Floats
    """Devices in a node."""
    scale_up: Floats
    """Devices that the fast links join: a node, or more (NVL72, superpods)."""
    supernode: Floats
    """Devices between which the network does not block; 0 where it never narrows."""
    oversubscription: Floats
    """By how much the network narrows beyond a supernode."""
    runtime_bytes: Floats
    memory_bytes: Floats
    is_measured: Floats
    """1 where `matmul_peak` was measured on the device, so that no fraction applies."""
    is_asynchronous: Floats
    """1 where the host launches ahead of the device."""


@dataclass(kw_only=True, eq=False, repr=False)
class Columns:
    """All inputs of an evaluation; each a scalar or an array of `size` values."""

    size: int
    model: ModelColumns
    machine: MachineColumns
    family: FamilyConstants
    framework: FrameworkConstants
    everything: GlobalConstants
    plans: PlanColumns


def make_columns(
    workload: Workload, machine: Machine, plans: PlanColumns, *, constants: ConstantTable | None = None
) -> Columns:
    """One workload and machine, many plans."""
    if constants is None:
        model, rates, family, framework, everything = _describe(workload, machine)
    else:
        model, rates, family, framework, everything = _describe.__wrapped__(workload, machine, constants)
    return Columns(
        size=int(np.size(plans.tp)),
        model=model,
        machine=rates,
        family=family,
        framework=framework,
        everything=everything,
        plans=plans,
    )


@lru_cache(maxsize=128)
def _describe(
    workload: Workload, machine: Machine, constants: ConstantTable | None = None
) -> tuple[ModelColumns, MachineColumns, FamilyConstants, FrameworkConstants, GlobalConstants]:
    """All columns but the plans'."""
    table = constants or load_constants()
    return (
        _scalars(ModelColumns, describe_model(workload)),
        _scalars(MachineColumns, describe_machine(machine, workload)),
        pick(FamilyConstants, [family_constants(machine, table)]),
        pick(FrameworkConstants, [table.framework[workload.framework]]),
        pick(GlobalConstants, [table.everything]),
    )


def stack_columns(
    rows: Sequence[tuple[Workload, Machine, ParallelPlan]], *, constants: ConstantTable | None = None
) -> Columns:
    """A different workload, machine and plan in each row."""
    table = constants or load_constants()
    return Columns(
        size=len(rows),
        model=_arrays(ModelColumns, [describe_model(workload) for workload, _, _ in rows]),
        machine=_arrays(MachineColumns, [describe_machine(machine, workload) for workload, machine, _ in rows]),
        family=pick(FamilyConstants, [family_constants(machine, table) for _, machine, _ in rows]),
        framework=pick(FrameworkConstants, [table.framework[workload.framework] for workload, _, _ in rows]),
        everything=pick(GlobalConstants, [table.everything]),
        plans=PlanColumns.from_plans([plan for _, _, plan in rows]),
    )


def _scalars(kind: Callable[..., Any], values: dict[str, float]) -> Any:
    return kind(**{name: np.float64(value) for name, value in values.items()})


def _arrays(kind: Callable[..., Any], rows: Sequence[dict[str, float]]) -> Any:
    return kind(**{name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]})


def family_constants(machine: Machine, table: ConstantTable) -> dict[str, float]:
    """The constants of the machine's accelerator: those of its family, in proportion to its own measured ceiling."""
    accelerator = machine.accelerator
    values = {**table.family[accelerator.family], **accelerator.constants}
    if accelerator.matmul_peak_fraction is not None:
        own = accelerator.matmul_peak_fraction / values["matmul_ceiling"]
        values["matmul_fraction"] *= own
        values["fp8_matmul_fraction"] *= own
    return values


def describe_model(workload: Workload) -> dict[str, float]:
    """The scalars of `ModelColumns`."""
    arch = workload.architecture
    is_fp32 = workload.precision == "fp32"
    weight_bytes = 4.0 if is_fp32 else 2.0
    is_quantised = workload.precision in ("fp8", "fp4")
    is_fsdp = workload.framework in ("fsdp", "jax")
    # Megatron and DeepSpeed accumulate in fp32; FSDP keeps fp32 parameters sharded and reduces 16-bit gradients.
    master = 0.0 if is_fp32 or workload.pure_bf16 else MASTER_BYTES
    states = STATE_BYTES[workload.optimizer]
    # The states of 32-bit optimizers take the parameters' type.
    states = states / 2 if workload.pure_bf16 and workload.optimizer != "adamw_8bit" else states
    is_plain = workload.task not in PRETRAINING_TASKS and workload.framework in ("fsdp", "deepspeed")
    is_eager = is_plain and not workload.fused_kernels
    adapted = _ADAPTED_INPUTS[workload.lora_targets] if workload.is_adapter else (0.0, 0.0)
    return {
        "layers": arch.num_hidden_layers + arch.encoder_layers,
        "moe_layers": arch.num_moe_layers,
        "hidden": arch.hidden_size,
        "heads": arch.num_attention_heads,
        "kv_heads": arch.num_key_value_heads,
        "head_dim": arch.head_dim,
        "value_dim": arch.v_head_dim or arch.head_dim,
        "is_latent": float(arch.is_mla),
        "query_rank": arch.q_lora_rank,
        "kv_rank": arch.kv_lora_rank,
        "rope_dim": arch.qk_rope_head_dim,
        "mlp_matrices": arch.mlp_matrices,
        "dense_width": arch.intermediate_size,
        "expert_width": arch.expert_intermediate_size,
        "shared_width": arch.shared_expert_intermediate_size,
        "experts": arch.num_experts,
        "experts_per_token": arch.experts_per_token,
        "vocabulary": arch.vocab_size,
        "is_tied": float(arch.tied_embeddings),
        "other_parameters": arch.other_layer_parameters,
        "other_embedding_parameters": arch.embedding_parameters - arch.vocab_size * arch.hidden_size,
        "other_head_parameters": arch.head_parameters
        - (0 if arch.tied_embeddings else arch.vocab_size * arch.hidden_size),
        "span": mean_attention_span(arch, workload.sequence_length),
        "is_masked": float(arch.family in MASKED_FAMILIES),
        "is_fp32": float(is_fp32),
        "adapter_parameters": adapter_parameters_per_layer(workload) if workload.is_adapter else 0.0,
        "is_adapter": float(workload.is_adapter),
        "is_quantised_base": float(workload.task == "qlora"),
        "has_fp32_ends": float(workload.task == "qlora" and workload.framework == "fsdp" and not workload.pure_bf16),
        "is_preference": float(workload.task == "preference_tuning"),
        "is_eager": float(is_eager),
        "keeps_fp32_norms": float(is_eager and arch.norm_vectors == 1),
        "adapted_inputs": adapted[0],
        "adapted_mlp_inputs": adapted[1],
        "logits_bytes": _logits_bytes(workload, is_eager=is_eager),
        "sequence": workload.sequence_length,
        "global_batch": workload.global_batch_size,
        "is_standard_attention": float(workload.attention_kernel == "standard"),
        "weight_bytes": weight_bytes,
        "operand_bytes": {"fp8": 1.0, "fp4": 0.5}.get(workload.precision, weight_bytes),
        "is_quantised": float(is_quantised),
        "state_bytes": states + master,
        "step_share": states / 2 / (states + master) if is_eager and workload.optimizer == "adamw" else 0.0,
        "gradient_bytes": _gradient_bytes(workload, weight_bytes, is_fsdp=is_fsdp, is_eager=is_eager),
        "reduced_bytes": weight_bytes if is_fsdp or not workload.fp32_gradients else 4.0,
        "is_fsdp": float(is_fsdp),
        "sends_whole_activations": float(workload.framework == "deepspeed"),
        "has_vendor_attention": float(workload.framework in ("megatron", "jax")),
        "software_age": REFERENCE_YEAR - workload.software_year,
    }


def _logits_bytes(workload: Workload, *, is_eager: bool) -> float:
    if workload.attention_kernel == "standard" and not is_eager:
        return _LOGITS_BYTES_STANDARD
    # DeepSpeed's engine runs a 16-bit model without autocast.
    has_autocast = is_eager and workload.framework == "fsdp" and not workload.pure_bf16
    return _LOGITS_BYTES_UPCAST if has_autocast else _LOGITS_BYTES


def _gradient_bytes(workload: Workload, weight_bytes: float, *, is_fsdp: bool, is_eager: bool) -> float:
    if workload.pure_bf16:
        return weight_bytes
    if is_eager and workload.framework == "deepspeed":
        # ZeRO's fp32 gradients are made from the model's own for the step (stage_1_and_2.py).
        return 4.0 + weight_bytes
    return 4.0 if workload.fp32_gradients or is_fsdp else weight_bytes


def describe_machine(machine: Machine, workload: Workload) -> dict[str, float]:
    """The scalars of `MachineColumns`."""
    accelerator = machine.accelerator
    precision = workload.precision
    half = next((name for name in ("bf16", "fp16") if name in accelerator.peak_flop_per_s), None)
    attention = "fp32" if precision == "fp32" or half is None else half
    peak = machine.peak_flop_per_s(precision)
    is_measured = machine.measured_peak_flop_per_s is not None
    return {
        "matmul_peak": peak,
        "attention_peak": peak if is_measured else machine.peak_flop_per_s(attention),
        "memory_rate": accelerator.memory_bytes_per_s,
        "intra_rate": machine.intra_bytes_per_s,
        "inter_rate": machine.inter_bytes_per_s,
        "host_rate": machine.host_rate_bytes_per_s,
        "node": machine.node_size,
        "scale_up": machine.scale_up_size,
        "supernode": 0 if machine.oversubscription_factor <= 1 else machine.supernode_size or 0,
        "oversubscription": machine.oversubscription_factor,
        "runtime_bytes": accelerator.runtime_overhead_bytes,
        "memory_bytes": accelerator.memory_bytes,
        "is_measured": float(is_measured),
        "is_asynchronous": float(accelerator.is_asynchronous),
    }
