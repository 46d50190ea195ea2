"""Slurm dying, silent or forgetful in the middle of a submission: no job lost, none doubled, none mistaken."""

import pwd
import signal
import time

import pytest

from jobs.backends.base import SchedulerUnavailable, SubmissionRejected
from jobs.states import JobState
from tests.backends.harness import LONG, Behaviour, wait_until
from tests.backends.slurm_harness import SlurmHarness, is_running
from tests.integration.slurm.lab import LabError
from tests.integration.slurm.layout import (
    ALICE,
    BOB,
    CAPPED_DEVICES,
    CAPPED_QOS,
    CAROL,
    DENIED_NAME,
    MAX_SCRIPT_BYTES,
)


def block_everything(slurm: SlurmHarness) -> str:
    """A job that holds all accelerators, and has started long enough ago that a dying controller remembers it."""
    blocker = slurm.submit(LONG, nodes=2, devices_per_node=8)
    slurm.wait(blocker, is_running)
    time.sleep(3)
    return blocker


def test_a_submission_that_timed_out_is_found_again_and_not_submitted_twice(slurm: SlurmHarness) -> None:
    spec = slurm.make_spec()
    with slurm.lab.paused("slurmctld"), pytest.raises(SchedulerUnavailable):
        slurm.backend.submit(spec, key=spec.key)
    native_id = wait_until(lambda: slurm.jobs_with(spec.key), "the job to appear")[0]
    assert slurm.backend.find(spec.key) == native_id
    assert slurm.backend.submit(spec, key=spec.key) == native_id
    assert slurm.jobs_with(spec.key) == [native_id]


def test_shortly_after_a_doubtful_submission_nobody_claims_that_it_failed(slurm: SlurmHarness) -> None:
    spec = slurm.make_spec()
    slurm.lab.stop("slurmctld")
    with pytest.raises(SchedulerUnavailable):
        slurm.backend.submit(spec, key=spec.key)
    slurm.lab.start("slurmctld")
    with pytest.raises(SchedulerUnavailable, match="not yet certain"):
        slurm.open_backend(SETTLE_S=60).submit(spec, key=spec.key)
    another = slurm.open_backend()  # one for which the time of doubt is over
    assert another.find(spec.key) is None
    native_id = another.submit(spec, key=spec.key)
    assert slurm.jobs_with(spec.key) == [native_id]


def test_a_lost_acknowledged_job_is_found_out_and_its_reused_id_is_never_mistaken(slurm: SlurmHarness) -> None:
    block_everything(slurm)
    lost_any = False
    for _ in range(5):
        specs = [slurm.make_spec() for _ in range(3)]
        ids = {spec.key: slurm.backend.submit(spec, key=spec.key) for spec in specs}
        slurm.lab.stop("slurmctld", signal_number=signal.SIGKILL)
        slurm.lab.start("slurmctld")
        slurm.lab.wait_for_nodes()
        newcomer = slurm.make_spec()
        new_id = slurm.backend.submit(newcomer, key=newcomer.key)
        time.sleep(1.1)  # the time of doubt
        for spec in specs:
            status = slurm.backend.poll([ids[spec.key]]).get(ids[spec.key])
            if status is None or status.key != spec.key:
                lost_any = True
                assert slurm.backend.find(spec.key) is None
                ids[spec.key] = slurm.backend.submit(spec, key=spec.key)
            assert slurm.jobs_with(spec.key) == [ids[spec.key]]
            assert slurm.status(ids[spec.key]).key == spec.key
        assert slurm.status(new_id).key == newcomer.key
        if lost_any:
            break
    assert lost_any, "no acknowledged job was lost in five kills: this test proved nothing"


def test_without_accounting_jobs_are_submitted_and_followed_but_nothing_is_charged(slurm: SlurmHarness) -> None:
    slurm.lab.stop("slurmdbd")
    native_id = slurm.submit(Behaviour(exit_code=7))
    status = slurm.wait(native_id)
    assert (status.state, status.exit_code) == (JobState.FAILED, 7)
    assert status.ended_at is not None
    with pytest.raises(SchedulerUnavailable):
        slurm.backend.usage(status.ended_at)
    slurm.lab.start("slurmdbd")
    row = slurm.usage(native_id, status.ended_at)[native_id]
    assert (row.state, row.ended_at) == (JobState.FAILED, status.ended_at)


