"""How far predictions are from published runs: errors by source, accelerator and framework, ranges, choice of plan."""

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from jobs.estimation.finetune_table import format_finetuning, score_finetuning
from jobs.estimation.plan import ParallelPlan
from jobs.estimation.prediction import PUBLISHED_RUNS, Prediction, predict_runs
from jobs.estimation.run_table import (
    Refused,
    Run,
    read_runs,
)
from jobs.estimation.uncertainty import Evidence, find_range, load_evidence

SMALL_MODEL_PARAMETERS: Final = 2 * 10**9
_SCORED_TIERS: Final = ("A", "B")
_TOO_LOW: Final = 0.9
"""Predicted over measured memory below which a job would be let into its death."""
_LEAST_PLANS: Final = 3


@dataclass(frozen=True, kw_only=True)
class Score:
    """One published run beside its prediction. Ratios are None where the source measured nothing.

    `step_ratio` is measured / predicted step time, which is predicted / measured throughput; `held_out_step_ratio` the
    same by a fit that never saw the run's source. `memory_ratio` is predicted / measured.
    """

    run: Run
    prediction: Prediction
    step_ratio: float | None
    held_out_step_ratio: float | None
    memory_ratio: float | None
    held_out_memory_ratio: float | None
    is_step_covered: bool | None
    is_memory_covered: bool | None
    fits: bool


def score_runs(runs: Sequence[Run], *, evidence: Evidence | None = None) -> list[Score]:
    """Predict the runs and compare; where recomputation isn't published, what `settle_recomputation` chooses counts.

    Ranges are checked without the residuals of the run's own source.
    """
    held_out = {} if evidence is None else {name: row for row, name in enumerate(evidence.ids)}
    items = [item for item in predict_runs(runs) if isinstance(item, Prediction)]
    return [_compare(item, evidence, held_out.get(item.run.id)) for item in items]


def _compare(item: Prediction, evidence: Evidence | None, row: int | None) -> Score:
    run = item.run
    step_range, memory_range = find_range(evidence, run.workload, run.machine, item.plan.devices, left_out=run.source)
    step = run.step_s / item.step_s if run.step_s else None
    memory = item.memory_bytes / run.memory_bytes if run.memory_bytes else None
    held_out_step = held_out_memory = None
    if evidence is not None and row is not None:
        held_out_step = _exponentiate(evidence.log_step[row])
        inverse = _exponentiate(evidence.log_memory[row])
        held_out_memory = None if inverse is None else 1 / inverse
    judged = step if held_out_step is None else held_out_step
    judged_memory = memory if held_out_memory is None else held_out_memory
    return Score(
        run=run,
        prediction=item,
        step_ratio=step,
        held_out_step_ratio=held_out_step,
        memory_ratio=memory,
        held_out_memory_ratio=held_out_memory,
        is_step_covered=None if judged is None else step_range[0] <= judged <= step_range[1],
        is_memory_covered=None if judged_memory is None else memory_range[0] <= 1 / judged_memory <= memory_range[1],
        fits=item.fits,
    )


def _exponentiate(value: float) -> float | None:
    return math.exp(value) if math.isfinite(value) else None


def _is_scored_for_time(run: Run) -> bool:
    return run.use_for.startswith("time") and run.tier in _SCORED_TIERS and run.step_s is not None


def _is_scored_for_memory(run: Run) -> bool:
    return "memory" in run.use_for and run.tier in _SCORED_TIERS and run.memory_bytes is not None


_GROUPINGS: Final[Mapping[str, Callable[[Run], str]]] = {
    "by_source": lambda run: run.source,
    "by_accelerator": lambda run: run.machine.accelerator.family,
    "by_framework": lambda run: run.workload.framework,
}


def benchmark(path: Path = PUBLISHED_RUNS) -> dict[str, Any]:
    """Accuracy on a table of published runs, as a JSON-able object; raises InvalidInput for an unusable file.

    Throughput counts rows with `use_for` time and tier A or B; memory those with `use_for` memory. Errors are in
    percent of the measured value. "in_sample" rows may have been fitted on; "leave_one_source_out" ones never were.
    """
    started = time.perf_counter()
    rows = read_runs(path)
    runs = [row for row in rows if isinstance(row, Run)]
    refused = [row for row in rows if isinstance(row, Refused)]
    evidence = load_evidence()
    scored = [run for run in runs if _is_scored_for_time(run) or _is_scored_for_memory(run)]
    read_s = time.perf_counter() - started
    scores = score_runs(scored, evidence=evidence)
    seconds = time.perf_counter() - started
    timed = [score for score in scores if _is_scored_for_time(score.run)]
    weighed = [score for score in scores if _is_scored_for_memory(score.run)]
    throughput = {"in_sample": _tabulate(timed, lambda score: score.step_ratio)}
    held_out = [score for score in timed if score.held_out_step_ratio is not None]
    if held_out:
        throughput["leave_one_source_out"] = _tabulate(held_out, lambda score: score.held_out_step_ratio)
    memory = {"in_sample": _tabulate_memory(weighed, lambda score: score.memory_ratio)}
    held_out = [score for score in weighed if score.held_out_memory_ratio is not None]
    if held_out:
        memory["leave_one_source_out"] = _tabulate_memory(held_out, lambda score: score.held_out_memory_ratio)
    return {
        "rows": len(rows),
        "rows_read": len(runs),
        "rows_scored": len(scores),
        "rows_with_unpublished_recomputation": sum(not score.run.recompute_known for score in scores),
        "throughput": throughput,
        "memory": memory,
        "finetuning_memory": score_finetuning(),
        "coverage": _tabulate_coverage(timed, weighed, has_evidence=evidence is not None),
        "feasibility": _tabulate_feasibility(runs, scores),
        "plan_choice": _tabulate_plan_choice(timed),
        "refused": _tabulate_refusals(refused),
        "seconds": seconds,
        "microseconds_per_evaluation": 1e6 * (seconds - read_s) / max(1, len(scores)),
    }


