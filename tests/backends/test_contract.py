"""What every scheduler backend does alike: `jobs.backends.base` as tests."""

import re
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from jobs.backends.base import NodeState, SchedulerUnavailable, SubmissionRejected
from jobs.states import TERMINAL, TRANSITIONS, JobState
from tests.backends.harness import LONG, BackendHarness, Behaviour


def is_running(status: Any) -> bool:
    return bool(status.state is JobState.RUNNING)


def test_answers_a_ping(harness: BackendHarness) -> None:
    assert harness.backend.ping() is None


def test_a_submitted_job_is_found_by_its_key_and_polled_by_its_id(harness: BackendHarness) -> None:
    spec = harness.make_spec()
    native_id = harness.backend.submit(spec, key=spec.key)
    assert harness.backend.find(spec.key) == native_id
    status = harness.status(native_id)
    assert (status.native_id, status.key) == (native_id, spec.key)
    assert status.state in {JobState.PENDING, JobState.RUNNING}


def test_a_key_that_was_submitted_before_returns_the_first_id_and_queues_nothing(harness: BackendHarness) -> None:
    spec = harness.make_spec()
    first = harness.backend.submit(spec, key=spec.key)
    changed = harness.make_spec(key=spec.key, devices_per_node=2)
    assert harness.backend.submit(changed, key=spec.key) == first
    main = harness.backend.partitions()[0]
    assert main.jobs_pending + main.jobs_running == 1


def test_a_key_stays_taken_after_the_job_ended(harness: BackendHarness) -> None:
    spec = harness.make_spec(Behaviour())
    first = harness.submit(Behaviour(), key=spec.key)
    harness.wait(first)
    assert harness.backend.submit(spec, key=spec.key) == first
    assert harness.status(first).state is JobState.COMPLETED


def test_a_key_other_than_the_specs_is_a_mistake_of_the_caller(harness: BackendHarness) -> None:
    spec = harness.make_spec()
    with pytest.raises(ValueError, match="key"):
        harness.backend.submit(spec, key="another-key")
    assert harness.backend.find(spec.key) is None


def test_ids_are_never_used_twice(harness: BackendHarness) -> None:
    ids = [harness.submit(LONG) for _ in range(3)]
    harness.backend.cancel(ids[-1])
    ids.append(harness.submit(LONG))
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("native_id", ["999999", "0", "-1", "", "01", "x", "1; rm", "9" * 40, "٣"])
def test_an_unknown_id_is_absent_from_the_answer(harness: BackendHarness, native_id: str) -> None:
    known = harness.submit(LONG)
    assert set(harness.backend.poll([native_id, known])) == {known}
    assert harness.backend.read_log(native_id, 0) is None
    assert harness.backend.expected_start(native_id) is None
    assert harness.backend.cancel(native_id) is None


def test_an_unknown_key_is_not_found(harness: BackendHarness) -> None:
    assert harness.backend.find("key-nobody-has") is None


