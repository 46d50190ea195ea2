"""Several workers at the same work at the same time, each on its own connection to a real database."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection

from accounts.models import Cohort, CohortShare, LedgerEntry, LedgerKind
from accounts.services import ledger
from jobs.models import EventKind, Job, JobEvent, JobSegment, UsageRecord
from jobs.services.cancellation import cancel_job
from jobs.services.lifecycle import StaleJob
from jobs.states import TERMINAL, JobState
from tests.jobs.conftest import Centre, native_id

pytestmark = pytest.mark.django_db(transaction=True)

WORKERS = 4


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """Run all calls at the same moment; what one raises is raised here."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        try:
            barrier.wait()
            return call()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def meet_after(monkeypatch: pytest.MonkeyPatch, centre: Centre, name: str) -> None:
    """All workers have the scheduler's answer before any of them writes: the worst moment there is."""
    together = threading.Barrier(WORKERS)
    real = getattr(type(centre.backend), name)

    def wait_for_all(self: Any, argument: Any, **options: Any) -> Any:
        answer = real(self, argument, **options)
        together.wait(timeout=30)
        return answer

    monkeypatch.setattr(type(centre.backend), name, wait_for_all)


def test_workers_that_reconcile_one_cluster_together_end_and_charge_each_job_once(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [centre.submit() for _ in range(6)]
    centre.tick()
    centre.tick()
    for job in jobs:
        centre.backend.set_outcome(native_id(job), elapsed_s=60)
    centre.backend.advance(100)
    with monkeypatch.context() as patch:
        patch.setattr(type(centre.backend), "usage", lambda self, since, **_: [])  # accounting comes later
        meet_after(patch, centre, "poll")
        assert sum(at_once([centre.reconcile] * WORKERS)) == len(jobs)
    assert {job.state for job in Job.objects.all()} == {JobState.COMPLETED}
    assert JobEvent.objects.filter(to_state=JobState.COMPLETED).count() == len(jobs)
    meet_after(monkeypatch, centre, "usage")
    assert sum(at_once([centre.reconcile] * WORKERS)) == len(jobs)
    assert UsageRecord.objects.count() == len(jobs)
    assert JobEvent.objects.filter(kind=EventKind.SETTLED).count() == len(jobs)
    assert LedgerEntry.objects.filter(kind=LedgerKind.SETTLE).count() == len(jobs)
    assert centre.balance() == (0, len(jobs) * 8 * 60)
    assert ledger.find_mismatches() == []
    assert centre.cluster.is_available


def test_workers_that_dispatch_together_hand_each_job_over_once(centre: Centre) -> None:
    jobs = [centre.submit() for _ in range(8)]
    at_once([centre.admit] * WORKERS)
    assert LedgerEntry.objects.filter(kind=LedgerKind.RESERVE).count() == len(jobs)
    assert sum(at_once([centre.dispatch] * WORKERS)) == len(jobs)
    assert centre.backend.call_counts["submit"] == len(jobs)
    assert len(set(JobSegment.objects.values_list("native_id", flat=True))) == len(jobs)


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_submits_cancels_and_workers_leaves_every_second_explained(centre: Centre, seed: int) -> None:
    """Cancel against admission, dispatch, the job's end and its settlement, at random moments."""
    jobs = [centre.submit() for _ in range(12)]

    def work(number: int) -> Callable[[], None]:
        chance = random.Random(seed * 100 + number)

        def go() -> None:
            for _ in range(10):
                chance.choice([centre.admit, centre.release_held, centre.dispatch, centre.reconcile])()
                if number == 0:
                    centre.backend.advance(chance.choice([1, 60, 1200]))

        return go

    def cancel(number: int) -> Callable[[], None]:
        chance = random.Random(seed * 1000 + number)

        def go() -> None:
            for job in chance.sample(jobs, 4):
                try:
                    cancel_job(job=job, user=centre.user, at=centre.now())
                except StaleJob:
                    continue

        return go

    at_once([*(work(number) for number in range(WORKERS)), *(cancel(number) for number in range(2))])
    for _ in range(8):
        centre.tick(4000)
    for job in Job.objects.all():
        assert job.state in TERMINAL, job.state
        assert job.settled_at is not None
        assert job.events.filter(to_state__in=TERMINAL).count() == 1
        assert LedgerEntry.objects.filter(reference=job.reference, kind__in=("SETTLE", "RELEASE")).count() <= 1
    used_s = sum(job.charged_s or 0 for job in Job.objects.all())
    assert centre.balance() == (0, used_s)
    assert ledger.find_mismatches() == []
    assert centre.backend.call_counts["submit"] == JobSegment.objects.exclude(native_id="").count()


def test_workers_that_look_for_idle_accelerators_together_give_none_away_twice(centre: Centre) -> None:
    cohort = Cohort.objects.create(partition=centre.partition)
    CohortShare.objects.create(cohort=cohort, project=centre.project, nominal=16)
    jobs = [centre.submit(nodes=2, is_preemptible=True) for _ in range(7)]
    centre.admit()
    assert sum(at_once([centre.dispatch] * WORKERS)) == 4
    assert Job.objects.filter(state=JobState.PENDING).count() == 4
    assert Job.objects.filter(state=JobState.QUEUED).count() == len(jobs) - 4
