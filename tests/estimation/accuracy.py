"""How far the estimates are from published runs, as the Markdown and the pictures of docs/estimation.md.

python -m tests.estimation.accuracy            print the tables
python -m tests.estimation.accuracy --write    put them into docs/estimation.md, and draw docs/images/*.svg
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

from jobs.estimation.constants import ConstantTable, load_constants
from jobs.estimation.flops import count_model_flop_per_step
from jobs.estimation.run_table import MEMORY_UNIT_BYTES
from tests.estimation.fit import build_problem
from tests.estimation.priors import (
    FAMILY_WIDTHS,
    FITTED_FAMILIES,
    FRAMEWORK_WIDTHS,
    FRAMEWORKS,
    GLOBALS,
    PRIORS,
    base_table,
)
from tests.estimation.published_runs import Accuracy, measure_accuracy
from tests.estimation.sensitivity import Key, compute_determination, get_constant

DOCS: Final = Path(__file__).parents[2] / "docs"
DOCUMENT: Final = DOCS / "estimation.md"
THROUGHPUT_PLOT: Final = DOCS / "images" / "estimation-scatter.svg"
MEMORY_PLOT: Final = DOCS / "images" / "estimation-memory-scatter.svg"
BEGIN: Final = "<!-- accuracy: begin, written by `python -m tests.estimation.accuracy --write` -->"
END: Final = "<!-- accuracy: end -->"

WORST: Final = 20
_TO_DIGITS: Final = 3


# --- The document ----------------------------------------------------------------------------------------------------


def format_tables(accuracy: Accuracy) -> str:
    """Everything between the two marks, as Markdown."""
    tables = accuracy.tables
    parts = [
        _format_headline(tables),
        _embed(THROUGHPUT_PLOT, "Predicted against published model TFLOP/s of every scored row", "Throughput"),
        *(
            _format_throughput(tables, name, title)
            for name, title in (
                ("by_source", "Throughput by source"),
                ("by_accelerator", "Throughput by accelerator family"),
                ("by_framework", "Throughput by framework"),
            )
        ),
        _embed(MEMORY_PLOT, "Predicted against measured memory of every scored row", "Memory"),
        _format_memory(tables),
        _format_feasibility(accuracy),
        _format_worst(accuracy),
        _format_constants(load_constants(), determine_constants()),
    ]
    return "\n\n".join(parts)


def replace_tables(document: str, tables: str) -> str:
    """The document with `tables` between the two marks; raises ValueError if a mark is not there exactly once."""
    for mark in (BEGIN, END):
        if document.count(mark) != 1:
            raise ValueError(f"{document.count(mark)} times in the document, must be there once: {mark}")
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.split(END)[1]}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> str:
    """A Markdown table whose first `texts` columns are words and whose others are numbers."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * texts}{'--:|' * (len(columns) - texts)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)])


def _embed(path: Path, alternative: str, title: str) -> str:
    return f"**{title}, row by row**\n\n![{alternative}]({path.relative_to(DOCS).as_posix()})"


def _percent(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:+.1f} %" if sign else f"{value:.1f} %"


def _format_headline(tables: Mapping[str, Any]) -> str:
    count = tables["throughput"]["leave_one_source_out"]["all"]["rows"]
    readings = tables["memory"]["in_sample"]["all"]["rows"]
    text = (
        f"{tables['rows']} rows, of which {tables['rows_read']} can be expressed, {tables['rows_scored']} are scored "
        f"(step time: {count}, memory: {readings}) and {tables['refused']['rows']} are refused. "
        f"{tables['rows_with_unpublished_recomputation']} scored rows don't publish what they recompute."
    )
    heading = ("figure", "rows", "aim", "in sample", "source left out")
    rows = [*_list_throughput_figures(tables), *_list_memory_figures(tables), *_list_decision_figures(tables)]
    return f"**In short**\n\n{text}\n\n{_table(heading, rows)}"


