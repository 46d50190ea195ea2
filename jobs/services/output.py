"""What a job writes: its log, and the metrics (JSON lines) that it reports."""

import json
import math
from dataclasses import dataclass
from typing import Any

from jobs.backends.base import OutputChunk, OutputFile
from jobs.models import Job
from jobs.services.clusters import backend_of

MAX_CHUNK_BYTES = 1024 * 1024
_TAIL_BYTES = 64 * 1024
_SEGMENT_STRIDE = 2**40


@dataclass(frozen=True, slots=True)
class MetricPoints:
    """Points in the order they were written; `next_offset` goes into the next call."""

    points: list[dict[str, float]]
    next_offset: int
    is_end: bool


def read_log(
    job: Job, offset: int, *, limit: int = 65536, file: OutputFile = "stdout", segment_number: int | None = None
) -> OutputChunk | None:
    """A piece of the output of one of the job's segments, the newest unless named; None if it has none yet.

    The metrics of a chain are one file, in the directory of its first segment.

    Raises:
        SchedulerUnavailable: the cluster doesn't answer.
    """
    segments = job.segments.exclude(native_id="").select_related("cluster").order_by("number")
    if file == "metrics" and job.is_chain:
        segment_number = 1
    segment = segments.last() if segment_number is None else segments.filter(number=segment_number).first()
    if segment is None:
        return None
    backend = backend_of(segment.cluster.code)
    return backend.read_log(segment.native_id, offset, key=segment.key, limit=min(limit, MAX_CHUNK_BYTES), file=file)


@dataclass(frozen=True, slots=True)
class RunPosition:
    """A place in the logs of a run's segments, read one after the other. As a number, each segment has its own range,
    so that the log of a job with one segment has the offsets of its file.
    """

    segment_number: int
    offset: int
    newest_segment_number: int

    @property
    def is_in_newest(self) -> bool:
        return self.segment_number >= self.newest_segment_number

    def at(self, offset: int) -> int:
        """The number of a place in the same segment."""
        return (self.segment_number - 1) * _SEGMENT_STRIDE + offset

    @property
    def next_segment(self) -> int:
        """The number of the next segment's beginning."""
        return self.segment_number * _SEGMENT_STRIDE


def locate(job: Job, number: int) -> RunPosition:
    """The place that a number names; a negative one counts from the end of the newest log."""
    handed_over = job.segments.exclude(native_id="")
    newest = handed_over.order_by("-number").values_list("number", flat=True).first() or 1
    if number < 0:
        return RunPosition(newest, number, newest)
    index, offset = divmod(number, _SEGMENT_STRIDE)
    return RunPosition(min(index + 1, newest), offset, newest)


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


def read_last_step(job: Job) -> int | None:
    """The highest step in the newest of the job's metrics; None if it has written none.

    Raises:
        SchedulerUnavailable: the cluster doesn't answer.
    """
    chunk = read_log(job, -_TAIL_BYTES, limit=_TAIL_BYTES, file="metrics")
    if chunk is None:
        return None
    # The first line of a tail may be half a line, and is then no JSON.
    points = [point for line in chunk.data.splitlines() if (point := _parse_point(line)) is not None]
    return max((int(point["step"]) for point in points), default=None)


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
