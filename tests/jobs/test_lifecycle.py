"""From submission to a charged end."""

from datetime import timedelta

import pytest

from accounts.models import LedgerEntry
from accounts.services import ledger
from jobs.models import EventKind, Job, UsageRecord
from jobs.presentation import describe_event
from jobs.services.cancellation import cancel_job
from jobs.services.lifecycle import IllegalTransition, StaleJob, transition
from jobs.states import TERMINAL, TRANSITIONS, JobState
from tests.factories import HOUR_S, NOW, make_allocation, make_policy, make_user
from tests.jobs.conftest import LOST_AFTER_S, Centre, native_id

HOLD_S = 8 * HOUR_S


def states(job: Job) -> list[str]:
    return list(job.events.filter(kind=EventKind.TRANSITION).order_by("pk").values_list("to_state", flat=True))


def test_a_job_walks_from_submission_to_a_charged_end(centre: Centre) -> None:
    job = centre.submit()
    assert centre.balance() == (0, 0)
    centre.admit()
    assert centre.balance() == (HOLD_S, 0)
    centre.dispatch()
    centre.backend.set_outcome(native_id(job), elapsed_s=600)
    centre.tick(1)
    job.refresh_from_db()
    assert job.state == JobState.RUNNING
    centre.tick(600)
    job.refresh_from_db()
    assert (job.state, job.exit_code, job.charged_s) == (JobState.COMPLETED, 0, 8 * 600)
    assert centre.balance() == (0, 8 * 600)
    assert states(job) == ["SUBMITTED", "QUEUED", "DISPATCHING", "PENDING", "RUNNING", "COMPLETED"]
    assert UsageRecord.objects.get(segment__job=job).elapsed_s == 600
    assert ledger.find_mismatches() == []


def test_a_price_that_changes_while_a_job_waits_does_not_change_its_bill(centre: Centre) -> None:
    job = centre.submit()
    centre.tick()
    centre.partition.resource_class.billing_weight = 100
    centre.partition.resource_class.save()
    centre.backend.set_outcome(native_id(job), elapsed_s=60)
    centre.tick(61)
    assert centre.balance() == (0, 8 * 60)


def test_a_resource_class_that_costs_nothing_needs_no_hold(centre: Centre) -> None:
    centre.partition.resource_class.billing_weight = 0
    centre.partition.resource_class.save()
    job = centre.submit()
    centre.tick()
    centre.backend.set_outcome(native_id(job), elapsed_s=60)
    centre.tick(61)
    job.refresh_from_db()
    assert (job.state, job.charged_s, centre.balance()) == (JobState.COMPLETED, 0, (0, 0))


@pytest.mark.parametrize(
    ("exit_code", "end", "expected"),
    [
        (3, None, JobState.FAILED),
        (0, JobState.OUT_OF_MEMORY, JobState.OUT_OF_MEMORY),
        (0, JobState.NODE_FAIL, JobState.NODE_FAIL),
        (0, JobState.PREEMPTED, JobState.PREEMPTED),
    ],
)
def test_every_end_is_charged_for_what_was_used(
    centre: Centre, exit_code: int, end: JobState | None, expected: JobState
) -> None:
    job = centre.submit()
    centre.tick()
    centre.backend.set_outcome(native_id(job), elapsed_s=60, exit_code=exit_code, state=end)
    centre.tick(61)
    job.refresh_from_db()
    assert (job.state, job.charged_s) == (expected, 8 * 60)
    assert centre.balance() == (0, 8 * 60)


def test_a_job_at_its_time_limit_is_charged_at_most_what_was_held(centre: Centre) -> None:
    job = centre.submit(time_limit_minutes=1)
    centre.tick()
    centre.backend.set_outcome(native_id(job), elapsed_s=10_000)
    centre.tick(3600)
    job.refresh_from_db()
    assert (job.state, job.charged_s) == (JobState.TIMEOUT, 8 * 60)


def test_a_finished_job_is_settled_once_however_often_it_is_reconciled(centre: Centre) -> None:
    job = centre.submit()
    centre.tick()
    centre.backend.set_outcome(native_id(job), elapsed_s=60)
    for _ in range(3):
        centre.tick(100)
    assert UsageRecord.objects.count() == 1
    assert job.events.filter(kind=EventKind.SETTLED).count() == 1
    assert centre.balance() == (0, 8 * 60)


