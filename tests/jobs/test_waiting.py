"""How long jobs waited, by partition and size."""

from datetime import timedelta
from typing import Any

import pytest

from jobs.models import Job
from jobs.services.waiting import SIZE_CLASSES, best_known_waits, measure_waits, size_class_of, waits_of
from tests.factories import NOW, make_partition
from tests.jobs.conftest import Centre


def add_jobs(centre: Centre, *waits_s: float, days_ago: float = 1, nodes: int = 1, **fields: Any) -> None:
    """Jobs that started so many days ago after having waited so long."""
    template = centre.submit()
    names = [field.attname for field in Job._meta.fields if field.name not in ("id", "submission_key")]
    values = {name: getattr(template, name) for name in names}
    started_at = NOW - timedelta(days=days_ago)
    Job.objects.bulk_create(
        Job(
            **{
                **values,
                "nodes": nodes,
                "started_at": started_at,
                "queued_at": started_at - timedelta(seconds=wait_s),
                **fields,
            }
        )
        for wait_s in waits_s
    )


def measured(centre: Centre, *, days: int = 7) -> dict[str, tuple[int, float | None, float | None]]:
    assert measure_waits(at=NOW)
    centre.partition.refresh_from_db()
    return {wait.size: (wait.jobs, wait.median_s, wait.p90_s) for wait in waits_of(centre.partition, days=days)}


def test_median_and_90th_percentile_are_those_of_the_jobs(centre: Centre) -> None:
    add_jobs(centre, *(60.0 * minutes for minutes in range(11)))
    assert measured(centre)["1"] == (11, 300.0, 540.0)


def test_sizes_are_told_apart(centre: Centre) -> None:
    for nodes, wait_s in ((1, 10), (2, 20), (4, 20), (5, 30), (16, 30), (17, 40), (400, 40)):
        add_jobs(centre, *[wait_s] * 5, nodes=nodes)
    found = measured(centre)
    assert found == {
        "1": (5, 10.0, 10.0),
        "2-4": (10, 20.0, 20.0),
        "5-16": (10, 30.0, 30.0),
        "17+": (10, 40.0, 40.0),
    }


def test_of_fewer_than_five_jobs_nothing_is_said_but_how_many(centre: Centre) -> None:
    add_jobs(centre, 10, 10, 10, 10)
    assert measured(centre)["1"] == (4, None, None)
    assert measured_sizes_without_jobs(centre) == {(0, None, None)}


def measured_sizes_without_jobs(centre: Centre) -> set[tuple[int, float | None, float | None]]:
    return {(wait.jobs, wait.median_s, wait.p90_s) for wait in waits_of(centre.partition, days=30) if wait.size != "1"}


def test_the_short_period_is_preferred_where_it_has_enough_jobs(centre: Centre) -> None:
    add_jobs(centre, *[10] * 5, days_ago=1)
    add_jobs(centre, *[1000] * 6, days_ago=20)
    add_jobs(centre, *[50] * 5, days_ago=20, nodes=2)
    measure_waits(at=NOW)
    centre.partition.refresh_from_db()
    best = {wait.size: (wait.days, wait.median_s) for wait in best_known_waits(centre.partition)}
    assert best == {"1": (7, 10.0), "2-4": (30, 50.0), "5-16": (30, None), "17+": (30, None)}
    assert waits_of(centre.partition, days=30)[0].median_s == 1000.0


def test_jobs_that_never_started_or_started_long_ago_or_elsewhere_don_t_count(centre: Centre) -> None:
    other = make_partition("other", resource_class=centre.partition.resource_class)
    add_jobs(centre, *[10] * 5, days_ago=31)
    add_jobs(centre, *[10] * 5, started_at=None)
    add_jobs(centre, *[10] * 5, queued_at=None)
    add_jobs(centre, *[10] * 5, partition_id=other.pk)
    assert measured(centre, days=30)["1"] == (0, None, None)
    other.refresh_from_db()
    assert waits_of(other, days=7)[0].jobs == 5


def test_clocks_that_differ_make_no_negative_wait(centre: Centre) -> None:
    add_jobs(centre, *[-5.0] * 5)
    assert measured(centre)["1"] == (5, 0.0, 0.0)


def test_waits_are_measured_once_a_minute_however_often_asked(centre: Centre, django_assert_num_queries: Any) -> None:
    add_jobs(centre, *[10] * 50)
    for number in range(5):
        make_partition(f"p{number}")
    # Is it time, the one question about jobs, which partitions there are, and their update.
    with django_assert_num_queries(4):
        assert measure_waits(at=NOW)
    with django_assert_num_queries(1):
        assert not measure_waits(at=NOW + timedelta(seconds=59))
    assert measure_waits(at=NOW + timedelta(seconds=60))
    assert measure_waits(at=NOW - timedelta(hours=1))  # a clock that was set back


@pytest.mark.parametrize("nodes", [1, 2, 4, 5, 16, 17, 10_000])
def test_the_size_of_a_job_is_that_whose_bounds_hold_it(nodes: int) -> None:
    fewest, most = SIZE_CLASSES[size_class_of(nodes)]
    assert fewest <= nodes
    assert most is None or nodes <= most