def _tabulate(scores: Sequence[Score], take: Callable[[Score], float | None]) -> dict[str, Any]:
    tables: dict[str, Any] = {"all": _summarise(scores, take)}
    for name, group in _GROUPINGS.items():
        keys = sorted({group(score.run) for score in scores})
        tables[name] = {key: _summarise([s for s in scores if group(s.run) == key], take) for key in keys}
    medians = [table["median_error_pct"] for table in tables["by_source"].values()]
    tables["mean_of_source_medians_pct"] = float(np.mean(medians)) if medians else None
    tables["small_models"] = _summarise(
        [s for s in scores if s.run.workload.architecture.parameters < SMALL_MODEL_PARAMETERS], take
    )
    tables["fsdp_or_zero3"] = _summarise([s for s in scores if s.run.plan.zero_stage == 3], take)
    return tables


def _summarise(scores: Sequence[Score], take: Callable[[Score], float | None]) -> dict[str, Any]:
    """Error of predicted throughput in percent: positive bias is predicted faster than measured."""
    ratios = np.array([ratio for score in scores if (ratio := take(score)) is not None])
    if not len(ratios):
        return {"rows": 0}
    errors = 100 * np.abs(ratios - 1)
    return {
        "rows": len(ratios),
        "median_error_pct": float(np.median(errors)),
        "p90_error_pct": float(np.quantile(errors, 0.9)),
        "bias_pct": float(100 * np.median(ratios - 1)),
    }


def _tabulate_memory(scores: Sequence[Score], take: Callable[[Score], float | None]) -> dict[str, Any]:
    tables = _tabulate(scores, take)
    ratios = np.array([ratio for score in scores if (ratio := take(score)) is not None])
    low = int(np.count_nonzero(ratios < _TOO_LOW))
    return tables | {"rows_over_10_pct_too_low": low, "share_over_10_pct_too_low": low / max(1, len(ratios))}


