"""What tests can do with the dummy that no real scheduler lets them do."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.backends.base import SchedulerUnavailable, SubmissionRejected
from jobs.backends.dummy import DummyBackend
from jobs.states import JobState
from tests.backends.harness import PARTITIONS, DummyHarness


@pytest.fixture
def dummy(tmp_path: Path) -> DummyHarness:
    return DummyHarness(tmp_path)


def submit(dummy: DummyHarness, **changes: object) -> str:
    spec = dummy.make_spec(**changes)
    return dummy.backend.submit(spec, key=spec.key)


def test_nothing_happens_until_the_clock_is_turned(dummy: DummyHarness) -> None:
    native_id = submit(dummy)
    assert [dummy.status(native_id).state for _ in range(3)] == [JobState.PENDING] * 3
    dummy.backend.advance(0)
    assert dummy.status(native_id).state is JobState.RUNNING


def test_jobs_start_and_end_at_their_own_moments_within_one_turn_of_the_clock(dummy: DummyHarness) -> None:
    ids = [submit(dummy, nodes=2, devices_per_node=8, time_limit_minutes=10) for _ in range(3)]
    dummy.backend.set_outcome(ids[0], elapsed_s=100)
    dummy.backend.set_outcome(ids[1], elapsed_s=50, exit_code=2)
    begin = dummy.now
    dummy.backend.advance(3600)
    statuses = dummy.backend.poll(ids)
    assert [statuses[one].state for one in ids] == [JobState.COMPLETED, JobState.FAILED, JobState.TIMEOUT]
    assert [(statuses[one].ended_at - begin).total_seconds() for one in ids] == [100, 150, 750]
    assert [row.elapsed_s for row in dummy.backend.usage(begin)] == [100, 50, 600]
    assert dummy.now == begin + timedelta(hours=1)


def test_a_submit_whose_reply_was_lost_has_had_its_effect(dummy: DummyHarness) -> None:
    spec = dummy.make_spec()
    dummy.backend.fail_next("submit", SchedulerUnavailable("timed out"), after_effect=True)
    with pytest.raises(SchedulerUnavailable, match="timed out"):
        dummy.backend.submit(spec, key=spec.key)
    native_id = dummy.backend.find(spec.key)
    assert native_id is not None
    assert dummy.backend.submit(spec, key=spec.key) == native_id


def test_a_submit_that_failed_before_its_effect_has_had_none(dummy: DummyHarness) -> None:
    spec = dummy.make_spec()
    dummy.backend.fail_next("submit", SubmissionRejected("no"), times=2)
    for _ in range(2):
        with pytest.raises(SubmissionRejected, match="no"):
            dummy.backend.submit(spec, key=spec.key)
    assert dummy.backend.find(spec.key) is None
    assert dummy.backend.submit(spec, key=spec.key)


def test_a_scheduler_that_is_away_answers_nothing_but_its_jobs_go_on(dummy: DummyHarness) -> None:
    native_id = submit(dummy)
    dummy.backend.set_outcome(native_id, elapsed_s=10)
    dummy.backend.set_available(False)
    with pytest.raises(SchedulerUnavailable):
        dummy.backend.poll([native_id])
    dummy.backend.advance(20)
    dummy.backend.set_available(True)
    assert dummy.status(native_id).state is JobState.COMPLETED


def test_a_forgotten_job_is_in_neither_queue_nor_accounting(dummy: DummyHarness) -> None:
    native_id = submit(dummy)
    key = dummy.status(native_id).key
    dummy.backend.advance(0)
    dummy.backend.forget(native_id)
    assert dummy.backend.poll([native_id]) == {}
    assert dummy.backend.find(key) is None
    dummy.backend.advance(7200)
    assert dummy.backend.usage(datetime(2000, 1, 1, tzinfo=UTC)) == []
    assert submit(dummy) != native_id


def test_a_job_can_be_put_into_any_state(dummy: DummyHarness) -> None:
    native_id = submit(dummy)
    dummy.backend.advance(0)
    dummy.backend.set_state(native_id, JobState.COMPLETING)
    assert dummy.status(native_id).state is JobState.COMPLETING
    dummy.backend.set_state(native_id, JobState.PENDING, reason="BeginTime")
    requeued = dummy.status(native_id)
    assert (requeued.state, requeued.reason, requeued.started_at) == (JobState.PENDING, "BeginTime", None)
    dummy.backend.advance(5)
    assert dummy.status(native_id).state is JobState.RUNNING
    dummy.backend.set_state(native_id, JobState.PREEMPTED)
    assert dummy.status(native_id).ended_at == dummy.now


def test_an_end_of_any_kind_can_be_planned(dummy: DummyHarness) -> None:
    native_id = submit(dummy)
    dummy.backend.set_outcome(native_id, elapsed_s=7, state=JobState.NODE_FAIL, reason="NodeFail")
    dummy.backend.advance(7)
    status = dummy.status(native_id)
    assert (status.state, status.reason) == (JobState.NODE_FAIL, "NodeFail")
    with pytest.raises(ValueError, match="RUNNING"):
        dummy.backend.set_outcome(native_id, elapsed_s=1, state=JobState.RUNNING)


def test_a_partition_can_be_closed(dummy: DummyHarness) -> None:
    waiting = submit(dummy)
    dummy.backend.set_partition_up("gpu-a800", False)
    dummy.backend.advance(60)
    assert dummy.status(waiting).reason == "PartitionDown"
    with pytest.raises(SubmissionRejected, match="not available"):
        submit(dummy)
    dummy.backend.set_partition_up("gpu-a800", True)
    dummy.backend.advance(0)
    assert dummy.status(waiting).state is JobState.RUNNING


def test_calls_are_counted_and_kept(dummy: DummyHarness) -> None:
    native_id = submit(dummy)
    dummy.backend.poll([native_id])
    dummy.backend.poll([])
    assert dummy.backend.call_counts == {"submit": 1, "poll": 2}
    assert dummy.backend.calls[1].arguments == ((native_id,),)


def test_objects_of_one_alias_share_their_state_and_others_do_not(dummy: DummyHarness) -> None:
    native_id = submit(dummy)
    assert dummy.open_backend().poll([native_id])
    other = DummyBackend(f"{dummy.directory}-other", {"PARTITIONS": PARTITIONS})
    assert other.poll([native_id]) == {}
    start = datetime(2030, 5, 1, tzinfo=UTC)
    DummyBackend.reset(str(dummy.directory), now=start)
    assert dummy.backend.poll([native_id]) == {}
    assert dummy.now == start


def test_mistakes_in_a_test_are_named(dummy: DummyHarness) -> None:
    with pytest.raises(ValueError, match="sumbit"):
        dummy.backend.fail_next("sumbit", SchedulerUnavailable("x"))
    with pytest.raises(ValueError, match="seconds"):
        dummy.backend.advance(-1)
    with pytest.raises(ValueError, match="'42'"):
        dummy.backend.forget("42")
    with pytest.raises(ValueError, match="nowhere"):
        dummy.backend.set_partition_up("nowhere", False)