def test_anothers_job_that_names_the_same_key_is_not_adopted(slurm: SlurmHarness) -> None:
    spec = slurm.make_spec()
    native_id = slurm.backend.submit(spec, key=spec.key)
    script = "#!/bin/bash\nsleep 300\n"
    directory = slurm.backend._directories.path_of(spec.key)
    words = [f"--comment=portal:{spec.key}", f"--chdir={directory}", "--output=/dev/null", "--hold"]
    other = slurm.lab.run("sbatch", "--parsable", *words, user=BOB, input=script).strip()
    assert slurm.backend.find(spec.key) == native_id
    assert set(slurm.backend.poll([native_id, other])) == {native_id}
    slurm.backend.cancel(other)
    assert slurm.lab.run("squeue", "--noheader", f"--jobs={other}", "--format=%T").strip() == "PENDING"


def test_a_comment_with_line_ends_forges_no_record_of_another_job(slurm: SlurmHarness) -> None:
    native_id = slurm.submit(LONG)
    slurm.wait(native_id, is_running)
    forged = f"x\n{native_id}|FAILED|{ALICE}|1|1|1||None|portal:x|/|1\n"
    words = [f"--comment={forged}", "--hold", "--output=/dev/null"]
    slurm.lab.run("sbatch", *words, user=ALICE, input="#!/bin/bash\ntrue\n")
    assert slurm.status(native_id).state is JobState.RUNNING


@pytest.mark.parametrize("user", ["", "nobody-of-that-name", "root", "slurm"])
def test_a_researcher_without_a_unix_account_is_refused_in_words(slurm: SlurmHarness, user: str) -> None:
    spec = slurm.make_spec(unix_user=user)
    with pytest.raises(SubmissionRejected, match="Unix account"):
        slurm.backend.submit(spec, key=spec.key)
    assert slurm.jobs_with(spec.key) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unix_user": CAROL}, "account"),
        ({"slurm_account": "labb"}, "account"),
        ({"qos": "nonesuch"}, "qos"),
        ({"memory_bytes_per_node": 2**50}, "(?i)memory|configuration"),
        ({"partition": "nowhere"}, "(?i)invalid partition"),
        ({"qos": CAPPED_QOS, "devices_per_node": CAPPED_DEVICES + 1}, "Job violates accounting/QOS policy"),
        ({"time_limit_minutes": 601}, "(?i)time limit is invalid"),
        ({"script": "#!/bin/bash\n" + "#" * MAX_SCRIPT_BYTES}, "(?i)too long"),
        ({"name": DENIED_NAME}, "not allowed here|refused by a rule"),
    ],
    ids=["account of nobody", "account", "qos", "memory", "partition", "MaxTRES", "time", "script", "rule"],
)
def test_what_slurm_refuses_is_told_in_its_own_words(
    slurm: SlurmHarness, changes: dict[str, object], words: str
) -> None:
    spec = slurm.make_spec(**changes)
    with pytest.raises(SubmissionRejected, match=words):
        slurm.backend.submit(spec, key=spec.key)
    assert slurm.backend.find(spec.key) is None


def test_within_the_cap_of_a_qos_a_job_is_taken(slurm: SlurmHarness) -> None:
    native_id = slurm.submit(Behaviour(), qos=CAPPED_QOS, devices_per_node=CAPPED_DEVICES)
    assert slurm.wait(native_id).state is JobState.COMPLETED


def test_the_guard_at_the_controller_refuses_a_second_job_with_the_same_key(slurm: SlurmHarness) -> None:
    spec = slurm.make_spec()
    native_id = slurm.backend.submit(spec, key=spec.key)
    words = ["sbatch", f"--comment=portal:{spec.key}", "--output=/dev/null", "--hold"]
    script = "#!/bin/bash\ntrue\n"
    with pytest.raises(LabError, match="Duplicate job id"):
        slurm.lab.run(*words, user=ALICE, input=script)
    assert slurm.jobs_with(spec.key) == [native_id]
    slurm.lab.run(*words, user=BOB, input=script)  # somebody else's is no duplicate, and keeps nobody out
    assert slurm.backend.find(spec.key) == native_id


def test_a_portal_that_lost_its_memory_adopts_the_job_that_the_guard_knows(slurm: SlurmHarness) -> None:
    spec = slurm.make_spec()
    native_id = slurm.backend.submit(spec, key=spec.key)
    (slurm.directory / ".attempts" / spec.key).unlink()
    another = slurm.open_backend()
    assert another.submit(spec, key=spec.key) == native_id
    assert another.find(spec.key) == native_id
    assert slurm.jobs_with(spec.key) == [native_id]


def test_a_job_that_names_the_key_elsewhere_is_not_adopted_in_place_of_the_portals(slurm: SlurmHarness) -> None:
    spec = slurm.make_spec()
    words = [f"--comment=portal:{spec.key}", "--chdir=/", "--output=/dev/null", "--hold"]
    slurm.lab.run("sbatch", *words, user=ALICE, input="#!/bin/bash\ntrue\n")
    with pytest.raises(SchedulerUnavailable, match="isn't in the queue"):
        slurm.backend.submit(spec, key=spec.key)


