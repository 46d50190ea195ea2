"""Calibration: finished jobs of a centre correct the engine's estimates, as far as their evidence goes.

Of a finished job, r = log(measured / estimated), by the engine without calibration. It is taken to be a sum:

    r = centre + family + accelerator + stack + shape(log parameters, log devices, task) + noise

`family` is the catalogue's (a100 of a100-40g and a100-80g), `stack` is accelerator x framework, `shape` a Gaussian
process within a stack, so that jobs of like size teach most about each other. Every term is normal around 0 with a
fixed spread (STEP_PRIOR, MEMORY_PRIOR); the posterior mean is the best linear unbiased prediction, which shrinks each
level towards the one above it by the evidence that it has (Robinson 1991, doi 10.1214/ss/1177011926; Rasmussen and
Williams 2006, Gaussian Processes for Machine Learning, eq. 2.23 to 2.26). Without jobs the factor is exactly 1.

A `Calibration` never changes; `to_dict` and `from_dict` store it, `explain` says what each level contributes.
`calibration_fit.learn` makes one from finished jobs, `calibrated_estimate.estimate_calibrated` uses it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from jobs.estimation.plan import MAX_DEVICES, Booleans, Floats
from jobs.estimation.validation import InvalidInput, check_integer, check_keys, check_mapping, check_number, check_text
from jobs.estimation.workload import ADAPTER_TASKS

METHOD_VERSION: Final = 1
"""Changes with the formulas and constants of this module: stored groups mean nothing to another method."""

LEVELS: Final = ("centre", "family", "accelerator", "stack", "shape")
"""From the widest to the nearest."""

_SHAPE_SCALE: Final = math.log(4)
"""Kernel length, in log parameters and in log devices: 4 times the size correlates by exp(-1/2) = 0.61."""
_OTHER_TASK: Final = 0.5
"""Correlation of the shape term between runs that train all weights, adapters, or preferences."""
_NEIGHBOUR: Final = 0.5
"""Least kernel value of a job that is said to be of this shape."""
_NOISE_PRIOR_JOBS: Final = 8.0
"""Jobs that the prior noise counts as when a stack's own noise is estimated."""
_MAX_PARAMETERS: Final = 10**18


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Standard deviations of log(measured / estimated) by level, and of jobs alike in all that the levels know.

    `noise` covers run-to-run variation and what differs between plans of one shape. A ratio of measured to estimated,
    or its inverse, beyond `implausible_ratio` is not of the job that was described.
    """

    centre: float
    family: float
    accelerator: float
    stack: float
    shape: float
    noise: float
    implausible_ratio: float

    @cached_property
    def level_variances(self) -> Floats:
        """By level, as in LEVELS."""
        return np.array([getattr(self, level) ** 2 for level in LEVELS])

    @property
    def variance(self) -> float:
        """Of the sum of all levels."""
        return float(self.level_variances.sum())


# In all 25 %: throughput of a stack that no constant was fitted on is off by about 20 % in the median
# (docs/estimation.md, leave-one-source-out). Most of it belongs to accelerator and software, little to a whole centre,
# so that one slow machine says little about another kind.
STEP_PRIOR: Final = Prior(
    centre=0.06, family=0.08, accelerator=0.15, stack=0.12, shape=0.12, noise=0.10, implausible_ratio=10.0
)
# In all 12 %: most of a device's memory is counted, not estimated; what differs is the allocator and the framework.
MEMORY_PRIOR: Final = Prior(
    centre=0.03, family=0.03, accelerator=0.05, stack=0.08, shape=0.06, noise=0.05, implausible_ratio=3.0
)
PRIORS: Final[Mapping[str, Prior]] = MappingProxyType({"step": STEP_PRIOR, "memory": MEMORY_PRIOR})


@dataclass(frozen=True, kw_only=True)
class RunKind:
    """What calibration knows of a run: where it sits in the hierarchy. Raises InvalidInput."""

    accelerator: str
    accelerator_family: str
    framework: str
    task: str
    parameters: int
    devices: int

    def __post_init__(self) -> None:
        for name in ("accelerator", "accelerator_family", "framework", "task"):
            check_text(f"kind.{name}", getattr(self, name))
        for name, maximum in (("parameters", _MAX_PARAMETERS), ("devices", MAX_DEVICES)):
            number = check_integer(f"kind.{name}", getattr(self, name), minimum=1, maximum=maximum)
            object.__setattr__(self, name, number)

    @property
    def stack(self) -> tuple[str, str]:
        """Accelerator and framework."""
        return self.accelerator, self.framework

    @classmethod
    def from_dict(cls, data: object) -> "RunKind":
        """Rebuild from a stored object; raises InvalidInput."""
        mapping = check_mapping("kind", data)
        names = {item.name for item in fields(cls)}
        check_keys("kind", mapping, known=names, required=names)
        return cls(**mapping)  # type: ignore[arg-type] # every value is checked in __post_init__


@dataclass(frozen=True, kw_only=True)
class Group:
    """Finished jobs of one kind: all that the model needs of them. Raises InvalidInput.

    `weight` is the sum of their weights (outliers and old jobs count less), `mean` and `scatter` the weighted mean of
    their residuals and the weighted sum of squares around it, `highest` the highest residual, whatever its weight.
    `jobs` counts those that were not outliers.
    """

    kind: RunKind
    jobs: int
    weight: float
    mean: float
    scatter: float
    highest: float

    def __post_init__(self) -> None:
        check_integer("group.jobs", self.jobs, minimum=0, maximum=10**9)
        check_number("group.weight", self.weight, minimum=1e-12, maximum=1e9)
        check_number("group.scatter", self.scatter, minimum=0.0, maximum=1e9)
        for name in ("mean", "highest"):
            check_number(f"group.{name}", getattr(self, name), minimum=-10.0, maximum=10.0)

    @classmethod
    def from_dict(cls, data: object) -> "Group":
        """Rebuild from a stored object; raises InvalidInput."""
        mapping = dict(check_mapping("group", data))
        names = {item.name for item in fields(cls)}
        check_keys("group", mapping, known=names, required=names)
        mapping["kind"] = RunKind.from_dict(mapping["kind"])
        return cls(**mapping)  # type: ignore[arg-type] # every value is checked in __post_init__


@dataclass(frozen=True, kw_only=True)
class LevelShare:
    """What one level contributes: its jobs, its factor (those of all levels multiply), and its weight.

    `weight` is the share of the level's uncertainty that its jobs have removed: 0 without jobs, towards 1 with many.
    """

    level: str
    jobs: int
    factor: float
    weight: float


@dataclass(frozen=True, kw_only=True)
class CalibrationFactors:
    """Corrections for one kind of run.

    `sigma_log_*` is the standard deviation of log(measured / corrected estimate); `*_weight` is the share of the
    prior uncertainty of the mean that finished jobs have removed. `jobs_at_level` counts jobs by level (of the
    quantity that has more), `level` is the nearest one with jobs, "none" if there are none at all.
    """

    step_time_factor: float
    memory_factor: float
    sigma_log_step: float
    sigma_log_memory: float
    step_weight: float
    memory_weight: float
    jobs_at_level: Mapping[str, int]
    level: str

    @property
    def jobs(self) -> int:
        """Finished jobs at `level`."""
        return self.jobs_at_level.get(self.level, 0)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able object."""
        return asdict(self) | {"jobs_at_level": dict(self.jobs_at_level)}


