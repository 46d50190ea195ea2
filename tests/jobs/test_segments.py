"""Runs longer than the partition's limit, and jobs that a scheduler forgot: one job, one bill, whatever happens."""

import json
from datetime import timedelta

import pytest

from jobs.backends.base import SchedulerUnavailable
from jobs.launch import CONTINUE_EXIT_CODE, NO_PROGRESS_EXIT_CODE
from jobs.models import EventKind, Job, JobSegment, UsageRecord
from jobs.services import launching
from jobs.services.cancellation import cancel_job
from jobs.services.missing import MAX_RESUBMISSIONS
from jobs.services.problems import InvalidRequest
from jobs.states import JobState
from jobs.views.figures import describe_progress
from tests.factories import make_user
from tests.jobs.conftest import LOST_AFTER_S, Centre, native_id

LIMIT_MINUTES = 60
LIMIT_S = LIMIT_MINUTES * 60


@pytest.fixture
def centre(centre: Centre) -> Centre:
    """On a partition where a job may be an hour long."""
    centre.partition.max_time_limit_minutes = LIMIT_MINUTES
    centre.partition.save()
    return centre


def submit_run(centre: Centre, *, minutes: int = 150) -> Job:
    job = centre.submit(time_limit_minutes=minutes, checkpoint_lead_s=300)
    centre.tick()
    centre.tick(1)
    job.refresh_from_db()
    assert job.state == JobState.RUNNING
    return job


def end_segment(
    centre: Centre, job: Job, *, elapsed_s: int = LIMIT_S - 60, step: int | None = None, **outcome: object
) -> None:
    """Let the newest segment end and the portal see it, its usage, and hand the next one over."""
    current = native_id(job)
    if step is not None:
        first = str(job.segments.get(number=1).native_id)
        centre.backend.write_output(first, json.dumps({"step": step, "loss": 2.5}).encode() + b"\n", file="metrics")
    centre.backend.set_outcome(current, elapsed_s=elapsed_s, **outcome)  # type: ignore[arg-type]
    centre.tick(LIMIT_S)
    centre.tick(1)
    centre.tick(1)
    job.refresh_from_db()


def test_a_run_of_three_segments_is_one_job_with_one_bill(centre: Centre) -> None:
    job = submit_run(centre)
    assert centre.balance() == (8 * 150 * 60, 0)
    end_segment(centre, job, step=100, exit_code=CONTINUE_EXIT_CODE)
    assert (job.state, job.segment_number) == (JobState.RUNNING, 2)
    assert centre.balance() == (8 * 150 * 60, 0)
    assert job.exit_code is None
    progress = describe_progress(job, now=centre.now())
    assert progress.elapsed_s == LIMIT_S - 60 + (centre.now() - job.segments.get(number=2).started_at).total_seconds()
    end_segment(centre, job, step=200, exit_code=CONTINUE_EXIT_CODE)
    assert (job.state, job.segment_number) == (JobState.RUNNING, 3)
    end_segment(centre, job, step=250, elapsed_s=600)
    assert (job.state, job.exit_code) == (JobState.COMPLETED, 0)
    used_s = 2 * (LIMIT_S - 60) + 600
    assert describe_progress(job, now=centre.now()).elapsed_s == used_s
    assert job.started_at == job.segments.get(number=1).started_at
    assert (job.charged_s, centre.balance()) == (8 * used_s, (0, 8 * used_s))
    assert list(job.segments.order_by("number").values_list("end_state", "last_step", "time_limit_minutes")) == [
        ("FAILED", 100, 60),
        ("FAILED", 200, 60),
        ("COMPLETED", 250, 32),
    ]
    assert job.events.filter(kind=EventKind.SEGMENT_ENDED).count() == 3
    assert job.events.filter(kind=EventKind.SETTLED).count() == 1


def test_the_last_segments_limit_is_what_is_left_and_then_the_run_has_timed_out(centre: Centre) -> None:
    job = submit_run(centre, minutes=90)
    end_segment(centre, job, step=1, exit_code=CONTINUE_EXIT_CODE, elapsed_s=LIMIT_S - 30)
    assert job.segments.get(number=2).time_limit_minutes == 30
    end_segment(centre, job, step=2, exit_code=CONTINUE_EXIT_CODE, elapsed_s=29 * 60 + 50)
    assert (job.state, job.state_reason, job.segments.count()) == (JobState.TIMEOUT, "TimeLimit", 2)
    assert job.charged_s == 8 * (LIMIT_S - 30 + 29 * 60 + 50)


def test_a_segment_that_says_it_got_nowhere_ends_the_run(centre: Centre) -> None:
    job = submit_run(centre)
    end_segment(centre, job, exit_code=NO_PROGRESS_EXIT_CODE)
    assert (job.state, job.state_reason, job.segments.count()) == (JobState.TIMEOUT, "no_progress", 1)
    assert job.charged_s == 8 * (LIMIT_S - 60)


