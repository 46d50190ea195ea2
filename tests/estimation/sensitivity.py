"""Which figures move when a constant of catalog/efficiency.toml is off by 10 %, and how far the rows determine each.

python -m tests.estimation.sensitivity           the constants that move something, strongest first
python -m tests.estimation.sensitivity --all     also those that move nothing: no published run depends on them
"""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from jobs.estimation.accuracy import SMALL_MODEL_PARAMETERS
from jobs.estimation.constants import GROUPS, ConstantTable, load_constants
from jobs.estimation.evaluation import evaluate_columns
from jobs.estimation.prediction import Prediction, predict_runs
from jobs.estimation.run_table import Run
from tests.estimation.fit import (
    DEGREES_OF_FREEDOM,
    SIGMA_LOG,
    Problem,
    build_problem,
    is_scored,
    log_ratios,
    to_table,
    with_table,
)
from tests.estimation.priors import PRIORS, Prior
from tests.estimation.published_runs import is_weighed, read_scored_runs

CHANGE: Final = 0.1
LEAST_MOVE: Final = 0.001
"""Change of one row's prediction below which a constant counts as moving nothing."""
MEMORY_CONSTANTS: Final = ("runtime_gib", "fragmentation")
"""They decide what fits, and by that which recomputation is taken where a row prints none."""
_LARGEST_SHARE: Final = 0.999
_PROBE: Final = 1e-3

Key = tuple[str, str, str]
"""Group, member ("" in the global group) and name of a constant."""


# --- Constants by name -----------------------------------------------------------------------------------------------


def list_constants(table: ConstantTable) -> Iterator[Key]:
    """Every constant of the table."""
    for group, members in (("family", table.family), ("framework", table.framework), ("global", {"": None})):
        for member in members:
            yield from ((group, member, field.name) for field in fields(GROUPS[group]))


def get_constant(table: ConstantTable, key: Key) -> float:
    group, member, name = key
    if group == "global":
        return table.everything[name]
    return (table.family if group == "family" else table.framework)[member][name]


def change_constant(table: ConstantTable, key: Key, value: float) -> ConstantTable:
    """The table with one constant replaced."""
    group, member, name = key
    parts: dict[str, Any] = {"family": table.family, "framework": table.framework, "everything": table.everything}
    if group == "global":
        parts["everything"] = {**table.everything, name: value}
    else:
        parts[group] = {**parts[group], member: {**parts[group][member], name: value}}
    return ConstantTable(**parts)


def encode(prior: Prior, value: float) -> float:
    """How many of its prior's standard deviations a constant lies from what was expected."""
    if prior.is_share:
        return (math.log(value / (1 - value)) - math.log(prior.value / (1 - prior.value))) / prior.width
    return math.log(value / prior.value) / prior.width


def encode_table(table: ConstantTable) -> np.ndarray:
    """`encode` of every constant with a prior, in the order of PRIORS."""
    return np.array([encode(prior, get_constant(table, (prior.group, prior.member, prior.name))) for prior in PRIORS])


# --- How far the rows determine a constant ---------------------------------------------------------------------------


def compute_determination(problem: Problem, base: ConstantTable, table: ConstantTable) -> Mapping[Key, float]:
    """For each constant with a prior, 1 - posterior variance / prior variance, by Laplace's approximation.

    0: no row depends on it, so that it stands where the prior put it; 1: the rows alone determine it. Their sum is the
    effective number of constants that were fitted.
    """
    theta = encode_table(table)
    residuals = log_ratios(problem, to_table(base, PRIORS, theta)) / SIGMA_LOG
    jacobian = np.empty((len(residuals), len(theta)))
    for column in range(len(theta)):
        moved = theta.copy()
        moved[column] += _PROBE
        jacobian[:, column] = (log_ratios(problem, to_table(base, PRIORS, moved)) / SIGMA_LOG - residuals) / _PROBE
    weight = problem.weight * (DEGREES_OF_FREEDOM + 1) / (DEGREES_OF_FREEDOM + residuals**2)
    posterior = np.linalg.inv(jacobian.T @ (weight[:, None] * jacobian) + np.eye(len(theta)))
    return {
        (prior.group, prior.member, prior.name): float(1 - variance)
        for prior, variance in zip(PRIORS, np.diag(posterior), strict=True)
    }


# --- Mutation --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Headline figures in sample, in percent."""

    mean_of_sources: float
    median: float
    p90: float
    small_models: float
    zero_3: float
    memory: float
    called_impossible: float


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """What a constant's change does: to the row that moves most (as a share), and to the figures."""

    key: Key
    value: float
    largest_step_move: float
    largest_memory_move: float
    figures: Figures

    @property
    def largest_move(self) -> float:
        return max(self.largest_step_move, self.largest_memory_move)


