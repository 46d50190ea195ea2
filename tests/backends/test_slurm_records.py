"""Records of accounting that a crash has left without what the portal knows a job by."""

import pytest

from jobs.states import JobState
from tests.backends.harness import Behaviour
from tests.backends.slurm_harness import SlurmHarness
from tests.integration.slurm.layout import BOB

pytestmark = pytest.mark.slurm


def change_record(slurm: SlurmHarness, native_id: str, change: str) -> None:
    """In slurmdbd's own table, as what it never heard of would leave it."""
    table = "slurm_acct_db.lab_job_table"
    newest = f"SELECT MAX(job_db_inx) FROM (SELECT * FROM {table}) AS jobs WHERE id_job = {native_id}"  # noqa: S608
    statement = f"UPDATE {table} SET {change} WHERE job_db_inx = ({newest})"  # noqa: S608
    socket = f"--socket={slurm.lab.layout.mariadb_socket}"
    slurm.lab.run("mariadb", "--no-defaults", socket, f"--execute={statement}")


def test_a_record_without_directory_is_recognised_by_id_owner_and_time_if_it_is_awaited(slurm: SlurmHarness) -> None:
    native_id = slurm.submit(Behaviour(runs_s=2.2))
    status = slurm.wait(native_id)
    assert status.ended_at is not None
    before = slurm.usage(native_id, status.ended_at)[native_id]
    change_record(slurm, native_id, "work_dir = '', derived_es = '', submit_line = ''")
    slurm.lab.run("scontrol", "ping")
    since = status.ended_at
    assert [row for row in slurm.backend.usage(since) if row.native_id == native_id] == []
    awaited = [(native_id, status.key), (native_id, "somebody-elses-1"), ("999999", "another-1")]
    (row,) = [row for row in slurm.backend.usage(since, awaited=awaited) if row.native_id == native_id]
    assert (row.key, row.state, row.elapsed_s) == (status.key, JobState.COMPLETED, before.elapsed_s)


@pytest.mark.parametrize("difference", ["owner", "time"])
def test_a_record_of_another_owner_or_time_is_not_taken_for_it(slurm: SlurmHarness, difference: str) -> None:
    native_id = slurm.submit(Behaviour())
    status = slurm.wait(native_id)
    assert status.ended_at is not None
    slurm.usage(native_id, status.ended_at)
    changes = {
        # A record without an association would be answered with 500 to everybody who asks slurmrestd.
        "owner": f"id_assoc = (SELECT MIN(id_assoc) FROM slurm_acct_db.lab_assoc_table WHERE user = '{BOB}')",  # noqa: S608
        "time": "time_submit = time_submit - 3600",
    }
    change_record(slurm, native_id, f"work_dir = '', derived_es = '', submit_line = '', {changes[difference]}")
    rows = slurm.backend.usage(status.ended_at, awaited=[(native_id, status.key)])
    assert [row for row in rows if row.native_id == native_id] == []
