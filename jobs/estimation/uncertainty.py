"""How sure an estimate is: ranges from the residuals of published runs that are like it (catalog/evidence.csv)."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from jobs.estimation.catalog_files import CATALOG
from jobs.estimation.hardware import Machine
from jobs.estimation.plan import Booleans, Floats
from jobs.estimation.workload import Workload

EVIDENCE: Final = CATALOG / "evidence.csv"
EVIDENCE_COLUMNS: Final = (
    "id",
    "source",
    "accelerator",
    "family",
    "framework",
    "is_moe",
    "parameters",
    "devices",
    "log_step_ratio",
    "log_memory_ratio",
)

# Ratios measured / estimated where no published run is on the accelerator's family: the spread of the worst sources.
DEFAULT_STEP_RANGE: Final = (0.5, 2.2)
DEFAULT_MEMORY_RANGE: Final = (0.85, 1.3)

# How much less a residual of another accelerator family or framework says, and over which part of size it fades.
_OTHER_FAMILY: Final = 0.25
_OTHER_FRAMEWORK: Final = 0.25
_OTHER_SPARSITY: Final = 0.1
_LOG_PARAMETERS_SCALE: Final = 1.5
_LOG_DEVICES_SCALE: Final = 2.5
_LEAST_RESIDUALS: Final = 10
# The ranges are widened so that they hold for sources that none of the residuals is from.
_WIDENING: Final = 1.25
# Few of the residuals are of LoRA, and weights are not by task.
ADAPTER_WIDENING: Final = 1.3

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """Residuals of published runs, each estimated by constants that were fitted without its own source.

    Arrays with one entry a run: log(measured / estimated) of step time and of memory, NaN where not measured.
    """

    ids: tuple[str, ...]
    sources: Any
    accelerators: Any
    families: Any
    frameworks: Any
    is_moe: Booleans
    log_parameters: Floats
    log_devices: Floats
    log_step: Floats
    log_memory: Floats


@cache
def load_evidence(path: Path = EVIDENCE) -> Evidence | None:
    """The residuals that the fit left, or None where there are none."""
    if not path.exists():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    def numbers(name: str) -> Floats:
        return np.array([float(row[name] or "nan") for row in rows])

    def texts(name: str) -> Any:
        return np.array([row[name] for row in rows])

    return Evidence(
        ids=tuple(row["id"] for row in rows),
        sources=texts("source"),
        accelerators=texts("accelerator"),
        families=texts("family"),
        frameworks=texts("framework"),
        is_moe=texts("is_moe") == "1",
        log_parameters=np.log(numbers("parameters")),
        log_devices=np.log(numbers("devices")),
        log_step=numbers("log_step_ratio"),
        log_memory=numbers("log_memory_ratio"),
    )


def find_range(
    evidence: Evidence | None, workload: Workload, machine: Machine, devices: int, *, left_out: str = ""
) -> tuple[Range, Range]:
    """Ratios measured / estimated that 80 % of runs like this one lie between: of step time, and of memory.

    Weighted quantiles of the residuals: nearer runs (accelerator family, framework, sparsity, parameters, devices)
    count more, and a source with many rows does not outvote the others. `left_out` is a source to ignore.
    """
    if evidence is None:
        return DEFAULT_STEP_RANGE, DEFAULT_MEMORY_RANGE
    step, memory = _find_range(
        evidence,
        machine.accelerator.family,
        workload.framework,
        workload.architecture.is_moe,
        round(math.log(workload.architecture.parameters), 1),
        round(math.log(devices), 1),
        left_out,
    )
    if workload.is_adapter:
        step = step[0] / ADAPTER_WIDENING, step[1] * ADAPTER_WIDENING
    return step, memory


def count_evidence(evidence: Evidence | None, machine: Machine) -> Mapping[str, int]:
    """Published runs with a step time that stand behind an estimate: on the accelerator, on its family, and in all."""
    if evidence is None:
        return {"accelerator": 0, "family": 0, "all": 0}
    return _count_evidence(evidence, machine.accelerator.code, machine.accelerator.family)


@lru_cache(maxsize=256)
def _count_evidence(evidence: Evidence, code: str, family: str) -> Mapping[str, int]:
    timed = np.isfinite(evidence.log_step)
    return MappingProxyType(
        {
            "accelerator": int(np.count_nonzero(timed & (evidence.accelerators == code))),
            "family": int(np.count_nonzero(timed & (evidence.families == family))),
            "all": int(np.count_nonzero(timed)),
        }
    )


@lru_cache(maxsize=65_536)
def _find_range(
    evidence: Evidence,
    family: str,
    framework: str,
    is_moe: bool,
    log_parameters: float,
    log_devices: float,
    left_out: str,
) -> tuple[Range, Range]:
    inside = evidence.sources != left_out
    _, which, counts = np.unique(evidence.sources, return_inverse=True, return_counts=True)
    is_family = evidence.families == family
    weights = np.where(is_family, 1.0, _OTHER_FAMILY) * np.where(
        evidence.frameworks == framework, 1.0, _OTHER_FRAMEWORK
    )
    weights = weights * np.where(evidence.is_moe == is_moe, 1.0, _OTHER_SPARSITY)
    for column, value, scale in (
        (evidence.log_parameters, log_parameters, _LOG_PARAMETERS_SCALE),
        (evidence.log_devices, log_devices, _LOG_DEVICES_SCALE),
    ):
        weights = weights / (1 + ((column - value) / scale) ** 2)
    weights = weights / np.sqrt(counts[which]) * inside
    memory = _find_quantiles(evidence.log_memory, weights, DEFAULT_MEMORY_RANGE)
    if not np.any(is_family & inside & np.isfinite(evidence.log_step)):
        return DEFAULT_STEP_RANGE, memory
    return _find_quantiles(evidence.log_step, weights, DEFAULT_STEP_RANGE), memory


def _find_quantiles(values: Floats, weights: Floats, default: Range) -> Range:
    """10th and 90th weighted percentile of exp(values); `default` where too few are known."""
    known = np.isfinite(values) & (weights > 0)
    if np.count_nonzero(known) < _LEAST_RESIDUALS:
        return default
    order = np.argsort(values[known])
    values, weights = values[known][order], weights[known][order]
    positions = (np.cumsum(weights) - 0.5 * weights) / np.sum(weights)
    low, high = np.interp((0.1, 0.9), positions, values)
    # The estimate itself lies in its range.
    return math.exp(_WIDENING * min(low, -0.02)), math.exp(_WIDENING * max(high, 0.02))
