"""Random workloads, machines and plans that the rules allow, for hypothesis."""

import itertools
from dataclasses import fields, replace
from typing import NamedTuple

from hypothesis import strategies as st

from jobs.estimation import Machine, ParallelPlan, Workload, accelerators, presets
from jobs.estimation.plan import OFFLOADS, RECOMPUTATIONS, SCHEDULES
from jobs.estimation.plan_enumeration import MICRO_BATCH_SIZES, VIRTUAL_STAGES
from jobs.estimation.plan_rules import FRAMEWORK_RULES, check_plan
from jobs.estimation.workload import FRAMEWORKS, OPTIMIZERS, TASKS

PRESETS = tuple(presets())
MACHINES = tuple(accelerators())


class Case(NamedTuple):
    """One of them, which prints what differs from the defaults: a whole architecture would fill pages."""

    workload: Workload
    machine: Machine
    plan: ParallelPlan

    def __repr__(self):
        plain = {item.name: item.default for item in (*fields(Workload), *fields(ParallelPlan))}
        given = {
            item.name: getattr(part, item.name)
            for part in (self.workload, self.plan)
            for item in fields(part)
            if item.name not in ("architecture", "preset") and getattr(part, item.name) != plain[item.name]
        }
        changes = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return f"<{self.workload.preset} on {self.machine.accelerator.code}: {changes}>"


def list_divisors(number, most):
    return [n for n in range(1, min(number, most) + 1) if number % n == 0]


def list_stages(workload, most):
    """(pipeline, virtual stages) that share the layers."""
    layers = workload.architecture.num_layers
    rules = FRAMEWORK_RULES[workload.framework]
    choices = [(1, 1)]
    for pp, virtual in itertools.product(range(2, min(most, layers) + 1) if rules.has_pipeline else (), VIRTUAL_STAGES):
        is_uneven = virtual == 1 and layers - (pp - 2) * -(-layers // pp) >= 2
        divides = layers % (pp * virtual) == 0 or (layers + 2) % (pp * virtual) == 0
        if (virtual == 1 or rules.has_interleaving) and (divides or is_uneven):
            choices.append((pp, virtual))
    return choices


@st.composite
def workloads(draw, *, names=PRESETS, machine, tasks=TASKS, frameworks=FRAMEWORKS):
    """A job of any kind in a precision of the machine."""
    name = draw(st.sampled_from(names))
    positions = presets()[name].architecture.max_position_embeddings
    lengths = [n for n in (512, 2048, 32_768) if n <= max(positions, 512)]
    return Workload.from_dict(
        {
            "model": {"preset": name},
            "tokens": draw(st.integers(10**6, 10**13)),
            "task": draw(st.sampled_from(tasks)),
            "sequence_length": min(draw(st.sampled_from(lengths)), positions),
            "precision": draw(st.sampled_from(sorted(machine.accelerator.peak_flop_per_s))),
            "optimizer": draw(st.sampled_from(OPTIMIZERS)),
            "attention_kernel": draw(st.sampled_from(["flash", "standard"])),
            "framework": draw(st.sampled_from(frameworks)),
            "fp32_gradients": draw(st.booleans()),
        }
    )


@st.composite
def plans(draw, workload, machine):
    """(workload with a batch that divides, plan): any values of any field, on as many devices as the machine gives."""
    arch, rules = workload.architecture, FRAMEWORK_RULES[workload.framework]
    kv_heads, length = arch.num_key_value_heads, workload.sequence_length
    tensor = [
        n
        for n in list_divisors(arch.num_attention_heads, 16 if rules.has_tensor else 1)
        if (kv_heads % n == 0 or n % kv_heads == 0) and (machine.node_size % n == 0 or machine.scale_up_size % n == 0)
    ]
    tp = draw(st.sampled_from(tensor))
    pp, virtual = draw(st.sampled_from(list_stages(workload, 8)))
    cp = draw(st.sampled_from([n for n in (1, 2, 4) if rules.has_context and length % (n * tp) == 0] or [1]))
    dp = draw(st.sampled_from([1, 2, 3, 8, 16]))
    if tp * pp * cp * dp > machine.node_size or tp * pp * cp * dp not in machine.allowed_device_counts:
        dp *= machine.node_size
    ranks = dp * cp
    experts = [n for n in list_divisors(max(arch.num_experts, 1), 64) if rules.has_experts and ranks * tp % n == 0] or [
        1
    ]
    ep = draw(st.sampled_from(experts))
    can_split = tp > 1 and length % (cp * tp) == 0
    if tp > 1 and ep > 1 and rules.needs_sequence_with_experts and not can_split:
        ep = 1
    zero = draw(st.sampled_from([n for n in rules.zero_stages if pp == 1 or n < 2]))
    micro = draw(st.sampled_from(MICRO_BATCH_SIZES))
    offloads = [n for n in OFFLOADS if n != OFFLOADS[-1] or zero == 3] if machine.has_host_memory else OFFLOADS[:1]
    needs_split = ep > 1 and rules.needs_sequence_with_experts
    plan = ParallelPlan(
        tensor_parallel=tp,
        pipeline_parallel=pp,
        context_parallel=cp,
        data_parallel=dp,
        expert_parallel=ep,
        virtual_stages=virtual,
        micro_batch_size=micro,
        zero_stage=zero,
        zero_group=draw(st.sampled_from([0, *list_divisors(ranks, 64)])),
        recomputation=draw(st.sampled_from(RECOMPUTATIONS)),
        recomputed_layers=draw(st.integers(0, -(-arch.num_layers // pp))),
        sequence_parallel=can_split and (needs_split or draw(st.booleans())),
        pipeline_schedule=draw(st.sampled_from(SCHEDULES if virtual == 1 else SCHEDULES[:1])),
        offload=draw(st.sampled_from(offloads)),
    )
    workload = replace(workload, global_batch_size=dp * micro * pp * draw(st.integers(1, 3)))
    check_plan(workload, machine, plan)
    return workload, plan


@st.composite
def possible_cases(draw, *, names=PRESETS, machines=MACHINES, tasks=TASKS, frameworks=FRAMEWORKS):
    """A workload, a machine, and a plan that the rules allow."""
    machine = Machine.from_catalog(draw(st.sampled_from(machines)))
    workload = draw(workloads(names=names, machine=machine, tasks=tasks, frameworks=frameworks))
    workload, plan = draw(plans(workload, machine))
    return Case(workload, machine, plan)
