"""The ledger beside the scheduler's accounting: agreement is shown, and each way of differing is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from jobs.backends.base import SchedulerUnavailable, UsageRow
from jobs.models import Job, JobSegment, UsageRecord
from jobs.services.usage_comparison import Comparison, compare_usage
from tests.factories import NOW
from tests.jobs.conftest import Centre, native_id


@pytest.fixture
def finished(centre: Centre) -> Job:
    job = centre.submit()
    centre.tick()
    centre.backend.set_outcome(native_id(job), elapsed_s=60)
    centre.tick(1)
    centre.tick(61)
    job.refresh_from_db()
    assert job.charged_s == 8 * 60
    return job


def compare(centre: Centre) -> Comparison:
    return compare_usage(centre.cluster, centre.backend, since=NOW)


def change_answer(
    centre: Centre, monkeypatch: pytest.MonkeyPatch, change: Callable[[list[UsageRow]], list[UsageRow]]
) -> None:
    real = centre.backend.usage
    monkeypatch.setattr(centre.backend, "usage", lambda since, **_: change(real(since)))


def kinds(comparison: Comparison) -> list[str]:
    return [difference.kind for difference in comparison.differences]


def test_what_was_charged_agrees_with_accounting(centre: Centre, finished: Job) -> None:
    comparison = compare(centre)
    assert comparison == Comparison(segments=1, portal_s=8 * 60, scheduler_s=8 * 60, differences=[])


def test_a_second_more_or_less_is_a_difference_in_usage_and_bill(
    centre: Centre, finished: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_answer(centre, monkeypatch, lambda rows: [replace(row, elapsed_s=61) for row in rows])
    comparison = compare(centre)
    assert kinds(comparison) == ["usage", "bill"]
    assert "61 s" in comparison.differences[0].scheduler


def test_a_job_that_accounting_does_not_have_is_named(
    centre: Centre, finished: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_answer(centre, monkeypatch, lambda rows: [])
    assert kinds(compare(centre)) == ["not_in_accounting"]


def test_a_job_that_the_portal_does_not_know_is_named(centre: Centre, finished: Job) -> None:
    JobSegment.objects.all().delete()
    assert kinds(compare(centre)) == ["not_in_portal"]


def test_a_job_whose_usage_is_not_recorded_is_named(centre: Centre, finished: Job) -> None:
    UsageRecord.objects.all().delete()
    assert kinds(compare(centre)) == ["not_recorded"]


def test_a_job_that_ran_twice_is_named(centre: Centre, finished: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    change_answer(centre, monkeypatch, lambda rows: [*rows, replace(rows[0], native_id="99")])
    assert kinds(compare(centre)) == ["twice"]


def test_a_trace_of_a_job_that_the_scheduler_lost_is_none(
    centre: Centre, finished: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_answer(centre, monkeypatch, lambda rows: [replace(rows[0], native_id="99", elapsed_s=0), *rows])
    assert kinds(compare(centre)) == []


class TestCommand:
    def run(self, *arguments: str) -> str:
        out = StringIO()
        call_command("reconcile_usage", "--cluster", "dummy", *arguments, stdout=out)
        return out.getvalue()

    def test_agreement_is_printed(self, centre: Centre, finished: Job) -> None:
        assert "1 scheduler jobs" in (text := self.run("--since", NOW.isoformat()))
        assert "0 differences" in text
        assert json.loads(self.run("--since", f"{NOW:%Y-%m-%d}", "--json"))["differences"] == []

    def test_differences_are_printed_and_are_an_error(
        self, centre: Centre, finished: Job, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        change_answer(centre, monkeypatch, lambda rows: [])
        with pytest.raises(CommandError, match="1 differences"):
            self.run("--since", NOW.isoformat())

    @pytest.mark.parametrize("since", ["yesterday", "2026-13-01", "2026-01-01T99:00", "d", "-1d"])
    def test_a_time_that_is_none_is_refused_by_name(self, centre: Centre, since: str) -> None:
        with pytest.raises(CommandError, match="--since"):
            self.run(f"--since={since}")

    def test_an_unknown_cluster_is_refused_with_those_that_there_are(self, centre: Centre) -> None:
        with pytest.raises(CommandError, match="there are: dummy"):
            call_command("reconcile_usage", "--cluster", "nowhere")

    def test_accounting_that_is_away_is_told(self, centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(since: object, **_: object) -> list[UsageRow]:
            raise SchedulerUnavailable("slurmdbd is down")

        monkeypatch.setattr(centre.backend, "usage", fail)
        with pytest.raises(CommandError, match="slurmdbd is down"):
            self.run()
