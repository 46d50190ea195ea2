"""From workload, machine and plan to an estimate. One implementation: an estimate is an evaluation of one plan."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any, Final

import numpy as np

from jobs.estimation.advice import Advice
from jobs.estimation.columns import Columns, make_columns
from jobs.estimation.flops import (
    count_flop_6nd,
    count_model_flop_per_step,
    count_recomputed_flop_per_step,
    trainable_parameters,
)
from jobs.estimation.geometry import Geometry, lay_out
from jobs.estimation.hardware import DEFAULT_MTBF_HOURS_PER_DEVICE, DEFAULT_PUE, Machine
from jobs.estimation.memory import compute_memory
from jobs.estimation.numerics import review_numerics
from jobs.estimation.plan import Floats, ParallelPlan, PlanColumns, add_up
from jobs.estimation.plan_rules import check_plan
from jobs.estimation.run_total import compute_run_total, review_run
from jobs.estimation.step_time import compute_step_time
from jobs.estimation.storage import plan_storage_of, review_storage
from jobs.estimation.supernode import warn_of_wide_experts
from jobs.estimation.training_sanity import review_training
from jobs.estimation.uncertainty import count_evidence, find_range, load_evidence
from jobs.estimation.validation import check_keys, check_mapping
from jobs.estimation.workload import Workload

ENGINE_VERSION: Final = "2026.11.2"
"""Changes whenever a formula or a constant changes, so that a stored estimate says what computed it."""

_GIB: Final = 2**30
_LEAST_RUNS: Final = 3
_NEARLY_FULL: Final = 0.93
_NOTABLE_SHARE: Final = 0.15


@dataclass(kw_only=True, eq=False, repr=False)
class Evaluation:
    """Many plans evaluated at once; arrays have one entry per plan."""

    plans: PlanColumns
    geometry: Geometry
    memory_parts_bytes: Mapping[str, Floats]
    step_parts_s: Mapping[str, Floats]
    memory_bytes: Floats
    step_s: Floats


def evaluate_plans(workload: Workload, machine: Machine, plans: PlanColumns) -> Evaluation:
    """Memory and step time of all `plans`. They must be possible ones (see plan_rules.find_violations)."""
    return evaluate_columns(make_columns(workload, machine, plans))


def evaluate_plan(workload: Workload, machine: Machine, plan: ParallelPlan) -> Evaluation:
    """`evaluate_plans` of one plan, on numbers instead of arrays."""
    found = evaluate_columns(make_columns(workload, machine, PlanColumns.of_one(plan)))
    memory = {name: np.atleast_1d(value) for name, value in found.memory_parts_bytes.items()}
    return replace(
        found,
        plans=PlanColumns.from_plans([plan]),
        memory_parts_bytes=memory,
        memory_bytes=np.atleast_1d(found.memory_bytes),
    )


def evaluate_columns(columns: Columns) -> Evaluation:
    """Memory and step time of rows that may differ in model, machine and plan."""
    geometry = lay_out(columns)
    memory = compute_memory(columns, geometry)
    step = compute_step_time(columns, geometry)
    return Evaluation(
        plans=columns.plans,
        geometry=geometry,
        memory_parts_bytes=memory,
        step_parts_s=step,
        memory_bytes=add_up(memory),
        step_s=add_up(step),
    )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a training job needs under one plan.

    `memory_*` are those of one device on the fullest pipeline stage. `duration_s` is wall-clock time without queueing:
    steps x step time / expected goodput (checkpoints, and failures with lost work and restarts); `duration_p10_s` and
    `duration_p90_s` bound it by the error measured on published runs. `mfu` counts causal attention once, against
    the dense peak of the precision. `hardware_flop_per_step` adds recomputation. `energy_j` is that of the
    accelerators at rated power, times the machine's PUE. `flop_6nd` is the rule of thumb for the whole run (with the
    parameters that a token passes). `*_p10*` and `*_p90*` bound what 80 % of runs like this one measured; `rests_on`
    counts the published runs behind that: on the same accelerator, on its family, and in all. Fields with a default
    came after engine 2026.11.1 and are missing in estimates stored before.
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
    step_p10_s: float | None = None
    step_p90_s: float | None = None
    memory_p10_bytes: float | None = None
    memory_p90_bytes: float | None = None
    active_parameters: int | None = None
    losses_s: Mapping[str, float] = field(default_factory=dict)
    written_bytes_per_day: float | None = None
    kept_checkpoint_bytes: float | None = None
    needed_storage_bytes_per_s: float | None = None
    rests_on: Mapping[str, int] = field(default_factory=dict)
    engine_version: str = ENGINE_VERSION

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able object that `from_dict` reads back to an equal estimate."""
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        data["plan"] = self.plan.to_dict()
        data["memory_parts_bytes"] = dict(self.memory_parts_bytes)
        data["step_parts_s"] = dict(self.step_parts_s)
        data["advice"] = [item.to_dict() for item in self.advice]
        data["assumptions"] = list(self.assumptions)
        data["losses_s"] = dict(self.losses_s)
        data["rests_on"] = dict(self.rests_on)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Estimate":
        """Rebuild a stored estimate; raises InvalidInput for missing or unknown keys."""
        mapping = dict(check_mapping("estimate", data))
        known = {field.name for field in fields(cls)}
        required = {item.name for item in fields(cls) if item.default is MISSING and item.default_factory is MISSING}
        check_keys("estimate", mapping, known=known, required=required)
        mapping["plan"] = ParallelPlan.from_dict(check_mapping("estimate.plan", mapping["plan"]))
        mapping["advice"] = tuple(Advice.from_dict(item) for item in mapping["advice"])  # type: ignore[attr-defined]
        mapping["assumptions"] = tuple(mapping["assumptions"])  # type: ignore[arg-type]
        return cls(**mapping)  # type: ignore[arg-type] # written by to_dict


