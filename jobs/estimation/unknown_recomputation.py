"""What a published run recomputed where its source doesn't say."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from jobs.estimation.columns import stack_columns
from jobs.estimation.constants import ConstantTable
from jobs.estimation.geometry import lay_out
from jobs.estimation.memory import compute_memory
from jobs.estimation.plan import ParallelPlan, add_up
from jobs.estimation.run_table import Run

# Of the device's memory. Frameworks that recompute by module (Megatron Core) reach further than the selective
# recomputation modelled here; the others have only all or nothing.
_FITS: Final = 0.95
_FITS_BY_MODULE: Final = 1.3
_BY_MODULE: Final = ("megatron", "jax")


def settle_recomputation(runs: Sequence[Run], *, constants: ConstantTable | None = None) -> list[ParallelPlan]:
    """The plan of each run; where its recomputation is unknown, the least that fits.

    NVIDIA's recipes, which print no recomputation, recompute nothing where that fits; else single modules.
    """
    plans = [run.plan for run in runs]
    unknown = [index for index, run in enumerate(runs) if not run.recompute_known]
    if not unknown:
        return plans
    choices = ("none", "selective")
    rows = [
        (runs[index].workload, runs[index].machine, replace(plans[index], recomputation=choice))
        for choice in choices
        for index in unknown
    ]
    columns = stack_columns(rows, constants=constants)
    share = add_up(compute_memory(columns, lay_out(columns))) / columns.machine.memory_bytes
    none, selective = share[: len(unknown)], share[len(unknown) :]
    for position, index in enumerate(unknown):
        by_module = runs[index].workload.framework in _BY_MODULE and selective[position] <= _FITS_BY_MODULE
        chosen = "none" if none[position] <= _FITS else "selective" if by_module else "full"
        plans[index] = replace(plans[index], recomputation=chosen)
    return plans