def _list_throughput_figures(tables: Mapping[str, Any]) -> list[tuple[str, ...]]:
    both = [tables["throughput"][name] for name in ("in_sample", "leave_one_source_out")]
    rows = f"{both[1]['all']['rows']}"
    means = [_percent(table["mean_of_source_medians_pct"]) for table in both]
    figures = [("throughput, mean over sources of the median error", rows, "≤ 10 %", *means)]
    for label, group, name, aim in (
        ("throughput, median error of all rows", "all", "median_error_pct", 8),
        ("throughput, 90th percentile of all rows", "all", "p90_error_pct", 25),
        ("throughput, median of models below 2B parameters", "small_models", "median_error_pct", 12),
        ("throughput, median of FSDP and ZeRO-3", "fsdp_or_zero3", "median_error_pct", 10),
    ):
        values = [_percent(table[group][name]) for table in both]
        figures.append((label, f"{both[1][group]['rows']}", f"≤ {aim} %", *values))
    covered = _percent(100 * tables["coverage"]["step_time"])
    return [*figures, ("step times between P10 and P90", rows, "75 to 85 %", "–", covered)]


def _list_memory_figures(tables: Mapping[str, Any]) -> list[tuple[str, ...]]:
    memory = tables["memory"]["in_sample"]
    rows = f"{memory['all']['rows']}"
    mean, median = _percent(memory["mean_of_source_medians_pct"]), _percent(memory["all"]["median_error_pct"])
    covered = _percent(100 * tables["coverage"]["memory"])
    return [
        ("memory, mean over sources of the median error", rows, "≤ 6 %", mean, "–"),
        ("memory, median error of all readings", rows, "≤ 6 %", median, "–"),
        ("memory, readings estimated more than 10 % too low", rows, "0", f"{memory['rows_over_10_pct_too_low']}", "–"),
        ("memory readings between P10 and P90", rows, "75 to 85 %", "–", covered),
    ]


def _list_decision_figures(tables: Mapping[str, Any]) -> list[tuple[str, ...]]:
    feasibility, choice = tables["feasibility"], tables["plan_choice"]
    impossible, ran = feasibility["ran_but_called_impossible"], feasibility["ran"]
    failures, told = feasibility["out_of_memory_cases"], feasibility["out_of_memory_cases_called_so"]
    grids = f"{choice['grids']} grids"
    mean, worst = (_percent(choice[f"{name}_regret_pct"]) for name in ("mean", "worst"))
    return [
        ("ran, but called impossible", f"{ran}", "≤ 2 %", f"{impossible} ({_percent(100 * impossible / ran)})", "–"),
        ("known to be out of memory, and called so", f"{failures}", f"{failures}", f"{told}", "–"),
        ("choice of plan on measured grids, mean regret", grids, "≤ 1 %", mean, "–"),
        ("choice of plan on measured grids, worst regret", grids, "≤ 4 %", worst, "–"),
    ]


def _format_throughput(tables: Mapping[str, Any], grouping: str, title: str) -> str:
    seen, left_out = (tables["throughput"][name] for name in ("in_sample", "leave_one_source_out"))
    heading = (
        *(grouping.removeprefix("by_"), "rows", "in sample: median", "P90", "bias"),
        *("source left out: median", "P90", "bias"),
    )
    rows = []
    for name, own in seen[grouping].items():
        other = left_out[grouping].get(name, {"rows": 0})
        rows.append((name, f"{own['rows']}", *_errors(own), *_errors(other)))
    rows.append(("**all**", f"{seen['all']['rows']}", *_errors(seen["all"]), *_errors(left_out["all"])))
    return f"**{title}** (error of tokens/s; bias above 0: estimated faster than measured)\n\n{_table(heading, rows)}"


def _errors(table: Mapping[str, Any]) -> tuple[str, str, str]:
    if not table["rows"]:
        return "–", "–", "–"
    return (
        _percent(table["median_error_pct"]),
        _percent(table["p90_error_pct"]),
        _percent(table["bias_pct"], sign=True),
    )