def test_a_segment_whose_steps_did_not_advance_ends_the_run(centre: Centre) -> None:
    job = submit_run(centre, minutes=600)
    end_segment(centre, job, step=100, exit_code=CONTINUE_EXIT_CODE)
    end_segment(centre, job, step=100, exit_code=CONTINUE_EXIT_CODE)
    assert (job.state, job.state_reason, job.segments.count()) == (JobState.TIMEOUT, "no_progress", 2)


def test_a_segment_that_ran_into_the_limit_goes_on_if_its_steps_advanced(centre: Centre) -> None:
    job = submit_run(centre)
    end_segment(centre, job, step=100, state=JobState.TIMEOUT, elapsed_s=LIMIT_S)
    assert (job.state, job.segment_number) == (JobState.RUNNING, 2)
    end_segment(centre, job, state=JobState.TIMEOUT, elapsed_s=LIMIT_S)
    assert (job.state, job.state_reason) == (JobState.TIMEOUT, "no_progress")


def test_a_failing_node_is_forgiven_once_without_progress(centre: Centre) -> None:
    job = submit_run(centre, minutes=600)
    end_segment(centre, job, state=JobState.NODE_FAIL, elapsed_s=30)
    assert (job.state, job.segment_number) == (JobState.RUNNING, 2)
    end_segment(centre, job, state=JobState.NODE_FAIL, elapsed_s=30)
    assert (job.state, job.charged_s) == (JobState.NODE_FAIL, 8 * 60)


def test_a_programs_own_failure_ends_the_run(centre: Centre) -> None:
    job = submit_run(centre)
    end_segment(centre, job, step=100, exit_code=1)
    assert (job.state, job.exit_code, job.segments.count()) == (JobState.FAILED, 1, 1)


