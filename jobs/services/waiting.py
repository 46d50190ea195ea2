"""How long jobs of each size waited on each partition lately: what a researcher wants to know before choosing one."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import (
    Aggregate,
    Case,
    Count,
    DurationField,
    ExpressionWrapper,
    F,
    FloatField,
    Func,
    Q,
    Value,
    When,
)
from django.db.models.functions import Cast, Extract, Greatest

from accounts.models import Partition
from jobs.models import Job

WINDOWS_DAYS: Final = (7, 30)
"""Periods over which waits are shown, the shorter first."""

SIZE_CLASSES: Final[Mapping[str, tuple[int, int | None]]] = {
    "1": (1, 1),
    "2-4": (2, 4),
    "5-16": (5, 16),
    "17+": (17, None),
}
"""Codes of the sizes of jobs, with the fewest and the most nodes of each; None: no upper end."""

FEWEST_JOBS: Final = 5
"""Of fewer jobs no figure is shown."""

_MEASURED_EVERY: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """How long jobs of one size waited over one period. The figures are None of fewer than FEWEST_JOBS jobs."""

    size: str
    days: int
    jobs: int
    median_s: float | None = None
    p90_s: float | None = None

    @property
    def is_known(self) -> bool:
        return self.median_s is not None


class PercentileCont(Aggregate):
    """The continuous percentile of an expression, such as 0.5 for the median. PostgreSQL's percentile_cont."""

    function = "percentile_cont"
    template = "%(function)s(%(fraction)s) WITHIN GROUP (ORDER BY %(expressions)s)"
    output_field = FloatField()

    def __init__(self, expression: Any, *, fraction: float, filter: Q | None = None) -> None:
        super().__init__(expression, fraction=f"{fraction:.4f}", filter=filter)


def measure_waits(*, at: datetime) -> bool:
    """Write how long jobs waited into the partitions, once a minute at most. Returns whether it was time.

    From admission to the start, which is the wait for the scheduler with the portal's own seconds. A job that the
    scheduler requeued counts until its last start.
    """
    if Partition.objects.filter(waits_measured_at__gt=at - _MEASURED_EVERY, waits_measured_at__lte=at).exists():
        return False
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for row in _query(at):
        sizes = found.setdefault(row["partition_id"], {str(days): {} for days in WINDOWS_DAYS})
        for days in WINDOWS_DAYS:
            sizes[str(days)][row["size"]] = {
                "jobs": row[f"jobs_{days}"],
                "median_s": row[f"median_{days}"],
                "p90_s": row[f"p90_{days}"],
            }
    partitions = list(Partition.objects.only("pk"))
    for partition in partitions:
        partition.typical_wait = found.get(partition.pk, {})
        partition.waits_measured_at = at
    Partition.objects.bulk_update(partitions, ["typical_wait", "waits_measured_at"])
    return True


def waits_of(partition: Partition, *, days: int) -> list[Wait]:
    """The waits of one period as measured last: one of each size, in the order of SIZE_CLASSES."""
    measured = partition.typical_wait.get(str(days), {})
    return [_read_wait(size, days, measured.get(size, {})) for size in SIZE_CLASSES]


def best_known_waits(partition: Partition) -> list[Wait]:
    """One wait of each size: over the shortest period that has enough jobs of it, or else the longest period's."""
    periods = [waits_of(partition, days=days) for days in WINDOWS_DAYS]
    return [next((wait for wait in of_size if wait.is_known), of_size[-1]) for of_size in zip(*periods, strict=True)]


def size_class_of(nodes: int) -> str:
    """The code of the size of a job with so many nodes."""
    return next(size for size, (_, most) in SIZE_CLASSES.items() if most is None or nodes <= most)


def _read_wait(size: str, days: int, measured: Mapping[str, Any]) -> Wait:
    jobs = measured.get("jobs", 0)
    if jobs < FEWEST_JOBS:
        return Wait(size=size, days=days, jobs=jobs)
    return Wait(size=size, days=days, jobs=jobs, median_s=measured["median_s"], p90_s=measured["p90_s"])


def _query(at: datetime) -> Any:
    """A row for each partition and size of job: counts, medians and 90th percentiles (s) of each period."""
    waited = ExpressionWrapper(F("started_at") - F("queued_at"), output_field=DurationField())
    # Clocks of portal and scheduler may differ.
    waited_s = Greatest(Cast(Extract(waited, "epoch"), FloatField()), Value(0.0))
    sizes = [When(nodes__lte=most, then=Value(size)) for size, (_, most) in SIZE_CLASSES.items() if most is not None]
    *_, largest = SIZE_CLASSES
    figures: dict[str, Aggregate | Func] = {}
    for days in WINDOWS_DAYS:
        lately = Q(started_at__gt=at - timedelta(days=days))
        figures[f"jobs_{days}"] = Count("pk", filter=lately)
        figures[f"median_{days}"] = PercentileCont("waited_s", fraction=0.5, filter=lately)
        figures[f"p90_{days}"] = PercentileCont("waited_s", fraction=0.9, filter=lately)
    return (
        Job.objects.filter(
            started_at__gt=at - timedelta(days=max(WINDOWS_DAYS)), started_at__lte=at, queued_at__isnull=False
        )
        .order_by()
        .annotate(waited_s=waited_s, size=Case(*sizes, default=Value(largest)))
        .values("partition_id", "size")
        .annotate(**figures)
    )
