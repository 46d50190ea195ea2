"""Predict the runs of a table, and score predictions against what was measured.

`predict_table` streams a CSV of runs into a CSV of predictions; `predict_runs` is the same for runs in memory;
`benchmark` compares predictions with the measured columns, which nothing before it reads.
"""

import csv
import io
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np

from jobs.estimation.catalog_files import CATALOG
from jobs.estimation.columns import stack_columns
from jobs.estimation.evaluation import evaluate_columns
from jobs.estimation.flops import count_model_flop_per_step
from jobs.estimation.hardware import Machine
from jobs.estimation.memory import count_fixed_bytes
from jobs.estimation.plan import ParallelPlan
from jobs.estimation.plan_search import search
from jobs.estimation.run_table import (
    MEASURED_COLUMNS,
    MEMORY_UNIT_BYTES,
    Refused,
    Run,
    iterate_rows,
    open_table,
    read_row,
    show_path,
)
from jobs.estimation.uncertainty import Evidence, find_range, load_evidence
from jobs.estimation.unknown_recomputation import settle_recomputation
from jobs.estimation.validation import InvalidInput
from jobs.estimation.workload import Workload

PUBLISHED_RUNS: Final = CATALOG / "published_runs.csv"

RANGE_COLUMNS: Final = ("step_time_s_p10", "step_time_s_p90", "memory_gb_p10", "memory_gb_p90")
EXTRA_COLUMNS: Final = (*RANGE_COLUMNS, "fits", "refused", "assumed")

_CHUNK: Final = 512
_UNKNOWN_PLAN: Final = "the row prints no degrees; the fastest plan that the search finds"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the engine says of one run. `plan` is the one predicted for; `assumed` adds to the run's what that took.

    `*_p10_*` and `*_p90_*` bound what will be measured in 80 % of all cases.
    """

    run: Run
    plan: ParallelPlan
    step_s: float
    step_p10_s: float
    step_p90_s: float
    tokens_per_s_per_device: float
    model_flop_per_s_per_device: float
    mfu: float
    memory_bytes: float
    memory_p10_bytes: float
    memory_p90_bytes: float
    fits: bool
    assumed: tuple[str, ...]


# --- Runs ------------------------------------------------------------------------------------------------------------


def predict_runs(runs: Sequence[Run], *, evidence: Evidence | None = None) -> list[Prediction | Refused]:
    """Predict each run, in order; one that the engine can't express comes back refused."""
    settled: list[Run | Refused] = [run if run.plan_known else _find_plan(run) for run in runs]
    known = [run for run in settled if isinstance(run, Run)]
    answers = iter(_evaluate(known, evidence))
    return [next(answers) if isinstance(run, Run) else run for run in settled]


def _find_plan(run: Run) -> Run | Refused:
    """The run with the best plan of a search, where the row prints none."""
    try:
        plan = _search_plan(run.workload, run.machine, run.plan.devices)
    except InvalidInput as error:
        return Refused(id=run.id, source=run.source, reason=str(error))
    if plan is None:
        return Refused(id=run.id, source=run.source, reason=f"tp, pp: {run.plan.devices} devices have no possible plan")
    degrees = (
        f"tp{plan.tensor_parallel} pp{plan.pipeline_parallel} dp{plan.data_parallel} cp{plan.context_parallel} "
        f"zero{plan.zero_stage} micro-batch {plan.micro_batch_size} recompute {plan.recomputation}"
    )
    assumed = (*run.assumed, f"plan={degrees}: {_UNKNOWN_PLAN}")
    return replace(run, plan=plan, plan_known=True, recompute_known=True, assumed=assumed)


@lru_cache(maxsize=256)
def _search_plan(workload: Workload, machine: Machine, devices: int) -> ParallelPlan | None:
    found = search(workload, machine, devices, top=1)
    best = found.best or found.least_bad
    return None if best is None else best.plan


def _evaluate(runs: Sequence[Run], evidence: Evidence | None) -> list[Prediction | Refused]:
    """All runs in one evaluation; where that fails, one by one, so that a bad row spoils no other."""
    if not runs:
        return []
    try:
        return _evaluate_together(runs, evidence)
    except InvalidInput as error:
        if len(runs) == 1:
            return [Refused(id=runs[0].id, source=runs[0].source, reason=str(error))]
        half = len(runs) // 2
        return [*_evaluate(runs[:half], evidence), *_evaluate(runs[half:], evidence)]


def _evaluate_together(runs: Sequence[Run], evidence: Evidence | None) -> list[Prediction | Refused]:
    plans = settle_recomputation(runs)
    rows = [(run.workload, run.machine, plan) for run, plan in zip(runs, plans, strict=True)]
    columns = stack_columns(rows)
    evaluation = evaluate_columns(columns)
    # Sources differ in what they count: a tensor allocator's figure lacks the context, or what it only caches, too.
    fixed = count_fixed_bytes(columns)
    quantity = np.array([run.memory_quantity for run in runs])
    overhead = evaluation.memory_parts_bytes["overhead"]
    uncounted = np.where(quantity == "allocated", overhead, np.where(quantity == "reserved", fixed, 0.0))
    fits = np.broadcast_to(evaluation.memory_bytes <= columns.machine.memory_bytes, len(rows)).tolist()
    steps, memories = (
        np.broadcast_to(values, len(rows)) for values in (evaluation.step_s, evaluation.memory_bytes - uncounted)
    )
    predictions: list[Prediction | Refused] = []
    for run, plan, step_s, memory_bytes, is_fitting in zip(
        runs, plans, steps.tolist(), memories.tolist(), fits, strict=True
    ):
        if math.isfinite(step_s) and math.isfinite(memory_bytes) and step_s > 0:
            predictions.append(_describe(run, plan, step_s, memory_bytes, evidence, fits=is_fitting))
        else:
            reason = f"row: the engine gives no finite step time ({step_s:g} s) or memory"
            predictions.append(Refused(id=run.id, source=run.source, reason=reason))
    return predictions