def _tabulate_coverage(timed: Sequence[Score], weighed: Sequence[Score], *, has_evidence: bool) -> dict[str, Any]:
    """Share of measured values between P10 and P90; 0.8 is right."""

    def share(values: Iterable[bool | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    return {
        "ranges": "residuals of other sources" if has_evidence else "defaults: no residuals at hand",
        "step_time": share(score.is_step_covered for score in timed),
        "memory": share(score.is_memory_covered for score in weighed),
    }


def _tabulate_feasibility(runs: Sequence[Run], scores: Sequence[Score]) -> dict[str, Any]:
    """Runs that took place but are called impossible, and out-of-memory cases that are called so."""
    impossible = [score.run.id for score in scores if not score.fits and not score.run.is_out_of_memory]
    failures = [*(run for run in runs if run.is_out_of_memory), *_list_named_failures(runs)]
    answers = predict_runs([replace(run, recompute_known=True) for run in failures])
    told = [isinstance(item, Prediction) and not item.fits for item in answers]
    return {
        "ran": len(scores),
        "ran_but_called_impossible": len(impossible),
        "ran_but_called_impossible_ids": impossible,
        "out_of_memory_cases": len(failures),
        "out_of_memory_cases_called_so": sum(told),
    }


def _list_named_failures(runs: Sequence[Run]) -> list[Run]:
    """Cases that a row only names: "same case with PP1DP8TP1 is OOM" (without recomputation)."""
    cases: dict[tuple[object, ...], Run] = {}
    for run in runs:
        found = re.search(r"same case with PP(\d+)DP(\d+)TP(\d+) is OOM", run.row.get("notes", ""))
        if not found:
            continue
        pp, dp, tp = (int(number) for number in found.groups())
        plan = replace(
            run.plan,
            pipeline_parallel=pp,
            data_parallel=dp,
            tensor_parallel=tp,
            virtual_stages=1,
            sequence_parallel=run.plan.sequence_parallel and tp > 1,
            zero_group=0,
            recomputation="none",
        )
        workload = replace(run.workload, global_batch_size=max(run.workload.global_batch_size, dp))
        cases[(run.machine.accelerator.code, workload.architecture, workload.precision, plan)] = replace(
            run, id=f"{run.id} (named)", plan=plan, workload=workload, recompute_known=True
        )
    return list(cases.values())


def _tabulate_plan_choice(timed: Sequence[Score]) -> dict[str, Any]:
    """Regret: how much slower than the best measured plan the one is that the engine would choose, per grid.

    A grid is a set of measured plans for one job: source, model, batch, sequence, precision and devices alike.
    """
    grids: dict[tuple[object, ...], list[Score]] = {}
    for score in timed:
        run = score.run
        if run.recompute_known and run.step_s is not None:
            key = (run.source, run.workload, run.machine.accelerator.code, run.plan.devices, run.software_release)
            grids.setdefault(key, []).append(score)
    regrets = []
    for members in grids.values():
        by_plan: dict[ParallelPlan, list[Score]] = {}
        for score in members:
            by_plan.setdefault(score.run.plan, []).append(score)
        if len(by_plan) < _LEAST_PLANS:
            continue
        measured = {plan: float(np.median([s.run.step_s or 0.0 for s in items])) for plan, items in by_plan.items()}
        chosen = min(by_plan, key=lambda plan: by_plan[plan][0].prediction.step_s)
        regrets.append(100 * (measured[chosen] / min(measured.values()) - 1))
    if not regrets:
        return {"grids": 0}
    return {"grids": len(regrets), "mean_regret_pct": float(np.mean(regrets)), "worst_regret_pct": max(regrets)}


def _tabulate_refusals(refused: Sequence[Refused]) -> dict[str, Any]:
    return {"rows": len(refused), "reasons": {item.id: item.reason for item in refused}}


def format_benchmark(result: Mapping[str, Any]) -> str:
    """The tables of `benchmark` as text."""
    lines = [
        f"{result['rows']} rows, {result['rows_read']} read, {result['rows_scored']} scored, "
        f"{result['refused']['rows']} refused, in {result['seconds']:.2f} s "
        f"({result['microseconds_per_evaluation']:.0f} us a scored row)",
        f"{result['rows_with_unpublished_recomputation']} scored rows don't publish their recomputation: "
        "the least that fits counts (see unknown_recomputation.py)",
    ]
    for quantity in ("throughput", "memory"):
        for sample, tables in result[quantity].items():
            label = {"in_sample": "in sample: rows may have been fitted on"}.get(sample, sample.replace("_", " "))
            lines += ["", f"{quantity.capitalize()} ({label})", *_format_tables(tables)]
            if "share_over_10_pct_too_low" in tables:
                lines.append(f"  more than 10 % too low: {100 * tables['share_over_10_pct_too_low']:.1f} % of rows")
    lines += ["", *format_finetuning(result["finetuning_memory"])]
    coverage, feasibility, choice = result["coverage"], result["feasibility"], result["plan_choice"]
    lines += ["", f"Between P10 and P90 ({coverage['ranges']})"]
    lines += [
        f"  {name}: {100 * coverage[key]:.1f} %"
        for name, key in (("step time", "step_time"), ("memory", "memory"))
        if coverage[key] is not None
    ]
    lines += [
        "",
        f"Ran but called impossible: {feasibility['ran_but_called_impossible']} of {feasibility['ran']}",
        f"Out of memory, and called so: {feasibility['out_of_memory_cases_called_so']} "
        f"of {feasibility['out_of_memory_cases']}",
    ]
    if choice["grids"]:
        lines.append(
            f"Choice of plan on {choice['grids']} measured grids: regret {choice['mean_regret_pct']:.1f} % in the "
            f"mean, {choice['worst_regret_pct']:.1f} % at worst"
        )
    return "\n".join(lines)


def _format_tables(tables: Mapping[str, Any]) -> list[str]:
    lines = [f"  {'':44} {'rows':>5} {'median':>8} {'P90':>8} {'bias':>8}"]

    def add(name: str, table: Mapping[str, Any]) -> None:
        if table["rows"]:
            errors = "".join(f" {table[key]:7.1f}%" for key in ("median_error_pct", "p90_error_pct", "bias_pct"))
            lines.append(f"  {name[:44]:44} {table['rows']:5d}{errors}")

    add("all rows", tables["all"])
    if tables["mean_of_source_medians_pct"] is not None:
        lines.append(f"  {'mean over sources of their medians':44} {'':5} {tables['mean_of_source_medians_pct']:7.1f}%")
    add("models below 2B parameters", tables["small_models"])
    add("FSDP and ZeRO-3", tables["fsdp_or_zero3"])
    for name in _GROUPINGS:
        lines.append(f"  {name.replace('_', ' ')}")
        for key, table in tables[name].items():
            add(f"  {key}", table)
    return lines