class LevelColumns:
    """Kinds as arrays, one entry each: what correlations are computed from."""

    def __init__(self, kinds: Sequence[RunKind]) -> None:
        self.families = np.array([kind.accelerator_family for kind in kinds], dtype=np.str_)
        self.accelerators = np.array([kind.accelerator for kind in kinds], dtype=np.str_)
        self.stacks = np.array(["\n".join(kind.stack) for kind in kinds], dtype=np.str_)
        self.tasks = np.array([_class_of_task(kind.task) for kind in kinds], dtype=np.str_)
        sizes = [[math.log(kind.parameters), math.log(kind.devices)] for kind in kinds]
        self.sizes = np.array(sizes, dtype=np.float64).reshape(-1, 2)

    def correlate(self, others: "LevelColumns") -> Floats:
        """Correlation of each level between all of these and all of the others: levels x these x others."""
        same_stack = _equal(self.stacks, others.stacks)
        distance2 = ((self.sizes[:, None] - others.sizes[None, :]) ** 2).sum(axis=2) / _SHAPE_SCALE**2
        nearness = np.exp(-distance2 / 2) * np.where(_equal(self.tasks, others.tasks), 1.0, _OTHER_TASK)
        correlations: Floats = np.stack(
            [
                np.ones(same_stack.shape),
                _equal(self.families, others.families),
                _equal(self.accelerators, others.accelerators),
                same_stack,
                same_stack * nearness,
            ]
        )
        return correlations

    def covariance(self, prior: Prior) -> Floats:
        """Prior covariance of the residuals' means among these."""
        total: Floats = np.einsum("l,lij->ij", prior.level_variances, self.correlate(self))
        return total