def _describe(
    run: Run, plan: ParallelPlan, step_s: float, memory_bytes: float, evidence: Evidence | None, *, fits: bool
) -> Prediction:
    workload, machine = run.workload, run.machine
    flop_per_s = count_model_flop_per_step(workload) / step_s / plan.devices
    step_range, memory_range = find_range(evidence, workload, machine, plan.devices)
    assumed = run.assumed
    if not run.recompute_known:
        assumed = (*assumed, f"recompute={plan.recomputation}: the row says nothing; the least that fits in memory")
    if run.memory_quantity != "device":
        assumed = (*assumed, f"memory={run.memory_quantity}: what the source measures, without what lies outside it")
    return Prediction(
        run=run,
        plan=plan,
        step_s=step_s,
        step_p10_s=step_s * step_range[0],
        step_p90_s=step_s * step_range[1],
        tokens_per_s_per_device=workload.tokens_per_step / step_s / plan.devices,
        model_flop_per_s_per_device=flop_per_s,
        mfu=flop_per_s / machine.peak_flop_per_s(workload.precision),
        memory_bytes=memory_bytes,
        memory_p10_bytes=memory_bytes * memory_range[0],
        memory_p90_bytes=memory_bytes * memory_range[1],
        fits=fits,
        assumed=assumed,
    )


# --- Tables ----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class TableSummary:
    """What became of the rows of a table."""

    rows: int = 0
    predicted: int = 0
    refused: int = 0
    fit: int = 0
    seconds: float = 0.0
    refusals: list[tuple[str, str]]
    """Id and reason of the first refused rows."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "predicted": self.predicted,
            "refused": self.refused,
            "fit": self.fit,
            "seconds": self.seconds,
            "refusals": [{"id": name, "reason": reason} for name, reason in self.refusals],
        }


_SHOWN_REFUSALS: Final = 100


def predict_table(source: Path, target: str) -> TableSummary:
    """Read runs from the CSV file `source` and write them with predictions to `target` ("-": standard output).

    Every column of the source comes back in its order, the measured ones with predictions in place of the values;
    EXTRA_COLUMNS follow. Rows are read, predicted and written in chunks. Raises InvalidInput for an unusable file.
    """
    started = time.perf_counter()
    summary = TableSummary(refusals=[])
    evidence = load_evidence()
    with open_table(source) as file:
        rows = iterate_rows(file, name=show_path(source))
        header = list(next(rows)[0])
        columns = [*header, *(name for name in (*MEASURED_COLUMNS, *EXTRA_COLUMNS) if name not in header)]
        with _open_target(source, target) as out:
            writer = csv.DictWriter(out, columns, lineterminator="\n")
            writer.writeheader()
            while chunk := list(islice(rows, _CHUNK)):
                writer.writerows(_predict_chunk(chunk, summary, evidence))
    summary.seconds = time.perf_counter() - started
    return summary


def _predict_chunk(
    chunk: Sequence[tuple[Mapping[str, str], str]], summary: TableSummary, evidence: Evidence | None
) -> Iterator[dict[str, str]]:
    read = [read_row(row, reason) for row, reason in chunk]
    answers = iter(predict_runs([item for item in read if isinstance(item, Run)], evidence=evidence))
    for (row, _), item in zip(chunk, read, strict=True):
        answer = next(answers) if isinstance(item, Run) else item
        summary.rows += 1
        if isinstance(answer, Refused):
            summary.refused += 1
            if len(summary.refusals) < _SHOWN_REFUSALS:
                summary.refusals.append((answer.id, answer.reason))
            cells = dict.fromkeys((*MEASURED_COLUMNS, *EXTRA_COLUMNS), "") | {"refused": answer.reason}
        else:
            summary.predicted += 1
            summary.fit += answer.fits
            cells = _format_prediction(answer)
        yield {**row, **cells}


def _format_prediction(item: Prediction) -> dict[str, str]:
    numbers = {
        "step_time_s": item.step_s,
        "tokens_per_s_per_device": item.tokens_per_s_per_device,
        "model_tflops_per_device": item.model_flop_per_s_per_device / 1e12,
        "mfu_pct": 100 * item.mfu,
        "memory_gb_per_device": item.memory_bytes / MEMORY_UNIT_BYTES,
        "step_time_s_p10": item.step_p10_s,
        "step_time_s_p90": item.step_p90_s,
        "memory_gb_p10": item.memory_p10_bytes / MEMORY_UNIT_BYTES,
        "memory_gb_p90": item.memory_p90_bytes / MEMORY_UNIT_BYTES,
    }
    words = {"fits": "true" if item.fits else "false", "refused": "", "assumed": "; ".join(item.assumed)}
    return {name: f"{value:.6g}" for name, value in numbers.items()} | words


@contextmanager
def _open_target(source: Path, target: str) -> Iterator[TextIO]:
    if target == "-":
        # The bytes of the source, whatever the terminal's encoding.
        out = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", errors="surrogateescape", newline="")
        try:
            yield out
            out.flush()
        finally:
            out.detach()
        return
    path = Path(target)
    try:
        if path.exists() and path.samefile(source):
            raise InvalidInput("out", show_path(target), "another file than the one read")
        file = path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
        raise InvalidInput("out", show_path(target), f"a file that can be written ({error.strerror})") from None
    with file:
        yield file
