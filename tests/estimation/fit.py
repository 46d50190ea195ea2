"""Fit the constants of catalog/efficiency.toml to the published runs that ship with the library.

python -m tests.estimation.fit             print the constants and how well they do, in sample
python -m tests.estimation.fit --left-out  leave each source out in turn, and write catalog/evidence.csv
python -m tests.estimation.fit --write     write catalog/efficiency.toml

Maximum a posteriori: each constant has a prior (a value that physics or a micro-benchmark suggests, and how far it may
lie off), each row a residual log(measured / estimated) that counts by a Student-t likelihood, so that an odd run
doesn't pull, and each source as much as its square root of rows. Gauss-Newton with a numerical Jacobian.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from jobs.estimation.catalog_files import CATALOG
from jobs.estimation.columns import Columns, stack_columns
from jobs.estimation.constants import ConstantTable, FamilyConstants, FrameworkConstants, GlobalConstants
from jobs.estimation.evaluation import evaluate_columns
from jobs.estimation.prediction import Prediction, predict_runs
from jobs.estimation.run_table import Run, read_runs
from jobs.estimation.uncertainty import EVIDENCE, EVIDENCE_COLUMNS
from jobs.estimation.unknown_recomputation import settle_recomputation
from tests.estimation.priors import PRIORS, Prior, base_table

SIGMA_LOG: Final = 0.08
"""Scatter of a run around the model, as a logarithm: the same recipe on newer software moves by up to 0.25."""
DEGREES_OF_FREEDOM: Final = 3.0
SOURCE_POWER: Final = 0.6
"""A source with n rows counts as n ** (1 - SOURCE_POWER)."""


@dataclass(frozen=True)
class Problem:
    """Runs to fit, as columns."""

    runs: list[Run]
    columns: Columns
    family: np.ndarray
    ceiling: np.ndarray
    framework: np.ndarray
    measured_s: np.ndarray
    weight: np.ndarray


def is_scored(run: Run) -> bool:
    return run.use_for.startswith("time") and run.tier in "AB" and run.step_s is not None and run.plan_known


def build_problem(runs: Sequence[Run], table: ConstantTable) -> Problem:
    rows = [
        (run.workload, run.machine, plan)
        for run, plan in zip(runs, settle_recomputation(runs, constants=table), strict=True)
    ]
    families = list(table.family)
    frameworks = list(table.framework)
    sources = [run.source for run in runs]
    counts = {name: sources.count(name) for name in set(sources)}
    return Problem(
        runs=list(runs),
        columns=stack_columns(rows, constants=table),
        family=np.array([families.index(machine.accelerator.family) for _, machine, _ in rows]),
        ceiling=np.array([machine.accelerator.matmul_peak_fraction or 0.0 for _, machine, _ in rows]),
        framework=np.array([frameworks.index(workload.framework) for workload, _, _ in rows]),
        measured_s=np.array([run.step_s for run in runs], dtype=float),
        weight=np.array([counts[name] ** -SOURCE_POWER for name in sources]),
    )


def with_table(problem: Problem, table: ConstantTable) -> Columns:
    def column(group: Mapping[str, Mapping[str, float]], name: str, index: np.ndarray) -> np.ndarray:
        return np.array([values[name] for values in group.values()])[index]

    family = FamilyConstants(**{n: column(table.family, n, problem.family) for n in FamilyConstants.__annotations__})
    own = np.where(problem.ceiling > 0, problem.ceiling / family.matmul_ceiling, 1.0)
    family = replace(
        family, matmul_fraction=own * family.matmul_fraction, fp8_matmul_fraction=own * family.fp8_matmul_fraction
    )
    framework = FrameworkConstants(
        **{n: column(table.framework, n, problem.framework) for n in FrameworkConstants.__annotations__}
    )
    everything = GlobalConstants(**{n: np.float64(table.everything[n]) for n in GlobalConstants.__annotations__})
    return replace(problem.columns, family=family, framework=framework, everything=everything)


def log_ratios(problem: Problem, table: ConstantTable) -> np.ndarray:
    """log(measured / estimated) of each run."""
    return np.log(problem.measured_s / evaluate_columns(with_table(problem, table)).step_s)


def to_table(base: ConstantTable, priors: Sequence[Prior], theta: np.ndarray) -> ConstantTable:
    family = {name: dict(values) for name, values in base.family.items()}
    framework = {name: dict(values) for name, values in base.framework.items()}
    everything = dict(base.everything)
    groups: dict[str, Any] = {"family": family, "framework": framework, "global": {"": everything}}
    for prior, value in zip(priors, theta, strict=True):
        groups[prior.group][prior.member][prior.name] = prior.decode(value)
    return ConstantTable(family=family, framework=framework, everything=everything)


def fit(
    problem: Problem, base: ConstantTable, *, start: np.ndarray | None = None, rounds: int = 14
) -> tuple[ConstantTable, np.ndarray]:
    """Constants that explain the runs best, and their positions in units of the prior's width."""
    priors = PRIORS
    theta = np.zeros(len(priors)) if start is None else start.copy()
    damping = 1e-2

    def residuals(vector: np.ndarray) -> np.ndarray:
        return log_ratios(problem, to_table(base, priors, vector)) / SIGMA_LOG

    def loss(r: np.ndarray, vector: np.ndarray) -> float:
        nu = DEGREES_OF_FREEDOM
        return float(np.sum(problem.weight * 0.5 * (nu + 1) * np.log1p(r**2 / nu)) + 0.5 * np.sum(vector**2))

    r = residuals(theta)
    current = loss(r, theta)
    for _ in range(rounds):
        jacobian = np.empty((len(r), len(theta)))
        for column in range(len(theta)):
            moved = theta.copy()
            moved[column] += 0.02
            jacobian[:, column] = (residuals(moved) - r) / 0.02
        nu = DEGREES_OF_FREEDOM
        w = problem.weight * (nu + 1) / (nu + r**2)
        hessian = jacobian.T @ (w[:, None] * jacobian) + np.eye(len(theta))
        gradient = jacobian.T @ (w * r) + theta
        before = current
        for _ in range(8):
            step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), -gradient)
            candidate = theta + np.clip(step, -1.0, 1.0)
            new_r = residuals(candidate)
            value = loss(new_r, candidate)
            if value < current:
                theta, r, current, damping = candidate, new_r, value, max(damping / 5, 1e-4)
                break
            damping *= 5
        if before - current < 1e-3:
            break
    return to_table(base, priors, theta), theta