def estimate(workload: Workload, machine: Machine, plan: ParallelPlan) -> Estimate:
    """Estimate one plan; raises InvalidInput if workload or machine rule it out. Too little memory is not an error."""
    check_plan(workload, machine, plan)
    return build_estimate(workload, machine, evaluate_plan(workload, machine, plan), 0)


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
    recomputed = count_recomputed_flop_per_step(workload, evaluation.plans.select(np.array([row])))

    evidence = load_evidence()
    (step_low, step_high), (memory_low, memory_high) = find_range(evidence, workload, machine, devices)
    rests_on = count_evidence(evidence, machine)
    storage = plan_storage_of(workload, machine, step_s=step_s, devices=devices)
    total = compute_run_total(
        workload,
        machine,
        step_s=step_s,
        devices=devices,
        write_s=storage.write_s,
        interval_s=storage.interval_s,
        step_p10=step_low,
        step_p90=step_high,
    )
    result = Estimate(
        plan=plan,
        devices=devices,
        fits=memory_bytes <= accelerator.memory_bytes,
        memory_parts_bytes=memory,
        memory_bytes=memory_bytes,
        memory_p10_bytes=memory_bytes * memory_low,
        memory_p90_bytes=memory_bytes * memory_high,
        memory_capacity_bytes=accelerator.memory_bytes,
        step_parts_s=step,
        step_s=step_s,
        step_p10_s=step_s * step_low,
        step_p90_s=step_s * step_high,
        steps=workload.steps,
        parameters=workload.architecture.parameters,
        active_parameters=workload.architecture.active_parameters,
        trainable_parameters=trainable_parameters(workload),
        model_flop_per_step=model_flop,
        hardware_flop_per_step=model_flop + float(recomputed[0]),
        flop_6nd=count_flop_6nd(workload.architecture.active_parameters, workload.tokens),
        tokens_per_s=tokens_per_s,
        tokens_per_s_per_device=tokens_per_s / devices,
        model_flop_per_s_per_device=flop_per_s_per_device,
        mfu=flop_per_s_per_device / machine.peak_flop_per_s(workload.precision),
        duration_s=total.duration_s,
        duration_p10_s=total.duration_p10_s,
        duration_p90_s=total.duration_p90_s,
        accelerator_s=total.accelerator_s,
        energy_j=total.energy_j,
        price=total.price,
        checkpoint_bytes=storage.checkpoint_bytes,
        checkpoint_write_s=storage.write_s,
        checkpoint_interval_s=storage.interval_s,
        expected_goodput=total.goodput,
        losses_s=total.losses_s,
        dataset_bytes=storage.dataset_bytes,
        read_bytes_per_s=storage.read_bytes_per_s,
        written_bytes_per_day=storage.written_bytes_per_day,
        kept_checkpoint_bytes=storage.kept_bytes,
        needed_storage_bytes_per_s=storage.needed_bytes_per_s,
        advice=(),
        assumptions=_list_assumptions(
            workload,
            machine,
            plan,
            has_uneven=bool(np.broadcast_to(evaluation.geometry.has_uneven_stages, len(evaluation.plans))[row]),
        ),
        basis=_describe_basis(machine, rests_on),
        rests_on=rests_on,
    )
    advice = [
        *_advise_on_memory(result),
        *_advise_on_time(result),
        *review_numerics(workload, plan, machine),
        *review_training(workload),
        *review_storage(storage),
        *review_run(total),
        *_advise_on_experts(machine, plan),
        *_advise_on_basis(result),
    ]
    return replace(result, advice=tuple(advice))


