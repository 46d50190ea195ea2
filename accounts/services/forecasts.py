"""When does an allocation run out? A range from the days of the last month, and silence where they say too little.

The method is a bootstrap in blocks of a week, so that week-ends and bursts stay together. Each path of the future is
scaled besides by what a month of days leaves open about the mean (an inverse gamma factor, as for the mean of
exponential amounts; the spread of the weeks is its shape). Its seed is fixed: who reloads the page sees the same range.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal

import numpy as np
from django.db.models import Sum
from django.db.models.functions import TruncDate

from accounts.models import Allocation, LedgerEntry

HISTORY_DAYS: Final = 30
FEWEST_DAYS: Final = 7
"""Of a shorter history nothing is said."""
FEWEST_DAYS_WITH_USE: Final = 3
LONGEST_HORIZON_DAYS: Final = 366
QUANTILES: Final = (10, 50, 90)

_BLOCK_DAYS: Final = 7
_PATHS: Final = 1000
_LEAST_SHAPE: Final = 1.5
_SEED: Final = 20260601
_POINTS: Final = 60
_SECONDS_PER_HOUR: Final = 3600

Unknown = Literal["", "too_new", "unused", "too_little_use"]
Points = list[tuple[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What may become of an allocation. Of an unknown one (`unknown` says why) only the first four are filled.

    The dates on which it is used up are None where that is not before its end. Charts are (days from today, hours).
    """

    allocation: Allocation
    unknown: Unknown
    left_s: int
    rate_s_per_day: float
    runs_out_first: date | None = None
    runs_out_typical: date | None = None
    runs_out_last: date | None = None
    left_at_end_low_s: int = 0
    left_at_end_typical_s: int = 0
    left_at_end_high_s: int = 0
    history_h: Points
    fast_h: Points
    typical_h: Points
    slow_h: Points

    @property
    def is_known(self) -> bool:
        return not self.unknown


def forecast_allocations(allocations: Iterable[Allocation], *, at: datetime) -> list[Forecast]:
    """A forecast of each allocation, whatever its period. One query besides theirs.

    What is left is what is granted and not used: holds are on their way to being used, or come back.
    """
    rows = list(allocations)
    first = at - timedelta(days=HISTORY_DAYS)
    entries = LedgerEntry.objects.filter(allocation__in=[row.pk for row in rows], at__gt=first, at__lte=at)
    changes: dict[int, list[tuple[int, int, int]]] = {}
    for allocation_id, moment, granted_s, used_s in (
        entries.annotate(day=TruncDate("at"))
        .values_list("allocation_id", "day")
        .annotate(granted=Sum("granted_delta_s"), used=Sum("used_delta_s"))
        .order_by()
    ):
        ago = min((at.date() - moment).days, HISTORY_DAYS - 1)
        changes.setdefault(allocation_id, []).append((max(ago, 0), granted_s, used_s))
    return [_forecast(row, changes.get(row.pk, []), at=at) for row in rows]


def simulate_use(daily_s: Sequence[float], *, horizon_days: int, seed: int = _SEED) -> Any:
    """Cumulated use on each of the coming days: an array of paths × days, drawn from the days that were."""
    rng = np.random.default_rng(seed)
    past = np.asarray(daily_s, dtype=float)
    days = np.arange(_BLOCK_DAYS)
    starts = rng.integers(len(past), size=(_PATHS, -(-horizon_days // _BLOCK_DAYS)))
    drawn = past[(starts[:, :, np.newaxis] + days) % len(past)].reshape(_PATHS, -1)[:, :horizon_days]
    # How uncertain the mean of so few blocks is: the relative variance of their sums, by how many there are.
    sums = past[(np.arange(len(past))[:, np.newaxis] + days) % len(past)].sum(axis=1)
    spread = max(sums.var() / sums.mean() ** 2, past.var() / past.mean() ** 2 / _BLOCK_DAYS)
    blocks = len(past) / _BLOCK_DAYS
    if spread and blocks > 1:
        shape = max((blocks - 1) / spread, _LEAST_SHAPE)
        drawn = drawn * (shape / rng.gamma(shape, size=_PATHS))[:, np.newaxis]
    return drawn.cumsum(axis=1)


def _forecast(allocation: Allocation, changes: Sequence[tuple[int, int, int]], *, at: datetime) -> Forecast:
    left_s = allocation.granted_s - allocation.used_s
    known_days = min(HISTORY_DAYS, max((at - allocation.start_at).days, 0))
    granted, used = np.zeros(HISTORY_DAYS), np.zeros(HISTORY_DAYS)
    for ago, granted_s, used_s in changes:
        granted[ago] += granted_s
        used[ago] += used_s
    daily = np.maximum(used[:known_days][::-1], 0)  # a refund of what was used before is no use of its own
    common: dict[str, Any] = {
        "allocation": allocation,
        "left_s": left_s,
        "rate_s_per_day": float(daily.mean()) if known_days else 0.0,
        "history_h": _history(left_s, granted - used, known_days),
    }
    horizon = min((allocation.end_at - at).days, LONGEST_HORIZON_DAYS)
    unknown = _why_unknown(daily, known_days)
    if unknown or horizon < 1:
        return Forecast(**common, unknown=unknown or "too_new", fast_h=[], typical_h=[], slow_h=[])
    paths = simulate_use(daily.tolist(), horizon_days=horizon)
    low, typical, high = (int(value) for value in np.percentile(np.maximum(left_s - paths[:, -1], 0), QUANTILES))
    out = np.where(paths[:, -1] >= left_s, (paths >= left_s).argmax(axis=1) + 1, horizon + 1)
    first, middle, last = (_day(at, float(days), horizon) for days in np.percentile(out, QUANTILES, method="lower"))
    bands = np.maximum(left_s - np.percentile(paths, QUANTILES, axis=0), 0)
    slow, usual, fast = (_points(left_s, band) for band in bands)
    return Forecast(
        **common,
        unknown="",
        runs_out_first=first,
        runs_out_typical=middle,
        runs_out_last=last,
        left_at_end_low_s=low,
        left_at_end_typical_s=typical,
        left_at_end_high_s=high,
        fast_h=fast,
        typical_h=usual,
        slow_h=slow,
    )


def _why_unknown(daily: Any, known_days: int) -> Unknown:
    if known_days < FEWEST_DAYS:
        return "too_new"
    with_use = int((daily > 0).sum())
    if not with_use:
        return "unused"
    return "too_little_use" if with_use < FEWEST_DAYS_WITH_USE else ""


def _day(at: datetime, days: float, horizon: int) -> date | None:
    return None if days > horizon else (at + timedelta(days=days)).date()


def _history(left_s: int, changes: Any, known_days: int) -> Points:
    """What was left at the end of each day, backwards from now."""
    before = np.maximum(left_s - np.cumsum(changes[:known_days]), 0)
    past = [(-ago - 1, round(float(value) / _SECONDS_PER_HOUR, 2)) for ago, value in enumerate(before)]
    return [*reversed(past), (0, round(left_s / _SECONDS_PER_HOUR, 2))]


def _points(left_s: int, band: Any) -> Points:
    step = max(-(-len(band) // _POINTS), 1)
    days = sorted({*range(0, len(band), step), len(band) - 1})
    start = (0, round(left_s / _SECONDS_PER_HOUR, 2))
    return [start, *((day + 1, round(float(band[day]) / _SECONDS_PER_HOUR, 2)) for day in days)]
