"""Learning a calibration from finished jobs, robust to outliers; the model is described in `calibration.py`.

A ratio of measured to estimated beyond the prior's `implausible_ratio` is not of the job that was described, and is
left out. All others are weighted by Tukey's biweight (Beaton and Tukey 1974, doi 10.1080/00401706.1974.10489171) of how
far they lie from what the *other* jobs predict, starting from medians, until the weights stand still.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from jobs.estimation.calibration import (
    MEMORY_PRIOR,
    PRIORS,
    STEP_PRIOR,
    Calibration,
    Group,
    LevelColumns,
    Posterior,
    Prior,
    RunKind,
)
from jobs.estimation.plan import Booleans, Floats
from jobs.estimation.validation import check_number

MAX_JOBS_OF_A_STACK: Final = 200
"""The newest; by then the mean of a stack is known to 1 %."""
MAX_JOBS: Final = 1000
"""In all: the cost grows with the cube, to a few seconds."""

HALF_LIFE_DAYS: Final = 180.0
"""Drivers, frameworks and file systems change: a job that ended so long before the newest one counts half."""

# Tukey's constant: 95 % efficiency where nothing is an outlier.
_BIWEIGHT: Final = 4.685
_LEAST_WEIGHT: Final = 1e-6
_COUNTED_WEIGHT: Final = 0.5
_LEAST_FOR_MEDIAN: Final = 3
_LEAST_FOR_SPREAD: Final = 5
_NORMAL_SPREAD: Final = 1.4826
"""Standard deviation over median absolute deviation, of the normal distribution."""
_MOST_ROUNDS: Final = 30


@dataclass(frozen=True, kw_only=True)
class FinishedJob:
    """What a finished job measured, beside what the engine without calibration estimates for it.

    `step_s` is the time of one optimizer step, `memory_bytes` the peak of the fullest device; None if not measured.
    `age_days` counts back from the newest job. Raises InvalidInput for figures that are none.
    """

    kind: RunKind
    step_s: float | None
    estimated_step_s: float
    memory_bytes: float | None
    estimated_memory_bytes: float
    age_days: float = 0.0

    def __post_init__(self) -> None:
        for name in ("step_s", "estimated_step_s", "memory_bytes", "estimated_memory_bytes"):
            value = getattr(self, name)
            if value is not None or name.startswith("estimated"):
                check_number(f"job.{name}", value, minimum=1e-12, maximum=1e18)
        check_number("job.age_days", self.age_days, minimum=0.0, maximum=1e6)

    @property
    def step_residual(self) -> float:
        """log(measured / estimated) of the step time; NaN if it was not measured or can't be this job's."""
        return _compute_residual(self.step_s, self.estimated_step_s, STEP_PRIOR)

    @property
    def memory_residual(self) -> float:
        """The same of the peak memory."""
        return _compute_residual(self.memory_bytes, self.estimated_memory_bytes, MEMORY_PRIOR)


@dataclass(frozen=True, kw_only=True)
class CalibrationFit:
    """A calibration, and the weight that each of the jobs got in it, in their order; NaN for one not used."""

    calibration: Calibration
    step_weights: Floats
    memory_weights: Floats

    def outliers(self) -> list[int]:
        """Positions of the jobs that were weighed down to less than half, or looked so wrong that they were not used.

        A job whose figures were not measured, or that newer ones crowded out, is none.
        """
        low = (self.step_weights < _COUNTED_WEIGHT) | (self.memory_weights < _COUNTED_WEIGHT)
        return [int(row) for row in np.flatnonzero(low)]


def learn(jobs: Sequence[FinishedJob], *, half_life_days: float | None = HALF_LIFE_DAYS) -> CalibrationFit:
    """Learn from finished jobs; `half_life_days` None lets old ones count in full.

    Of each stack the newest MAX_JOBS_OF_A_STACK are used, and MAX_JOBS in all. The same jobs give the same
    calibration, in whatever order they come.
    """
    if half_life_days is not None:
        check_number("half_life_days", half_life_days, minimum=1.0, maximum=1e6)
    chosen = _choose_newest(jobs)
    weights: dict[str, Floats] = {}
    posteriors: dict[str, Posterior] = {}
    for quantity in PRIORS:
        residuals = np.array([getattr(jobs[row], f"{quantity}_residual") for row in chosen], dtype=np.float64)
        usable = [row for row, residual in zip(chosen, residuals, strict=True) if not math.isnan(residual)]
        weights[quantity] = np.full(len(jobs), np.nan)
        weights[quantity][[row for row in chosen if _is_measured(jobs[row], quantity)]] = 0.0
        learnt, robust = _learn_quantity(
            quantity, [jobs[row] for row in usable], residuals[~np.isnan(residuals)], half_life_days
        )
        posteriors[quantity], weights[quantity][usable] = learnt, robust
    return CalibrationFit(
        calibration=Calibration(step=posteriors["step"], memory=posteriors["memory"]),
        step_weights=weights["step"],
        memory_weights=weights["memory"],
    )


def _compute_residual(measured: float | None, estimated: float, prior: Prior) -> float:
    if measured is None:
        return math.nan
    residual = math.log(measured / estimated)
    return residual if abs(residual) <= math.log(prior.implausible_ratio) else math.nan


def _is_measured(job: FinishedJob, quantity: str) -> bool:
    return (job.step_s if quantity == "step" else job.memory_bytes) is not None


def _choose_newest(jobs: Sequence[FinishedJob]) -> list[int]:
    """Rows of the newest jobs of each stack, and of those the newest of all."""
    seen: dict[tuple[str, str], int] = {}
    chosen: list[int] = []
    for row in sorted(range(len(jobs)), key=lambda row: _newest_first(jobs[row])):
        stack = jobs[row].kind.stack
        seen[stack] = seen.get(stack, 0) + 1
        if seen[stack] <= MAX_JOBS_OF_A_STACK and len(chosen) < MAX_JOBS:
            chosen.append(row)
    return chosen


def _newest_first(job: FinishedJob) -> tuple[Any, ...]:
    """Also sorts jobs that ended together, so that the order they come in changes nothing."""
    kind = job.kind
    return (job.age_days, *kind.stack, kind.task, kind.parameters, kind.devices, job.step_s or 0, job.memory_bytes or 0)


def _learn_quantity(
    quantity: str, jobs: Sequence[FinishedJob], residuals: Floats, half_life_days: float | None
) -> tuple[Posterior, Floats]:
    if not jobs:
        return Posterior(quantity), np.zeros(0)
    ages = np.array([job.age_days for job in jobs])
    recency = np.ones(len(jobs)) if half_life_days is None else 0.5 ** (ages / half_life_days)
    robust = _weigh(LevelColumns([job.kind for job in jobs]), PRIORS[quantity], residuals, recency)
    members: dict[RunKind, list[int]] = {}
    for row, job in enumerate(jobs):
        members.setdefault(job.kind, []).append(row)
    groups = []
    for kind, rows in members.items():
        weights = np.maximum(robust[rows] * recency[rows], _LEAST_WEIGHT)
        mean = float(weights @ residuals[rows] / weights.sum())
        groups.append(
            Group(
                kind=kind,
                jobs=int((robust[rows] >= _COUNTED_WEIGHT).sum()),
                weight=float(weights.sum()),
                mean=mean,
                scatter=float(weights @ (residuals[rows] - mean) ** 2),
                highest=float(residuals[rows].max()),
            )
        )
    return Posterior(quantity, tuple(groups)), robust


def _weigh(columns: LevelColumns, prior: Prior, residuals: Floats, recency: Floats) -> Floats:
    """Tukey's weight of each job by its distance from what the others predict.

    Leave-one-out prediction from one inverse: Rasmussen and Williams 2006, eq. 5.12.
    """
    stacks = [columns.stacks == stack for stack in np.unique(columns.stacks)]
    location, variance = _find_start(columns, prior, residuals, recency)
    noise = _measure_noise(stacks, residuals - location, recency, prior)
    weights = _biweight((residuals - location) / np.sqrt(variance + noise))
    covariance = columns.covariance(prior)
    for _ in range(_MOST_ROUNDS):
        weighted = prior.noise**2 / np.maximum(weights * recency, _LEAST_WEIGHT)
        inverse = np.linalg.inv(covariance + np.diag(weighted))
        own = 1 / np.diag(inverse)  # predictive variance without the job, and its noise as weighted
        error = own * (inverse @ residuals)
        noise = _measure_noise(stacks, error, recency, prior)
        renewed = _biweight(error / np.sqrt(np.maximum(own - weighted, 0.0) + noise))
        is_settled = np.abs(renewed - weights).max() < 1e-3
        weights = renewed
        if is_settled:
            break
    return weights


def _find_start(columns: LevelColumns, prior: Prior, residuals: Floats, recency: Floats) -> tuple[Floats, Floats]:
    """A first location, and variance around it: the median of the nearest level with a few jobs, else the prior."""
    location = np.zeros(len(residuals))
    variance = np.full(len(residuals), prior.variance)
    within = np.cumsum(prior.level_variances[::-1])[::-1]  # of each level and all below it
    for row, level in enumerate((columns.families, columns.accelerators, columns.stacks), start=1):
        for value in np.unique(level):
            here = level == value
            if here.sum() >= _LEAST_FOR_MEDIAN:
                location[here] = _find_median(residuals[here], recency[here])
                variance[here] = within[row + 1]
    return location, variance


def _measure_noise(stacks: Sequence[Booleans], errors: Floats, recency: Floats, prior: Prior) -> Floats:
    """Noise variance of each job's stack by the median of its absolute errors; at least the prior's.

    Where runs scatter widely, a far one is no outlier.
    """
    noise = np.full(len(errors), prior.noise**2)
    for here in stacks:
        if here.sum() >= _LEAST_FOR_SPREAD:
            spread = _NORMAL_SPREAD * _find_median(np.abs(errors[here]), recency[here])
            noise[here] = max(prior.noise, spread) ** 2
    return noise


def _find_median(values: Floats, weights: Floats) -> float:
    """The weighted median; the middle of two where half of the weight lies on either side."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    low, high = np.searchsorted(reached, (0.5 - 1e-9, 0.5 + 1e-9))
    return float(values[order][[low, high]].mean())


def _biweight(distance: Floats) -> Floats:
    weights: Floats = np.maximum(1 - (distance / _BIWEIGHT) ** 2, 0.0) ** 2
    return weights