def test_work_that_two_workers_do_at_once_takes_effect_once(centre: Centre) -> None:
    job = centre.submit()
    stale = Job.objects.with_names().get(pk=job.pk)
    centre.admit()
    with pytest.raises(StaleJob):
        transition(stale, JobState.QUEUED, at=NOW)
    assert LedgerEntry.objects.filter(reference=job.reference).count() == 1
    assert states(job) == ["SUBMITTED", "QUEUED"]


def test_an_edge_that_the_table_lacks_is_refused_and_writes_nothing(centre: Centre) -> None:
    job = centre.submit()
    for target in set(JobState) - TRANSITIONS[JobState.SUBMITTED]:
        with pytest.raises(IllegalTransition):
            transition(job, target, at=NOW)
    job.refresh_from_db()
    assert (job.state, states(job)) == (JobState.SUBMITTED, ["SUBMITTED"])


def test_a_job_that_can_no_longer_be_afforded_is_rejected_and_holds_nothing(centre: Centre) -> None:
    first = centre.submit(devices_per_node=8, nodes=8, time_limit_minutes=15 * 60)
    centre.backend.advance(1)
    second = centre.submit(devices_per_node=8, nodes=8, time_limit_minutes=15 * 60)  # 960 h each; 1,000 granted
    centre.admit()
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.state, second.state) == (JobState.QUEUED, JobState.REJECTED)
    assert second.state_reason == "insufficient_allocation"
    assert second.state_detail == {"needed_s": 960 * HOUR_S, "available_s": 40 * HOUR_S}
    assert centre.balance() == (960 * HOUR_S, 0)


class TestLimits:
    def test_a_job_over_a_running_limit_is_held_and_goes_on_by_itself(self, centre: Centre) -> None:
        make_policy(max_running_jobs=1)
        first = centre.submit()
        centre.tick(1)
        second = centre.submit()
        centre.tick()
        second.refresh_from_db()
        assert (second.state, second.state_reason) == (JobState.HELD, "limit")
        assert second.state_detail == {"limit": "max_running_jobs", "scope": "centre", "allowed": 1, "value": 2}
        assert centre.balance() == (HOLD_S, 0)
        centre.backend.set_outcome(native_id(first), elapsed_s=10)
        centre.tick(11)
        centre.tick()
        second.refresh_from_db()
        assert second.state in {JobState.PENDING, JobState.RUNNING}

    def test_accelerators_in_use_are_counted_over_all_jobs(self, centre: Centre) -> None:
        make_policy(user=centre.user, max_accelerators_in_use=12)
        make_policy(max_accelerators_in_use=1)  # the user's own limit wins
        jobs = []
        for _ in range(4):
            jobs.append(centre.submit(devices_per_node=4))
            centre.tick(1)
        for job in jobs:
            job.refresh_from_db()
        assert [job.state == JobState.HELD for job in jobs] == [False, False, False, True]

    def test_a_projects_limit_counts_the_jobs_of_all_members(self, centre: Centre) -> None:
        make_policy(project=centre.project, max_running_jobs=1)
        mate = make_user()
        centre.project.memberships.create(user=mate, role="MEMBER")
        centre.submit()
        centre.tick()
        own = centre.user
        centre.user = mate
        other = centre.submit()
        centre.user = own
        centre.tick()
        other.refresh_from_db()
        assert (other.state, other.state_detail["scope"]) == (JobState.HELD, "project")


class TestCancel:
    def cancel(self, centre: Centre, job: Job) -> bool:
        return cancel_job(job=job, user=centre.user, at=centre.now())

    def test_a_waiting_job_ends_at_once_and_gives_its_hold_back(self, centre: Centre) -> None:
        job = centre.submit()
        centre.admit()
        assert self.cancel(centre, job)
        job.refresh_from_db()
        assert (job.state, job.charged_s, centre.balance()) == (JobState.CANCELLED, 0, (0, 0))
        assert centre.backend.call_counts["submit"] == 0

    def test_a_running_job_ends_and_pays_for_what_it_used(self, centre: Centre) -> None:
        job = centre.submit()
        centre.tick()
        centre.tick(100)
        self.cancel(centre, job)
        centre.reconcile()
        centre.tick(5)
        job.refresh_from_db()
        assert job.state == JobState.CANCELLED
        assert job.charged_s == centre.balance()[1] == 8 * 100

    def test_a_job_that_has_ended_stays_as_it_is(self, centre: Centre) -> None:
        job = centre.submit()
        centre.tick()
        centre.backend.set_outcome(native_id(job), elapsed_s=1)
        centre.tick(5)
        assert self.cancel(centre, job) is False
        job.refresh_from_db()
        assert job.state == JobState.COMPLETED


