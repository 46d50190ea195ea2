"""What an operator does to a job on the cluster is seen by the next poll."""

import pytest

from jobs.states import JobState
from tests.backends.harness import LONG
from tests.backends.slurm_harness import SlurmHarness, is_running

pytestmark = pytest.mark.slurm


def test_a_changed_time_limit_is_seen(slurm: SlurmHarness) -> None:
    native_id = slurm.submit(LONG, time_limit_minutes=60)
    assert slurm.wait(native_id, is_running).time_limit_minutes == 60
    slurm.lab.run("scontrol", "update", f"jobid={native_id}", "timelimit=30")
    assert slurm.status(native_id).time_limit_minutes == 30
    slurm.lab.run("scontrol", "update", f"jobid={native_id}", "timelimit=2-00:00:00")
    assert slurm.status(native_id).time_limit_minutes == 2 * 24 * 60


def test_an_operators_hold_release_and_cancel_are_seen(slurm: SlurmHarness) -> None:
    blocker = slurm.submit(LONG, nodes=2, devices_per_node=8)
    slurm.wait(blocker, is_running)
    native_id = slurm.submit(LONG)
    slurm.lab.run("scontrol", "hold", native_id)
    assert slurm.wait(native_id, lambda status: status.reason == "JobHeldAdmin").state is JobState.PENDING
    slurm.lab.run("scontrol", "release", native_id)
    slurm.lab.run("scancel", blocker)
    assert slurm.wait(native_id, is_running).state is JobState.RUNNING
    slurm.lab.run("scancel", native_id)
    status = slurm.wait(native_id)
    assert (status.state, status.reason) == (JobState.CANCELLED, "Cancelled")
