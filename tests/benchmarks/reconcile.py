"""Following 10,000 active jobs, beside the scheduler's query and beside the bare SELECT of the same rows."""

import uuid
from dataclasses import replace
from itertools import count

from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs.backends.base import JobStatus
from jobs.backends.dummy import DummyBackend
from jobs.models import Job, JobSegment
from jobs.services import launching, reconcile
from jobs.states import JobState
from tests.benchmarks.measure import latency_row, measure_alternately, print_table, read_size
from tests.benchmarks.population import BenchmarkCentre, analyze, copy_rows


def run() -> None:
    jobs, rounds = read_size("JOBS", 10_000, low=100), read_size("ROUNDS", 15)
    centre = BenchmarkCentre()
    template = centre.make_template()
    _fill(centre.backend, template, jobs)
    backend = centre.backend
    segments = JobSegment.objects.exclude(native_id="").filter(ended_at=None)
    native_ids = list(segments.order_by("pk").values_list("native_id", flat=True))
    per_turn = max(jobs // 100, 1)
    turns = count()

    def select_all() -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT s.id, s.key, s.native_id, j.id, j.state, j.state_reason, j.started_at, j.expected_start_at,"
                " j.missing_since_at, j.cancel_requested_at FROM jobs_jobsegment s JOIN jobs_job j ON j.id = s.job_id"
                " WHERE s.ended_at IS NULL AND s.native_id <> ''"
                " AND j.state IN ('PENDING', 'RUNNING', 'COMPLETING', 'LOST') ORDER BY s.id"
            )
            assert len(cursor.fetchall()) == len(native_ids)

    def follow() -> int:
        return reconcile.reconcile_clusters(now=timezone.now, lost_after_s=300)

    def follow_changed() -> None:
        assert follow() == per_turn

    def change() -> None:
        start = next(turns) * per_turn  # others each time
        for native_id in native_ids[start : start + per_turn]:
            backend.set_state(native_id, JobState.COMPLETING)

    follow()  # writes what the scheduler has said meanwhile
    follow()
    with CaptureQueriesContext(connection) as queries:
        assert follow() == 0
    seconds = measure_alternately(
        {
            "bare SELECT of the same rows": select_all,
            "backend.poll alone (in memory)": lambda: backend.poll(native_ids),
            "reconcile, nothing changed": follow,
        },
        rounds=rounds,
    )
    seconds |= measure_alternately({"reconcile, 1 % changed": follow_changed}, rounds=rounds, before=change)
    select, poll = (seconds[name] for name in list(seconds)[:2])
    rows = [
        [*latency_row(name, values, select), latency_row(name, values, poll)[-1]] for name, values in seconds.items()
    ]
    print_table(f"reconcile: {len(native_ids)} active jobs", ["", "p50 ms", "p95 ms", "× SELECT", "× poll"], rows)
    print(f"statements with nothing changed: {len(queries)}; in the last row {per_turn} jobs change")


def _fill(backend: DummyBackend, template: Job, jobs: int) -> None:
    """Copies of the template, running in the database and at the scheduler, by the same ids."""
    backend.advance(0)
    reconcile.reconcile_clusters(now=timezone.now, lost_after_s=300)
    template.refresh_from_db()
    assert template.state == JobState.RUNNING
    copy_rows(
        Job,
        jobs - 1,
        where={"id": template.pk},
        changes={"id": "gen_random_uuid()", "name": "'copy-' || n"},
    )
    spec = launching.build_job_spec(template, template.segments.get())
    others = list(Job.objects.exclude(pk=template.pk).values_list("pk", flat=True))
    native_ids = [_submit(backend, job_id, spec) for job_id in others]
    status = backend.poll(native_ids)
    JobSegment.objects.bulk_create(
        [_segment(template, job_id, status[native_id]) for job_id, native_id in zip(others, native_ids, strict=True)],
        batch_size=2000,
    )
    analyze()


def _submit(backend: DummyBackend, job_id: uuid.UUID, spec: launching.JobSpec) -> str:
    key = f"{job_id}-1"
    native_id = backend.submit(replace(spec, key=key), key=key)
    backend.set_state(native_id, JobState.RUNNING)
    return native_id


def _segment(template: Job, job_id: uuid.UUID, status: JobStatus) -> JobSegment:
    return JobSegment(
        job_id=job_id,
        number=1,
        cluster=template.partition.cluster,
        key=status.key,
        native_id=status.native_id,
        first_attempt_at=template.submitted_at,
        accepted_at=template.submitted_at,
        started_at=status.started_at,
    )
