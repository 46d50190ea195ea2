"""A submit host behind a real sshd: what words survive the way, and what happens when the way breaks."""

import os
import pwd
import stat
import tempfile
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.backends.base import SchedulerUnavailable, SubmissionRejected
from jobs.backends.slurm.ssh import SshRunner, quote_words
from jobs.states import JobState
from tests.backends.harness import LONG, Behaviour, wait_until
from tests.backends.slurm_harness import SlurmSshHarness, is_running
from tests.integration.slurm.lab import SlurmLab
from tests.integration.slurm.layout import ALICE, PORTAL_USER
from tests.integration.slurm.submit_host import make_new_host_key, write_known_hosts

pytestmark = pytest.mark.slurm

ODD_WORDS = [
    "a b",
    "'",
    '"',
    "''\"'",
    "$(touch /tmp/x)",
    "`id`",
    "a\nb",
    "\n",
    "\r\n",
    "",
    " ",
    "*",
    "~",
    "-n",
    "--",
    "a;b",
    "a|b&c>d<e",
    "$HOME",
    "\\",
    "\\'",
    "#x",
    "!x",
    "{a,b}",
    "%C %h",
    "\x01\t\x7f",
    "数据 \u2028 é",
]


@pytest.fixture
def ssh(slurm_lab: SlurmLab) -> Iterator[SlurmSshHarness]:
    with SlurmSshHarness.on(slurm_lab) as harness:
        yield harness


def echo(runner: SshRunner, words: list[str]) -> list[str]:
    """What a program on the far side gets as its arguments."""
    program = "import sys; sys.stdout.buffer.write('\\0'.join(sys.argv[1:]).encode('utf-8', 'surrogateescape'))"
    done = runner.run(["/usr/bin/python3", "-I", "-c", program, *words])
    assert done.exit_code == 0, done.errors
    return done.output.decode().split("\0")


def test_every_word_arrives_as_it_is(ssh: SlurmSshHarness) -> None:
    assert echo(ssh.runner, ODD_WORDS) == ODD_WORDS


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(
        st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30),
        min_size=1,
        max_size=6,
    )
)
def test_any_word_arrives_as_it_is(ssh: SlurmSshHarness, words: list[str]) -> None:
    assert echo(ssh.runner, words) == words


def test_a_word_with_a_nul_is_no_command(ssh: SlurmSshHarness) -> None:
    with pytest.raises(SchedulerUnavailable):
        ssh.runner.run(["echo", "a\0b"])


def test_words_are_put_together_in_one_place() -> None:
    assert quote_words(["env", "-i", "A=$(id)", "it's"]) == """env -i 'A=$(id)' 'it'"'"'s'"""


def test_the_far_side_gets_an_environment_made_from_nothing(
    ssh: SlurmSshHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "the portal's own")
    monkeypatch.setenv("LC_SECRET", "what clients are often told to send")
    lines = ssh.runner.run(["env", "-0"]).text.split("\0")
    assert {line.partition("=")[0] for line in lines if line} == {
        *("PATH", "LC_ALL", "SLURM_TIME_FORMAT", "TZ", "SLURM_CONF")
    }


def test_the_portals_account_is_nobody_special_there_and_becomes_the_researcher_by_sudo(ssh: SlurmSshHarness) -> None:
    assert ssh.runner.run(["id", "-un"]).text.strip() == PORTAL_USER
    refused = ssh.runner.run(["id", "-un"], user=ALICE)
    assert refused.exit_code == 1
    assert "sudo" in refused.errors
    for user in ("root", "slurm"):
        with pytest.raises(SubmissionRejected, match="system's"):
            ssh.runner.find_user(user)
    account = ssh.runner.find_user(ALICE)
    assert account == pwd.getpwnam(ALICE)
    assert ssh.runner.uid_of("nobody-of-that-name") is None
    assert ssh.runner.uid_of(str(account.pw_uid)) is None  # getent takes numbers, too


