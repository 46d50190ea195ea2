"""From workload, machine and plan to an estimate. One implementation: an estimate is an evaluation of one plan."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import sqrt
from typing import Any, Final

import numpy as np

from jobs.estimation.advice import Advice
from jobs.estimation.flops import (
    count_flop_6nd,
    count_model_flop_per_step,
    count_recomputed_flop_per_step,
    trainable_parameters,
)
from jobs.estimation.geometry import Geometry, check_plan, lay_out
from jobs.estimation.hardware import Machine
from jobs.estimation.memory import bytes_per_weight, compute_memory, optimizer_bytes_per_parameter
from jobs.estimation.plan import Floats, ParallelPlan, PlanColumns
from jobs.estimation.step_time import compute_step_time
from jobs.estimation.validation import check_keys, check_mapping
from jobs.estimation.workload import Workload

ENGINE_VERSION: Final = "2026.11.1"
"""Changes whenever a formula or a constant changes, so that a stored estimate says what computed it."""

_GIB: Final = 2**30
# Adapter runs are not among the rows that the error model was measured on.
ADAPTER_WIDENING: Final = 1.3
_LEAST_GOODPUT: Final = 0.01
_NEARLY_FULL: Final = 0.93
_NOTABLE_SHARE: Final = 0.15


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Many plans evaluated at once; arrays have one entry per plan."""

    plans: PlanColumns
    geometry: Geometry
    memory_parts_bytes: Mapping[str, Floats]
    step_parts_s: Mapping[str, Floats]
    memory_bytes: Floats
    step_s: Floats
    recomputed_flop_per_step: Floats


def evaluate_plans(workload: Workload, machine: Machine, plans: PlanColumns) -> Evaluation:
    """Memory and step time of all `plans`. They must be possible ones (see geometry.find_violations)."""
    geometry = lay_out(workload, plans)
    memory = compute_memory(workload, machine, plans, geometry)
    step = compute_step_time(workload, machine, plans, geometry)
    return Evaluation(
        plans=plans,
        geometry=geometry,
        memory_parts_bytes=memory,
        step_parts_s=step,
        memory_bytes=np.sum(list(memory.values()), axis=0),
        step_s=np.sum(list(step.values()), axis=0),
        recomputed_flop_per_step=count_recomputed_flop_per_step(workload, plans),
    )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a training job needs under one plan.

    `memory_*` are those of one device on the fullest pipeline stage. `duration_s` is wall-clock time without queueing:
    steps x step time / expected goodput (checkpoints, and failures with lost work and restarts); `duration_p10_s` and
    `duration_p90_s` bound it by the error measured on published runs. `mfu` counts causal attention once, against
    the dense peak of the precision. `hardware_flop_per_step` adds recomputation. `energy_j` is that of the
    accelerators at rated power. `flop_6nd` is the rule of thumb for the whole run.
    """

    plan: ParallelPlan
    devices: int
    fits: bool
    memory_parts_bytes: Mapping[str, float]
    memory_bytes: float
    memory_capacity_bytes: int
    step_parts_s: Mapping[str, float]
    step_s: float
    steps: int
    parameters: int
    trainable_parameters: int
    model_flop_per_step: float
    hardware_flop_per_step: float
    flop_6nd: float
    tokens_per_s: float
    tokens_per_s_per_device: float
    model_flop_per_s_per_device: float
    mfu: float
    duration_s: float
    duration_p10_s: float
    duration_p90_s: float
    accelerator_s: float
    energy_j: float
    price: float | None
    checkpoint_bytes: float
    checkpoint_write_s: float
    checkpoint_interval_s: float
    expected_goodput: float
    dataset_bytes: float
    read_bytes_per_s: float
    advice: tuple[Advice, ...]
    assumptions: tuple[str, ...]
    basis: str
    engine_version: str = ENGINE_VERSION

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able object that `from_dict` reads back to an equal estimate."""
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        data["plan"] = self.plan.to_dict()
        data["memory_parts_bytes"] = dict(self.memory_parts_bytes)
        data["step_parts_s"] = dict(self.step_parts_s)
        data["advice"] = [item.to_dict() for item in self.advice]
        data["assumptions"] = list(self.assumptions)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Estimate":
        """Rebuild a stored estimate; raises InvalidInput for missing or unknown keys."""
        mapping = dict(check_mapping("estimate", data))
        known = {field.name for field in fields(cls)}
        check_keys("estimate", mapping, known=known, required=known)
        mapping["plan"] = ParallelPlan.from_dict(check_mapping("estimate.plan", mapping["plan"]))
        mapping["advice"] = tuple(Advice.from_dict(item) for item in mapping["advice"])  # type: ignore[attr-defined]
        mapping["assumptions"] = tuple(mapping["assumptions"])  # type: ignore[arg-type]
        return cls(**mapping)  # type: ignore[arg-type] # written by to_dict


