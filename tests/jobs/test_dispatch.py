"""Nothing is lost and nothing runs twice, whoever dies and whenever."""

import threading
import uuid
from datetime import timedelta

import pytest

from jobs.backends.base import SchedulerUnavailable, SubmissionRejected
from jobs.models import EventKind, Job, JobSegment
from jobs.services import dispatch
from jobs.services.cancellation import cancel_job
from jobs.services.clusters import record_failure, record_success
from jobs.services.lifecycle import StaleJob
from jobs.spec import JobSpec
from jobs.states import JobState
from tests.jobs.conftest import LEASE_S, Centre, native_id


class Died(BaseException):
    """The worker is killed here."""


def test_the_lease_and_the_key_are_written_before_the_scheduler_is_called(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = centre.submit()
    centre.admit()
    seen = {}

    def submit(spec: object, *, key: str) -> str:
        row = Job.objects.get(pk=job.pk)
        seen.update(state=row.state, lease=row.lease_token, key=JobSegment.objects.get(job=job).key)
        raise Died

    monkeypatch.setattr(centre.backend, "submit", submit)
    with pytest.raises(Died):
        centre.dispatch()
    assert seen["state"] == JobState.DISPATCHING
    assert seen["lease"] is not None
    assert seen["key"] == f"{job.pk}-1"


def test_a_worker_that_died_before_the_call_is_replaced_and_the_job_runs_once(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = centre.submit()
    centre.admit()
    with monkeypatch.context() as patch:
        patch.setattr(centre.backend, "submit", lambda *args, **kwargs: (_ for _ in ()).throw(Died()))
        with pytest.raises(Died):
            centre.dispatch()
    assert centre.dispatch() == 0  # the lease still holds
    centre.backend.advance(LEASE_S + 1)
    assert centre.dispatch() == 1
    job.refresh_from_db()
    assert job.state == JobState.PENDING
    assert centre.backend.call_counts["find"] == 1
    assert JobSegment.objects.filter(job=job).count() == 1


def test_a_worker_that_died_after_the_scheduler_accepted_leaves_a_job_that_is_adopted(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = centre.submit()
    centre.admit()
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "_apply", lambda *args, **kwargs: (_ for _ in ()).throw(Died()))
        with pytest.raises(Died):
            centre.dispatch()
    centre.backend.advance(LEASE_S + 1)
    assert centre.dispatch() == 1
    assert centre.backend.call_counts["submit"] == 1
    job.refresh_from_db()
    assert job.state == JobState.PENDING
    assert native_id(job) == centre.backend.find(f"{job.pk}-1")


@pytest.mark.parametrize("after_effect", [True, False], ids=["the reply was lost", "the call was lost"])
def test_a_call_without_an_answer_is_looked_up_by_key_before_it_is_repeated(centre: Centre, after_effect: bool) -> None:
    job = centre.submit()
    centre.admit()
    centre.backend.fail_next("submit", SchedulerUnavailable("timed out"), after_effect=after_effect)
    assert centre.dispatch() == 0
    job.refresh_from_db()
    assert job.state == JobState.DISPATCHING
    assert job.events.filter(kind=EventKind.DISPATCH_DELAYED).count() == 1
    centre.backend.advance(10)
    assert centre.dispatch() == 1
    assert centre.backend.call_counts["submit"] == (1 if after_effect else 2)
    assert len(centre.backend.poll([str(number) for number in range(100)])) == 1


def test_a_worker_whose_lease_was_taken_over_writes_nothing(centre: Centre) -> None:
    job = centre.submit()
    centre.admit()
    (claim,) = dispatch.claim_due_jobs(at=centre.now(), lease_s=LEASE_S, limit=1, cluster_code="dummy")
    Job.objects.filter(pk=job.pk).update(lease_token=uuid.uuid4())
    with pytest.raises(StaleJob):
        dispatch._apply(claim, "999", at=centre.now())
    assert JobSegment.objects.get(job=job).native_id == ""


def test_a_worker_that_wakes_after_its_lease_ran_out_does_not_submit(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    centre.submit()
    centre.admit()
    (claim,) = dispatch.claim_due_jobs(at=centre.now(), lease_s=LEASE_S, limit=1, cluster_code="dummy")
    centre.backend.advance(LEASE_S)
    ((_, result),) = dispatch._call_scheduler([claim], now=centre.now)
    with pytest.raises(StaleJob):
        result.result()
    assert centre.backend.call_counts["submit"] == 0


def test_a_refusal_ends_the_job_with_the_schedulers_words_and_gives_the_hold_back(centre: Centre) -> None:
    job = centre.submit()
    centre.admit()
    centre.backend.fail_next("submit", SubmissionRejected("Invalid qos specification"))
    centre.dispatch()
    job.refresh_from_db()
    assert (job.state, job.state_detail) == (JobState.REJECTED, {"words": "Invalid qos specification"})
    assert centre.balance() == (0, 0)


def test_while_a_cluster_is_down_jobs_wait_and_it_is_asked_ever_more_seldom(centre: Centre) -> None:
    job = centre.submit()
    centre.admit()
    centre.backend.set_available(False)
    attempts = 0
    for _ in range(100):
        centre.backend.advance(2)
        centre.dispatch()
        centre.reconcile()
    attempts = sum(centre.backend.call_counts.values())
    assert attempts < 15
    cluster = centre.cluster
    assert not cluster.is_available
    assert cluster.last_error
    centre.backend.set_available(True)
    centre.backend.advance(400)
    centre.tick()
    centre.tick()
    job.refresh_from_db()
    assert job.state in {JobState.PENDING, JobState.RUNNING}
    assert centre.cluster.is_available


def test_an_answer_does_not_close_a_breaker_that_another_worker_has_opened_meanwhile(centre: Centre) -> None:
    as_read = centre.cluster
    record_failure(centre.cluster, SchedulerUnavailable("timed out"), at=centre.now())
    record_success(as_read, at=centre.now())
    assert not centre.cluster.is_available
    record_success(centre.cluster, at=centre.now())
    assert centre.cluster.is_available


def test_one_cluster_that_hangs_is_asked_once_a_round_however_many_jobs_wait(centre: Centre) -> None:
    for _ in range(5):
        centre.submit()
    centre.admit()
    centre.backend.set_available(False)
    centre.dispatch()
    assert centre.backend.call_counts["submit"] == 1


def test_a_cluster_that_accepts_no_jobs_gets_none(centre: Centre) -> None:
    centre.submit()
    centre.admit()
    cluster = centre.cluster
    cluster.is_enabled = False
    cluster.save()
    assert centre.dispatch() == 0
    assert centre.backend.call_counts["submit"] == 0


def test_a_job_cancelled_while_its_dispatcher_was_dead_never_reaches_the_scheduler(centre: Centre) -> None:
    job = centre.submit()
    centre.admit()
    dispatch.claim_due_jobs(at=centre.now(), lease_s=LEASE_S, limit=1, cluster_code="dummy")
    cancel_job(job=job, user=centre.user, at=centre.now())
    centre.backend.advance(LEASE_S + 1)
    centre.dispatch()
    job.refresh_from_db()
    assert (job.state, centre.balance()) == (JobState.CANCELLED, (0, 0))
    assert centre.backend.call_counts["submit"] == 0


def test_a_job_cancelled_after_the_scheduler_took_it_is_adopted_and_then_cancelled(centre: Centre) -> None:
    job = centre.submit()
    centre.admit()
    centre.backend.fail_next("submit", SchedulerUnavailable("timed out"), after_effect=True)
    centre.dispatch()
    cancel_job(job=job, user=centre.user, at=centre.now())
    centre.backend.advance(10)
    centre.tick()
    centre.tick(1)
    job.refresh_from_db()
    assert job.state == JobState.CANCELLED
    assert centre.balance()[0] == 0


def test_several_jobs_are_handed_over_at_a_time_and_each_result_is_its_own(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [centre.submit(name=f"job-{number}") for number in range(8)]
    centre.admit()
    together = threading.Barrier(4, timeout=20)
    real = centre.backend.submit

    def submit(spec: JobSpec, *, key: str) -> str:
        together.wait()  # broken unless four are here at a time
        if spec.name == "job-3":
            raise SubmissionRejected("no")
        return real(spec, key=key)

    monkeypatch.setattr(type(centre.backend), "concurrent_submits", 4)
    monkeypatch.setattr(centre.backend, "submit", submit)
    assert centre.dispatch() == 7
    for job in jobs:
        job.refresh_from_db()
    assert [job.name for job in jobs if job.state == JobState.REJECTED] == ["job-3"]
    for job in jobs:
        if job.state == JobState.PENDING:
            assert native_id(job) == centre.backend.find(f"{job.pk}-1")


def test_older_jobs_go_first(centre: Centre) -> None:
    jobs = []
    for _ in range(3):
        jobs.append(centre.submit())
        centre.admit()
        centre.backend.advance(1)
    dispatch.dispatch_queued_jobs(now=centre.now, lease_s=LEASE_S, limit=2)
    for job in jobs:
        job.refresh_from_db()
    assert [job.state for job in jobs] == [JobState.PENDING, JobState.PENDING, JobState.QUEUED]


def test_an_emptied_broker_loses_nothing_since_rows_are_the_queue(centre: Centre) -> None:
    """No message is needed: a tick alone finds what is due."""
    job = centre.submit()
    centre.tick()
    centre.tick(1)
    job.refresh_from_db()
    assert job.state == JobState.RUNNING
    assert job.started_at is not None
    assert job.started_at - job.submitted_at <= timedelta(seconds=1)