def test_a_comment_that_is_no_text_hides_nobodys_jobs(slurm: SlurmHarness) -> None:
    native_id = slurm.submit(LONG)
    words = ['--comment=\udcff\udcfe{"', "--output=/dev/null", "--hold"]
    slurm.lab.run("sbatch", *words, user=BOB, input="#!/bin/bash\ntrue\n")
    assert int(native_id) in {job.job_id for job in slurm.backend._client.list_queue(None)}
    assert slurm.status(native_id).native_id == native_id


def test_the_job_runs_as_the_researcher_with_nothing_of_the_portals_environment(
    slurm: SlurmHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "the portal's own")
    monkeypatch.setenv("SBATCH_PARTITION", "closed")
    native_id = slurm.submit_script("id -un; env")
    slurm.wait(native_id)
    user, *environment = slurm.read_text(native_id).splitlines()
    assert user == ALICE
    assert "the portal's own" not in "\n".join(environment)
    assert f"PORTAL_JOB_KEY={slurm.status(native_id).key}" in environment
    assert "SLURM_GPUS_ON_NODE=1" in environment


def test_a_link_put_in_place_of_the_output_is_not_followed(slurm: SlurmHarness) -> None:
    native_id = slurm.submit_script("rm stdout.log; ln -s /etc/passwd stdout.log; ln /etc/hostname metrics.jsonl; true")
    slurm.wait(native_id)
    assert (slurm.work_directory(native_id) / "stdout.log").is_symlink()
    assert slurm.backend.read_log(native_id, 0) is None


def test_a_portal_that_is_not_root_reads_output_as_its_owner(slurm: SlurmHarness) -> None:
    native_id = slurm.submit_script("printf 0123456789")
    key = slurm.wait(native_id).key
    uid = pwd.getpwnam(ALICE).pw_uid
    path = slurm.backend._directories.path_of(key)
    read = slurm.backend._directories.files.read_as
    assert read(ALICE, uid, path, "stdout.log", -4, 3) == (6, 10, b"678")
    assert read(ALICE, uid, path, "metrics.jsonl", 0, 10) is None
    assert read(BOB, uid, path, "stdout.log", 0, 10) is None


def test_an_operators_acts_are_seen(slurm: SlurmHarness) -> None:
    blocker = slurm.submit(LONG, nodes=2, devices_per_node=8)
    slurm.wait(blocker, is_running)
    held, cancelled = slurm.submit(LONG), slurm.submit(LONG)
    slurm.lab.run("scontrol", "hold", held)
    slurm.lab.run("scancel", cancelled)
    slurm.wait(held, lambda status: status.reason == "JobHeldAdmin")
    assert slurm.wait(cancelled).state is JobState.CANCELLED
    slurm.lab.run("scontrol", "update", "nodename=a800-01", "state=down", "reason=test")
    try:
        if slurm.can_forbid_requeue:
            status = slurm.wait(blocker)
            assert (status.state, status.reason) == (JobState.NODE_FAIL, "NodeFail")
        else:
            status = slurm.wait(blocker, lambda status: status.state is JobState.PENDING)
            assert (status.started_at, status.nodes) == (None, ())
    finally:
        slurm.lab.run("scontrol", "update", "nodename=a800-01", "state=resume")
        slurm.lab.wait_for_nodes()


def test_all_runs_of_a_requeued_job_are_charged(slurm: SlurmHarness) -> None:
    native_id = slurm.submit(LONG)
    slurm.wait(native_id, is_running)
    time.sleep(2)
    slurm.lab.run("scontrol", "update", f"jobid={native_id}", "requeue=1")
    slurm.lab.run("scontrol", "requeue", native_id)
    # Slurm starts it again only when the credential of its first run has expired.
    status = slurm.wait(native_id, lambda status: status.state is JobState.PENDING and status.reason == "BeginTime")
    assert status.started_at is None
    slurm.backend.cancel(native_id)
    status = slurm.wait(native_id)
    assert (status.state, status.ended_at is None) == (JobState.CANCELLED, False)
    row = slurm.usage(native_id, status.ended_at)[native_id]
    text = slurm.lab.run(
        "sacct", "--allocations", "--duplicates", "-nP", f"--jobs={native_id}", "-o", "State,ElapsedRaw"
    )
    runs = [line.split("|") for line in text.splitlines()]
    assert [state.split()[0] for state, _ in runs] == ["REQUEUED", "CANCELLED"]
    assert row.elapsed_s == sum(int(elapsed) for _, elapsed in runs) >= 1