def estimate(workload: Workload, machine: Machine, plan: ParallelPlan) -> Estimate:
    """Estimate one plan; raises InvalidInput if workload or machine rule it out. Too little memory is not an error."""
    check_plan(workload, machine, plan)
    evaluation = evaluate_plans(workload, machine, PlanColumns.from_plans([plan]))
    return build_estimate(workload, machine, evaluation, 0)


def compute_checkpoint_interval(*, write_s: float, mtbf_s: float) -> float:
    """Seconds of work between checkpoints that lose least time (Daly 2006, doi 10.1016/j.future.2004.11.016, eq. 37).

    Young's first-order sqrt(2 C M) with Daly's higher-order terms; M where a checkpoint takes longer than 2 M.
    """
    if write_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = write_s / (2 * mtbf_s)
    return max(sqrt(2 * write_s * mtbf_s) * (1 + sqrt(ratio) / 3 + ratio / 9) - write_s, write_s)


def compute_goodput(*, write_s: float, interval_s: float, mtbf_s: float, restart_s: float) -> float:
    """Share of time that is progress: 1 - C/tau - (tau/2 + R)/M (Young 1974; half an interval is lost per stop)."""
    waste = write_s / max(interval_s, 1e-9) if write_s > 0 else 0.0
    waste += (interval_s / 2 + restart_s) / mtbf_s
    return max(_LEAST_GOODPUT, 1 - waste)


