"""What a job writes, as JSON that its page polls, and as a file."""

import uuid
from collections.abc import Iterator
from itertools import chain
from typing import Final

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from jobs.backends.base import OutputChunk, SchedulerUnavailable
from jobs.models import Job
from jobs.services.log_text import decode_chunk
from jobs.services.output import MAX_CHUNK_BYTES, locate, read_log, read_metrics

_LOG_CHUNK_BYTES: Final = 64 * 1024
_MOST_POINTS: Final = 1000
_SHOWN_METRICS: Final = ("tokens_per_s", "step_time_s")
_MOST_LOSSES: Final = 4
_MAX_OFFSET: Final = 2**62


@login_required
@require_GET
def job_log(request: HttpRequest, job_id: uuid.UUID) -> JsonResponse:
    """A piece of a log from `?offset=` on; negative: that many bytes before the end. Segments follow each other.

    `text` never ends within a character: its last bytes come with the next piece. `is_complete` says that nothing
    will follow.
    """
    job = get_object_or_404(Job.objects.readable_by(request.user), pk=job_id)
    offset = _read_offset(request)
    try:
        position = locate(job, offset)
        chunk = read_log(job, position.offset, limit=_LOG_CHUNK_BYTES, segment_number=position.segment_number)
    except SchedulerUnavailable:
        words = _("The cluster doesn't answer; the log goes on when it does.")
        return JsonResponse({"text": "", "next_offset": offset, "is_complete": False, "message": words})
    if chunk is None and not position.is_in_newest:
        return JsonResponse(
            {"text": "", "next_offset": position.next_segment, "is_complete": False, "has_more": True, "message": ""}
        )
    if chunk is None:
        words = _("The job wrote nothing here.") if not job.is_live else _("The job has written nothing yet.")
        return JsonResponse({"text": "", "next_offset": offset, "is_complete": not job.is_live, "message": words})
    has_next = chunk.is_end and not position.is_in_newest
    is_complete = chunk.is_end and not job.is_live and not has_next
    is_tail = offset < 0 and chunk.offset > 0
    decoded = decode_chunk(chunk, is_tail=is_tail, is_complete=not job.is_live or not position.is_in_newest)
    return JsonResponse(
        {
            "text": _from_line_start(decoded.text) if is_tail else decoded.text,
            "next_offset": position.next_segment if has_next else position.at(decoded.next_offset),
            "is_complete": is_complete,
            "has_more": not chunk.is_end or has_next,
            "is_tail": is_tail,
            "message": "",
        }
    )


def _from_line_start(text: str) -> str:
    """A tail without the rest of the line that it begins in, if it holds the end of one."""
    _, newline, rest = text.partition("\n")
    return rest if newline else text


@login_required
@require_GET
def job_log_download(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse | StreamingHttpResponse:
    """A whole log as a text file: those of all segments, one after the other."""
    job = get_object_or_404(Job.objects.readable_by(request.user), pk=job_id)
    headers = {"Content-Disposition": f'attachment; filename="{job.pk}.log"'}
    try:
        newest = locate(job, 0).newest_segment_number
        pieces = [read_log(job, 0, limit=MAX_CHUNK_BYTES, segment_number=number) for number in range(1, newest + 1)]
    except SchedulerUnavailable:
        words = _("The cluster doesn't answer; try again later.")
        return HttpResponse(words, status=503, content_type="text/plain; charset=utf-8")
    chunks = [_read_on(job, piece, number) for number, piece in enumerate(pieces, start=1) if piece is not None]
    return StreamingHttpResponse(chain.from_iterable(chunks), content_type="text/plain; charset=utf-8", headers=headers)


def _read_on(job: Job, chunk: OutputChunk, segment_number: int) -> Iterator[bytes]:
    """Chunk after chunk up to what was the end when the download began."""
    size = chunk.size
    yield chunk.data
    while chunk.next_offset < size and chunk.data:
        following = read_log(job, chunk.next_offset, limit=MAX_CHUNK_BYTES, segment_number=segment_number)
        if following is None:
            return
        chunk = following
        yield chunk.data


@login_required
@require_GET
def job_metrics(request: HttpRequest, job_id: uuid.UUID) -> JsonResponse:
    """Points of the loss and throughput curves from `?offset=` on, thinned evenly if there are very many."""
    job = get_object_or_404(Job.objects.readable_by(request.user), pk=job_id)
    offset = max(_read_offset(request), 0)
    try:
        read = read_metrics(job, offset)
    except SchedulerUnavailable:
        return JsonResponse({"points": [], "next_offset": offset, "is_complete": False, "has_more": False})
    points = [shown for point in read.points if len(shown := _shown(point)) > 1]
    return JsonResponse(
        {
            "points": _thin(points),
            "next_offset": read.next_offset,
            "is_complete": read.is_end and not job.is_live,
            "has_more": not read.is_end,
        }
    )


def _shown(point: dict[str, float]) -> dict[str, float]:
    losses = [name for name in point if "loss" in name.lower()][:_MOST_LOSSES]
    return {name: point[name] for name in ("step", *losses, *_SHOWN_METRICS) if name in point}


def _thin(points: list[dict[str, float]]) -> list[dict[str, float]]:
    if len(points) <= _MOST_POINTS:
        return points
    stride = (len(points) - 1) / (_MOST_POINTS - 1)
    return [points[round(index * stride)] for index in range(_MOST_POINTS)]


def _read_offset(request: HttpRequest) -> int:
    """The offset asked for; 0 for one that is none."""
    text = request.GET.get("offset", "0")
    try:
        offset = int(text) if len(text) <= 20 else 0
    except ValueError:
        return 0
    return offset if abs(offset) <= _MAX_OFFSET else 0
