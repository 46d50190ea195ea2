"""Measuring beside a baseline, and tables of the result."""

import os
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np


def read_size(name: str, default: int, *, low: int = 1) -> int:
    """A size from the environment: a whole number of at least `low`."""
    raw = os.environ.get(name, str(default))
    if not (raw.isascii() and raw.isdigit() and int(raw) >= low):
        raise SystemExit(f"{name}={raw!r} is not allowed; allowed: a whole number of at least {low}")
    return int(raw)


def describe_load() -> str:
    """The load averages of the machine now, which say how much to believe the absolute figures."""
    return "load average {:.2f} {:.2f} {:.2f}".format(*os.getloadavg())


def measure_alternately(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, before: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each call, `rounds` times; in turns, so that a disturbance of the machine meets all alike.

    A first round isn't counted. `before` is called before each call, unmeasured.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            before()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}


def percentiles_ms(seconds: Sequence[float], *percents: int) -> list[float]:
    """Percentiles in milliseconds."""
    return [float(value) * 1000 for value in np.percentile(np.asarray(seconds), percents)]


def latency_row(
    label: str, seconds: Sequence[float], baseline: Sequence[float], *more: str, percents: tuple[int, ...] = (50, 95)
) -> list[str]:
    """A row of a table: percentiles in ms, then the ratio of the medians, then what else there is to say."""
    ratio = float(np.median(seconds)) / float(np.median(baseline))
    return [label, *(f"{value:.2f}" for value in percentiles_ms(seconds, *percents)), f"{ratio:.2f}", *more]


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table that is also Markdown: the first column to the left, figures to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""])
    print(f"\n{title}\n", line(header), rule, *map(line, rows), sep="\n", flush=True)
