"""Which plans are possible, by the rules of the frameworks, the model and the machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from jobs.estimation.hardware import Machine
from jobs.estimation.plan import MAX_DEVICES, OFFLOADS, Booleans, Integers, ParallelPlan, PlanColumns
from jobs.estimation.validation import InvalidInput, check_integer
from jobs.estimation.workload import Workload

_NOT_IN_FRAMEWORK: Final = "1 with the framework {framework}"

RULES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "heads_not_divisible": ("tensor_parallel", "a divisor of num_attention_heads ({heads})"),
        "kv_heads_not_divisible": ("tensor_parallel", "a divisor or a multiple of num_key_value_heads ({kv_heads})"),
        "tensor_parallel_beyond_node": ("tensor_parallel", "a divisor of the devices in a node ({node})"),
        "tensor_parallel_beyond_fast_links": (
            "tensor_parallel",
            "a divisor of the devices in a node ({node}) or of those that fast links join ({scale_up})",
        ),
        "tensor_parallel_not_in_framework": ("tensor_parallel", _NOT_IN_FRAMEWORK),
        "sequence_not_divisible": (
            "context_parallel",
            "sequence_length ({sequence}) divisible by context_parallel, and with sequence parallelism by "
            "tensor_parallel, too",
        ),
        "context_parallel_not_in_framework": ("context_parallel", _NOT_IN_FRAMEWORK),
        "layers_not_divisible": (
            "pipeline_parallel",
            "pipeline_parallel x virtual_stages dividing the layers ({layers}), or the layers + 2 (embedding and head "
            "counted as one layer each); without virtual stages also equal inner stages that leave a layer each to the "
            "first and the last",
        ),
        "pipeline_not_in_framework": ("pipeline_parallel", _NOT_IN_FRAMEWORK),
        "interleaving_not_in_framework": ("virtual_stages", _NOT_IN_FRAMEWORK),
        "interleaving_needs_full_rounds": (
            "virtual_stages",
            "1, or a number of micro-batches that is a multiple of pipeline_parallel",
        ),
        "zero_bubble_with_interleaving": ("pipeline_schedule", "1f1b with virtual stages"),
        "batch_not_divisible": (
            "micro_batch_size",
            "data_parallel x micro_batch_size dividing global_batch_size ({batch})",
        ),
        "experts_missing": ("expert_parallel", "1 for a model without experts"),
        "experts_not_divisible": ("expert_parallel", "a divisor of num_experts ({experts})"),
        "expert_ranks_not_divisible": (
            "expert_parallel",
            "a divisor of data x context x tensor ranks",
        ),
        "expert_parallel_not_in_framework": ("expert_parallel", _NOT_IN_FRAMEWORK),
        "experts_need_sequence_parallel": (
            "sequence_parallel",
            "true where expert and tensor parallelism meet",
        ),
        "zero_stage_with_pipeline": ("zero_stage", "0 or 1 with pipeline parallelism"),
        "zero_stage_not_in_framework": ("zero_stage", "one of {stages} with the framework {framework}"),
        "weights_offloaded_without_sharding": ("offload", "none or optimizer below ZeRO stage 3"),
        "offload_without_host_memory": ("offload", "none: device and host share their memory"),
    }
)
"""Code -> (field of the plan, what is allowed); the rules themselves are in `find_violations`."""


@dataclass(frozen=True, kw_only=True)
class FrameworkRules:
    """What a training framework can do at all."""

    zero_stages: tuple[int, ...] = (0, 1, 2, 3)
    has_pipeline: bool = True
    has_interleaving: bool = True
    has_tensor: bool = True
    has_context: bool = True
    has_experts: bool = True
    needs_sequence_with_experts: bool = False
    """Megatron-LM arguments.py: "sequence parallelism must be used" with MoE and tensor parallelism."""
    has_hybrid_sharding: bool = False
    """Whether ZeRO 2 and 3 can shard within a node and keep copies between nodes (FSDP's HYBRID_SHARD)."""
    has_partial_recomputation: bool = True
    """Whether full recomputation can be limited to some layers (Megatron-LM's --recompute-num-layers)."""


FRAMEWORK_RULES: Final[Mapping[str, FrameworkRules]] = MappingProxyType(
    {
        # ZeRO 2 and 3 are Megatron-FSDP (--data-parallel-sharding-strategy), which works without pipeline only.
        "megatron": FrameworkRules(needs_sequence_with_experts=True),
        # DeepSpeed's PipelineModule has one chunk of layers a stage.
        "deepspeed": FrameworkRules(has_interleaving=False, has_partial_recomputation=False),
        # NO_SHARD, SHARD_GRAD_OP and FULL_SHARD; there is no stage that shards optimizer states alone.
        "fsdp": FrameworkRules(zero_stages=(0, 2, 3), has_pipeline=False, has_hybrid_sharding=True),
        "jax": FrameworkRules(has_hybrid_sharding=True, has_partial_recomputation=False),
        "mindspore": FrameworkRules(),
        "paddle": FrameworkRules(),
        # llm.c: data parallel with optimizer states sharded at most.
        "native": FrameworkRules(
            zero_stages=(0, 1),
            has_pipeline=False,
            has_tensor=False,
            has_context=False,
            has_experts=False,
            has_partial_recomputation=False,
        ),
    }
)


def check_devices(machine: Machine, devices: object) -> int:
    """Return the device count if the machine can give it: an allowed count in a node, or whole nodes."""
    count = check_integer("devices", devices, minimum=1, maximum=MAX_DEVICES)
    node = machine.node_size
    if count > node and count % node:
        raise InvalidInput("devices", count, f"whole nodes of {node} devices")
    within = machine.allowed_device_counts
    if count < node and count not in within:
        raise InvalidInput("devices", count, f"within a node one of {', '.join(map(str, within))}")
    return count


def find_violations(workload: Workload, machine: Machine, plans: PlanColumns) -> dict[str, Booleans]:
    """For each rule (a code of RULES) the plans that break it. The only place where plans are judged possible or not.

    A rule that cannot be broken by this workload, framework or machine is left out.
    """
    arch = workload.architecture
    splits = plans.cp * np.where(plans.sequence, plans.tp, 1)
    micro_batches = workload.global_batch_size // (plans.dp * plans.micro)
    kv_heads = arch.num_key_value_heads
    violations = {
        "heads_not_divisible": arch.num_attention_heads % plans.tp != 0,
        "kv_heads_not_divisible": (kv_heads % plans.tp != 0) & (plans.tp % kv_heads != 0),
        **_find_beyond_links(machine, plans),
        "sequence_not_divisible": workload.sequence_length % splits != 0,
        "layers_not_divisible": find_indivisible_layers(arch.num_layers, plans.pp, plans.virtual),
        # Megatron-LM: interleaving works in rounds of pp micro-batches.
        "interleaving_needs_full_rounds": (plans.virtual > 1) & (micro_batches % plans.pp != 0),
        # ZB-H1 splits the backward pass of plain 1F1B (arXiv 2401.10241, 2).
        "zero_bubble_with_interleaving": (plans.schedule == 1) & (plans.virtual > 1),
        "batch_not_divisible": workload.global_batch_size % (plans.dp * plans.micro) != 0,
    }
    if arch.is_moe:
        violations["experts_not_divisible"] = arch.num_experts % plans.ep != 0
        violations["expert_ranks_not_divisible"] = (plans.dp * plans.cp * plans.tp) % plans.ep != 0
    else:
        violations["experts_missing"] = plans.ep > 1
    return violations | _find_framework_violations(workload, plans) | _find_offload_violations(machine, plans)


def _find_beyond_links(machine: Machine, plans: PlanColumns) -> dict[str, Booleans]:
    beyond = machine.node_size % plans.tp != 0
    scale_up = machine.scale_up_size
    if scale_up == machine.node_size:
        return {"tensor_parallel_beyond_node": beyond}
    return {"tensor_parallel_beyond_fast_links": beyond & (scale_up % plans.tp != 0)}


def find_indivisible_layers(layers: int, pipeline: Integers, virtual: Integers) -> Booleans:
    """Layers that the stages can't share.

    Llama 3 (arXiv 2407.21783, 3.3.2) and BLOOM count embedding and head as a layer each to balance the stages. Without
    virtual stages the inner ones may be equal and the ends shorter (Megatron-LM's --decoder-first-pipeline-num-layers;
    DeepSeek-V3: 61 layers on 16 stages).
    """
    stages = pipeline * virtual
    has_ends = layers - (pipeline - 2) * -(-layers // pipeline) >= 2
    is_divisible = (layers % stages == 0) | ((layers + 2) % stages == 0) | ((virtual == 1) & has_ends)
    broken: Booleans = ~is_divisible | (pipeline > layers)
    return broken


def _find_framework_violations(workload: Workload, plans: PlanColumns) -> dict[str, Booleans]:
    rules = FRAMEWORK_RULES[workload.framework]
    violations: dict[str, Booleans] = {
        # Gradients or weights sharded over data ranks would be gathered anew for every micro-batch and stage.
        "zero_stage_with_pipeline": (plans.zero >= 2) & (plans.pp > 1),
    }
    lacking = {
        "pipeline_not_in_framework": (rules.has_pipeline, plans.pp),
        "interleaving_not_in_framework": (rules.has_interleaving, plans.virtual),
        "tensor_parallel_not_in_framework": (rules.has_tensor, plans.tp),
        "context_parallel_not_in_framework": (rules.has_context, plans.cp),
        "expert_parallel_not_in_framework": (rules.has_experts, plans.ep),
    }
    violations |= {code: degree > 1 for code, (is_there, degree) in lacking.items() if not is_there}
    if len(rules.zero_stages) < 4:
        violations["zero_stage_not_in_framework"] = ~np.isin(plans.zero, rules.zero_stages)
    if rules.needs_sequence_with_experts and workload.architecture.is_moe:
        violations["experts_need_sequence_parallel"] = (plans.ep > 1) & (plans.tp > 1) & ~plans.sequence
    return violations


def _find_offload_violations(machine: Machine, plans: PlanColumns) -> dict[str, Booleans]:
    if not np.any(plans.offload):
        return {}
    is_whole = plans.offload >= OFFLOADS.index("optimizer_and_weights")
    violations: dict[str, Booleans] = {"weights_offloaded_without_sharding": is_whole & (plans.zero < 3)}
    if not machine.has_host_memory:
        violations["offload_without_host_memory"] = plans.offload > 0
    return violations


def describe_rule(workload: Workload, machine: Machine, code: str) -> tuple[str, str]:
    """(field of the plan, what is allowed) of a code of RULES, with the figures of this workload and machine."""
    name, allowed = RULES[code]
    arch = workload.architecture
    return name, allowed.format(
        heads=arch.num_attention_heads,
        kv_heads=arch.num_key_value_heads,
        node=machine.node_size,
        scale_up=machine.scale_up_size,
        sequence=workload.sequence_length,
        layers=arch.num_layers,
        batch=workload.global_batch_size,
        experts=arch.num_experts,
        stages=", ".join(map(str, FRAMEWORK_RULES[workload.framework].zero_stages)),
        framework=workload.framework,
    )


def check_plan(workload: Workload, machine: Machine, plan: ParallelPlan) -> None:
    """Raise InvalidInput for a plan that the workload, its framework or the machine rules out."""
    check_devices(machine, plan.devices)
    for code, broken in find_violations(workload, machine, PlanColumns.from_plans([plan])).items():
        if broken[0]:
            name, allowed = describe_rule(workload, machine, code)
            raise InvalidInput(f"plan.{name}", getattr(plan, name), allowed)
