"""Estimates corrected by finished jobs: step time and memory are scaled, all else follows from them anew."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np

from jobs.estimation.calibration import CalibrationFactors
from jobs.estimation.evaluation import Estimate, Evaluation, build_estimate, evaluate_plan
from jobs.estimation.hardware import Machine
from jobs.estimation.plan import Floats, ParallelPlan, add_up
from jobs.estimation.plan_rules import check_plan
from jobs.estimation.workload import Workload

_COUNTED_PARTS: Final = ("weights", "gradients", "optimizer")
_Z90: Final = 1.2815515655446004
"""The 90th percentile of the normal distribution."""


@dataclass(frozen=True, kw_only=True)
class CalibratedEstimate(Estimate):
    """An estimate that finished jobs corrected.

    `calibration` holds `CalibrationFactors.to_dict()`, and the `version` of the calibration that they are from.
    """

    calibration: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able object that `from_dict` reads back to an equal estimate."""
        return super().to_dict() | {"calibration": dict(self.calibration)}


def estimate_calibrated(
    workload: Workload, machine: Machine, plan: ParallelPlan, *, factors: CalibrationFactors, version: int | None = None
) -> CalibratedEstimate:
    """`estimate` of one plan with step time and memory corrected; raises InvalidInput like it.

    Parts still sum to the whole, and duration, price, storage rates and advice are those of the corrected run. Every
    part of the step time is scaled alike. Additional memory is put down as overhead, since weights, gradients and
    optimizer states are counted; less memory is taken from the other parts. Ranges move from the engine's own to that
    of the finished jobs as the weight of these goes from 0 to 1. Without any jobs every figure is the engine's.
    """
    check_plan(workload, machine, plan)
    evaluation = evaluate_plan(workload, machine, plan)
    result = build_estimate(workload, machine, scale_evaluation(evaluation, factors), 0)
    figures = {item.name: getattr(result, item.name) for item in fields(Estimate)}
    for name, unit, weight, sigma in (
        ("step", "s", factors.step_weight, factors.sigma_log_step),
        ("duration", "s", factors.step_weight, factors.sigma_log_step),
        ("memory", "bytes", factors.memory_weight, factors.sigma_log_memory),
    ):
        low, high = f"{name}_p10_{unit}", f"{name}_p90_{unit}"
        figures[low], figures[high] = _find_range(
            figures[f"{name}_{unit}"], figures[low], figures[high], weight=weight, sigma=sigma
        )
    return CalibratedEstimate(**figures, calibration={**factors.to_dict(), "version": version})


def scale_evaluation(evaluation: Evaluation, factors: CalibrationFactors) -> Evaluation:
    """Every plan of an evaluation with its step time and memory corrected."""
    step = {name: values * factors.step_time_factor for name, values in evaluation.step_parts_s.items()}
    memory = _scale_memory(evaluation.memory_parts_bytes, factors.memory_factor)
    return replace(
        evaluation,
        step_parts_s=step,
        step_s=add_up(step),
        memory_parts_bytes=memory,
        memory_bytes=add_up(memory),
    )


def _scale_memory(parts: Mapping[str, Floats], factor: float) -> dict[str, Floats]:
    total = add_up(parts)
    if factor >= 1:
        return {**parts, "overhead": parts["overhead"] + (factor - 1) * total}
    counted = add_up({name: parts[name] for name in _COUNTED_PARTS})
    # Where even the counted parts are more than what was seen, all shrink alike.
    rest = np.where(counted < factor * total, (factor * total - counted) / (total - counted), factor)
    whole = np.where(counted < factor * total, 1.0, factor)
    return {name: values * (whole if name in _COUNTED_PARTS else rest) for name, values in parts.items()}


def _find_range(
    centre: float, p10: float | None, p90: float | None, *, weight: float, sigma: float
) -> tuple[float | None, float | None]:
    """P10 and P90: between the engine's own distances to the centre and those of a spread `sigma` of the logarithm."""
    learnt = math.exp(weight * _Z90 * sigma)
    low = None if p10 is None else centre * (p10 / centre) ** (1 - weight) / learnt
    high = None if p90 is None else centre * (p90 / centre) ** (1 - weight) * learnt
    return low, high
