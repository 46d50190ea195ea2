"""Preemptible jobs on borrowed accelerators, on a scheduler whose clock is turned by hand."""

from decimal import Decimal

import pytest

from accounts.models import Cohort, CohortShare, Project
from accounts.services import ledger
from jobs.launch import CONTINUE_EXIT_CODE, NO_PROGRESS_EXIT_CODE
from jobs.models import EventKind, Job, UsageRecord
from jobs.services.cancellation import cancel_job
from jobs.services.problems import InvalidRequest, RefusedRequest
from jobs.services.usage_comparison import compare_usage
from jobs.spec import JobSpec
from jobs.states import JobState
from tests.factories import NOW, make_allocation, make_project
from tests.job_factories import make_job
from tests.jobs.conftest import Centre, native_id

HALF = Decimal("0.5")
GRACE_S = 60


@pytest.fixture
def owner(centre: Centre) -> Project:
    """Of the partition's 64 accelerators the owner has 48; `centre.project` has 8 and borrows."""
    project = make_project("owner", members=(centre.user,))
    make_allocation(project, centre.partition.resource_class)
    cohort = Cohort.objects.create(partition=centre.partition, preemptible_weight=HALF, grace_s=GRACE_S)
    CohortShare.objects.create(cohort=cohort, project=project, nominal=48)
    CohortShare.objects.create(cohort=cohort, institution=centre.project.institution, nominal=8)
    return project


def run_borrower(centre: Centre, *, nodes: int = 7, **fields: object) -> Job:
    job = centre.submit(nodes=nodes, is_preemptible=True, time_limit_minutes=120, **fields)
    centre.tick()
    centre.tick(1)
    job.refresh_from_db()
    assert job.state == JobState.RUNNING
    return job


def submit_owners(centre: Centre, owner: Project, *, nodes: int = 6) -> Job:
    return make_job(centre.user, owner, centre.partition, at=centre.now(), nodes=nodes)


def state_of(job: Job) -> tuple[str, str]:
    job.refresh_from_db()
    return job.state, job.state_reason