def _describe_basis(machine: Machine, rests_on: Mapping[str, int]) -> str:
    """A code for what the estimate rests on."""
    if machine.measured_peak_flop_per_s is not None:
        return "measured_peak"
    if machine.accelerator.family == "cpu":
        return "one_machine"
    if rests_on["accelerator"] >= _LEAST_RUNS:
        return "fitted_to_published_runs"
    return "same_architecture_as_fitted" if rests_on["family"] >= _LEAST_RUNS else "datasheet_only"


def _list_assumptions(workload: Workload, machine: Machine, plan: ParallelPlan, *, has_uneven: bool) -> tuple[str, ...]:
    codes = [
        f"{workload.attention_kernel}_attention",
        "causal_attention_counted_once",
        *(["fp32_gradients"] if workload.fp32_gradients and not workload.pure_bf16 else []),
        *(["fp32_logits"] if workload.attention_kernel == "standard" else []),
        "optimum_checkpoint_interval",
        "all_storage_for_this_job",
        "queueing_not_counted",
        "energy_at_tdp",
    ]
    if machine.pue == DEFAULT_PUE:
        codes.append("pue_assumed")
    if machine.mtbf_hours_per_device == DEFAULT_MTBF_HOURS_PER_DEVICE:
        codes.append("recalled_failure_rate")
    if has_uneven:
        codes.append("embedding_and_head_as_layers")
    if plan.tensor_parallel > workload.architecture.num_key_value_heads:
        codes.append("key_heads_copied")
    if machine.measured_peak_flop_per_s is not None:
        codes.append("measured_peak")
    elif machine.accelerator.source_status == "recalled":
        codes.append("data_sheet_recalled")
    return tuple(codes)


def _advise_on_memory(result: Estimate) -> list[Advice]:
    capacity = result.memory_capacity_bytes
    parts = result.memory_parts_bytes
    used = result.memory_bytes / capacity
    if result.fits:
        # What 10 % of published runs like this one exceeded.
        likely = (result.memory_p90_bytes or 0.0) / capacity
        if used < _NEARLY_FULL and likely <= 1:
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


def _advise_on_experts(machine: Machine, plan: ParallelPlan) -> list[Advice]:
    warning = warn_of_wide_experts(
        machine, expert_parallel=plan.expert_parallel, tensor_parallel=plan.tensor_parallel, devices=plan.devices
    )
    if warning is None:
        return []
    return [Advice(code="experts_cross_supernodes", severity="warning", parameters=asdict(warning))]


def _advise_on_basis(result: Estimate) -> list[Advice]:
    if result.basis in ("datasheet_only", "one_machine"):
        return [Advice(code="outside_validated_range", severity="info")]
    return []