def _format_memory(tables: Mapping[str, Any]) -> str:
    memory = tables["memory"]["in_sample"]
    rows = [
        (name, f"{table['rows']}", *_errors(table))
        for grouping in ("by_source", "by_accelerator", "by_framework")
        for name, table in memory[grouping].items()
    ]
    rows.append(("**all**", f"{memory['all']['rows']}", *_errors(memory["all"])))
    heading = ("source, then family, then framework", "readings", "median error", "P90", "bias")
    text = "**Memory** (bias above 0: estimated more than measured)"
    return f"{text}\n\n{_table(heading, rows)}"


def _format_feasibility(accuracy: Accuracy) -> str:
    impossible = sorted(accuracy.tables["feasibility"]["ran_but_called_impossible_ids"])
    columns = Counter(item.reason.split(":")[0] for item in accuracy.refused)
    rows = [(f"`{name}`", f"{count}") for name, count in sorted(columns.items(), key=lambda item: (-item[1], item[0]))]
    lines = [
        "**Ran, but called impossible**: " + (", ".join(impossible) or "none") + ".",
        "",
        "**Refused**, by the column at fault",
        "",
        _table(("column", "rows"), rows),
    ]
    return "\n".join(lines)


def _format_worst(accuracy: Accuracy) -> str:
    rows = []
    for score in accuracy.list_worst(WORST):
        run, plan = score.run, score.prediction.plan
        degrees = {
            "TP": plan.tensor_parallel,
            "PP": plan.pipeline_parallel,
            "VP": plan.virtual_stages,
            "DP": plan.data_parallel,
            "CP": plan.context_parallel,
            "EP": plan.expert_parallel,
        }
        how = " ".join(f"{name}{degree}" for name, degree in degrees.items() if degree > 1)
        what = f"{run.row['model']}, {run.machine.accelerator.code}, {run.workload.framework} {run.workload.precision}"
        rows.append((run.id, what, how, f"{score.held_out_step_ratio:.2f}", f"{score.step_ratio:.2f}"))
    heading = ("row", "what", "plan", "measured / predicted step time, source left out", "in sample")
    return f"**The {WORST} worst rows**\n\n{_table(heading, rows, texts=3)}"


# --- The constants ---------------------------------------------------------------------------------------------------


@cache
def determine_constants() -> Mapping[Key, float]:
    """How far the published runs determine each constant (see `sensitivity.compute_determination`)."""
    runs = [score.run for score in measure_accuracy().timed]
    base = base_table()
    return compute_determination(build_problem(runs, base), base, load_constants())


def _format_constants(table: ConstantTable, determined: Mapping[Key, float]) -> str:
    held = sum(1 for share in determined.values() if share < 0.005)
    text = (
        f"{len(PRIORS)} constants have a prior and were fitted; about {held} of them no row tells anything, and they "
        f"stand where the prior put them. What the rows determine is worth {sum(determined.values()):.0f} constants. "
        "Cells: expected → fitted (share that the rows determine: 0 % is the prior alone, 100 % the rows alone). A "
        "single number is fixed, not fitted."
    )
    base = base_table()

    def cell(key: Key) -> str:
        expected, fitted = (_digits(get_constant(source, key)) for source in (base, table))
        return f"{expected} → {fitted} ({100 * determined[key]:.0f} %)" if key in determined else fitted

    families = _table(
        ("of a family", *FITTED_FAMILIES),
        [(f"`{n}`", *(cell(("family", member, n)) for member in FITTED_FAMILIES)) for n in FAMILY_WIDTHS],
    )
    frameworks = _table(
        ("of a framework", *FRAMEWORKS),
        [(f"`{n}`", *(cell(("framework", member, n)) for member in FRAMEWORKS)) for n in FRAMEWORK_WIDTHS],
    )
    everything = _table(("of everything", "value"), [(f"`{n}`", cell(("global", "", n))) for n in GLOBALS])
    return f"**The constants**\n\n{text}\n\n{families}\n\n{frameworks}\n\n{everything}"


def _digits(value: float) -> str:
    """Three significant digits, without exponents that a reader has to undo."""
    return f"{float(f'{value:.{_TO_DIGITS}g}'):.10f}".rstrip("0").rstrip(".")


