"""Published training runs (data/published_runs.csv): what was run, and the step time and memory its source prints.

Dense runs, at most 16 a source and accelerator (every n-th in the source's order). `is_recomputation_published` is 0
where a source does not say whether activations are recomputed; "none" is assumed there, as NVIDIA's recipes mostly do.

Held-out runs (data/held_out_runs.csv): dense 16-bit runs of sources that no constant was fitted to. Where the source
does not say so, "none" stands where that fits by the estimate, else "full". GPT-NeoX: 1,536 instead of 1,538 sequences
(the published batch is no multiple of the plan's), with the step time in proportion.
"""

import csv
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from jobs.estimation import Architecture, Machine, ParallelPlan, Workload
from jobs.estimation.evaluation import Evaluation, evaluate_plans
from jobs.estimation.plan import PlanColumns


@dataclass(frozen=True)
class PublishedRun:
    id: str
    source: str
    workload: Workload
    machine: Machine
    plan: ParallelPlan
    step_s: float
    memory_bytes: float | None
    is_recomputation_published: bool

    def with_recomputation(self, recomputation: str) -> "PublishedRun":
        return replace(self, plan=replace(self.plan, recomputation=recomputation))

    def evaluate(self) -> Evaluation:
        return evaluate_plans(self.workload, self.machine, PlanColumns.from_plans([self.plan]))


@cache
def read_published_runs(name: str = "published_runs") -> tuple[PublishedRun, ...]:
    """The runs of data/`name`.csv: "published_runs" or "held_out_runs"."""
    path = Path(__file__).parent / "data" / f"{name}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(_read_row(row) for row in csv.DictReader(file))


def _read_row(row: dict[str, str]) -> PublishedRun:
    number = {name: int(value) for name, value in row.items() if value.isdigit()}
    is_gated = row["is_gated"] == "1"
    heads = number["heads"]
    architecture = Architecture(
        family="llama" if is_gated else "gpt2",
        num_hidden_layers=number["layers"],
        hidden_size=number["hidden"],
        intermediate_size=number["ffn_hidden"],
        num_attention_heads=heads,
        num_key_value_heads=number["kv_heads"],
        head_dim=number["hidden"] // heads,
        vocab_size=number["vocab"],
        max_position_embeddings=number["sequence_length"],
        gated_mlp=is_gated,
        tied_embeddings=not is_gated,
        norm_vectors=1 if is_gated else 2,
    )
    workload = Workload(
        architecture=architecture,
        tokens=10**9,
        task=row["task"],
        sequence_length=number["sequence_length"],
        global_batch_size=number["global_batch_size"],
        precision=row["precision"],
        attention_kernel=row["attention_kernel"],
    )
    machine = Machine.from_catalog(
        row["accelerator"],
        devices_per_node=number["devices_per_node"],
        inter_node_bytes_per_s=1e9 * float(row["inter_node_gbyte_per_s"]),
    )
    degrees = ("tensor_parallel", "pipeline_parallel", "virtual_stages", "data_parallel", "context_parallel")
    plan = ParallelPlan(
        **{name: number[name] for name in (*degrees, "zero_stage", "micro_batch_size")},
        recomputation=row["recomputation"],
        sequence_parallel=row["sequence_parallel"] == "1",
    )
    memory = 2**30 * float(row["memory_gb"]) if row["memory_gb"] else None
    return PublishedRun(
        id=row["id"],
        source=row["source"],
        workload=workload,
        machine=machine,
        plan=plan,
        step_s=float(row["step_time_s"]),
        memory_bytes=memory,
        is_recomputation_published=row["is_recomputation_published"] == "1",
    )


def compute_median_percentage_error(estimated: list[float], measured: list[float]) -> float:
    """Median absolute percentage error of throughput: estimated over measured rate, less one."""
    return float(100 * np.median(np.abs(np.array(measured) / np.array(estimated) - 1)))
