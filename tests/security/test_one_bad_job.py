"""One job, partition or cluster that breaks something must not keep the others waiting, and must not wait for ever."""

import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from accounts.models import Cluster, Membership, Partition, User
from accounts.services import ledger
from jobs.backends.base import SchedulerUnavailable
from jobs.models import EventKind, Job, JobSegment
from jobs.services import admission, clusters
from jobs.services.cancellation import cancel_job
from jobs.states import JobState
from tests.factories import make_partition, make_policy, make_user
from tests.job_factories import make_job
from tests.jobs.conftest import LEASE_S, Centre, native_id


def state_of(job: Job) -> str:
    job.refresh_from_db()
    return str(job.state)


def member(centre: Centre, username: str, **fields: Any) -> User:
    user = make_user(username, **fields)
    Membership.objects.create(project=centre.project, user=user)
    return user


# --- Admission -------------------------------------------------------------------------------------------------------


def test_any_number_of_jobs_that_can_not_be_admitted_keeps_no_other_from_it(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [centre.submit(name="bad") for _ in range(4)]
    good = centre.submit()
    render = admission.launching.render_first

    def fail(job: Job, **kwargs: Any) -> Any:
        if job.name == "bad":
            raise RuntimeError("broken")
        return render(job, **kwargs)

    monkeypatch.setattr(admission.launching, "render_first", fail)
    assert admission.admit_submitted_jobs(at=centre.now(), limit=2) == 1
    assert state_of(good) == JobState.QUEUED
    assert {state_of(job) for job in bad} == {JobState.SUBMITTED}


def test_no_more_than_the_limit_is_admitted_in_one_round(centre: Centre) -> None:
    jobs = [centre.submit() for _ in range(3)]
    assert admission.admit_submitted_jobs(at=centre.now(), limit=2) == 2
    assert sorted(state_of(job) for job in jobs) == [JobState.QUEUED, JobState.QUEUED, JobState.SUBMITTED]


def test_held_jobs_of_some_never_hide_those_of_others(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_TRIED_OF_EACH_SHARE", 3)
    make_policy(max_running_jobs=0)
    greedy = [centre.submit() for _ in range(6)]
    patient = make_job(member(centre, "zhao"), centre.project, centre.partition, at=centre.now() + timedelta(seconds=1))
    centre.admit()
    assert {state_of(job) for job in (*greedy, patient)} == {JobState.HELD}
    make_policy(user=patient.user, max_running_jobs=1)
    tried: list[Any] = []
    admit = admission.admit_job
    monkeypatch.setattr(admission, "admit_job", lambda job, *, at: (tried.append(job.pk), admit(job, at=at))[1])
    assert admission.release_held_jobs(at=centre.now()) == 1
    assert state_of(patient) == JobState.QUEUED
    assert set(tried) == {*sorted(job.pk for job in greedy)[:3], patient.pk}, "of the greedy one the oldest three"


# --- Dispatch --------------------------------------------------------------------------------------------------------


def test_a_unix_user_that_the_site_allows_can_run_jobs(centre: Centre) -> None:
    job = make_job(member(centre, "svc", unix_username="_svc"), centre.project, centre.partition, at=centre.now())
    centre.tick()
    assert state_of(job) == JobState.PENDING


def test_a_job_that_can_not_be_described_any_more_is_rejected_and_others_go_on(centre: Centre) -> None:
    other = member(centre, "zhao")
    bad = make_job(other, centre.project, centre.partition, at=centre.now())
    good = centre.submit()
    centre.admit()
    User.objects.filter(pk=other.pk).update(unix_username="-rf")
    centre.dispatch()
    assert [state_of(bad), state_of(good)] == [JobState.REJECTED, JobState.PENDING]
    assert (bad.state_reason, bad.state_detail["field"]) == ("invalid", "unix_user")
    assert ledger.held_seconds(bad.reference) == 0


def test_a_crash_at_one_job_lets_the_others_go_and_is_tried_again_later(
    centre: Centre, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = centre.submit(name="bad"), centre.submit()
    centre.admit()
    submit = centre.backend.submit

    def fail(spec: Any, *, key: str) -> str:
        if spec.name == "bad":
            raise RuntimeError("broken")
        return submit(spec, key=key)

    with monkeypatch.context() as patch:
        patch.setattr(type(centre.backend), "submit", lambda self, spec, *, key: fail(spec, key=key))
        with caplog.at_level(logging.ERROR):
            assert centre.dispatch() == 1
    assert str(bad.pk) in caplog.text
    assert [state_of(bad), state_of(good)] == [JobState.DISPATCHING, JobState.PENDING]
    centre.backend.advance(LEASE_S + 1)
    centre.dispatch()
    assert state_of(bad) == JobState.PENDING


def test_a_cluster_that_was_closed_during_a_hand_over_gets_no_new_job(centre: Centre) -> None:
    job = centre.submit()
    centre.admit()
    centre.backend.fail_next("submit", SchedulerUnavailable("timed out"))
    centre.dispatch()
    Cluster.objects.update(is_enabled=False)
    centre.backend.advance(LEASE_S + 400)
    assert centre.dispatch() == 0
    assert state_of(job) == JobState.QUEUED
    assert centre.balance() == (job.reserved_s, 0), "it keeps its hold"
    assert centre.dispatch() == 0
    Cluster.objects.update(is_enabled=True)
    assert centre.dispatch() == 1
    assert JobSegment.objects.count() == 1


def test_a_cancel_during_a_hand_over_ends_the_job_on_a_closed_cluster(centre: Centre) -> None:
    job = centre.submit()
    centre.admit()
    centre.backend.fail_next("submit", SchedulerUnavailable("timed out"))
    centre.dispatch()
    Cluster.objects.update(is_enabled=False)
    cancel_job(job=job, user=centre.user, at=centre.now())
    centre.backend.advance(LEASE_S + 400)
    centre.dispatch()
    assert state_of(job) == JobState.CANCELLED
    assert centre.balance() == (0, 0)


def test_a_job_that_the_closed_cluster_did_get_is_adopted(centre: Centre) -> None:
    job = centre.submit()
    centre.admit()
    centre.backend.fail_next("submit", SchedulerUnavailable("timed out"), after_effect=True)
    centre.dispatch()
    Cluster.objects.update(is_enabled=False)
    centre.backend.advance(LEASE_S + 400)
    centre.dispatch()
    assert state_of(job) == JobState.PENDING
    assert centre.backend.call_counts["submit"] == 1


def test_why_a_cluster_does_not_answer_is_not_told_to_users(centre: Centre) -> None:
    """It names paths, hosts and perhaps passwords."""
    job = centre.submit()
    centre.admit()
    centre.backend.fail_next("submit", SchedulerUnavailable("can't open /srv/secret/state"))
    centre.dispatch()
    event = job.events.get(kind=EventKind.DISPATCH_DELAYED)
    assert "secret" not in str(event.detail)
    assert "secret" in centre.cluster.last_error


# --- Reconcile -------------------------------------------------------------------------------------------------------


def test_a_job_of_which_the_scheduler_says_the_impossible_keeps_no_other_from_its_end(
    centre: Centre, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = centre.submit(), centre.submit()
    centre.tick()
    for job in (bad, good):
        centre.backend.set_outcome(native_id(job), elapsed_s=60)
    poll = centre.backend.poll

    def poll_oddly(self: Any, native_ids: Any) -> Any:
        statuses = poll(native_ids)
        odd = native_id(bad)
        return {**statuses, odd: replace(statuses[odd], reason="R" * 1000)}

    monkeypatch.setattr(type(centre.backend), "poll", poll_oddly)
    with caplog.at_level(logging.ERROR):
        centre.tick(100)
        centre.tick(100)
    assert state_of(good) == JobState.COMPLETED
    assert good.settled_at is not None
    assert str(bad.pk) in caplog.text


def test_a_job_that_can_not_be_charged_keeps_no_other_from_its_bill(
    centre: Centre, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = centre.submit(), centre.submit()
    centre.tick()
    for job in (bad, good):
        centre.backend.set_outcome(native_id(job), elapsed_s=60)
    usage = centre.backend.usage

    def count_oddly(self: Any, since: Any, **_: Any) -> Any:
        return [replace(row, elapsed_s=10**15) if row.key == f"{bad.pk}-1" else row for row in usage(since)]

    monkeypatch.setattr(type(centre.backend), "usage", count_oddly)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            centre.tick(100)
    bad.refresh_from_db()
    good.refresh_from_db()
    assert (bad.settled_at, good.charged_s) == (None, 480)
    assert centre.balance() == (bad.reserved_s, 480)
    assert str(bad.pk) in caplog.text


def test_a_cluster_that_crashes_its_reader_shows_as_not_answering_and_others_are_followed(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = centre.submit()
    centre.tick()
    monkeypatch.setattr(type(centre.backend), "poll", lambda self, ids: {}["nonsense"])
    other = Cluster.objects.create(code="other", title="Other")
    centre.reconcile()
    assert not centre.cluster.is_available
    other.refresh_from_db()
    assert other.unavailable_since_at is None or "SCHEDULERS" in other.last_error, "it was looked at, too"
    assert other.last_error or other.last_polled_at
    monkeypatch.undo()
    centre.backend.advance(10)
    centre.reconcile()
    assert centre.cluster.is_available
    assert state_of(job) == JobState.RUNNING


def test_a_partition_without_nodes_keeps_no_other_from_being_synced(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_partition("zero", resource_class=centre.partition.resource_class)
    good = centre.backend.partitions()
    monkeypatch.setattr(
        type(centre.backend), "partitions", lambda self: [replace(good[0], name="zero", nodes=0), *good]
    )
    assert clusters.sync_inventory(at=centre.now()) == 1
    assert Partition.objects.get(name="a800").synced_at == centre.now()
