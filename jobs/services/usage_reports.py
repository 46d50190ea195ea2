"""Reports of use: sums of days, grouped by what the reader asks for. Page, export and API call `report_usage`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from math import exp
from typing import Any, Final

from django.contrib.auth.models import AnonymousUser
from django.db.models import F, Q, QuerySet, Sum
from django.db.models.functions import TruncMonth, TruncWeek

from accounts.access import reportable_usage_filter
from accounts.models import User
from jobs.models import UsageDay
from jobs.states import JobState

WASTED_STATES: Final = (JobState.FAILED, JobState.TIMEOUT, JobState.OUT_OF_MEMORY, JobState.NODE_FAIL)
"""Ends after which what a job used counts as wasted. A cancelled or preempted job may have saved its work."""

LONGEST_PERIOD_DAYS: Final = 3660

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "institution": ("project__institution__code", "project__institution__name", "project__institution__name_zh"),
    "project": ("project__code", "project__title"),
    "user": ("user__username", "user__first_name", "user__last_name"),
    "partition": ("partition__cluster__code", "partition__name"),
    "field": ("project__field_of_science",),
    "model_family": ("model_family",),
    "end_state": ("end_state",),
    "day": ("day",),
    "week": ("week",),
    "month": ("month",),
}
"""What can be grouped by, and the columns of each. The first of institution, project and user is their key."""

TIME_GROUPS: Final = ("day", "week", "month")

FILTERS: Final[Mapping[str, str]] = {
    "institution": "project__institution__code",
    "project": "project__code",
    "user": "user__username",
    "field": "project__field_of_science",
    "model_family": "model_family",
    "end_state": "end_state",
}

_SUMMED: Final = (
    *("jobs", "used_s", "charged_s", "shortfall_s", "reserved_s", "idle_s", "wait_s", "waited_jobs"),
    *("time_bias_e6", "time_error_e6", "time_jobs", "memory_bias_e6", "memory_error_e6", "memory_jobs"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportQuery:
    """Which use, from the first day to the last (both included; days of UTC). Empty filters let everything pass."""

    group_by: str
    first_day: date
    last_day: date
    institution: str = ""
    project: str = ""
    user: str = ""
    partition: str = ""
    """As cluster/name."""
    field: str = ""
    model_family: str = ""
    end_state: str = ""


@dataclass(slots=True, kw_only=True)
class UsageFigures:
    """Sums of one group. Amounts are accelerator-seconds: `used_s` not weighted, the others as billed."""

    jobs: int = 0
    used_s: int = 0
    charged_s: int = 0
    shortfall_s: int = 0
    reserved_s: int = 0
    failed_s: int = 0
    """Charged to jobs that ended in one of WASTED_STATES."""
    idle_s: int = 0
    """Held for jobs and not used by them."""
    wait_s: int = 0
    waited_jobs: int = 0
    time_bias_e6: int = 0
    time_error_e6: int = 0
    time_jobs: int = 0
    memory_bias_e6: int = 0
    memory_error_e6: int = 0
    memory_jobs: int = 0

    @property
    def wasted_s(self) -> int:
        return self.failed_s + self.idle_s

    @property
    def mean_wait_s(self) -> float | None:
        """None where no job started."""
        return self.wait_s / self.waited_jobs if self.waited_jobs else None

    @property
    def time_error(self) -> float | None:
        """By what part times differ from their estimates, typically: 0.2 is a factor of 1.2 either way."""
        return _factor(self.time_error_e6, self.time_jobs)

    @property
    def time_bias(self) -> float | None:
        """How much longer jobs ran than estimated: 0.2 is a fifth longer."""
        return _factor(self.time_bias_e6, self.time_jobs)

    @property
    def memory_error(self) -> float | None:
        return _factor(self.memory_error_e6, self.memory_jobs)

    @property
    def memory_bias(self) -> float | None:
        return _factor(self.memory_bias_e6, self.memory_jobs)

    def add(self, other: "UsageFigures") -> None:
        for one in fields(UsageFigures):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """A group: its key (text that the filter takes, or a day), its name in data, and its figures."""

    key: str
    name: str
    name_zh: str = ""
    figures: UsageFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """Every group that has a use, and the sum of all. Times in their order, others by what was charged."""

    query: ReportQuery
    rows: list[ReportRow]
    total: UsageFigures = field(default_factory=UsageFigures)


def report_usage(user: User | AnonymousUser, query: ReportQuery) -> UsageReport:
    """What of the use the person may see, grouped. One query on the sums of days."""
    days = _narrow(UsageDay.objects.filter(reportable_usage_filter(user)), query)
    columns = GROUPS[query.group_by]
    sums: dict[str, Sum] = {name: Sum(name) for name in _SUMMED}
    sums["failed_s"] = Sum("charged_s", filter=Q(end_state__in=WASTED_STATES), default=0)
    truncated = {"week": TruncWeek("day"), "month": TruncMonth("day")}
    if query.group_by in truncated:
        days = days.annotate(**{query.group_by: truncated[query.group_by]})
    # By name: a sum is named as its column, which an aggregate would then refer to.
    grouped = days.values(*columns).annotate(**{f"sum_{name}": one for name, one in sums.items()})
    order = [columns[0]] if query.group_by in TIME_GROUPS else [F("sum_charged_s").desc(), *columns]
    rows = [_read_row(query.group_by, [row[name] for name in columns], row) for row in grouped.order_by(*order)]
    report = UsageReport(query=query, rows=rows)
    for row in rows:
        report.total.add(row.figures)
    return report


def default_period(today: date) -> tuple[date, date]:
    """The last 30 days with today; from the first day of the calendar on, should that be later."""
    return date.fromordinal(max(today.toordinal() - 29, 1)), today


def _narrow(days: QuerySet[UsageDay], query: ReportQuery) -> QuerySet[UsageDay]:
    days = days.filter(day__range=(query.first_day, query.last_day))
    for name, lookup in FILTERS.items():
        value = getattr(query, name)
        if value:
            days = days.filter(**{lookup: value})
    if query.partition:
        cluster, _separator, name = query.partition.partition("/")
        days = days.filter(partition__cluster__code=cluster, partition__name=name)
    return days


def _read_row(group_by: str, values: list[Any], row: Mapping[str, Any]) -> ReportRow:
    sums = {name: int(row[f"sum_{name}"]) for name in (*_SUMMED, "failed_s")}
    figures = UsageFigures(**sums)
    if group_by in TIME_GROUPS:
        return ReportRow(key=values[0].isoformat(), name=values[0].isoformat(), figures=figures)
    key, *names = (str(value) for value in values)
    match group_by:
        case "institution":
            return ReportRow(key=key, name=names[0], name_zh=names[1], figures=figures)
        case "user":
            return ReportRow(key=key, name=" ".join(names).strip() or key, figures=figures)
        case "partition":
            return ReportRow(key=f"{key}/{names[0]}", name=f"{key}/{names[0]}", figures=figures)
    return ReportRow(key=key, name=names[0] if names else key, figures=figures)


def _factor(sum_e6: int, jobs: int) -> float | None:
    return exp(sum_e6 / jobs / 1e6) - 1 if jobs else None
