"""Sums of days are the raw sum, whatever is written in which order."""

import uuid
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from jobs.models import Estimate, Job, JobSegment, Measurement, UsageDay, UsageDayToRefresh, UsageRecord
from jobs.services.usage_days import find_day_differences, rebuild_usage_days, refresh_usage_days
from jobs.states import JobState
from tests.factories import NOW, make_partition, make_project, make_user
from tests.jobs.conftest import Centre


def make_ended_job(place: dict[str, Any], *, hours_ago: float = 0, state: str = "COMPLETED", **fields: Any) -> Job:
    """A job that ended so long before NOW, after two hours on eight accelerators, of three reserved."""
    ended_at = NOW - timedelta(hours=hours_ago)
    return Job.objects.create(
        **{
            **place,
            "name": "job",
            "nodes": 1,
            "devices_per_node": 8,
            "time_limit_minutes": 180,
            "reserved_s": 3 * 8 * 3600,
            "billing_weight": 1,
            "charged_s": 2 * 8 * 3600,
            "state": state,
            "submitted_at": ended_at - timedelta(hours=4),
            "queued_at": ended_at - timedelta(hours=3),
            "started_at": ended_at - timedelta(hours=2),
            "ended_at": ended_at,
            "settled_at": ended_at,
            **fields,
        }
    )


def add_usage(job: Job, *, hours_ago: float = 0, number: int = 1, elapsed_s: int = 7200) -> UsageRecord:
    ended_at = NOW - timedelta(hours=hours_ago)
    segment = JobSegment.objects.create(
        job=job,
        number=number,
        cluster_id=job.partition.cluster_id,
        key=uuid.uuid4().hex,
        first_attempt_at=ended_at,
        accounted_at=ended_at,
    )
    return UsageRecord.objects.create(
        segment=segment,
        devices=8,
        elapsed_s=elapsed_s,
        charged_s=8 * elapsed_s,
        ended_at=ended_at,
        recorded_at=ended_at,
    )


@pytest.fixture
def place(db: None) -> dict[str, Any]:
    return {"user": make_user("lin"), "project": make_project("nlp"), "partition": make_partition()}


def test_a_job_through_the_services_is_in_the_sums_of_its_day(centre: Centre) -> None:
    centre.submit()
    centre.tick()
    centre.tick(600)
    centre.tick(3600)
    job = Job.objects.get()
    assert job.settled_at is not None
    assert refresh_usage_days() >= 1
    row = UsageDay.objects.get(end_state=job.state)
    assert (row.jobs, row.records, row.charged_s) == (1, 1, job.charged_s)
    assert row.reserved_s == job.reserved_s
    assert row.idle_s == job.reserved_s - (job.charged_s or 0)
    assert find_day_differences() == []
    assert refresh_usage_days() == 0, "nothing has changed"


def test_a_late_row_of_an_old_day_is_added_to_that_day(place: dict[str, Any]) -> None:
    job = make_ended_job(place, hours_ago=24 * 90)
    refresh_usage_days()
    assert UsageDay.objects.get().used_s == 0
    add_usage(job, hours_ago=24 * 90)
    refresh_usage_days()
    assert UsageDay.objects.get().used_s == 8 * 7200


def test_a_segment_counts_on_the_day_it_ended_and_takes_its_jobs_end_once_that_is_known(place: dict[str, Any]) -> None:
    job = make_ended_job(place, state=JobState.RUNNING, ended_at=None, settled_at=None, charged_s=None)
    add_usage(job, hours_ago=48)
    refresh_usage_days()
    assert list(UsageDay.objects.values_list("end_state", "records", "jobs")) == [("", 1, 0)]
    Job.objects.filter(pk=job.pk).update(state=JobState.FAILED, ended_at=NOW, settled_at=NOW, charged_s=57600)
    refresh_usage_days()
    assert sorted(UsageDay.objects.values_list("end_state", "records", "jobs")) == [("FAILED", 0, 1), ("FAILED", 1, 0)]


def test_a_day_ends_at_midnight_of_utc(place: dict[str, Any]) -> None:
    job = make_ended_job(place)
    add_usage(job, number=1, hours_ago=8)  # NOW is 08:00 UTC
    add_usage(job, number=2, hours_ago=8 + 1 / 3600)
    refresh_usage_days()
    days = UsageDay.objects.order_by("day").values_list("day", "records")
    assert [(day.isoformat(), records) for day, records in days] == [("2026-05-31", 1), ("2026-06-01", 1)]