def test_a_borrower_makes_room_for_the_owner_and_goes_on_when_it_is_idle_again(centre: Centre, owner: Project) -> None:
    borrower = run_borrower(centre)
    assert (borrower.billing_weight, borrower.is_chain) == (HALF, True)
    assert centre.balance() == (56 * 120 * 60 // 2, 0)
    owners = submit_owners(centre, owner)
    centre.tick()
    assert state_of(owners) == (JobState.QUEUED, "reclaiming")
    assert centre.backend.signals_of(native_id(borrower)) == ["USR1"]
    assert list(borrower.events.filter(kind=EventKind.PREEMPT_REQUESTED).values_list("detail", flat=True)) == [{}]
    first = native_id(borrower)
    centre.backend.set_outcome(first, elapsed_s=601, exit_code=CONTINUE_EXIT_CODE)
    centre.tick(600)
    centre.tick(1)
    centre.tick(1)
    assert state_of(owners)[0] == JobState.RUNNING
    assert state_of(borrower) == (JobState.QUEUED, "nothing_idle")
    assert centre.backend.signals_of(first) == ["USR1"], "it is told once"
    segment = borrower.segments.get()
    assert (segment.end_state, segment.exit_code) == ("PREEMPTED", CONTINUE_EXIT_CODE)
    centre.backend.set_outcome(native_id(owners), elapsed_s=300)
    for _ in range(4):
        centre.tick(300)
    assert state_of(owners)[0] == JobState.COMPLETED
    assert state_of(borrower)[0] == JobState.RUNNING
    assert borrower.segment_number == 2
    centre.backend.set_outcome(native_id(borrower), elapsed_s=1200)
    centre.tick(1200)
    centre.tick(1)
    assert state_of(borrower)[0] == JobState.COMPLETED
    assert (borrower.charged_s, owners.charged_s) == (56 * (601 + 1200) // 2, 48 * 300)
    assert centre.balance() == (0, borrower.charged_s)
    assert ledger.find_mismatches() == []
    assert compare_usage(centre.cluster, centre.backend, since=NOW).differences == []


def test_a_borrower_that_does_not_stop_in_time_is_ended_and_pays_for_what_it_used(
    centre: Centre, owner: Project
) -> None:
    borrower = run_borrower(centre)
    submit_owners(centre, owner)
    centre.tick()
    centre.tick(GRACE_S - 1)
    assert state_of(borrower)[0] == JobState.RUNNING
    centre.tick(1)
    centre.tick(1)
    assert state_of(borrower) == (JobState.QUEUED, "preempted")
    record = UsageRecord.objects.get(segment__job=borrower)
    assert record.charged_s == 28 * record.elapsed_s
    assert record.elapsed_s == pytest.approx(GRACE_S + 1, abs=2)


def test_a_borrower_without_a_new_checkpoint_starts_anew_and_is_not_ended(centre: Centre, owner: Project) -> None:
    borrower = run_borrower(centre)
    submit_owners(centre, owner)
    centre.tick()
    centre.backend.set_outcome(native_id(borrower), elapsed_s=20, exit_code=NO_PROGRESS_EXIT_CODE)
    centre.tick(20)
    centre.tick(1)
    assert state_of(borrower)[0] == JobState.QUEUED


def test_a_borrower_that_fails_by_itself_meanwhile_has_failed(centre: Centre, owner: Project) -> None:
    borrower = run_borrower(centre)
    submit_owners(centre, owner)
    centre.tick()
    centre.backend.set_outcome(native_id(borrower), elapsed_s=20, exit_code=1)
    centre.tick(20)
    assert state_of(borrower)[0] == JobState.FAILED


def test_a_borrower_that_is_cancelled_meanwhile_is_cancelled(centre: Centre, owner: Project) -> None:
    borrower = run_borrower(centre)
    submit_owners(centre, owner)
    centre.tick()
    cancel_job(job=borrower, user=centre.user, at=centre.now())
    centre.tick(1)
    centre.tick(1)
    assert state_of(borrower)[0] == JobState.CANCELLED


def test_a_borrower_that_has_not_started_on_the_cluster_is_taken_from_its_queue(centre: Centre, owner: Project) -> None:
    foreign = JobSpec(
        key="foreign-1",
        name="x",
        script="#!/bin/bash\n:\n",
        partition="a800",
        nodes=2,
        devices_per_node=8,
        time_limit_minutes=60,
    )
    centre.backend.submit(foreign, key=foreign.key)  # by somebody who doesn't come through the portal
    borrower = centre.submit(nodes=7, is_preemptible=True)
    centre.tick()
    centre.tick(1)
    assert state_of(borrower)[0] == JobState.PENDING
    submit_owners(centre, owner)
    centre.tick(1)
    centre.tick(1)
    assert state_of(borrower) == (JobState.QUEUED, "preempted")
    assert centre.backend.signals_of(native_id(borrower)) == []
    assert UsageRecord.objects.get(segment__job=borrower).charged_s == 0


def test_a_job_within_the_share_is_charged_in_full_and_never_asked_back(centre: Centre, owner: Project) -> None:
    own = centre.submit(nodes=1)
    owners = submit_owners(centre, owner)
    centre.tick()
    centre.tick(1)
    assert (state_of(own)[0], state_of(owners)[0]) == (JobState.RUNNING, JobState.RUNNING)
    assert own.billing_weight == 1
    more = centre.submit(nodes=1)
    centre.tick()
    assert state_of(more) == (JobState.QUEUED, "share_in_use")


def test_a_firm_job_larger_than_the_share_is_refused_with_both_figures(centre: Centre, owner: Project) -> None:
    with pytest.raises(RefusedRequest) as raised:
        centre.submit(nodes=2)
    (problem,) = raised.value.problems
    assert (problem.code, problem.value, problem.allowed) == ("share", 16, "8")
    assert "preemptible" in problem.message


def test_there_is_nothing_preemptible_where_nothing_is_lent(centre: Centre) -> None:
    with pytest.raises(InvalidRequest) as raised:
        centre.submit(is_preemptible=True)
    assert [(problem.field, problem.code) for problem in raised.value.problems] == [("is_preemptible", "not_here")]


def test_shares_that_are_not_in_force_change_nothing(centre: Centre, owner: Project) -> None:
    Cohort.objects.update(is_enabled=False)
    job = centre.submit(nodes=8)
    centre.tick()
    assert state_of(job)[0] == JobState.PENDING


def test_projects_without_a_share_have_the_rest_of_the_partition_together(centre: Centre, owner: Project) -> None:
    guest = make_project("guest", members=(centre.user,))
    make_allocation(guest, centre.partition.resource_class)
    job = make_job(centre.user, guest, centre.partition)
    centre.tick()
    another = make_job(centre.user, guest, centre.partition)
    centre.tick(1)
    centre.tick(1)
    assert state_of(job)[0] == JobState.RUNNING
    assert state_of(another) == (JobState.QUEUED, "share_in_use")


class TestBeyondTheAllocation:
    @pytest.fixture
    def poor(self, centre: Centre, owner: Project) -> Project:
        """A project that has 1 hour left."""
        project = make_project("poor", members=(centre.user,))
        make_allocation(project, centre.partition.resource_class, hours=1)
        return project

    def test_without_the_policy_the_job_is_refused(self, centre: Centre, poor: Project) -> None:
        with pytest.raises(RefusedRequest):
            make_job(centre.user, poor, centre.partition, is_preemptible=True)

    def test_with_it_idle_accelerators_are_used_recorded_and_not_charged(self, centre: Centre, poor: Project) -> None:
        Cohort.objects.update(may_overrun=True)
        job = make_job(centre.user, poor, centre.partition, is_preemptible=True)
        centre.tick()
        centre.tick(1)
        assert (state_of(job)[0], job.is_overrun, job.reserved_s) == (JobState.RUNNING, True, 0)
        centre.backend.set_outcome(native_id(job), elapsed_s=100)
        centre.tick(100)
        centre.tick(1)
        assert state_of(job)[0] == JobState.COMPLETED
        assert job.charged_s == 0
        record = UsageRecord.objects.get(segment__job=job)
        assert (record.charged_s, record.shortfall_s) == (0, 8 * 100 // 2)
        assert ledger.find_mismatches() == []
        assert compare_usage(centre.cluster, centre.backend, since=NOW).differences == []

    def test_a_job_that_is_not_preemptible_never_overruns(self, centre: Centre, poor: Project) -> None:
        Cohort.objects.update(may_overrun=True)
        with pytest.raises(RefusedRequest):
            make_job(centre.user, poor, centre.partition)

    def test_a_project_that_was_never_given_anything_gets_nothing(self, centre: Centre, owner: Project) -> None:
        Cohort.objects.update(may_overrun=True)
        nothing = make_project("nothing", members=(centre.user,))
        with pytest.raises(RefusedRequest):
            make_job(centre.user, nothing, centre.partition, is_preemptible=True)


def test_two_workers_never_give_the_same_accelerators_away(centre: Centre, owner: Project) -> None:
    """The second to come sees what the first has started."""
    jobs = [centre.submit(nodes=4, is_preemptible=True) for _ in range(3)]
    centre.admit()
    centre.dispatch()
    centre.dispatch()
    states = sorted(state_of(job)[0] for job in jobs)
    assert states == [JobState.PENDING, JobState.PENDING, JobState.QUEUED]


def test_the_discount_is_part_of_the_weight_to_three_places_rounded_up(centre: Centre, owner: Project) -> None:
    centre.partition.resource_class.billing_weight = Decimal("1.001")
    centre.partition.resource_class.save()
    job = centre.submit(is_preemptible=True)
    job.refresh_from_db()
    assert (job.billing_weight, job.preemptible_weight) == (Decimal("0.501"), HALF)
