"""Reports as CSV and Excel. Text that a spreadsheet would take for a formula is made harmless."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import xlsxwriter

from jobs.services.usage_reports import ReportRow, UsageFigures

Cell = str | int | float | None

BYTE_ORDER_MARK: Final = "\ufeff"
"""Tells Excel that the file is UTF-8: without it Chinese is shown as something else."""

_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_SECONDS_PER_HOUR: Final = 3600

FIGURES: Final[dict[str, Callable[[UsageFigures], Cell]]] = {
    "jobs": lambda one: one.jobs,
    "used_hours": lambda one: _hours(one.used_s),
    "charged_hours": lambda one: _hours(one.charged_s),
    "reserved_hours": lambda one: _hours(one.reserved_s),
    "failed_hours": lambda one: _hours(one.failed_s),
    "idle_hours": lambda one: _hours(one.idle_s),
    "wasted_hours": lambda one: _hours(one.wasted_s),
    "shortfall_hours": lambda one: _hours(one.shortfall_s),
    "mean_wait_s": lambda one: None if one.mean_wait_s is None else round(one.mean_wait_s, 1),
    "time_error": lambda one: _round(one.time_error),
    "time_bias": lambda one: _round(one.time_bias),
    "time_jobs": lambda one: one.time_jobs,
    "memory_error": lambda one: _round(one.memory_error),
    "memory_bias": lambda one: _round(one.memory_bias),
    "memory_jobs": lambda one: one.memory_jobs,
}
"""Columns after key and name, by the names that programs know."""

COLUMNS: Final = ("key", "name", *FIGURES)


def cells_of(row: ReportRow) -> list[Cell]:
    """A line of an export, in the order of COLUMNS."""
    return [row.key, row.name, *(read(row.figures) for read in FIGURES.values())]


def write_csv(header: Sequence[str], rows: Iterable[Sequence[Cell]], *, with_mark: bool) -> Iterator[str]:
    """A CSV file (RFC 4180) in pieces, one line each."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    yield BYTE_ORDER_MARK if with_mark else ""
    for row in (header, *rows):
        writer.writerow([defuse(cell) if isinstance(cell, str) else cell for cell in row])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def write_xlsx(title: str, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> bytes:
    """An Excel file with one sheet. Text stays text, whatever it begins with."""
    target = io.BytesIO()
    options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    with xlsxwriter.Workbook(target, options) as book:
        sheet = book.add_worksheet(title[:31])
        sheet.freeze_panes(1, 0)
        sheet.set_column(0, len(header) - 1, 18)
        sheet.write_row(0, 0, header, book.add_format({"bold": True}))
        for number, row in enumerate(rows, start=1):
            sheet.write_row(number, 0, row)
    return target.getvalue()


def defuse(text: str) -> str:
    """Text that a spreadsheet shows as it is: an apostrophe before what it would compute."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _hours(accelerator_s: int) -> float:
    return round(accelerator_s / _SECONDS_PER_HOUR, 4)


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
