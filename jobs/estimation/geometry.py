"""What follows from a plan alone: which plans are possible, and how the model lies on the devices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from jobs.estimation.hardware import Machine
from jobs.estimation.plan import MAX_DEVICES, Booleans, Floats, Integers, ParallelPlan, PlanColumns
from jobs.estimation.validation import InvalidInput, check_integer
from jobs.estimation.workload import Workload

# code -> (field of the plan, what is allowed); the rules themselves are in find_violations().
RULES: Final[Mapping[str, tuple[str, str]]] = {
    "heads_not_divisible": ("tensor_parallel", "a divisor of num_attention_heads ({heads})"),
    "kv_heads_not_divisible": ("tensor_parallel", "a divisor or a multiple of num_key_value_heads ({kv_heads})"),
    "tensor_parallel_beyond_node": ("tensor_parallel", "a divisor of the devices in a node ({node})"),
    "sequence_not_divisible": (
        "context_parallel",
        "sequence_length ({sequence}) divisible by context_parallel, and with sequence parallelism by tensor_parallel, "
        "too",
    ),
    "layers_not_divisible": (
        "pipeline_parallel",
        "pipeline_parallel x virtual_stages dividing the layers ({layers}), or the layers + 2 (embedding and head "
        "counted as one layer each)",
    ),
    "interleaving_needs_full_rounds": (
        "virtual_stages",
        "1, or a number of micro-batches that is a multiple of pipeline_parallel",
    ),
    "batch_not_divisible": (
        "micro_batch_size",
        "data_parallel x micro_batch_size dividing global_batch_size ({batch})",
    ),
    "zero_stage_with_pipeline": ("zero_stage", "0 or 1 with pipeline parallelism"),
}


def check_devices(machine: Machine, devices: object) -> int:
    """Return the device count if the machine can give it: an allowed count in a node, or whole nodes."""
    count = check_integer("devices", devices, minimum=1, maximum=MAX_DEVICES)
    node = machine.node_size
    if count > node and count % node:
        raise InvalidInput("devices", count, f"whole nodes of {node} devices")
    within = sorted({*(n for n in machine.accelerator.allowed_device_counts if n < node), node})
    if count < node and count not in within:
        raise InvalidInput("devices", count, f"within a node one of {', '.join(map(str, within))}")
    return count


def find_violations(workload: Workload, machine: Machine, plans: PlanColumns) -> dict[str, Booleans]:
    """For each rule the plans that break it. The only place where plans are judged possible or not."""
    arch = workload.architecture
    layers = arch.num_hidden_layers
    stages = plans.pp * plans.virtual
    share = plans.dp * plans.micro
    splits = plans.cp * np.where(plans.sequence, plans.tp, 1)
    micro_batches = workload.global_batch_size // np.maximum(share, 1)
    kv_heads = arch.num_key_value_heads
    return {
        "heads_not_divisible": arch.num_attention_heads % plans.tp != 0,
        "kv_heads_not_divisible": (kv_heads % plans.tp != 0) & (plans.tp % kv_heads != 0),
        "tensor_parallel_beyond_node": machine.node_size % plans.tp != 0,
        "sequence_not_divisible": workload.sequence_length % splits != 0,
        # Llama 3 (arXiv 2407.21783, 3.3.2) and BLOOM count embedding and head as a layer each to balance the stages.
        "layers_not_divisible": ((layers % stages != 0) & ((layers + 2) % stages != 0)) | (plans.pp > layers),
        # Megatron-LM: interleaving works in rounds of pp micro-batches.
        "interleaving_needs_full_rounds": (plans.virtual > 1) & (micro_batches % plans.pp != 0),
        "batch_not_divisible": workload.global_batch_size % share != 0,
        # Gradients or weights sharded over data ranks would be gathered anew for every micro-batch and stage.
        "zero_stage_with_pipeline": (plans.zero >= 2) & (plans.pp > 1),
    }


def check_plan(workload: Workload, machine: Machine, plan: ParallelPlan) -> None:
    """Raise InvalidInput for a plan that the workload or the machine rules out."""
    check_devices(machine, plan.devices)
    arch = workload.architecture
    for code, broken in find_violations(workload, machine, PlanColumns.from_plans([plan])).items():
        if broken[0]:
            name, allowed = RULES[code]
            raise InvalidInput(
                f"plan.{name}",
                getattr(plan, name),
                allowed.format(
                    heads=arch.num_attention_heads,
                    kv_heads=arch.num_key_value_heads,
                    node=machine.node_size,
                    sequence=workload.sequence_length,
                    layers=arch.num_hidden_layers,
                    batch=workload.global_batch_size,
                ),
            )


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Quantities that memory and time share; arrays with one entry per plan."""

    tokens: Floats
    """Tokens of one micro-batch on one rank (micro-batch x sequence / context parallel)."""
    micro_batches: Integers
    shards: Integers
    """Ranks that ZeRO shards over: data x context parallel."""
    first_layers: Floats
    middle_layers: Floats
    """Layers on an inner stage; the most that any stage holds."""
    last_layers: Floats
    has_uneven_stages: Booleans
    kv_width: Floats
    """Key width on a rank; key heads are copied where there are fewer than tensor ranks."""
    layer_matmul_parameters: Floats
    """Matrix weights of one layer on one rank."""
    layer_parameters: Floats
    embedding_parameters: Floats
    head_parameters: Floats
    """On one rank of the last stage; with tied embeddings a copy if that is not the first stage."""


def lay_out(workload: Workload, plans: PlanColumns) -> Geometry:
    """Place model and batch on the devices."""
    arch = workload.architecture
    hidden = arch.hidden_size
    layers = arch.num_hidden_layers
    is_even = layers % (plans.pp * plans.virtual) == 0
    middle = np.where(is_even, layers / plans.pp, (layers + 2) / plans.pp)
    ends = np.where(is_even, middle, middle - 1)
    kv_width = np.maximum(arch.key_value_size / plans.tp, arch.head_dim)
    matmul = hidden * (
        2 * arch.query_size / plans.tp + 2 * kv_width + arch.mlp_matrices * arch.intermediate_size / plans.tp
    )
    vocabulary = np.ceil(arch.vocab_size / plans.tp) * hidden
    other_embedding = arch.embedding_parameters - arch.vocab_size * hidden
    is_copied = (plans.pp > 1) | (not arch.tied_embeddings)
    other_head = arch.head_parameters - (0 if arch.tied_embeddings else arch.vocab_size * hidden)
    return Geometry(
        tokens=plans.micro * workload.sequence_length / plans.cp,
        micro_batches=workload.global_batch_size // (plans.dp * plans.micro),
        shards=plans.dp * plans.cp,
        first_layers=ends,
        middle_layers=middle,
        last_layers=ends,
        has_uneven_stages=~is_even,
        kv_width=kv_width,
        layer_matmul_parameters=matmul,
        layer_parameters=matmul + (arch.layer_parameters - arch.layer_matmul_parameters),
        embedding_parameters=vocabulary + other_embedding,
        head_parameters=np.where(is_copied, vocabulary, 0.0) + other_head,
    )
