"""Nodes out of service, reservations and QOS, as an operator makes them on a real Slurm."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from jobs.backends.base import NodeState, SchedulerUnavailable
from jobs.backends.slurm.inventory import ask_commands, get_from_rest, read_node_state
from tests.backends.harness import LONG, wait_until
from tests.backends.slurm_harness import SlurmHarness, is_running
from tests.integration.slurm.layout import ACCOUNTS, ALICE


@pytest.fixture
def operator(slurm: SlurmHarness) -> Iterator[SlurmHarness]:
    """A Slurm that an operator may change; put right afterwards."""
    try:
        yield slurm
    finally:
        for name in ("maintenance", "course"):
            slurm.lab.run("scontrol", "delete", f"reservationname={name}", check=False)
        for name in ("a800-01", "a800-02", "npu-01"):
            slurm.lab.run("scontrol", "update", f"nodename={name}", "state=resume", check=False)
        slurm.lab.run("sacctmgr", "--immediate", "delete", "qos", "weekend", check=False)
        slurm.lab.wait_for_nodes()


@pytest.mark.slurm
def test_drained_and_failed_nodes_come_with_the_operators_reason_and_since_when(operator: SlurmHarness) -> None:
    began = operator.now
    reason = "disk | NodeName=x State=IDLE, 坏了"
    operator.lab.run("scontrol", "update", "nodename=a800-02", "state=drain", f"reason={reason}")
    operator.lab.run("scontrol", "update", "nodename=npu-01", "state=down", "reason=fan")
    nodes = {node.name: node for node in operator.backend.inventory().nodes}
    drained, down = nodes["a800-02"], nodes["npu-01"]
    assert (drained.state, drained.reason, drained.reason_by) == (NodeState.DRAINED, reason, "root")
    assert (down.state, down.reason, down.partitions, down.devices) == (NodeState.DOWN, "fan", ("ascend910b",), 8)
    for node in (drained, down):
        assert node.since is not None
        assert began <= node.since <= datetime.now(UTC)
    assert nodes["a800-01"].state is NodeState.IDLE


@pytest.mark.slurm
def test_a_node_that_is_drained_while_it_runs_a_job_is_draining(operator: SlurmHarness) -> None:
    status = operator.wait(operator.submit(LONG, devices_per_node=8), is_running)
    operator.lab.run("scontrol", "update", f"nodename={status.nodes[0]}", "state=drain", "reason=later")
    nodes = {node.name: node for node in operator.backend.inventory().nodes}
    node = nodes[status.nodes[0]]
    assert (node.state, node.devices, node.devices_in_use) == (NodeState.DRAINING, 8, 8)


@pytest.mark.slurm
def test_a_reason_with_line_ends_makes_no_further_node(operator: SlurmHarness) -> None:
    before = {node.name for node in operator.backend.inventory().nodes}
    operator.lab.run("scontrol", "update", "nodename=a800-02", "state=drain", "reason=one\na800-99 x\n")
    assert {node.name for node in operator.backend.inventory().nodes} == before


@pytest.mark.slurm
def test_reservations_say_when_where_and_for_whom(operator: SlurmHarness) -> None:
    start = int(time.time()) + 3600
    at = datetime.fromtimestamp(start, UTC)
    when = f"starttime={at:%Y-%m-%dT%H:%M:%S}"
    operator.lab.run(
        *("scontrol", "create", "reservation", "reservationname=maintenance", when, "duration=60"),
        *("nodes=a800-[01-02]", "users=root", "flags=maint,ignore_jobs"),
    )
    operator.lab.run(
        *("scontrol", "create", "reservation", "reservationname=course", "starttime=now", "duration=30"),
        *("partitionname=ascend910b", "nodes=npu-01", f"accounts={ACCOUNTS[ALICE]}"),
    )
    found = {reservation.name: reservation for reservation in operator.backend.inventory().reservations}
    assert set(found) == {"maintenance", "course"}
    maintenance, course = found["maintenance"], found["course"]
    assert maintenance.nodes == ("a800-01", "a800-02")
    assert maintenance.is_maintenance
    assert (maintenance.start_at, maintenance.end_at) == (at, at + timedelta(hours=1))
    assert (maintenance.users, maintenance.accounts) == (("root",), ())
    assert (course.partition, course.nodes, course.accounts) == ("ascend910b", ("npu-01",), (ACCOUNTS[ALICE],))
    assert not course.is_maintenance
    assert course.start_at <= datetime.now(UTC) < course.end_at


@pytest.mark.slurm
def test_nodes_are_under_maintenance_while_such_a_reservation_is_on(operator: SlurmHarness) -> None:
    operator.lab.run(
        *("scontrol", "create", "reservation", "reservationname=maintenance", "starttime=now", "duration=30"),
        *("nodes=npu-01", "users=root", "flags=maint,ignore_jobs"),
    )

    def states() -> set[NodeState]:
        return {node.state for node in operator.backend.inventory().nodes if node.name == "npu-01"}

    assert wait_until(lambda: states() == {NodeState.MAINTENANCE}, "the maintenance to begin")


@pytest.mark.slurm
def test_service_levels_come_with_priority_limits_and_whom_they_preempt(operator: SlurmHarness) -> None:
    operator.lab.run(
        *("sacctmgr", "--immediate", "add", "qos", "weekend", "set", "Priority=500", "Preempt=low"),
        *("MaxWall=1-00:00:00", "MaxTRESPerUser=gres/gpu=8", "GrpTRES=gres/gpu=16,cpu=4", "MaxTRES=gres/gpu=4"),
        *("MaxJobsPerUser=3", "MaxSubmitJobsPerUser=9"),
    )
    qos = operator.backend.inventory().qos
    assert qos is not None
    found = {level.name: level for level in qos}
    weekend = found["weekend"]
    assert (weekend.priority, weekend.preempts, weekend.max_time_limit_minutes) == (500, ("low",), 1440)
    assert (weekend.max_devices_per_job, weekend.max_devices_per_user, weekend.max_devices_of_group) == (4, 8, 16)
    assert (weekend.max_running_jobs_per_user, weekend.max_jobs_per_user) == (3, 9)
    assert found["high"].preempts == ("low",)
    assert found["normal"].max_time_limit_minutes is None


@pytest.mark.slurm
def test_without_accounting_the_nodes_are_still_known_and_the_service_levels_are_not(slurm: SlurmHarness) -> None:
    slurm.lab.stop("slurmdbd")
    try:
        inventory = slurm.backend.inventory()
    finally:
        slurm.lab.start("slurmdbd")
    assert inventory.qos is None
    assert len(inventory.nodes) == 4


@pytest.mark.parametrize(
    ("words", "state"),
    [
        (["idle"], NodeState.IDLE),
        (["IDLE", "PLANNED"], NodeState.IDLE),
        (["idle", "powered_down"], NodeState.IDLE),
        (["mixed", "completing"], NodeState.MIXED),
        (["ALLOCATED"], NodeState.ALLOCATED),
        (["allocated", "maintenance"], NodeState.MAINTENANCE),
        (["allocated", "drain"], NodeState.DRAINING),
        (["idle", "completing", "drain"], NodeState.DRAINING),
        (["idle", "drain"], NodeState.DRAINED),
        (["down", "drain"], NodeState.DOWN),
        (["idle*"], NodeState.DOWN),
        (["IDLE", "NOT_RESPONDING"], NodeState.DOWN),
        (["unknown"], NodeState.DOWN),
        (["a state of tomorrow"], NodeState.IDLE),
    ],
)
def test_slurms_states_and_flags_make_one_state(words: list[str], state: NodeState) -> None:
    assert read_node_state(words) is state


@pytest.mark.parametrize(
    "answers",
    [
        {"sinfo": "<html>busy</html>\n"},
        {"scontrol": "ReservationName=x StartTime=soon EndTime=later\n"},
        {"scontrol": "ReservationName=x StartTime=1 EndTime=2 Nodes=a[1-999999999]\n"},
    ],
)
def test_a_nonsense_answer_of_a_command_is_no_answer(answers: dict[str, str]) -> None:
    with pytest.raises(SchedulerUnavailable):
        ask_commands(lambda command: answers.get(command[0], ""))


@pytest.mark.parametrize("nodes", [None, "x", [None], [{"name": "a"}], [{"state": "idle"}]])
def test_a_nonsense_answer_of_slurmrestd_is_no_answer(nodes: object) -> None:
    with pytest.raises(SchedulerUnavailable):
        get_from_rest(lambda part, path: {path: nodes if path == "nodes" else []})