def test_the_next_segment_waits_for_the_last_ones_bill(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit_run(centre)
    with monkeypatch.context() as patch:
        patch.setattr(centre.backend, "usage", lambda since, **_: [])
        end_segment(centre, job, step=100, exit_code=CONTINUE_EXIT_CODE)
        assert (job.state, job.state_reason, job.segments.count()) == (JobState.COMPLETING, "segment_ended", 1)
    centre.tick(1)
    centre.tick(1)
    job.refresh_from_db()
    assert (job.state, job.segment_number) == (JobState.PENDING, 2)


def test_a_run_cancelled_between_two_segments_pays_for_the_first(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit_run(centre)
    with monkeypatch.context() as patch:
        patch.setattr(centre, "dispatch", lambda: 0)
        end_segment(centre, job, step=100, exit_code=CONTINUE_EXIT_CODE)
        assert job.state == JobState.QUEUED
        assert cancel_job(job=job, user=centre.user, at=centre.now())
        centre.tick(1)
    job.refresh_from_db()
    assert (job.state, job.charged_s) == (JobState.CANCELLED, 8 * (LIMIT_S - 60))
    assert centre.balance() == (0, 8 * (LIMIT_S - 60))


def test_a_run_cancelled_while_its_bill_is_awaited_is_not_continued(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit_run(centre)
    with monkeypatch.context() as patch:
        patch.setattr(centre.backend, "usage", lambda since, **_: [])
        end_segment(centre, job, step=100, exit_code=CONTINUE_EXIT_CODE)
        assert cancel_job(job=job, user=centre.user, at=centre.now())
    centre.tick(1)
    job.refresh_from_db()
    assert (job.state, job.segments.count(), job.charged_s) == (JobState.CANCELLED, 1, 8 * (LIMIT_S - 60))


def test_a_file_that_can_not_be_read_keeps_no_other_job_from_its_end(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise SchedulerUnavailable("Stale file handle")

    job, other = submit_run(centre), centre.submit()
    centre.tick()
    centre.tick(1)
    with monkeypatch.context() as patch:
        patch.setattr(centre.backend, "read_log", fail)
        centre.backend.set_outcome(native_id(other), elapsed_s=60)
        end_segment(centre, job, exit_code=CONTINUE_EXIT_CODE)
        other.refresh_from_db()
        assert (job.state, other.state) == (JobState.RUNNING, JobState.COMPLETED)
        assert centre.cluster.is_available
    centre.tick(1)
    job.refresh_from_db()
    assert job.segment_number == 2


def test_a_long_time_limit_needs_a_signal_to_checkpoint_on(centre: Centre) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        centre.submit(time_limit_minutes=LIMIT_MINUTES + 1)
    (problem,) = refusal.value.problems
    assert problem.field == "time_limit_minutes"
    assert "chain" in problem.message
    assert centre.submit(time_limit_minutes=LIMIT_MINUTES).segment_time_limit_minutes is None


def test_a_late_row_of_accounting_is_still_found(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit_run(centre, minutes=60)
    real = centre.backend.usage
    with monkeypatch.context() as patch:
        patch.setattr(centre.backend, "usage", lambda since, **_: [])
        centre.backend.set_outcome(native_id(job), elapsed_s=60)
        for _ in range(30):
            centre.tick(3600)
    asked = []
    monkeypatch.setattr(centre.backend, "usage", lambda since, **_: asked.append(since) or real(since))
    centre.tick(3600)
    job.refresh_from_db()
    assert (job.state, job.charged_s) == (JobState.COMPLETED, 8 * 60)
    segment = job.segments.get()
    assert asked[0] <= segment.first_attempt_at - timedelta(minutes=10)
    assert JobSegment.objects.filter(accounted_at=None).count() == 0


class TestForgotten:
    """The controller died within a second of its answer."""

    def submit(self, centre: Centre) -> Job:
        job = centre.submit()
        centre.admit()
        centre.dispatch()
        job.refresh_from_db()
        assert job.state == JobState.PENDING
        centre.backend.forget(native_id(job))
        return job

    def test_a_job_that_never_started_is_submitted_again(self, centre: Centre) -> None:
        job = self.submit(centre)
        first = native_id(job)
        centre.tick(1)
        centre.tick(LOST_AFTER_S + 1)
        job.refresh_from_db()
        assert job.state == JobState.QUEUED
        centre.tick(1)
        centre.tick(1)
        job.refresh_from_db()
        assert job.state == JobState.RUNNING
        assert native_id(job) != first
        assert job.segments.get().resubmissions == 1
        centre.backend.set_outcome(native_id(job), elapsed_s=60)
        centre.tick(61)
        job.refresh_from_db()
        assert (job.state, job.charged_s) == (JobState.COMPLETED, 8 * 60)
        assert UsageRecord.objects.filter(segment__job=job).count() == 1

    def test_a_job_that_left_output_had_begun_and_is_not_run_again(self, centre: Centre) -> None:
        job = self.submit(centre)
        centre.backend.write_output(native_id(job), b"step 1\n")
        centre.tick(1)
        centre.tick(LOST_AFTER_S + 1)
        job.refresh_from_db()
        assert job.state == JobState.LOST

    def test_a_job_in_doubt_keeps_no_other_from_being_charged(
        self, centre: Centre, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def doubt(key: str) -> str | None:
            raise SchedulerUnavailable(f"It is not yet certain whether Slurm has taken job {key}.")

        other = centre.submit()
        centre.tick()
        job = self.submit(centre)
        centre.tick(1)
        monkeypatch.setattr(centre.backend, "find", doubt)
        centre.backend.set_outcome(native_id(other), elapsed_s=LOST_AFTER_S)
        centre.tick(LOST_AFTER_S + 1)
        job.refresh_from_db()
        other.refresh_from_db()
        assert (job.state, other.state, other.charged_s) == (JobState.PENDING, JobState.COMPLETED, 8 * LOST_AFTER_S)
        assert centre.cluster.is_available

    def test_a_job_that_has_another_id_by_now_is_adopted(self, centre: Centre) -> None:
        job = self.submit(centre)
        segment = job.segments.get()
        centre.tick(1)
        job.refresh_from_db()
        other = centre.backend.submit(launching.build_job_spec(job, segment), key=segment.key)
        assert other != segment.native_id
        centre.tick(LOST_AFTER_S + 1)
        centre.tick(1)
        job.refresh_from_db()
        assert (job.state, native_id(job)) == (JobState.RUNNING, other)

    def test_a_job_cancelled_before_it_is_submitted_again_costs_nothing(self, centre: Centre) -> None:
        job = self.submit(centre)
        centre.tick(1)
        cancel_job(job=job, user=centre.user, at=centre.now())
        centre.tick(LOST_AFTER_S + 1)
        centre.tick(1)
        job.refresh_from_db()
        assert (job.state, job.charged_s, centre.balance()) == (JobState.CANCELLED, 0, (0, 0))

    def test_what_is_forgotten_again_and_again_is_lost(self, centre: Centre) -> None:
        job = self.submit(centre)
        for _ in range(MAX_RESUBMISSIONS):
            centre.tick(1)
            centre.tick(LOST_AFTER_S + 1)
            centre.dispatch()
            job.refresh_from_db()
            assert job.state == JobState.PENDING
            centre.backend.forget(native_id(job))
        centre.tick(1)
        centre.tick(LOST_AFTER_S + 1)
        job.refresh_from_db()
        assert job.state == JobState.LOST
        cancel_job(job=job, user=make_user(is_staff=True), at=centre.now())
        job.refresh_from_db()
        assert (job.state, job.charged_s, centre.balance()) == (JobState.CANCELLED, 0, (0, 0))