def build_estimate(workload: Workload, machine: Machine, evaluation: Evaluation, row: int) -> Estimate:
    """The estimate of one row of an evaluation."""
    accelerator = machine.accelerator
    plan = evaluation.plans.plan(row)
    devices = plan.devices
    memory = {name: float(values[row]) for name, values in evaluation.memory_parts_bytes.items()}
    step = {name: float(values[row]) for name, values in evaluation.step_parts_s.items()}
    memory_bytes = sum(memory.values())
    step_s = sum(step.values())
    tokens_per_s = workload.tokens_per_step / step_s
    model_flop = count_model_flop_per_step(workload)
    flop_per_s_per_device = model_flop / step_s / devices

    trainable = trainable_parameters(workload)
    # 16-bit weights beside the fp32 master copy and Adam's moments: 14 bytes a parameter (BLOOM's logs: 13).
    state = optimizer_bytes_per_parameter(workload)
    checkpoint_bytes = trainable * (state + bytes_per_weight(workload))
    write_s = checkpoint_bytes / machine.storage_rate_bytes_per_s(devices)
    mtbf_s = 3600 * machine.mtbf_hours_per_device / devices
    interval_s = compute_checkpoint_interval(write_s=write_s, mtbf_s=mtbf_s)
    goodput = compute_goodput(write_s=write_s, interval_s=interval_s, mtbf_s=mtbf_s, restart_s=machine.restart_s)

    duration_s = workload.steps * step_s / goodput
    widening = ADAPTER_WIDENING if workload.is_adapter else 1.0
    accelerator_s = devices * duration_s
    price = None if machine.price_per_device_hour is None else machine.price_per_device_hour * accelerator_s / 3600
    result = Estimate(
        plan=plan,
        devices=devices,
        fits=memory_bytes <= accelerator.memory_bytes,
        memory_parts_bytes=memory,
        memory_bytes=memory_bytes,
        memory_capacity_bytes=accelerator.memory_bytes,
        step_parts_s=step,
        step_s=step_s,
        steps=workload.steps,
        parameters=workload.architecture.parameters,
        trainable_parameters=trainable,
        model_flop_per_step=model_flop,
        hardware_flop_per_step=model_flop + float(evaluation.recomputed_flop_per_step[row]),
        flop_6nd=count_flop_6nd(workload.architecture.parameters, workload.tokens),
        tokens_per_s=tokens_per_s,
        tokens_per_s_per_device=tokens_per_s / devices,
        model_flop_per_s_per_device=flop_per_s_per_device,
        mfu=flop_per_s_per_device / machine.peak_flop_per_s(workload.precision),
        duration_s=duration_s,
        duration_p10_s=duration_s * accelerator.efficiency.error_p10 / widening,
        duration_p90_s=duration_s * accelerator.efficiency.error_p90 * widening,
        accelerator_s=accelerator_s,
        energy_j=accelerator_s * accelerator.tdp_w,
        price=price,
        checkpoint_bytes=checkpoint_bytes,
        checkpoint_write_s=write_s,
        checkpoint_interval_s=interval_s,
        expected_goodput=goodput,
        dataset_bytes=workload.tokens * workload.bytes_per_token_on_disk,
        read_bytes_per_s=tokens_per_s * workload.bytes_per_token_on_disk,
        advice=(),
        assumptions=_list_assumptions(
            workload, machine, plan, has_uneven=bool(evaluation.geometry.has_uneven_stages[row])
        ),
        basis=accelerator.efficiency.basis if machine.measured_peak_flop_per_s is None else "measured_peak",
    )
    return _with_advice(result, workload, machine)


def _list_assumptions(workload: Workload, machine: Machine, plan: ParallelPlan, *, has_uneven: bool) -> tuple[str, ...]:
    codes = [
        f"{workload.attention_kernel}_attention",
        "causal_attention_counted_once",
        "fp32_gradients",
        "fp32_logits",
        "optimum_checkpoint_interval",
        "all_storage_for_this_job",
        "energy_at_tdp",
    ]
    if plan.zero_stage >= 2:
        codes.append("sharding_runs_eager_kernels")
    if has_uneven:
        codes.append("embedding_and_head_as_layers")
    if plan.tensor_parallel > workload.architecture.num_key_value_heads:
        codes.append("key_heads_copied")
    if machine.measured_peak_flop_per_s is not None:
        codes.append("measured_peak")
    elif machine.accelerator.source_status == "recalled":
        codes.append("data_sheet_recalled")
    return tuple(codes)


def _with_advice(result: Estimate, workload: Workload, machine: Machine) -> Estimate:
    advice = [
        *_advise_on_memory(result),
        *_advise_on_time(result),
        *_advise_on_training(result, workload),
        *_advise_on_operation(result, machine),
    ]
    data = {field.name: getattr(result, field.name) for field in fields(result)}
    return Estimate(**{**data, "advice": tuple(advice)})


