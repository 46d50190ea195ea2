"""What people see: tables that fit a terminal of 80 columns, and words without control characters."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from portalctl.client import Estimate, JobSummary

_HOUR_S: Final = 3600
_DAY_S: Final = 86400
_WIDE_ENOUGH: Final = 160
_REASON_CELLS: Final = 28
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|\n|\t")
_LOG_CONTROL = re.compile(r"\x1b\[[0-9;]*m|([\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f])")
_STYLES: Final = {
    "COMPLETED": "green",
    "RUNNING": "cyan",
    "COMPLETING": "cyan",
    "HELD": "yellow",
    "LOST": "yellow",
    "FAILED": "red",
    "TIMEOUT": "red",
    "OUT_OF_MEMORY": "red",
    "NODE_FAIL": "red",
    "REJECTED": "red",
}


def plain(text: object) -> str:
    """Text of others in one line, without what could steer a terminal."""
    return _CONTROL.sub(" ", str(text))


def plain_log(text: str) -> str:
    """A log for a terminal: lines, tabs, carriage returns and colours stay, other control characters do not."""
    return _LOG_CONTROL.sub(lambda found: "\ufffd" if found.group(1) else found.group(0), text)


def state_text(state: str) -> Text:
    return Text(plain(state), style=_STYLES.get(state, ""))


def hours(value: float | None) -> str:
    """Accelerator-hours; more digits after the point where there is little."""
    if value is None:
        return "–"
    size = abs(value)
    return f"{value:,.1f}" if size >= 100 else f"{value:.2f}" if size >= 10 or size == 0 else f"{value:.4f}"


def duration(seconds: float | None) -> str:
    """Days, hours, minutes: the two largest."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if seconds < _HOUR_S:
        return f"{minutes} min"
    if seconds < _DAY_S:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    whole_hours = round(seconds / _HOUR_S)
    return f"{whole_hours // 24} d {whole_hours % 24} h"


def gibibytes(count: float | None) -> str:
    """Memory, in the binary units that accelerators are sold by."""
    if count is None:
        return "–"
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def moment(at: datetime | None) -> str:
    """A time in the zone of this machine, to the minute."""
    return "–" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M")


def fields_table(rows: Iterable[tuple[str, object]]) -> Table:
    """Names and values, one to a line; empty values are left out."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value not in (None, "", "–"):
            table.add_row(name, value if isinstance(value, Text) else plain(value))
    return table


def list_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    width: int,
    flexible: int,
    right: Sequence[int] = (),
) -> Table:
    """A table with headings. Where it is wider than `width`, the `flexible` column is cut, and no other: rich would
    cut ids, too. Columns of `right` hold figures.
    """
    cells = [[cell if isinstance(cell, Text) else Text(plain(cell)) for cell in row] for row in rows]
    natural = [
        max(cell_len(heading), *(row[index].cell_len for row in cells), 0) for index, heading in enumerate(headings)
    ]
    room = width - sum(natural) - 2 * (len(headings) - 1) + natural[flexible]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index in right else "left", no_wrap=True)
    for row in cells:
        row[flexible].truncate(max(room, cell_len(headings[flexible]), 8), overflow="ellipsis")
        table.add_row(*row)
    return table


def jobs_table(jobs: Sequence[JobSummary], console: Console) -> Table:
    """As many columns as there is room for."""
    if console.width < _WIDE_ENOUGH:
        rows = [[str(job.id), state_text(job.state), job.name, moment(job.submitted_at)[5:]] for job in jobs]
        return list_table(["JOB", "STATE", "NAME", "SUBMITTED"], rows, width=console.width, flexible=2)
    headings = ["JOB", "STATE", "NAME", "PROJECT", "PARTITION", "CARDS", "HOURS", "SUBMITTED", "REASON"]
    wide = [
        [
            str(job.id),
            state_text(job.state),
            job.name,
            job.project,
            f"{job.cluster}/{job.partition}",
            job.devices,
            hours(job.charged_hours if job.charged_hours is not None else job.reserved_hours),
            moment(job.submitted_at),
            _reason(job, console),
        ]
        for job in jobs
    ]
    return list_table(headings, wide, width=console.width, flexible=2, right=(5, 6))


def _reason(job: JobSummary, console: Console) -> Text:
    is_told = not job.is_terminal or job.state == "REJECTED"
    text = Text(plain(job.reason_text) if is_told else "")
    if console.is_terminal:
        text.truncate(_REASON_CELLS, overflow="ellipsis")
    return text


def estimate_rows(estimate: Estimate) -> list[tuple[str, object]]:
    """The figures that decide."""
    plan = estimate.plan
    degrees = {
        "TP": plan.tensor_parallel,
        "PP": plan.pipeline_parallel,
        "DP": plan.data_parallel,
        "CP": plan.context_parallel,
        "EP": plan.expert_parallel,
    }
    step = f"{estimate.step_s * 1000:.1f} ms" if estimate.step_s < 1 else f"{estimate.step_s:,.1f} s"
    split = " × ".join(f"{name} {degree}" for name, degree in degrees.items() if degree > 1) or "one card"
    span = f"{duration(estimate.duration_p10_s)} to {duration(estimate.duration_p90_s)}"
    return [
        ("fits", Text("yes", style="green") if estimate.fits else Text("no", style="red")),
        ("plan", f"{split}, ZeRO {plan.zero_stage}, micro-batch {plan.micro_batch_size}"),
        ("memory per card", f"{gibibytes(estimate.memory_bytes)} of {gibibytes(estimate.memory_capacity_bytes)}"),
        ("step", f"{step} × {estimate.steps:,}"),
        ("MFU", f"{estimate.mfu:.1%}"),
        ("duration", f"{duration(estimate.duration_s)} (80 %: {span})"),
        ("accelerator-hours", hours(estimate.accelerator_hours)),
        ("rests on", estimate.basis_text),
    ]


def print_advice(console: Console, remarks: Iterable[tuple[str, str]]) -> None:
    """Remarks as (severity, text)."""
    styles = {"error": "red", "warning": "yellow"}
    for severity, text in remarks:
        console.print(Text(f"{severity}: ", style=styles.get(severity, "dim")) + Text(plain(text)))
