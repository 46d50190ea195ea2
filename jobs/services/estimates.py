"""Between the database and the estimation engine."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from django.utils.translation import get_language

from accounts.models import Partition
from jobs.estimation import (
    Estimate,
    InvalidInput,
    Machine,
    ParallelPlan,
    Preset,
    Workload,
    accelerators,
    estimate,
    estimate_best,
)
from jobs.estimation.calibrated_estimate import estimate_calibrated
from jobs.services.calibration import active_calibration
from jobs.services.problems import FieldProblem
from jobs.services.wording import invalid_value


class EstimateInvalid(Exception):
    """Inputs the engine can't work with; `problem` names the field."""

    def __init__(self, problem: FieldProblem) -> None:
        self.problem = problem
        super().__init__(problem.message)


def machine_for(partition: Partition) -> Machine:
    """The partition as the engine sees it: the catalogue's accelerator with what was measured here.

    Raises:
        EstimateInvalid: if the catalogue doesn't have the partition's accelerator.
    """
    overrides: dict[str, Any] = {}
    if partition.storage_bytes_per_s:
        overrides["storage_bytes_per_s"] = float(partition.storage_bytes_per_s)
    if partition.measured_peak_flop_per_s:
        overrides["measured_peak_flop_per_s"] = float(partition.measured_peak_flop_per_s)
    try:
        return Machine.from_catalog(partition.accelerator, devices_per_node=partition.devices_per_node, **overrides)
    except InvalidInput as error:
        raise EstimateInvalid(_problem(error, prefix="partition")) from error


def parse_workload(data: Mapping[str, Any]) -> Workload:
    """A checked workload from what a form or the API sent.

    Raises:
        EstimateInvalid: naming the field below `workload`.
    """
    try:
        return Workload.from_dict(data)
    except InvalidInput as error:
        raise EstimateInvalid(_problem(error, prefix="workload")) from error


def estimate_workload(
    workload: Workload, machine: Machine, *, devices: int, plan: Mapping[str, Any] | None = None
) -> Estimate:
    """What the workload needs on `devices` accelerators, corrected by finished jobs: by the given or the best plan.

    Raises:
        EstimateInvalid: if the plan is not allowed or doesn't multiply to `devices`.
    """
    active = active_calibration()
    if active is None:
        return estimate_uncalibrated(workload, machine, devices=devices, plan=plan)
    factors = active.look_up(workload, machine, devices=devices)
    # A plan has to fit with the memory that jobs here really use: searched on a machine that has that much less.
    searched = _with_memory(machine, machine.accelerator.memory_bytes / factors.memory_factor)
    found = estimate_uncalibrated(workload, searched, devices=devices, plan=plan)
    return estimate_calibrated(workload, machine, found.plan, factors=factors, version=active.version)


def estimate_uncalibrated(
    workload: Workload, machine: Machine, *, devices: int, plan: Mapping[str, Any] | None = None
) -> Estimate:
    """What the engine alone says; otherwise as `estimate_workload`."""
    try:
        if plan is None:
            return estimate_best(workload, machine, devices)
        parsed = ParallelPlan.from_dict(plan)
        if parsed.devices != devices:
            raise InvalidInput(
                "plan", f"{parsed.devices} devices", f"sizes whose product is the {devices} accelerators asked for"
            )
        return estimate(workload, machine, parsed)
    except InvalidInput as error:
        raise EstimateInvalid(_problem(error, prefix="plan" if plan is not None else "workload")) from error


def _with_memory(machine: Machine, memory_bytes: float) -> Machine:
    """The same machine with accelerators of other memory."""
    return replace(machine, accelerator=replace(machine.accelerator, memory_bytes=int(memory_bytes)))


def preset_title(preset: Preset) -> str:
    """What a known model is called in the reader's language."""
    return preset.title_zh if (get_language() or "").startswith("zh") and preset.title_zh else preset.title


def accelerator_title(code: str) -> str:
    """The catalogue's name of an accelerator; the code itself if it isn't there."""
    known = accelerators().get(code)
    return known.title if known else code


def precisions_of(partition: Partition) -> tuple[str, ...]:
    """The precisions that the partition's accelerators compute in; empty if the catalogue doesn't have them."""
    known = accelerators().get(partition.accelerator)
    return tuple(known.peak_flop_per_s) if known else ()


def _problem(error: InvalidInput, *, prefix: str) -> FieldProblem:
    # The engine names fields of the workload without "workload", those of a plan with "plan".
    if error.field == "devices":
        field = "devices_per_node"
    elif error.field.split(".")[0] in (prefix, "plan"):
        field = error.field
    else:
        field = f"{prefix}.{error.field}"
    return invalid_value(field=field, value=error.value, allowed=error.allowed)