def _advise_on_memory(result: Estimate) -> list[Advice]:
    capacity = result.memory_capacity_bytes
    parts = result.memory_parts_bytes
    used = result.memory_bytes / capacity
    if result.fits:
        if used < _NEARLY_FULL:
            return []
        return [Advice(code="memory_nearly_full", severity="warning", parameters={"used_percent": 100 * used})]
    states_gib = (parts["weights"] + parts["gradients"] + parts["optimizer"]) / _GIB
    plan = result.plan
    advice = [
        Advice(
            code="out_of_memory",
            severity="error",
            parameters={
                "missing_gib": (result.memory_bytes - capacity) / _GIB,
                "capacity_gib": capacity / _GIB,
                "largest_part": max(parts, key=lambda name: parts[name]),
            },
        )
    ]
    if plan.recomputation != "full" and parts["activations"] > 0.1 * capacity:
        parameters: dict[str, Any] = {"activations_gib": parts["activations"] / _GIB}
        advice.append(Advice(code="try_recomputation", severity="info", parameters=parameters))
    if plan.micro_batch_size > 1:
        parameters = {"micro_batch_size": plan.micro_batch_size // 2, "current": plan.micro_batch_size}
        advice.append(Advice(code="try_smaller_micro_batch", severity="info", parameters=parameters))
    highest_stage = 3 if plan.pipeline_parallel == 1 else 1
    if plan.data_parallel * plan.context_parallel > 1 and plan.zero_stage < highest_stage:
        advice.append(Advice(code="try_zero_stage", severity="info", parameters={"states_gib": states_gib}))
    if states_gib * _GIB > 0.5 * capacity:
        advice.append(Advice(code="try_more_devices", severity="info", parameters={"states_gib": states_gib}))
    return advice


def _advise_on_time(result: Estimate) -> list[Advice]:
    named = {
        "host_overhead": "host_bound",
        "pipeline_bubble": "pipeline_bubble",
        "tensor_parallel": "tensor_parallel_costly",
        "data_parallel": "data_parallel_exposed",
    }
    shares = {code: result.step_parts_s[part] / result.step_s for part, code in named.items()}
    return [
        Advice(code=code, severity="warning", parameters={"share_percent": 100 * share})
        for code, share in shares.items()
        if share > _NOTABLE_SHARE
    ]


def _advise_on_training(result: Estimate, workload: Workload) -> list[Advice]:
    arch = workload.architecture
    advice = []
    if workload.precision == "fp16":
        advice.append(Advice(code="fp16_needs_loss_scaling", severity="warning"))
    # Heuristic of this project, measured on a random residual network: 0.62 u sqrt(L), u = 2^-8 for bf16; 3.4e-3 with
    # a fp32 stream at any depth.
    error = 0.62 * 2**-8 * sqrt(arch.num_hidden_layers)
    if workload.precision == "bf16" and error > 2e-2:
        parameters: dict[str, Any] = {"layers": arch.num_hidden_layers, "error": error, "error_fp32": 3.4e-3}
        advice.append(Advice(code="low_precision_residual_stream", severity="info", parameters=parameters))
    # Hoffmann 2022 (arXiv 2203.15556): about 20 tokens a parameter.
    ratio = workload.tokens / arch.parameters
    if workload.task == "pretraining" and ratio < 10:
        parameters = {"tokens_per_parameter": ratio}
        advice.append(Advice(code="few_tokens_per_parameter", severity="info", parameters=parameters))
    if workload.sequence_length > arch.max_position_embeddings:
        parameters = {"sequence_length": workload.sequence_length, "positions": arch.max_position_embeddings}
        advice.append(Advice(code="sequence_beyond_positions", severity="warning", parameters=parameters))
    if workload.is_adapter or result.basis not in ("fitted_to_published_runs", "measured_peak"):
        advice.append(Advice(code="outside_validated_range", severity="info"))
    return advice


def _advise_on_operation(result: Estimate, machine: Machine) -> list[Advice]:
    advice = []
    if result.checkpoint_write_s > 0.05 * result.checkpoint_interval_s:
        parameters: dict[str, Any] = {
            "write_s": result.checkpoint_write_s,
            "interval_s": result.checkpoint_interval_s,
        }
        advice.append(Advice(code="checkpoints_costly", severity="warning", parameters=parameters))
    if result.expected_goodput < 0.9:
        parameters = {"goodput_percent": 100 * result.expected_goodput}
        advice.append(Advice(code="low_goodput", severity="warning", parameters=parameters))
    if result.read_bytes_per_s > 0.5 * machine.storage_rate_bytes_per_s(result.devices):
        parameters = {"read_mb_per_s": result.read_bytes_per_s / 1e6}
        advice.append(Advice(code="reading_too_fast", severity="warning", parameters=parameters))
    return advice