# --- The pictures ----------------------------------------------------------------------------------------------------


def draw_throughput(accuracy: Accuracy) -> str:
    """Model TFLOP/s of a device: published, and predicted by constants that never saw the row's source."""
    points = []
    for score in accuracy.timed:
        run = score.run
        ratio = score.held_out_step_ratio or score.step_ratio
        if run.step_s is None or ratio is None:
            continue
        rate = count_model_flop_per_step(run.workload) / run.step_s / score.prediction.plan.devices / 1e12
        points.append(Point(name=run.id, group=run.machine.accelerator.family, x=rate, y=rate * ratio))
    return draw_scatter(
        points,
        title="Predicted against published throughput",
        description="Each mark is a published run; its source was left out of the fit that predicts it. On the "
        "diagonal both agree; the bands are 10 and 25 percent on either side.",
        x_label="published, model TFLOP/s per device",
        y_label="predicted with the source left out",
    )


def draw_memory(accuracy: Accuracy) -> str:
    """Memory of a device in GiB."""
    points = [
        Point(
            name=score.run.id,
            group=score.run.machine.accelerator.family,
            x=score.run.memory_bytes / MEMORY_UNIT_BYTES,
            y=score.prediction.memory_bytes / MEMORY_UNIT_BYTES,
        )
        for score in accuracy.weighed
        if score.run.memory_bytes is not None
    ]
    return draw_scatter(
        points,
        title="Predicted against measured memory",
        description="Each mark is a published reading of a device's memory. On the diagonal both agree; the bands are "
        "10 and 25 percent on either side.",
        x_label="measured, GiB per device",
        y_label="predicted",
    )


# --- A scatter plot as plain SVG -------------------------------------------------------------------------------------

