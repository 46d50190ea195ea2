"""A forecast's range holds what happens about as often as it says, and says nothing where it can't know."""

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from accounts.services import ledger
from accounts.services.forecasts import FEWEST_DAYS_WITH_USE, QUANTILES, forecast_allocations, simulate_use
from tests.factories import NOW, make_allocation, make_project, make_resource_class


def steady(rng: Any, days: int) -> Any:
    """A group that computes every day, less at week-ends."""
    weekend = np.where(np.arange(days) % 7 < 5, 1.0, 0.3)
    return rng.gamma(8.0, 1000.0, size=days) * weekend


def bursty(rng: Any, days: int) -> Any:
    """A job every fourth day on the mean, of very different sizes."""
    return (rng.random(days) < 0.25) * rng.lognormal(9.0, 0.8, size=days)


def on_and_off(rng: Any, days: int) -> Any:
    """Weeks of work and weeks without."""
    return np.repeat(rng.random(days // 7 + 1) < 0.5, 7)[:days] * rng.gamma(4.0, 1000.0, size=days)


@pytest.mark.parametrize("horizon", [30, 120])
@pytest.mark.parametrize("habit", [steady, bursty, on_and_off])
def test_eight_of_ten_futures_are_in_the_range(habit: Any, horizon: int) -> None:
    inside = trials = 0
    for seed in range(200):
        days = habit(np.random.default_rng(seed), 30 + horizon)
        if (days[:30] > 0).sum() < FEWEST_DAYS_WITH_USE:
            continue
        trials += 1
        total = simulate_use(days[:30].tolist(), horizon_days=horizon)[:, -1]
        low, _typical, high = np.percentile(total, QUANTILES)
        inside += low <= days[30:].sum() <= high
    print(f"{habit.__name__}, {horizon} days: {inside / trials:.2f} of {trials} in the range")
    assert 0.7 <= inside / trials <= 0.95


def use(allocation: Any, *, ago: int, hours: float) -> None:
    at, reference = NOW - timedelta(days=ago, hours=1), f"day{ago}-{hours}"
    ledger.reserve(
        project_id=allocation.project_id, resource_class_id=allocation.resource_class_id, reference=reference,
        amount_s=round(hours * 3600), at=at,
    )  # fmt: skip
    ledger.settle(reference=reference, amount_s=round(hours * 3600), at=at)


def make(hours: float = 1000, *, days_old: int = 60, days_left: int = 100) -> Any:
    return make_allocation(
        make_project(),
        make_resource_class(),
        hours=hours,
        start_at=NOW - timedelta(days=days_old),
        end_at=NOW + timedelta(days=days_left),
    )


def forecast(allocation: Any) -> Any:
    allocation.refresh_from_db()
    (found,) = forecast_allocations([allocation], at=NOW)
    return found


@pytest.mark.django_db
def test_the_same_use_every_day_runs_out_on_the_day_that_one_can_reckon() -> None:
    allocation = make(hours=30 * 10 + 200)
    for ago in range(30):
        use(allocation, ago=ago, hours=10)
    found = forecast(allocation)
    expected = (NOW + timedelta(days=20)).date()
    assert found.runs_out_first == found.runs_out_typical == found.runs_out_last == expected
    assert found.left_at_end_high_s == 0
    assert found.rate_s_per_day == 36000
    assert found.history_h[-1] == (0, 200.0)


@pytest.mark.django_db
def test_what_lasts_to_the_end_has_no_date_and_something_left() -> None:
    allocation = make(hours=10_000)
    for ago in range(30):
        use(allocation, ago=ago, hours=10)
    found = forecast(allocation)
    assert found.runs_out_first is found.runs_out_last is None
    assert found.left_at_end_low_s == found.left_at_end_high_s == (10_000 - 300 - 1000) * 3600


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("days_old", "days_used", "why"), [(3, 3, "too_new"), (60, 0, "unused"), (60, 2, "too_little_use")]
)
def test_of_too_little_use_nothing_is_said(days_old: int, days_used: int, why: str) -> None:
    allocation = make(days_old=days_old)
    for ago in range(days_used):
        use(allocation, ago=ago, hours=10)
    found = forecast(allocation)
    assert found.unknown == why
    assert found.runs_out_typical is None


@pytest.mark.django_db
def test_the_same_page_says_the_same_twice() -> None:
    allocation = make()
    for ago in range(0, 30, 4):
        use(allocation, ago=ago, hours=10 + ago)
    assert forecast(allocation) == forecast(allocation)
