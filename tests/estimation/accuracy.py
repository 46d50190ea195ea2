"""How far the estimates are from published runs, as the Markdown of docs/estimation.md.

python -m tests.estimation.accuracy            print the tables
python -m tests.estimation.accuracy --write    put them into docs/estimation.md
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from jobs.estimation.evaluation import ADAPTER_WIDENING
from tests.estimation.published_runs import PublishedRun, read_published_runs

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "estimation.md"
BEGIN: Final = "<!-- accuracy: begin, written by `python -m tests.estimation.accuracy --write` -->"
END: Final = "<!-- accuracy: end -->"


def format_tables() -> str:
    """Step time by source and accelerator, then memory, as Markdown."""
    shipped = read_published_runs()
    # Where no run was used for an accelerator's constants (its `basis`), its rows are as good as held out.
    fitted = [run for run in shipped if run.machine.accelerator.efficiency.basis == "fitted_to_published_runs"]
    others = [run for run in shipped if run not in fitted]
    return "\n".join(
        [
            "**Step time, sources that the constants were fitted on (in sample: agreement, not proof)**",
            "",
            *_format_step_times(fitted),
            "",
            "**Step time, sources that no constant was fitted on (held out)**",
            "",
            *_format_step_times([*read_published_runs("held_out_runs"), *others]),
            "",
            "**Memory of a device, all shipped readings (in sample for A100)**",
            "",
            *_format_memory([run for run in shipped if run.memory_bytes]),
        ]
    )


def replace_tables(document: str, tables: str) -> str:
    """The document with `tables` between the two marks; raises ValueError if a mark is not there exactly once."""
    for mark in (BEGIN, END):
        if document.count(mark) != 1:
            raise ValueError(f"{document.count(mark)} times in the document, must be there once: {mark}")
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.split(END)[1]}"


def _format_step_times(runs: Sequence[PublishedRun]) -> list[str]:
    lines = [
        "| source | accelerator | runs | median error | largest error | measured / estimated, P10 to P90 "
        "| within the range given |",
        "|---|---|--:|--:|--:|---|--:|",
    ]
    lines += [f"| {label} | {_describe_times(members)} |" for label, members in _group(runs)]
    return [*lines, f"| **all** | | {_describe_times(runs)} |"]


def _describe_times(runs: Sequence[PublishedRun]) -> str:
    ratios = np.array([run.step_s / float(run.evaluate().step_s[0]) for run in runs])
    errors = 100 * np.abs(ratios - 1)
    low, high = np.quantile(ratios, [0.1, 0.9])
    spread = f"{low:.2f} to {high:.2f}" if len(runs) > 1 else f"{low:.2f}"
    inside = sum(_is_within_range(run, ratio) for run, ratio in zip(runs, ratios, strict=True))
    return f"{len(runs)} | {np.median(errors):.0f} % | {errors.max():.0f} % | {spread} | {inside}"


def _is_within_range(run: PublishedRun, ratio: float) -> bool:
    constants = run.machine.accelerator.efficiency
    widening = ADAPTER_WIDENING if run.workload.is_adapter else 1.0
    return constants.error_p10 / widening <= ratio <= constants.error_p90 * widening


def _format_memory(runs: Sequence[PublishedRun]) -> list[str]:
    lines = [
        "| source | accelerator | readings | estimated / measured, median | lowest | highest | median error "
        "| estimate was enough | 20 % more was enough |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [f"| {label} | {_describe_memory(members)} |" for label, members in _group(runs)]
    return [*lines, f"| **all** | | {_describe_memory(runs)} |"]


def _describe_memory(runs: Sequence[PublishedRun]) -> str:
    ratios = np.array([float(run.evaluate().memory_bytes[0]) / run.memory_bytes for run in runs if run.memory_bytes])
    error = 100 * np.median(np.abs(ratios - 1))
    enough, enough_with_margin = (np.count_nonzero(margin * ratios >= 1) for margin in (1.0, 1.2))
    spread = f"{np.median(ratios):.2f} | {ratios.min():.2f} | {ratios.max():.2f} | {error:.0f} %"
    return f"{len(ratios)} | {spread} | {enough} | {enough_with_margin}"


def _group(runs: Sequence[PublishedRun]) -> list[tuple[str, list[PublishedRun]]]:
    """Runs by source and accelerator, sorted by accelerator; labels are the first two cells of a row."""
    groups: dict[tuple[str, str], list[PublishedRun]] = {}
    for run in runs:
        groups.setdefault((run.machine.accelerator.code, run.source), []).append(run)
    return [(f"{source} | {code}", members) for (code, source), members in sorted(groups.items())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or write them into the document."""
    parser = argparse.ArgumentParser(prog="python -m tests.estimation.accuracy")
    parser.add_argument("--write", action="store_true", help=f"put the tables into docs/{DOCUMENT.name}")
    if parser.parse_args(arguments).write:
        document = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(replace_tables(document, format_tables()), encoding="utf-8")
    else:
        print(format_tables())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