def test_one_connection_serves_all_commands_and_all_backends(ssh: SlurmSshHarness) -> None:
    listener = ssh.lab.process("sshd")
    assert listener is not None
    ssh.backend.ping()
    connections = {process.pid for process in listener.children()}
    assert len(connections) == 1
    another = ssh.open_backend()
    began = time.monotonic()
    for _ in range(10):
        another.ping()
    assert time.monotonic() - began < 10
    assert {process.pid for process in listener.children()} == connections
    socket = ssh.runner._control_path()
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700


def test_another_host_key_is_named_and_nothing_is_sent(ssh: SlurmSshHarness) -> None:
    spec = ssh.make_spec()
    ssh.backend.ping()
    ssh.lab.stop("sshd")
    make_new_host_key(ssh.lab.layout)
    ssh.lab.start("sshd")
    try:
        with pytest.raises(SchedulerUnavailable, match="another host key"):
            ssh.backend.submit(spec, key=spec.key)
        assert ssh.jobs_with(spec.key) == []
    finally:
        write_known_hosts(ssh.lab.layout)
    native_id = ssh.backend.submit(spec, key=spec.key)
    assert ssh.jobs_with(spec.key) == [native_id]


def test_a_host_that_nobody_knows_is_not_trusted_on_first_use(ssh: SlurmSshHarness) -> None:
    empty = ssh.lab.layout.ssh / "nobody"
    empty.touch()
    backend = ssh.open_backend(SSH={**ssh.ssh_options(), "KNOWN_HOSTS": str(empty)})
    with pytest.raises(SchedulerUnavailable, match="another host key"):
        backend.ping()
    assert empty.read_text() == ""


def test_a_key_that_others_may_read_or_that_the_host_does_not_know_opens_nothing(ssh: SlurmSshHarness) -> None:
    for name, mode in (("open_key", 0o644), ("host_key", 0o600)):
        key = ssh.lab.layout.ssh / name
        if not key.exists():
            key.write_bytes((ssh.lab.layout.ssh / "portal_key").read_bytes())
        key.chmod(mode)
        with pytest.raises(SchedulerUnavailable, match=r"Permission denied|UNPROTECTED"):
            ssh.open_backend(SSH={**ssh.ssh_options(), "KEY_FILE": str(key)}).ping()


def test_a_server_that_dies_is_unavailability_and_is_found_again(ssh: SlurmSshHarness) -> None:
    native_id = ssh.submit(LONG)
    ssh.lab.stop("sshd")
    with pytest.raises(SchedulerUnavailable):
        ssh.backend.poll([native_id])
    spec = ssh.make_spec()
    with pytest.raises(SchedulerUnavailable):
        ssh.backend.submit(spec, key=spec.key)
    ssh.lab.start("sshd")
    assert ssh.status(native_id).native_id == native_id
    assert ssh.backend.submit(spec, key=spec.key) == ssh.jobs_with(spec.key)[0]


def test_a_connection_that_dies_under_a_submission_leaves_it_in_doubt_and_not_refused(ssh: SlurmSshHarness) -> None:
    spec = ssh.make_spec()
    listener = ssh.lab.process("sshd")
    assert listener is not None
    ssh.backend.ping()
    sessions = listener.children(recursive=True)
    with ssh.lab.paused("slurmctld"):
        killer = threading.Timer(1.0, lambda: [process.kill() for process in sessions if process.is_running()])
        killer.start()
        with pytest.raises(SchedulerUnavailable):
            ssh.backend.submit(spec, key=spec.key)
        killer.join()
    # Its sbatch goes on over there, and the job appears.
    native_id = wait_until(lambda: ssh.jobs_with(spec.key), "the job to appear")[0]
    assert ssh.backend.submit(spec, key=spec.key) == native_id
    assert ssh.jobs_with(spec.key) == [native_id]