def _equal(mine: Any, theirs: Any) -> Booleans:
    equal: Booleans = mine[:, None] == theirs[None, :]
    return equal


def _class_of_task(task: str) -> str:
    if task in ADAPTER_TASKS:
        return "adapter"
    return "preference" if task == "preference_tuning" else "all_weights"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The log of a factor for one kind of run: its mean, variance and noise variance, and each level's share."""

    mean: float
    variance: float
    noise_variance: float
    shares: tuple[LevelShare, ...]


@dataclass(frozen=True)
class Posterior:
    """What groups of finished jobs say of one quantity, "step" or "memory"."""

    quantity: str
    groups: tuple[Group, ...] = ()

    @property
    def prior(self) -> Prior:
        return PRIORS[self.quantity]

    def predict(self, kind: RunKind) -> Prediction:
        """What these jobs say of a kind of run; the prior if there are none."""
        prior = self.prior
        if not self.groups:
            nothing = tuple(LevelShare(level=level, jobs=0, factor=1.0, weight=0.0) for level in LEVELS)
            return Prediction(mean=0.0, variance=prior.variance, noise_variance=prior.noise**2, shares=nothing)
        inverse, solved = self._solution
        correlations = self._correlate(kind)
        covariance = prior.level_variances[:, None] * correlations
        means = covariance @ solved
        removed = ((covariance @ inverse) * covariance).sum(axis=1) / prior.level_variances
        total = covariance.sum(axis=0)
        jobs = (correlations >= _NEIGHBOUR) @ self._jobs
        shares = zip(LEVELS, jobs, np.exp(means), np.clip(removed, 0.0, 1.0), strict=True)
        return Prediction(
            mean=float(means.sum()),
            variance=max(prior.variance - float(total @ inverse @ total), 0.0),
            noise_variance=self._estimate_noise(correlations[LEVELS.index("stack")]),
            shares=tuple(
                LevelShare(level=level, jobs=int(count), factor=float(factor), weight=float(weight))
                for level, count, factor, weight in shares
            ),
        )

    def highest_near(self, kind: RunKind) -> float | None:
        """The highest residual of a job of this stack and shape; None if there was none."""
        if not self.groups:
            return None
        is_near = self._correlate(kind)[LEVELS.index("shape")] >= _NEIGHBOUR
        return max((group.highest for group, near in zip(self.groups, is_near, strict=True) if near), default=None)

    @cached_property
    def _columns(self) -> LevelColumns:
        return LevelColumns([group.kind for group in self.groups])

    def _correlate(self, kind: RunKind) -> Floats:
        """Levels x groups."""
        return self._columns.correlate(LevelColumns([kind]))[:, :, 0]

    @cached_property
    def _jobs(self) -> Floats:
        return np.array([group.jobs for group in self.groups], dtype=np.float64)

    @cached_property
    def _weights(self) -> Floats:
        return np.array([group.weight for group in self.groups])

    @cached_property
    def _means(self) -> Floats:
        return np.array([group.mean for group in self.groups])

    @cached_property
    def _solution(self) -> tuple[Floats, Floats]:
        """Inverse covariance of the groups' means, and its product with them."""
        noise = np.diag(self.prior.noise**2 / self._weights)
        inverse: Floats = np.asarray(np.linalg.inv(self._columns.covariance(self.prior) + noise), dtype=np.float64)
        return inverse, inverse @ self._means

    @cached_property
    def _squares(self) -> Floats:
        """Weighted squares of the jobs around the fit, by group."""
        fitted = self._columns.covariance(self.prior) @ self._solution[1]
        scatter = np.array([group.scatter for group in self.groups])
        squares: Floats = scatter + self._weights * (self._means - fitted) ** 2
        return squares

    def _estimate_noise(self, is_stack: Floats) -> float:
        """Variance of a stack's jobs around the fit, shrunk towards the prior's (inverse-gamma)."""
        squares = _NOISE_PRIOR_JOBS * self.prior.noise**2 + float(is_stack @ self._squares)
        return squares / (_NOISE_PRIOR_JOBS + float(is_stack @ self._weights))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """All that finished jobs of a centre taught about step time and memory. Immutable; see the module's text."""

    step: Posterior = field(default_factory=lambda: Posterior("step"))
    memory: Posterior = field(default_factory=lambda: Posterior("memory"))

    def lookup(
        self, accelerator: str, accelerator_family: str, framework: str, parameters: int, devices: int, task: str
    ) -> CalibrationFactors:
        """Factors for runs of a model of `parameters` on `devices` accelerators. Raises InvalidInput.

        The memory factor falls below 1 only where jobs of this stack and shape were seen, and never so far that the
        estimate of one of them would be below what it used: too little memory ends a job, too much costs time.
        """
        kind = RunKind(
            accelerator=accelerator,
            accelerator_family=accelerator_family,
            framework=framework,
            task=task,
            parameters=parameters,
            devices=devices,
        )
        return self.lookup_kind(kind)

    def lookup_kind(self, kind: RunKind) -> CalibrationFactors:
        """`lookup` of a kind of run."""
        step, memory = self.step.predict(kind), self.memory.predict(kind)
        log_memory = memory.mean
        if log_memory < 0:
            seen = self.memory.highest_near(kind)
            log_memory = 0.0 if seen is None else min(0.0, max(log_memory, seen))
        jobs = {one.level: max(one.jobs, two.jobs) for one, two in zip(step.shares, memory.shares, strict=True)}
        return CalibrationFactors(
            step_time_factor=math.exp(step.mean),
            memory_factor=math.exp(log_memory),
            sigma_log_step=math.sqrt(step.variance + step.noise_variance),
            sigma_log_memory=math.sqrt(memory.variance + memory.noise_variance),
            step_weight=1 - step.variance / STEP_PRIOR.variance,
            memory_weight=1 - memory.variance / MEMORY_PRIOR.variance,
            jobs_at_level=jobs,
            level=next((level for level in reversed(LEVELS) if jobs[level]), "none"),
        )

    def explain(self, kind: RunKind) -> dict[str, tuple[LevelShare, ...]]:
        """For "step" and for "memory": what each level contributes to the factor, from the widest to the nearest.

        The product of the levels' factors is the factor of `lookup`, but for the floor of the memory factor.
        """
        return {posterior.quantity: posterior.predict(kind).shares for posterior in (self.step, self.memory)}

    @property
    def jobs(self) -> int:
        """Jobs it rests on, outliers not counted."""
        return max(sum(group.jobs for group in posterior.groups) for posterior in (self.step, self.memory))

    def kinds(self) -> list[RunKind]:
        """The kinds of run that there were jobs of."""
        return list(dict.fromkeys(group.kind for group in (*self.step.groups, *self.memory.groups)))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able object that `from_dict` reads back to an equal calibration."""
        groups = {item.quantity: [asdict(group) for group in item.groups] for item in (self.step, self.memory)}
        return {"method": METHOD_VERSION, **groups}

    @classmethod
    def from_dict(cls, data: object) -> "Calibration":
        """Rebuild from `to_dict()`; raises InvalidInput, also for what another method learnt."""
        mapping = check_mapping("calibration", data)
        names = ("method", "step", "memory")
        check_keys("calibration", mapping, known=names, required=names)
        if mapping["method"] != METHOD_VERSION:
            raise InvalidInput("calibration.method", mapping["method"], f"{METHOD_VERSION}, this engine's")
        return cls(step=_read_posterior("step", mapping["step"]), memory=_read_posterior("memory", mapping["memory"]))


def _read_posterior(quantity: str, groups: object) -> Posterior:
    if not isinstance(groups, list):
        raise InvalidInput(f"calibration.{quantity}", groups, "a list of groups")
    return Posterior(quantity, tuple(Group.from_dict(group) for group in groups))
