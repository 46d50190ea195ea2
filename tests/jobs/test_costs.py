"""What workers and lists cost grows with what changes, not with what there is."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import LedgerEntry, LedgerKind
from accounts.services import ledger
from jobs.models import Job, JobSegment
from jobs.states import JobState
from tests.factories import make_allocation
from tests.jobs.conftest import LEASE_S, Centre, native_id


def count_statements(table: str, captured: CaptureQueriesContext) -> int:
    return sum(f'"{table}"' in query["sql"] for query in captured.captured_queries)


def test_following_jobs_that_do_not_change_costs_the_same_however_many_there_are(centre: Centre) -> None:
    counts = []
    for _ in range(2):
        for _ in range(5):
            centre.submit()
        for _ in range(2):
            centre.tick()
        with CaptureQueriesContext(connection) as captured:
            assert centre.reconcile() == 0
        counts.append(len(captured))
    assert Job.objects.filter(state=JobState.RUNNING).count() > 5
    assert counts[0] == counts[1] <= 6


def test_an_answer_that_is_older_than_what_another_worker_wrote_is_ignored(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = centre.submit()
    centre.admit()
    centre.dispatch()
    poll = centre.backend.poll

    def poll_and_be_overtaken(native_ids: Any) -> Any:
        answer = poll(native_ids)
        with monkeypatch.context() as patch:
            patch.setattr(centre.backend, "poll", poll)
            centre.backend.advance(0)
            centre.reconcile()  # another worker: the job runs
        return answer

    centre.backend.set_state(native_id(job), JobState.PENDING, reason="Priority")
    monkeypatch.setattr(centre.backend, "poll", poll_and_be_overtaken)
    assert centre.reconcile() == 0
    job.refresh_from_db()
    assert job.state == JobState.RUNNING


def test_segments_of_a_batch_are_read_once_and_written_once(centre: Centre) -> None:
    for _ in range(4):
        centre.submit()
    centre.admit()
    with CaptureQueriesContext(connection) as captured:
        assert centre.dispatch() == 4
    applied = 4  # one statement for each id that the scheduler gave
    assert count_statements("jobs_jobsegment", captured) == 2 + applied
    assert JobSegment.objects.exclude(native_id="").count() == 4


def test_a_batch_may_hold_new_jobs_and_such_as_a_dead_worker_left(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = centre.submit()
    centre.admit()
    with monkeypatch.context() as patch:
        patch.setattr("jobs.services.dispatch._call_scheduler", lambda *args, **kwargs: [])  # claimed, and no more
        centre.dispatch()
    new = centre.submit()
    centre.admit()
    centre.backend.advance(LEASE_S + 1)
    assert centre.dispatch() == 2
    assert [call.arguments for call in centre.backend.calls if call.method == "find"] == [(f"{left.pk}-1",)]
    assert set(JobSegment.objects.values_list("job_id", "number")) == {(left.pk, 1), (new.pk, 1)}


def test_a_hold_does_not_read_the_history_of_the_projects_allocations(centre: Centre) -> None:
    ended = make_allocation(centre.project, centre.partition.resource_class, end_at=centre.now() - timedelta(seconds=1))
    LedgerEntry.objects.bulk_create(
        LedgerEntry(allocation=allocation, kind=LedgerKind.RESERVE, reference=f"earlier-{number}", at=centre.now())
        for number in range(2000)
        for allocation in (ended, centre.allocation)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE accounts_ledgerentry, accounts_allocation")
    with CaptureQueriesContext(connection) as captured:
        ledger.reserve(
            project_id=centre.project.pk,
            resource_class_id=centre.partition.resource_class_id,
            reference="now",
            amount_s=60,
            at=centre.now() + timedelta(seconds=1),
        )
    selects = [query["sql"] for query in captured.captured_queries if query["sql"].startswith("SELECT")]
    assert any("FOR UPDATE" in sql for sql in selects)
    assert sum(count_rows_read(sql) for sql in selects) < 20


@pytest.mark.parametrize("url", ["/", "/jobs/"])
def test_lists_do_not_read_scripts(centre: Centre, url: str) -> None:
    centre.submit(name="shown")
    client = Client()
    client.force_login(centre.user)
    with CaptureQueriesContext(connection) as captured:
        assert "shown" in client.get(url).content.decode()
    assert count_statements("jobs_job", captured)
    assert not any('"script"' in query["sql"] for query in captured.captured_queries)


def count_rows_read(sql: str) -> int:
    """Rows that the database looks at for a query, whether it returns them or not."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
        (plan,) = cursor.fetchone()
    nodes = walk((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
    return round(sum(node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in nodes))


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for part in node.get("Plans", ()):
        yield from walk(part)