def test_estimates_are_compared_with_what_was_measured(place: dict[str, Any]) -> None:
    job = make_ended_job(place, workload={"model": {"preset": "qwen2.5-7b"}})
    add_usage(job, elapsed_s=7200)
    Estimate.objects.create(
        job=job, inputs={}, result={}, fits=True, memory_bytes=10**9, step_s=1, duration_s=3600, engine_version="1",
        created_at=NOW,
    )  # fmt: skip
    Measurement.objects.create(job=job, step_s=1, memory_bytes=2 * 10**9, measured_at=NOW)
    refresh_usage_days()
    row = UsageDay.objects.get()
    assert row.model_family == "qwen"
    assert (row.time_bias_e6, row.time_error_e6, row.time_jobs) == (693147, 693147, 1)
    assert (row.memory_bias_e6, row.memory_jobs) == (693147, 1)


def test_the_command_prints_a_sum_that_was_tampered_with(place: dict[str, Any]) -> None:
    add_usage(make_ended_job(place))
    out, err = StringIO(), StringIO()
    call_command("refresh_usage_days", stdout=out)
    call_command("verify_usage_days", stdout=out)
    assert "0 differences" in out.getvalue()
    UsageDay.objects.update(used_s=1)
    with pytest.raises(CommandError, match="1 differences"):
        call_command("verify_usage_days", stderr=err)
    assert "used_s: summed 1, raw 57600" in err.getvalue()
    call_command("refresh_usage_days", rebuild=True, stdout=out)
    call_command("verify_usage_days", stdout=out)


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["job", "usage", "end", "correct", "measure", "delete", "move", "refresh", "rebuild"]),
        st.integers(0, 30),
        st.integers(0, 240),
        st.sampled_from(["COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "CANCELLED"]),
    ),
    max_size=40,
)


class AnyHistory(TestCase):
    """Jobs, usage that comes late, corrections and removals in any order, refreshed at any time."""

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(_STEPS)
    def test_after_a_refresh_the_sums_are_the_raw_sums(self, steps: list[tuple[str, int, int, str]]) -> None:
        places = [
            {"user": make_user(), "project": make_project(), "partition": make_partition(f"p{number}")}
            for number in range(2)
        ]
        for number, (act, which, hours, state) in enumerate(steps):
            jobs = list(Job.objects.order_by("submitted_at", "pk"))
            job = jobs[which % len(jobs)] if jobs else None
            if act == "job":
                open_job = {"state": "RUNNING", "ended_at": None, "settled_at": None, "charged_s": None}
                make_ended_job(places[which % 2], hours_ago=hours, **(open_job if which % 3 else {"state": state}))
            elif act == "refresh":
                refresh_usage_days()
            elif act == "rebuild":
                rebuild_usage_days()
            elif job is not None:
                change(act, job, number, hours, state, places[which % 2])
        refresh_usage_days()
        assert find_day_differences() == []
        assert not UsageDayToRefresh.objects.exists()


def change(act: str, job: Job, number: int, hours: int, state: str, place: dict[str, Any]) -> None:
    if act == "usage":
        add_usage(job, hours_ago=hours, number=number + 1, elapsed_s=hours * 60)
    elif act == "end":
        at = NOW - timedelta(hours=hours)
        Job.objects.filter(pk=job.pk).update(state=state, ended_at=at, settled_at=at, charged_s=hours)
    elif act == "correct":
        UsageRecord.objects.filter(segment__job=job).update(charged_s=hours, ended_at=NOW - timedelta(hours=hours))
    elif act == "measure":
        Measurement.objects.update_or_create(
            job=job, defaults={"step_s": 1, "memory_bytes": hours or None, "measured_at": NOW}
        )
        Estimate.objects.create(
            job=job, inputs={}, result={}, fits=True, memory_bytes=hours, step_s=1, duration_s=hours,
            engine_version="1", created_at=NOW,
        )  # fmt: skip
    elif act == "move":
        Job.objects.filter(pk=job.pk).update(**place)
    elif act == "delete":
        job.delete()