class Laboratory:
    """The scored rows, ready to be evaluated with other constants in milliseconds."""

    def __init__(self, runs: Sequence[Run] | None = None) -> None:
        self.runs = read_scored_runs() if runs is None else list(runs)
        self.table = load_constants()
        self._problem = build_problem(self.runs, self.table)
        self._is_timed = np.array([is_scored(run) for run in self.runs])
        self._is_weighed = np.array([is_weighed(run) for run in self.runs])
        self._memory = np.array([run.memory_bytes or np.nan for run in self.runs])
        self._capacity = np.array([run.machine.accelerator.memory_bytes for run in self.runs])
        self._sources = np.array([run.source for run in self.runs])
        self._is_small = np.array([r.workload.architecture.parameters < SMALL_MODEL_PARAMETERS for r in self.runs])
        self._is_zero_3 = np.array([run.plan.zero_stage == 3 for run in self.runs])
        self.step_s, self.memory_bytes = self.evaluate(self.table)
        predicted = [item.memory_bytes if isinstance(item, Prediction) else np.nan for item in predict_runs(self.runs)]
        self._uncounted_bytes = self.memory_bytes - np.array(predicted)
        self.figures = self._summarise(self.step_s, self.memory_bytes)

    def evaluate(self, table: ConstantTable, *, settle: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(step time, memory) of each run; `settle` decides anew what was recomputed where a row says nothing."""
        problem = build_problem(self.runs, table) if settle else self._problem
        evaluation = evaluate_columns(with_table(problem, table))
        return evaluation.step_s, evaluation.memory_bytes

    def mutate(self, key: Key, *, change: float = CHANGE) -> Mutation:
        """The figures with one constant changed by the part `change` of itself."""
        value = get_constant(self.table, key)
        limit = _LARGEST_SHARE if any(prior.is_share and prior.name == key[2] for prior in PRIORS) else math.inf
        table = change_constant(self.table, key, min(value * (1 + change), limit))
        step_s, memory_bytes = self.evaluate(table, settle=key[2] in MEMORY_CONSTANTS)
        return Mutation(
            key=key,
            value=value,
            largest_step_move=float(np.max(np.abs(step_s / self.step_s - 1))),
            largest_memory_move=float(np.max(np.abs(memory_bytes / self.memory_bytes - 1))),
            figures=self._summarise(step_s, memory_bytes),
        )

    def _summarise(self, step_s: np.ndarray, memory_bytes: np.ndarray) -> Figures:
        errors = 100 * np.abs(self._problem.measured_s / step_s - 1)
        timed = self._is_timed
        # Some sources measure what an allocator counts, not all that the device holds.
        weighed = np.abs((memory_bytes - self._uncounted_bytes) / self._memory - 1)[self._is_weighed]
        sources = sorted(set(self._sources[timed]))
        return Figures(
            mean_of_sources=float(np.mean([np.median(errors[timed & (self._sources == name)]) for name in sources])),
            median=float(np.median(errors[timed])),
            p90=float(np.quantile(errors[timed], 0.9)),
            small_models=float(np.median(errors[timed & self._is_small])),
            zero_3=float(np.median(errors[timed & self._is_zero_3])),
            memory=float(100 * np.median(weighed)),
            called_impossible=float(100 * np.mean(memory_bytes > self._capacity)),
        )


def format_mutations(laboratory: Laboratory, keys: Sequence[Key], *, with_idle: bool) -> str:
    """A line for each constant and direction; figures as changes in points of percent."""
    names = [field.name for field in fields(Figures)]
    heading = f"{'constant':44} {'value':>10} {'change':>7} {'one row':>8} " + " ".join(f"{n[:11]:>11}" for n in names)
    now = " ".join(f"{getattr(laboratory.figures, name):10.2f}%" for name in names)
    lines = [heading, f"{'as shipped':44} {'':10} {'':7} {'':8} {now}"]
    pairs = [(laboratory.mutate(key, change=-CHANGE), laboratory.mutate(key, change=CHANGE)) for key in keys]
    pairs.sort(key=lambda pair: -max(item.largest_move for item in pair))
    idle = 0
    for pair in pairs:
        if max(item.largest_move for item in pair) < LEAST_MOVE:
            idle += 1
            if not with_idle:
                continue
        for item, sign in zip(pair, (-CHANGE, CHANGE), strict=True):
            moves = " ".join(
                f"{getattr(item.figures, name) - getattr(laboratory.figures, name):+11.2f}" for name in names
            )
            label = ".".join(part for part in item.key if part)
            lines.append(f"{label:44} {item.value:10.4g} {100 * sign:+6.0f}% {100 * item.largest_move:7.2f}% {moves}")
    lines.append(f"{idle} of {len(pairs)} constants move no row by more than {100 * LEAST_MOVE:g} %")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what each constant moves."""
    parser = argparse.ArgumentParser(prog="python -m tests.estimation.sensitivity")
    parser.add_argument("--all", action="store_true", help="also constants that move nothing")
    options = parser.parse_args(arguments)
    laboratory = Laboratory()
    print(format_mutations(laboratory, list(list_constants(laboratory.table)), with_idle=options.all))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
