"""Why a job waits, made to happen on a real Slurm and told in words."""

from collections.abc import Iterator

import pytest

from jobs.services.scheduler_wording import describe_scheduler_reason
from tests.backends.harness import LONG
from tests.backends.slurm_harness import SlurmHarness, is_running
from tests.integration.slurm.layout import ACCOUNTS, ALICE

pytestmark = pytest.mark.slurm


@pytest.fixture
def full(slurm: SlurmHarness) -> SlurmHarness:
    """A Slurm whose accelerators are all in use."""
    slurm.wait(slurm.submit(LONG, nodes=2, devices_per_node=8), is_running)
    return slurm


@pytest.fixture
def limited(slurm: SlurmHarness) -> Iterator[SlurmHarness]:
    """A Slurm on which alice's project may use two accelerators at once."""
    modify = ("sacctmgr", "--immediate", "modify", "account", ACCOUNTS[ALICE], "set")
    slurm.lab.run(*modify, "GrpTRES=gres/gpu=2")
    try:
        yield slurm
    finally:
        slurm.lab.run(*modify, "GrpTRES=gres/gpu=-1")


@pytest.fixture
def drained(slurm: SlurmHarness) -> Iterator[SlurmHarness]:
    """A Slurm whose accelerators of one partition are all out of service."""
    slurm.lab.run("scontrol", "update", "nodename=a800-[01-02]", "state=drain", "reason=test")
    try:
        yield slurm
    finally:
        slurm.lab.run("scontrol", "update", "nodename=a800-[01-02]", "state=resume")
        slurm.lab.wait_for_nodes()


def wait_for(harness: SlurmHarness, native_id: str, reason: str, words: str) -> None:
    """Until the job waits for that reason, which is then told in these words."""
    harness.wait(native_id, lambda status: status.reason == reason)
    described = describe_scheduler_reason(reason)
    assert described is not None
    assert words in described.clause
    assert described.advice


def test_full_nodes_are_resources_for_the_first_and_priority_for_the_next(full: SlurmHarness) -> None:
    first, second = full.submit(LONG, devices_per_node=8), full.submit(LONG, devices_per_node=8)
    wait_for(full, first, "Resources", "free accelerators")
    wait_for(full, second, "Priority", "higher priority")


def test_holds_tell_who_held(full: SlurmHarness) -> None:
    by_owner, by_operator = full.submit(LONG), full.submit(LONG)
    full.lab.run("scontrol", "hold", by_owner, user=ALICE)
    full.lab.run("scontrol", "hold", by_operator)
    wait_for(full, by_owner, "JobHeldUser", "held by its owner")
    wait_for(full, by_operator, "JobHeldAdmin", "held by an operator")


def test_a_start_time_that_an_operator_set(full: SlurmHarness) -> None:
    native_id = full.submit(LONG)
    full.lab.run("scontrol", "update", f"jobid={native_id}", "starttime=now+1hour")
    wait_for(full, native_id, "BeginTime", "start time has not come")


def test_dependencies_that_may_and_that_can_never_be_met(full: SlurmHarness) -> None:
    first, second, third = (full.submit(LONG) for _ in range(3))
    for native_id, wanted in ((second, f"afterany:{first}"), (third, f"afterok:{first}")):
        full.lab.run("scontrol", "update", f"jobid={native_id}", f"dependency={wanted}")
    wait_for(full, second, "Dependency", "another job to end")
    # The second must not run meanwhile, nor become free to.
    full.lab.run("scontrol", "hold", second)
    full.lab.run("scancel", first)
    wait_for(full, third, "DependencyNeverSatisfied", "did not end as it should have")


def test_a_projects_limit_on_accelerators(limited: SlurmHarness) -> None:
    limited.wait(limited.submit(LONG, devices_per_node=2), is_running)
    wait_for(limited, limited.submit(LONG), "AssocGrpGRES", "project already uses all the accelerators")


def test_nodes_that_are_out_of_service(drained: SlurmHarness) -> None:
    wait_for(drained, drained.submit(LONG), "ReqNodeNotAvail", "down, drained or reserved")