class TestMissing:
    def test_a_job_that_the_scheduler_forgot_is_lost_not_completed_and_keeps_its_hold(self, centre: Centre) -> None:
        job = centre.submit()
        centre.tick()
        centre.tick(1)
        centre.backend.forget(native_id(job))
        centre.tick(1)
        job.refresh_from_db()
        assert job.state == JobState.RUNNING
        assert job.missing_since_at is not None
        centre.tick(LOST_AFTER_S + 1)
        job.refresh_from_db()
        assert (job.state, centre.balance()) == (JobState.LOST, (HOLD_S, 0))
        assert job.state not in TERMINAL

    def test_only_staff_can_write_a_lost_job_off_and_then_its_hold_comes_back(self, centre: Centre) -> None:
        job = centre.submit()
        centre.tick()
        centre.tick(1)
        centre.backend.forget(native_id(job))
        centre.tick(1)
        centre.tick(LOST_AFTER_S + 1)
        cancel_job(job=job, user=centre.user, at=centre.now())
        job.refresh_from_db()
        assert (job.state, centre.balance()) == (JobState.LOST, (HOLD_S, 0))
        cancel_job(job=job, user=make_user(is_staff=True), at=centre.now())
        centre.tick(1)
        job.refresh_from_db()
        assert (job.state, job.charged_s, centre.balance()) == (JobState.CANCELLED, 0, (0, 0))
        assert ledger.find_mismatches() == []

    def test_another_job_under_a_reused_id_is_never_taken_for_ours(self, centre: Centre) -> None:
        mine, other = centre.submit(), centre.submit()
        centre.tick()
        centre.tick(1)
        mine.segments.update(native_id=native_id(other))
        centre.backend.set_outcome(native_id(other), elapsed_s=5)
        centre.tick(10)
        mine.refresh_from_db()
        other.refresh_from_db()
        assert other.state == JobState.COMPLETED
        assert mine.state == JobState.RUNNING
        assert mine.missing_since_at is not None


def test_a_time_limit_changed_on_the_cluster_is_told_once(centre: Centre) -> None:
    job = centre.submit()
    centre.tick()
    centre.backend.set_time_limit(native_id(job), 30)
    for _ in range(3):
        centre.tick(1)
    (event,) = job.events.filter(kind=EventKind.TIME_LIMIT_CHANGED)
    assert event.detail == {"from_minutes": 60, "to_minutes": 30}
    assert (
        describe_event(event)
        == "The cluster's operator changed its time limit from 1\N{NO-BREAK SPACE}h to 30\N{NO-BREAK SPACE}min"
    )
    assert job.segments.get().time_limit_minutes == 30
    centre.tick(1801)
    job.refresh_from_db()
    assert (job.state, job.charged_s) == (JobState.TIMEOUT, 8 * 1800)


def test_a_requeued_job_waits_again_and_is_charged_once(centre: Centre) -> None:
    job = centre.submit()
    centre.tick()
    centre.backend.set_state(native_id(job), JobState.PENDING, reason="BeginTime")
    centre.reconcile()
    job.refresh_from_db()
    assert (job.state, job.state_reason) == (JobState.PENDING, "BeginTime")
    centre.backend.set_outcome(native_id(job), elapsed_s=30)
    centre.tick(60)
    centre.tick(60)
    job.refresh_from_db()
    assert (job.state, job.charged_s) == (JobState.COMPLETED, 8 * 30)


def test_one_poll_follows_any_number_of_jobs(centre: Centre) -> None:
    for _ in range(5):
        centre.submit()
    centre.tick()
    before = centre.backend.call_counts
    centre.tick(1)
    after = centre.backend.call_counts
    assert after["poll"] - before["poll"] == 1
    assert after["usage"] == before["usage"]


def test_a_job_whose_allocation_expires_while_it_runs_is_charged_to_it(centre: Centre) -> None:
    short = make_allocation(
        centre.project, centre.partition.resource_class, hours=8, end_at=centre.now() + timedelta(seconds=30)
    )
    job = centre.submit()
    centre.tick()
    centre.backend.set_outcome(native_id(job), elapsed_s=600)
    centre.tick(700)
    short.refresh_from_db()
    assert (short.reserved_s, short.used_s) == (0, 8 * 600)
    assert centre.balance() == (0, 0)