def test_a_server_that_hangs_is_left_when_the_time_is_over_and_the_next_command_starts_afresh(
    ssh: SlurmSshHarness,
) -> None:
    backend = ssh.open_backend(TIMEOUT_S=2)
    backend.ping()
    listener = ssh.lab.process("sshd")
    assert listener is not None
    sessions = listener.children(recursive=True)
    for process in sessions:
        process.suspend()
    try:
        began = time.monotonic()
        with pytest.raises(SchedulerUnavailable, match="did not answer within 2 s"):
            backend.ping()
        assert time.monotonic() - began < 4
        backend.ping()  # while the old connection still hangs
    finally:
        for process in sessions:
            if process.is_running():
                process.resume()


def test_a_directory_for_sockets_that_is_somebody_elses_is_not_used(ssh: SlurmSshHarness) -> None:
    directory = ssh.lab.layout.ssh / "others"
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    backend = ssh.open_backend(SSH={**ssh.ssh_options(), "CONTROL_DIRECTORY": str(directory)})
    with pytest.raises(SchedulerUnavailable, match="0700"):
        backend.ping()
    directory.chmod(0o700)
    os.chown(directory, pwd.getpwnam(ALICE).pw_uid, -1)
    with pytest.raises(SchedulerUnavailable, match="0700"):
        backend.ping()


def test_without_an_option_sockets_are_in_a_directory_of_the_portals_own(
    ssh: SlurmSshHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = ssh.lab.layout.ssh / "tmp"
    temporary.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    options = ssh.ssh_options()
    del options["CONTROL_DIRECTORY"]
    backend = ssh.open_backend(SSH=options)
    backend.ping()
    (directory,) = temporary.iterdir()
    assert (directory.name, stat.S_IMODE(directory.stat().st_mode)) == (f"portal-ssh-{os.geteuid()}", 0o700)
    backend._runner.close()
    assert list(directory.iterdir()) == []


def test_two_hosts_of_a_portal_see_each_others_submissions(ssh: SlurmSshHarness) -> None:
    """What one left in doubt, the other doesn't take for new: the records are on the far side."""
    spec = ssh.make_spec()
    ssh.lab.stop("slurmctld")
    with pytest.raises(SchedulerUnavailable):
        ssh.backend.submit(spec, key=spec.key)
    ssh.lab.start("slurmctld")
    other = ssh.open_backend(SETTLE_S=60)
    with pytest.raises(SchedulerUnavailable, match="not yet certain"):
        other.submit(spec, key=spec.key)
    record = ssh.directory / ".attempts" / spec.key
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert record.stat().st_uid == pwd.getpwnam(PORTAL_USER).pw_uid


def test_records_of_many_jobs_are_read_in_one_command(ssh: SlurmSshHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [ssh.submit(Behaviour()) for _ in range(4)]
    for native_id in ids:
        ssh.wait(native_id)
    fresh = ssh.open_backend()
    commands: list[str] = []
    run = SshRunner.run

    def counted(self: SshRunner, command: list[str], **options: object) -> object:
        commands.append(command[0])
        return run(self, command, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(SshRunner, "run", counted)
    assert {status.state for status in fresh.poll(ids).values()} == {JobState.COMPLETED}
    assert commands.count("/usr/bin/python3") == 1
    assert len(commands) <= 3


def test_a_directory_that_is_somebody_elses_is_not_used_for_a_job(ssh: SlurmSshHarness) -> None:
    spec = ssh.make_spec()
    path = ssh.directory / spec.key
    path.mkdir(mode=0o777)
    with pytest.raises(SchedulerUnavailable, match="somebody else"):
        ssh.backend.submit(spec, key=spec.key)
    assert ssh.jobs_with(spec.key) == []


def test_output_is_followed_while_the_job_runs(ssh: SlurmSshHarness) -> None:
    native_id = ssh.submit_script("printf one; sleep 300")
    ssh.wait(native_id, is_running)
    wait_until(lambda: ssh.read_text(native_id) == "one", "the output")