BANDS: Final = (1.25, 1.1)
WIDTH: Final = 760
HEIGHT: Final = 640
_LEFT: Final = 70.0
_TOP: Final = 20.0
_SIDE: Final = 560.0
_INK: Final = "#7a7f87"
_STYLES: Final = (
    ("#3b8bd0", "circle"),
    ("#e08214", "square"),
    ("#2ca25f", "diamond"),
    ("#9b6bd3", "triangle"),
    ("#d6546b", "cross"),
    ("#a07a2c", "plus"),
    ("#1a9c9c", "bar"),
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A mark at (x, y), both above 0."""

    name: str
    group: str
    x: float
    y: float


def draw_scatter(points: Sequence[Point], *, title: str, description: str, x_label: str, y_label: str) -> str:
    """An SVG document: logarithmic axes alike, the diagonal, bands of 10 and 25 % around it, a mark for each point.

    Colours are of middle lightness on a transparent ground, for light and dark pages; groups differ in shape, too. The
    same points give the same bytes. Raises ValueError for more groups than can be told apart.
    """
    groups = sorted({point.group for point in points})
    if len(groups) > len(_STYLES):
        raise ValueError(f"{len(groups)} groups, at most {len(_STYLES)} can be told apart")
    styles = dict(zip(groups, _STYLES, strict=False))
    values = [value for point in points for value in (point.x, point.y)]
    ticks = _choose_ticks(min(values), max(values))
    low, high = math.log(ticks[0]), math.log(ticks[-1])

    def place(value: float) -> float:
        return (math.log(value) - low) / (high - low) * _SIDE

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" aria-labelledby="title description" font-family="sans-serif" font-size="13">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="description">{escape(description)}</desc>',
        f'<g transform="translate({_LEFT:g} {_TOP:g})">',
        f'<clipPath id="area"><rect width="{_SIDE:g}" height="{_SIDE:g}"/></clipPath>',
        f'<g clip-path="url(#area)" fill="{_INK}" fill-opacity="0.14">',
        *(_draw_band(factor, high - low) for factor in BANDS),
        f'<path d="M0 {_SIDE:g}L{_SIDE:g} 0" stroke="{_INK}" stroke-width="1.2"/>',
        "</g>",
        f'<rect width="{_SIDE:g}" height="{_SIDE:g}" fill="none" stroke="{_INK}"/>',
        f'<g fill="{_INK}" stroke="none">',
        *(_draw_tick(value, place(value)) for value in ticks),
        f'<text x="{_SIDE / 2:g}" y="{_SIDE + 42:g}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text transform="translate(-50 {_SIDE / 2:g}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>',
        "</g>",
    ]
    for row, group in enumerate(groups):
        color, shape = styles[group]
        members = sorted((point for point in points if point.group == group), key=lambda point: point.name)
        lines.append(f'<g class={quoteattr(group)} stroke="{color}" fill="{color}" fill-opacity="0.35">')
        lines += [
            _draw_mark(shape, place(point.x), _SIDE - place(point.y), f"{point.name}: {point.x:.3g}, {point.y:.3g}")
            for point in members
        ]
        lines.append("</g>")
        y = 14 + 22 * row
        lines += [
            f'<g stroke="{color}" fill="{color}" fill-opacity="0.35">{_draw_mark(shape, _SIDE + 18, y)}</g>',
            f'<text x="{_SIDE + 30:g}" y="{y + 4}" fill="{_INK}">{escape(group)} ({len(members)})</text>',
        ]
    return "\n".join([*lines, "</g>", "</svg>"]) + "\n"


def _choose_ticks(least: float, most: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from at most `least` to at least `most`."""
    steps = [
        digit * 10.0**power
        for power in range(math.floor(math.log10(least)) - 1, math.ceil(math.log10(most)) + 2)
        for digit in (1, 2, 5)
    ]
    first = max(index for index, step in enumerate(steps) if step <= least)
    last = min(index for index, step in enumerate(steps) if step >= most)
    return steps[first : max(last, first + 1) + 1]


def _draw_band(factor: float, span: float) -> str:
    width = math.log(factor) / span * _SIDE
    corners = ((-width, _SIDE), (_SIDE, -width), (_SIDE + width, 0.0), (0.0, _SIDE + width))
    return f'<path d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in corners)}Z"/>'


def _draw_tick(value: float, position: float) -> str:
    x, y = f"{position:.1f}", f"{_SIDE - position:.1f}"
    return (
        f'<path d="M{x} {_SIDE:g}v6M0 {y}h-6" stroke="{_INK}"/>'
        f'<text x="{x}" y="{_SIDE + 20:g}" text-anchor="middle">{value:g}</text>'
        f'<text x="-10" y="{y}" dy="4" text-anchor="end">{value:g}</text>'
    )


def _draw_mark(shape: str, x: float, y: float, name: str = "") -> str:
    """A mark around (x, y), with a tool tip if it has a name."""
    path = {
        "circle": "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
        "square": "m-2.7 -2.7h5.4v5.4h-5.4z",
        "diamond": "m0 -3.6l3.6 3.6l-3.6 3.6l-3.6 -3.6z",
        "triangle": "m0 -3.6l3.4 6h-6.8z",
        "cross": "m-3 -3l6 6m0 -6l-6 6",
        "plus": "m-3.6 0h7.2m-3.6 -3.6v7.2",
        "bar": "m-4 -1.5h8v3h-8z",
    }[shape]
    tip = f"<title>{escape(name)}</title>" if name else ""
    return f'<path d="M{x:.1f} {y:.1f}{path}">{tip}</path>'


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or write them into the document and draw the pictures."""
    parser = argparse.ArgumentParser(prog="python -m tests.estimation.accuracy")
    parser.add_argument("--write", action="store_true", help="write docs/estimation.md and docs/images/*.svg")
    accuracy = measure_accuracy()
    if parser.parse_args(arguments).write:
        document = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(replace_tables(document, format_tables(accuracy)), encoding="utf-8")
        THROUGHPUT_PLOT.parent.mkdir(exist_ok=True)
        THROUGHPUT_PLOT.write_text(draw_throughput(accuracy), encoding="utf-8")
        MEMORY_PLOT.write_text(draw_memory(accuracy), encoding="utf-8")
    else:
        print(format_tables(accuracy))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