def test_polling_nothing_answers_nothing(harness: BackendHarness) -> None:
    harness.submit(LONG)
    assert harness.backend.poll([]) == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partition": "nowhere"}, "(?i)invalid partition"),
        ({"nodes": 3}, "(?i)node (configuration|count)"),
        ({"devices_per_node": 9}, "node configuration is not available"),
        ({"time_limit_minutes": 601}, "time limit is invalid"),
        ({"partition": "closed"}, "partition not available"),
        ({"gres_name": "npu", "gres_type": ""}, "generic resource|node configuration"),
        ({"gres_type": "h100"}, "generic resource|node configuration"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_job_that_can_never_run_is_rejected_and_leaves_nothing(
    harness: BackendHarness, changes: dict[str, Any], words: str
) -> None:
    spec = harness.make_spec(**changes)
    with pytest.raises(SubmissionRejected, match=words):
        harness.backend.submit(spec, key=spec.key)
    assert harness.backend.find(spec.key) is None
    assert all(partition.jobs_pending + partition.jobs_running == 0 for partition in harness.backend.partitions())
    assert harness.backend.expected_start(spec) is None


def test_the_inventory_names_the_nodes_of_each_partition_and_what_jobs_hold_of_them(harness: BackendHarness) -> None:
    assert harness.backend.supports_inventory
    native_id = harness.submit(LONG, nodes=1, devices_per_node=3)
    status = harness.wait(native_id, is_running)
    inventory = harness.backend.inventory()
    here = {node.name: node for node in inventory.nodes if "gpu-a800" in node.partitions}
    assert len(here) == 2
    assert {node.devices for node in here.values()} == {8}
    (busy,) = (node for node in here.values() if node.devices_in_use)
    assert (busy.name, busy.devices_in_use, busy.state) == (status.nodes[0], 3, NodeState.MIXED)
    assert {node.state for name, node in here.items() if name != busy.name} == {NodeState.IDLE}
    assert all((node.reason, node.reason_by, node.since) == ("", "", None) for node in here.values())
    assert inventory.reservations == ()
    assert {name for node in inventory.nodes for name in node.partitions} == {"gpu-a800", "ascend910b", "closed"}


def test_a_job_that_succeeds_is_completed(harness: BackendHarness) -> None:
    before = harness.now
    native_id = harness.submit(Behaviour())
    status = harness.wait(native_id)
    assert status.state is JobState.COMPLETED
    assert (status.exit_code, status.exit_signal) == (0, None)
    assert status.started_at is not None
    assert status.ended_at is not None
    assert before <= status.started_at <= status.ended_at <= harness.now
    assert len(status.nodes) == 1


def test_a_job_that_exits_with_an_error_has_failed_with_that_code(harness: BackendHarness) -> None:
    status = harness.wait(harness.submit(Behaviour(exit_code=3)))
    assert (status.state, status.exit_code, status.exit_signal) == (JobState.FAILED, 3, None)
    assert status.reason == "NonZeroExitCode"


def test_a_job_that_dies_of_a_signal_has_failed_with_that_signal(harness: BackendHarness) -> None:
    status = harness.wait(harness.submit(Behaviour(exit_signal=9)))
    assert (status.state, status.exit_code, status.exit_signal) == (JobState.FAILED, 0, 9)


def test_the_states_seen_are_a_path_through_the_table_of_transitions(harness: BackendHarness) -> None:
    native_id = harness.submit(Behaviour(runs_s=0.5))
    seen = [harness.status(native_id).state]
    while seen[-1] not in TERMINAL:
        harness.let_time_pass()
        seen.append(harness.status(native_id).state)
    assert JobState.RUNNING in seen
    assert all(after is before or after in TRANSITIONS[before] for before, after in pairwise(seen))


def test_a_job_that_reaches_its_time_limit_times_out(harness: BackendHarness) -> None:
    native_id = harness.submit(LONG, time_limit_minutes=1)
    status = harness.wait(native_id)
    assert status.state is JobState.TIMEOUT
    assert status.reason == "TimeLimit"
    assert status.started_at is not None
    assert status.ended_at is not None
    assert status.ended_at - status.started_at >= timedelta(seconds=harness.minute_s)


def test_accounting_tells_what_an_ended_job_used(harness: BackendHarness) -> None:
    running = harness.submit(LONG)
    native_id = harness.submit(Behaviour(runs_s=2.2), nodes=2, devices_per_node=4)
    status = harness.wait(native_id)
    assert status.ended_at is not None
    rows = harness.usage(native_id, status.ended_at)
    assert running not in rows
    row = rows[native_id]
    assert (row.key, row.state, row.devices) == (status.key, JobState.COMPLETED, 8)
    assert status.started_at is not None
    assert row.elapsed_s == pytest.approx((status.ended_at - status.started_at).total_seconds(), abs=1)
    assert 1 <= row.elapsed_s <= 30
    assert (row.started_at, row.ended_at) == (status.started_at, status.ended_at)
    assert harness.backend.usage(status.ended_at + timedelta(seconds=1)) == []


def test_a_waiting_job_is_cancelled_at_once_and_never_starts(harness: BackendHarness) -> None:
    blocker = harness.submit(LONG, nodes=2, devices_per_node=8)
    harness.wait(blocker, is_running)
    native_id = harness.submit(LONG)
    harness.backend.cancel(native_id)
    status = harness.status(native_id)
    assert (status.state, status.started_at) == (JobState.CANCELLED, None)
    assert status.ended_at is not None
    (row,) = harness.usage(native_id, status.ended_at).values()
    assert (row.elapsed_s, row.started_at) == (0, None)


SIGNALLED = (
    "#!/bin/bash",
    "trap 'echo told; exit 85' USR1",
    "echo ready",
    "for _ in $(seq 600); do sleep 0.1 & wait $!; done",
)
"""Runs for a minute unless it is told to stop."""


def test_a_running_job_is_sent_a_signal_of_which_its_script_makes_what_it_wants(harness: BackendHarness) -> None:
    native_id = harness.submit(LONG, script="\n".join(SIGNALLED) + "\n")
    status = harness.wait(native_id, is_running)
    if not harness.runs_scripts:
        harness.backend.signal(native_id, "USR1", key=status.key)
        assert harness.status(native_id).state is JobState.RUNNING
        return

    def has_set_its_trap(_: Any) -> bool:
        chunk = harness.backend.read_log(native_id, 0)
        return chunk is not None and b"ready" in chunk.data

    harness.wait(native_id, has_set_its_trap)
    harness.backend.signal(native_id, "USR1", key=status.key)
    ended = harness.wait(native_id)
    assert (ended.state, ended.exit_code) == (JobState.FAILED, 85)
    log = harness.backend.read_log(native_id, 0)
    assert log is not None
    assert log.data.decode().split() == ["ready", "told"]


def test_a_signal_leaves_jobs_alone_that_wait_have_ended_or_have_another_key(harness: BackendHarness) -> None:
    blocker = harness.submit(LONG, nodes=2, devices_per_node=8)
    harness.wait(blocker, is_running)
    waiting = harness.submit(LONG)
    harness.backend.signal(waiting, "USR1")
    harness.backend.signal(blocker, "USR1", key="key-of-another-job")
    harness.backend.signal("999999", "USR1")
    assert harness.status(waiting).state is JobState.PENDING
    harness.let_time_pass()
    assert harness.status(blocker).state is JobState.RUNNING
    harness.backend.cancel(blocker)
    harness.wait(blocker)
    assert harness.backend.signal(blocker, "USR1") is None


def test_a_running_job_is_cancelled(harness: BackendHarness) -> None:
    native_id = harness.submit(LONG)
    harness.wait(native_id, is_running)
    harness.backend.cancel(native_id)
    harness.backend.cancel(native_id)
    status = harness.wait(native_id)
    assert status.state is JobState.CANCELLED
    assert status.started_at is not None


def test_a_job_that_has_the_id_but_another_key_is_left_alone(harness: BackendHarness) -> None:
    native_id = harness.submit(Behaviour(runs_s=3, output="mine"))
    key = harness.wait(native_id, is_running).key
    harness.backend.cancel(native_id, key="somebody-elses-1")
    assert harness.backend.read_log(native_id, 0, key="somebody-elses-1") is None
    assert harness.wait(native_id).state is JobState.COMPLETED
    chunk = harness.backend.read_log(native_id, 0, key=key)
    assert chunk is not None
    assert chunk.data == b"mine"


def test_a_job_is_cancelled_by_id_and_key(harness: BackendHarness) -> None:
    spec = harness.make_spec()
    native_id = harness.backend.submit(spec, key=spec.key)
    harness.wait(native_id, is_running)
    harness.backend.cancel(native_id, key=spec.key)
    assert harness.wait(native_id).state is JobState.CANCELLED


def test_cancelling_an_ended_job_changes_nothing(harness: BackendHarness) -> None:
    native_id = harness.submit(Behaviour())
    before = harness.wait(native_id)
    harness.backend.cancel(native_id)
    assert harness.status(native_id) == before


def test_accelerators_are_counted_and_freed(harness: BackendHarness) -> None:
    first = harness.submit(LONG, nodes=2, devices_per_node=8)
    harness.wait(first, is_running)
    second = harness.submit(LONG, nodes=2, devices_per_node=8)
    third = harness.submit(LONG)
    for one, reason in ((second, "Resources"), (third, "Priority")):
        harness.wait(one, lambda status, reason=reason: status.reason == reason)
    statuses = harness.backend.poll([second, third])
    assert [statuses[one].state for one in (second, third)] == [JobState.PENDING] * 2
    main = harness.backend.partitions()[0]
    assert (main.devices_in_use, main.jobs_running, main.jobs_pending) == (16, 1, 2)
    harness.backend.cancel(first)
    assert len(harness.wait(second, is_running).nodes) == 2
    assert harness.status(third).state is JobState.PENDING


def test_partitions_are_told_as_they_are(harness: BackendHarness) -> None:
    main, npu, closed = harness.backend.partitions()
    assert (main.name, main.nodes, main.devices_per_node) == ("gpu-a800", 2, 8)
    assert (main.gres_name, main.gres_type, main.max_time_limit_minutes) == ("gpu", "a800", 600)
    assert (npu.name, npu.nodes, npu.gres_name) == ("ascend910b", 1, "npu")
    assert [partition.is_up for partition in (main, npu, closed)] == [True, True, False]
    assert all(partition.devices_in_use == 0 for partition in (main, npu, closed))


def check_estimated_start(harness: BackendHarness, blocker: str) -> None:
    """A scheduler that plans now and then, and rounds: the start is near the end of what the job waits for."""
    started_at = harness.status(blocker).started_at
    assert started_at is not None
    waiting = harness.submit(LONG, nodes=2, devices_per_node=8, time_limit_minutes=30)
    expected = harness.wait(waiting, lambda status: status.expected_start_at is not None).expected_start_at
    assert expected is not None
    assert timedelta(minutes=29) <= expected - started_at <= timedelta(minutes=32)
    assert abs(harness.backend.expected_start(waiting) - expected) <= timedelta(minutes=2)
    behind = harness.backend.expected_start(harness.make_spec())
    assert (behind is not None) == harness.forecasts_waiting
    assert behind is None or behind >= expected
    assert harness.status(blocker).expected_start_at is None
    assert harness.backend.expected_start(blocker) is None


def test_the_expected_start_of_a_waiting_job_is_the_end_of_what_it_waits_for(harness: BackendHarness) -> None:
    if not harness.backend.supports_expected_start:
        assert harness.backend.expected_start(harness.make_spec()) is None
        return
    blocker = harness.submit(LONG, nodes=2, devices_per_node=8, time_limit_minutes=30)
    started_at = harness.wait(blocker, is_running).started_at
    assert started_at is not None
    if not harness.predicts_at_once:
        check_estimated_start(harness, blocker)
        return
    limit = timedelta(seconds=30 * harness.minute_s)
    waiting = harness.submit(LONG, nodes=2, devices_per_node=8, time_limit_minutes=30)
    first = harness.backend.expected_start(waiting)
    behind = harness.backend.expected_start(harness.make_spec())
    assert first is not None
    assert behind is not None
    assert limit <= first - started_at <= limit + timedelta(seconds=10)
    assert behind - first == limit
    assert harness.status(waiting).expected_start_at == first
    assert harness.status(blocker).expected_start_at is None
    assert harness.backend.expected_start(blocker) is None


def test_a_job_for_which_there_is_room_is_expected_to_start_now(harness: BackendHarness) -> None:
    before = harness.now
    expected = harness.backend.expected_start(harness.make_spec())
    assert expected is not None
    assert before <= expected <= harness.now


def test_the_output_is_read_piece_by_piece(harness: BackendHarness) -> None:
    text = "".join(f"line {number}: loss 2.5\n" for number in range(50))
    native_id = harness.submit(Behaviour(output=text))
    harness.wait(native_id)
    read, offset = b"", 0
    while True:
        chunk = harness.backend.read_log(native_id, offset, limit=100)
        assert chunk is not None
        assert (chunk.offset, chunk.size) == (offset, len(text))
        assert len(chunk.data) <= 100
        read, offset = read + chunk.data, chunk.next_offset
        assert chunk.is_end == (offset == len(text))
        if chunk.is_end:
            break
    assert read.decode() == text
    nothing_more = harness.backend.read_log(native_id, offset)
    assert nothing_more is not None
    assert (nothing_more.data, nothing_more.next_offset, nothing_more.is_end) == (b"", len(text), True)


@pytest.mark.parametrize(
    ("offset", "data", "start"), [(-4, b"6789", 6), (-10, b"0123456789", 0), (-99, b"0123456789", 0), (99, b"", 10)]
)
def test_offsets_outside_the_output_are_brought_into_it(
    harness: BackendHarness, offset: int, data: bytes, start: int
) -> None:
    native_id = harness.submit(Behaviour(output="0123456789"))
    harness.wait(native_id)
    chunk = harness.backend.read_log(native_id, offset)
    assert chunk is not None
    assert (chunk.data, chunk.offset, chunk.next_offset) == (data, start, 10)


def test_metrics_are_a_file_of_their_own(harness: BackendHarness) -> None:
    native_id = harness.submit(Behaviour(output="out", metrics='{"step": 1}'))
    silent = harness.submit(Behaviour())
    harness.wait(native_id)
    harness.wait(silent)
    chunk = harness.backend.read_log(native_id, 0, file="metrics")
    assert chunk is not None
    assert chunk.data == b'{"step": 1}'
    assert harness.backend.read_log(silent, 0, file="metrics") is None


def test_a_job_that_has_not_started_has_no_output_yet(harness: BackendHarness) -> None:
    blocker = harness.submit(LONG, nodes=2, devices_per_node=8)
    harness.wait(blocker, is_running)
    assert harness.backend.read_log(harness.submit(LONG), 0) is None


def test_another_object_on_the_same_scheduler_sees_everything(harness: BackendHarness) -> None:
    spec = harness.make_spec()
    native_id = harness.backend.submit(spec, key=spec.key)
    harness.wait(native_id, is_running)
    harness.backend = harness.open_backend()
    assert harness.backend.find(spec.key) == native_id
    assert harness.backend.submit(spec, key=spec.key) == native_id
    assert harness.status(native_id).state is JobState.RUNNING
    harness.backend.cancel(native_id)
    assert harness.wait(native_id).state is JobState.CANCELLED


def test_bad_options_are_named(harness: BackendHarness) -> None:
    for change, named in harness.bad_options:
        options = {**harness.backend.options, **change}
        with pytest.raises(ValueError, match=re.escape(named)):
            type(harness.backend)("another", options)


def test_the_two_kinds_of_error_are_distinct() -> None:
    assert not issubclass(SchedulerUnavailable, SubmissionRejected)
    assert not issubclass(SubmissionRejected, SchedulerUnavailable)
