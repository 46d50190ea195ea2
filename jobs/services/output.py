"""What a job writes: its log, and the metrics (JSON lines) that it reports."""

import json
import math
from dataclasses import dataclass
from typing import Any

from jobs.backends.base import OutputChunk, OutputFile
from jobs.models import Job
from jobs.services.clusters import backend_of

MAX_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class MetricPoints:
    """Points in the order they were written; `next_offset` goes into the next call."""

    points: list[dict[str, float]]
    next_offset: int
    is_end: bool


def read_log(job: Job, offset: int, *, limit: int = 65536, file: OutputFile = "stdout") -> OutputChunk | None:
    """A piece of the output of the job's newest segment; None if it has none yet.

    Raises:
        SchedulerUnavailable: the cluster doesn't answer.
    """
    segment = job.segments.exclude(native_id="").order_by("number").last()
    if segment is None:
        return None
    backend = backend_of(segment.cluster.code)
    return backend.read_log(segment.native_id, offset, key=segment.key, limit=min(limit, MAX_CHUNK_BYTES), file=file)


def read_metrics(job: Job, offset: int) -> MetricPoints:
    """The metrics that were written from `offset` on: numbers of lines that are JSON objects with a `step`.

    Raises:
        SchedulerUnavailable: the cluster doesn't answer.
    """
    chunk = read_log(job, offset, limit=MAX_CHUNK_BYTES, file="metrics")
    if chunk is None:
        return MetricPoints([], offset, is_end=True)
    complete = chunk.data.rpartition(b"\n")[0]
    if not complete and len(chunk.data) == MAX_CHUNK_BYTES:
        return MetricPoints([], chunk.next_offset, is_end=False)  # no line is that long: not metrics
    consumed = chunk.offset + len(complete) + 1 if complete else chunk.offset
    points = [point for line in complete.splitlines() if (point := _parse_point(line)) is not None]
    return MetricPoints(points, consumed, is_end=chunk.is_end)


def _parse_point(line: bytes) -> dict[str, float] | None:
    try:
        data: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not _is_number(data.get("step")):
        return None
    # Printable: half of a surrogate pair, which JSON may hold, can't be sent on.
    return {name: value for name, value in data.items() if _is_number(value) and len(name) <= 64 and name.isprintable()}


def _is_number(value: object) -> bool:
    """Finite, and within floating point: JSON's whole numbers have no end."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False
