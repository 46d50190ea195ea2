"""Pages of a long list of jobs by where they begin and end: as fast on page 1,000 as on page 1, and nobody counts."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from django.db.models import Q, QuerySet

from jobs.models import Job


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the list, newest first."""

    at: datetime
    job_id: uuid.UUID

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(job.submitted_at, job.pk)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read what `str()` wrote; None for anything else."""
        stamp, _separator, job_id = text.partition("_")
        try:
            at = datetime.fromisoformat(stamp)
            # In UTC: the database refuses offsets that Python takes.
            return None if at.tzinfo is None else cls(at.astimezone(UTC), uuid.UUID(job_id))
        except (ValueError, OverflowError):
            return None

    def __str__(self) -> str:
        return f"{self.at.isoformat()}_{self.job_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some jobs, newest first, and where the pages before and after it begin (None: there is none)."""

    jobs: list[Job]
    newer: Position | None
    older: Position | None


def read_page(jobs: QuerySet[Job], *, parameters: Any, size: int) -> Page:
    """The page that `?after=` (older than) or `?before=` (newer than) names; the newest without either."""
    after = Position.parse(parameters.get("after", ""))
    before = Position.parse(parameters.get("before", ""))
    if after is None and before is not None:
        # The first condition alone can use the index; the second is exact within one moment.
        rows = jobs.filter(submitted_at__gte=before.at).filter(
            Q(submitted_at__gt=before.at) | Q(submitted_at=before.at, pk__gt=before.job_id)
        )
        found = list(rows.order_by("submitted_at", "pk")[: size + 1])
        has_newer, page = len(found) > size, found[:size][::-1]
        return Page(
            jobs=page,
            newer=Position.of(page[0]) if has_newer else None,
            older=Position.of(page[-1]) if page else None,
        )
    if after is not None:
        jobs = jobs.filter(submitted_at__lte=after.at).filter(
            Q(submitted_at__lt=after.at) | Q(submitted_at=after.at, pk__lt=after.job_id)
        )
    found = list(jobs.order_by("-submitted_at", "-pk")[: size + 1])
    page = found[:size]
    return Page(
        jobs=page,
        newer=Position.of(page[0]) if after is not None and page else None,
        older=Position.of(page[-1]) if len(found) > size else None,
    )