def load_scored() -> list[Run]:
    return [run for run in read_runs(CATALOG / "published_runs.csv") if isinstance(run, Run) and is_scored(run)]


def report(problem: Problem, ratio: np.ndarray) -> None:
    """Print errors by source, and the mean over sources of their medians."""
    groups: dict[str, list[float]] = {}
    for run, value in zip(problem.runs, ratio, strict=True):
        groups.setdefault(run.source, []).append(value)
    medians = []
    for source, values in sorted(groups.items(), key=lambda item: -len(item[1])):
        error = 100 * np.abs(np.exp(values) - 1)
        medians.append(np.median(error))
        bias = 100 * (np.exp(np.median(values)) - 1)
        print(f"{source[:45]:45} {len(values):4} {medians[-1]:6.1f} {np.quantile(error, 0.9):6.1f} {bias:+6.1f}")
    error = 100 * np.abs(np.exp(ratio) - 1)
    print(f"mean of medians {np.mean(medians):.2f}; all {np.median(error):.2f}, P90 {np.quantile(error, 0.9):.1f}")


def leave_out(runs: Sequence[Run], base: ConstantTable, start: np.ndarray) -> np.ndarray:
    """log(measured / estimated) of each run by constants that were fitted without its source."""
    problem = build_problem(runs, base)
    ratios = np.full(len(runs), np.nan)
    for source in sorted({run.source for run in runs}):
        inside = [run for run in runs if run.source != source]
        table, _ = fit(build_problem(inside, base), base, start=start, rounds=6)
        is_out = np.array([run.source == source for run in runs])
        ratios[is_out] = log_ratios(problem, table)[is_out]
    return ratios


def write_constants(table: ConstantTable) -> None:
    """Write catalog/efficiency.toml."""
    lines = ["# Written by `python -m tests.estimation.fit --write`; meanings: jobs/estimation/constants.py.", ""]
    for group, members in (("family", table.family), ("framework", table.framework)):
        for member, values in members.items():
            lines += [f"[{group}.{member}]", *(f"{name} = {value:.4g}" for name, value in values.items()), ""]
    lines += ["[global]", *(f"{name} = {value:.4g}" for name, value in table.everything.items())]
    (CATALOG / "efficiency.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def memory_ratios(runs: Sequence[Run]) -> np.ndarray:
    """log(measured / predicted memory) of each run, in the quantity that its source measures."""
    predictions = [item for item in predict_runs(runs) if isinstance(item, Prediction)]
    return np.log([(item.run.memory_bytes or np.nan) / item.memory_bytes for item in predictions])


def write_evidence(left_out: Mapping[str, float], runs: Sequence[Run]) -> None:
    """Write catalog/evidence.csv: the residuals of published runs that ranges rest on."""
    weighed = [run for run in runs if run.memory_bytes and "memory" in run.use_for and run.tier in "AB"]
    memory = dict(zip([run.id for run in weighed], memory_ratios(weighed), strict=True))
    with EVIDENCE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(EVIDENCE_COLUMNS)
        for run in runs:
            if run.id not in left_out and run.id not in memory:
                continue
            arch, accelerator = run.workload.architecture, run.machine.accelerator
            writer.writerow(
                [
                    *(run.id, run.source, accelerator.code, accelerator.family, run.workload.framework),
                    *(int(arch.is_moe), arch.parameters, run.plan.devices),
                    *(f"{group[run.id]:.4f}" if run.id in group else "" for group in (left_out, memory)),
                ]
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.estimation.fit", description=__doc__)
    parser.add_argument("--left-out", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    runs = load_scored()
    base = base_table()
    problem = build_problem(runs, base)
    table, theta = fit(problem, base)
    print("in sample")
    report(problem, log_ratios(problem, table))
    for prior, value in zip(PRIORS, theta, strict=True):
        print(
            f"{prior.group:9} {prior.member:11} {prior.name:24} {prior.decode(value):10.4g}, expected {prior.value:g}"
        )
    if options.write:
        write_constants(table)
    if options.left_out:
        ratios = leave_out(runs, base, theta)
        print("each source left out")
        report(problem, ratios)
        everything = [run for run in read_runs(CATALOG / "published_runs.csv") if isinstance(run, Run)]
        write_evidence(dict(zip([run.id for run in runs], ratios, strict=True)), everything)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
