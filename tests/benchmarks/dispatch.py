"""From SUBMITTED to the scheduler: jobs per second of one worker, beside the scheduler's submit alone."""

import time
from collections.abc import Callable
from dataclasses import replace

from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Policy
from jobs.models import Job, JobSegment
from jobs.services import admission, dispatch, launching
from jobs.states import JobState
from tests.benchmarks.measure import latency_row, print_table, read_size
from tests.benchmarks.population import WORKLOAD, BenchmarkCentre, analyze

BATCH = 20
_CONTROL = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE SAVEPOINT", "ROLLBACK")


def run() -> None:
    jobs = read_size("JOBS", 500, low=2 * BATCH) // BATCH * BATCH
    centre = BenchmarkCentre()
    Policy.objects.create(max_queued_jobs=10**6, max_running_jobs=10**6, max_accelerators_in_use=10**6)
    centre.make_template()  # whatever is made on first use
    analyze()
    rows = []
    baseline: list[float] = []
    for title, fields in (("script", {}), ("training run", {"workload": WORKLOAD})):
        submit = _measure(lambda fields=fields: centre.submit(**fields), calls=jobs, jobs_per_call=1)
        analyze()
        admit = _measure(
            lambda: admission.admit_submitted_jobs(at=timezone.now(), limit=BATCH),
            calls=jobs // BATCH,
            jobs_per_call=BATCH,
        )
        queued = Job.objects.filter(state=JobState.QUEUED)
        specs = [launching.build_job_spec(job, JobSegment(job=job, number=1)) for job in queued]
        strangers = iter([replace(spec, key=f"alone-{spec.key}") for spec in specs])

        def submit_alone(specs: object = strangers) -> None:
            spec = next(specs)  # type: ignore[call-overload]
            centre.backend.submit(spec, key=spec.key)

        alone = _measure(submit_alone, calls=jobs, jobs_per_call=1)
        analyze()
        handed = _measure(
            lambda: dispatch.dispatch_queued_jobs(now=timezone.now, lease_s=60, limit=BATCH),
            calls=jobs // BATCH,
            jobs_per_call=BATCH,
        )
        assert not Job.objects.filter(state__in=(JobState.SUBMITTED, JobState.QUEUED, JobState.DISPATCHING)).exists()
        baseline = baseline or alone[0]
        rows += [
            _row(f"backend.submit alone, {title}", alone, baseline),
            _row(f"submit_job, {title}", submit, baseline),
            _row(f"admit, {title}", admit, baseline),
            _row(f"dispatch, {title}", handed, baseline),
        ]
    print_table(
        f"dispatch: {jobs} jobs of each kind, batches of {BATCH}, one worker",
        ["per job", "p50 ms", "p95 ms", "× submit alone", "jobs/s", "queries", "BEGIN, SAVEPOINT, …"],
        rows,
    )


def _measure(call: Callable[[], object], *, calls: int, jobs_per_call: int) -> tuple[list[float], float, float]:
    """Seconds per job of each call but the first, whose statements are counted: queries, and transaction control."""
    with CaptureQueriesContext(connection) as captured:
        call()
    control = sum(query["sql"].startswith(_CONTROL) for query in captured.captured_queries)
    seconds = []
    for _ in range(calls - 1):
        before = time.perf_counter()
        call()
        seconds.append((time.perf_counter() - before) / jobs_per_call)
    return seconds, (len(captured) - control) / jobs_per_call, control / jobs_per_call


def _row(label: str, measured: tuple[list[float], float, float], baseline: list[float]) -> list[str]:
    seconds, queries, control = measured
    rate = len(seconds) / sum(seconds)
    return latency_row(label, seconds, baseline, f"{rate:.0f}", f"{queries:.1f}", f"{control:.1f}")
