import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal.embedded.errors import EmbeddedError, StopRequested
from portal.embedded.logs import MergedLog, read_merged
from portal.embedded.processes import ProcessSpec, StopStep, find_group_members
from portal.embedded.state import Home, ProcessIdentity, Run, prepare_home, read_run
from portal.embedded.supervise import STOP_STEPS, Supervisor, stop_leftovers

from .conftest import wait_for

WAITS = "import signal\nwhile True: signal.pause()"
DEAF = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\n"
    + WAITS.partition("\n")[2]
)
WITH_A_CHILD = (
    "import signal, subprocess, sys\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print('has a child', flush=True)\n" + WAITS.partition("\n")[2]
)


@pytest.fixture
def supervisor(home: Home) -> Iterator[Supervisor]:
    prepare_home(home)
    identity = ProcessIdentity.of(os.getpid())
    assert identity is not None
    log = MergedLog(home, io.StringIO())
    supervisor = Supervisor(home, Run(identity), log, backoff_s=(0.05, 0.2))
    yield supervisor
    supervisor.stop_all()
    log.close()


def make_spec(home: Home, name: str, code: str, *, stop_s: float = 10) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        argv=(sys.executable, "-c", code),
        cwd=Path("/"),
        env={"PORTAL_HOME": str(home.path), "PYTHONUNBUFFERED": "1"},
        log=home.log_of(name),
        stop_steps=(StopStep(signal.SIGTERM, stop_s),),
    )


def read_terminal(supervisor: Supervisor) -> str:
    supervisor.log.pump()
    assert isinstance(supervisor.log.terminal, io.StringIO)
    return supervisor.log.terminal.getvalue()


def is_said(supervisor: Supervisor, text: str) -> bool:
    return text in read_terminal(supervisor)


def test_a_child_that_is_killed_starts_again_and_the_log_says_so(supervisor: Supervisor, home: Home) -> None:
    first = supervisor.start(make_spec(home, "web", WAITS)).process.pid
    os.kill(first, signal.SIGKILL)

    def is_back() -> bool:
        supervisor.restart_dead_children()
        return supervisor.is_running("web") and supervisor.children["web"].process.pid != first

    wait_for(is_back)
    assert "portal   | web ended (signal SIGKILL); starting it again in 0.05 s" in read_terminal(supervisor)
    run = read_run(home)
    assert run is not None
    assert run.parts["web"].pid == supervisor.children["web"].process.pid


def test_a_child_that_keeps_dying_is_restarted_ever_more_slowly(supervisor: Supervisor, home: Home) -> None:
    supervisor.start(make_spec(home, "web", "raise SystemExit(7)"))

    def has_died_thrice() -> bool:
        supervisor.restart_dead_children()
        return supervisor.children["web"].failures == 3

    wait_for(has_died_thrice)
    delays = [line.split()[-2] for line in read_terminal(supervisor).splitlines() if "exit code 7" in line]
    assert delays == ["0.05", "0.2", "0.2"]


def test_pool_processes_of_a_killed_child_do_not_stay_behind(supervisor: Supervisor, home: Home) -> None:
    leader = supervisor.start(make_spec(home, "worker", WITH_A_CHILD)).process.pid
    wait_for(lambda: is_said(supervisor, "has a child"))
    (member,) = find_group_members(leader)
    os.kill(leader, signal.SIGKILL)
    wait_for(lambda: not supervisor.is_running("worker"))
    supervisor.restart_dead_children()
    wait_for(lambda: not member.is_alive())
    assert "1 of its processes killed" in read_terminal(supervisor)


def test_a_detached_job_survives_the_stop_of_its_worker(supervisor: Supervisor, home: Home) -> None:
    job = (
        "import subprocess, sys\nprint(subprocess.Popen(['sleep', '60'], start_new_session=True).pid)\nimport signal\n"
    )
    supervisor.start(make_spec(home, "worker", job + WAITS))
    wait_for(lambda: "worker   | " in read_terminal(supervisor))
    identity = ProcessIdentity.of(int(read_terminal(supervisor).split("worker   | ")[1].split()[0]))
    assert identity is not None
    supervisor.stop_all()
    assert identity.send_signal(signal.SIGKILL), "the job was stopped together with the worker"


def test_parts_stop_in_order_whatever_the_order_of_their_start(supervisor: Supervisor, home: Home) -> None:
    for part in ("postgres", "web", "valkey", "beat", "worker"):
        supervisor.start(make_spec(home, part, WAITS))
    supervisor.stop_all()
    said = [line.split()[-1] for line in read_terminal(supervisor).splitlines() if "| stopping" in line]
    assert said == ["beat", "web", "worker", "valkey", "postgres"]
    run = read_run(home)
    assert run is not None
    assert run.parts == {}
    assert run.phase == "stopping"


def test_a_child_that_does_not_listen_is_killed_and_the_log_says_so(supervisor: Supervisor, home: Home) -> None:
    pid = supervisor.start(make_spec(home, "web", DEAF, stop_s=0.3)).process.pid
    wait_for(lambda: is_said(supervisor, "deaf"))
    supervisor.stop_all()
    assert f"web (process {pid}) is killed" in read_terminal(supervisor)


def test_a_second_signal_shortens_the_wait(supervisor: Supervisor, home: Home) -> None:
    supervisor.start(make_spec(home, "web", DEAF, stop_s=60))
    wait_for(lambda: is_said(supervisor, "deaf"))
    with supervisor.handle_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        started = time.monotonic()
        supervisor.stop_all()
    assert time.monotonic() - started < 10


def test_a_signal_ends_the_waiting_of_a_start(supervisor: Supervisor) -> None:
    with supervisor.handle_signals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(StopRequested):
            supervisor.tick()


def test_a_command_that_fails_is_reported_in_its_own_words(supervisor: Supervisor, home: Home) -> None:
    code = "import sys; print('Traceback'); sys.exit('OperationalError: no such role')"
    with pytest.raises(EmbeddedError, match=r"migrate failed \(exit code 1\): OperationalError: no such role; see "):
        supervisor.run_once(make_spec(home, "setup", code), describe="migrate")


def test_every_line_is_prefixed_and_kept(supervisor: Supervisor, home: Home) -> None:
    supervisor.run_once(make_spec(home, "setup", r"print('一\ntwo')"), describe="it")
    supervisor.log.pump()
    lines = ["setup    | 一", "setup    | two"]
    assert read_terminal(supervisor).splitlines() == lines
    assert list(read_merged(home, part="setup", last=10, is_following=False)) == lines
    assert list(read_merged(home, part="web", last=10, is_following=False)) == []
    assert list(read_merged(home, part=None, last=1, is_following=False)) == lines[1:]


def test_a_log_grown_large_is_put_aside(supervisor: Supervisor, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.embedded.logs.ROTATE_BYTES", 100)
    supervisor.run_once(make_spec(home, "setup", "print('x' * 200)"), describe="it")
    supervisor.log.rotate()
    assert home.log_of("setup").read_text() == ""
    assert (home.logs / "setup.log.1").read_text() == "x" * 200 + "\n"
    supervisor.run_once(make_spec(home, "setup", "print('after')"), describe="it")
    assert is_said(supervisor, "setup    | after")


SUPERVISED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from portal.embedded.logs import MergedLog
from portal.embedded.state import Home, ProcessIdentity, Run
from portal.embedded.supervise import Supervisor
from tests.embedded.test_supervise import DEAF, WAITS, WITH_A_CHILD, make_spec
home = Home(Path(sys.argv[1]))
supervisor = Supervisor(home, Run(ProcessIdentity.of(os.getpid())), MergedLog(home, sys.stdout))
supervisor.start(make_spec(home, "web", WAITS))
supervisor.start(make_spec(home, "worker", DEAF))
supervisor.start(make_spec(home, "beat", WITH_A_CHILD))
with supervisor.handle_signals():
    supervisor.watch()
"""


def test_what_a_killed_supervisor_leaves_is_found_and_stopped(
    home: Home, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STOP_STEPS, "worker", (StopStep(signal.SIGTERM, 0.3),))
    prepare_home(home)
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, str(home.path), str(pytestconfig.rootpath)], stdout=subprocess.PIPE
    ) as process:
        seen = b""
        assert process.stdout is not None
        while b"deaf" not in seen or b"has a child" not in seen:
            line = process.stdout.readline()
            assert line, "the supervisor ended"
            seen += line
        run = read_run(home)
        assert run is not None
        (pool_process,) = find_group_members(run.parts["beat"].pid)
        process.kill()
    wait_for(lambda: not run.parts["web"].is_alive())  # the kernel told it that its parent died
    wait_for(lambda: not run.parts["beat"].is_alive())
    assert run.parts["worker"].is_alive()  # deaf to that
    assert pool_process.is_alive()

    said: list[str] = []
    assert stop_leftovers(home, run, say=said.append) == 1
    assert not run.parts["worker"].is_alive()
    wait_for(lambda: not pool_process.is_alive())
    assert any("stopping worker" in line for line in said)
    assert any("killed 1 processes that beat" in line for line in said)


def test_a_leftover_whose_number_was_given_away_is_not_touched(home: Home) -> None:
    prepare_home(home)
    with subprocess.Popen([sys.executable, "-c", WAITS], start_new_session=True) as bystander:
        earlier = ProcessIdentity(bystander.pid, "boot:1")
        assert stop_leftovers(home, Run(earlier, parts={"web": earlier}), say=pytest.fail) == 0
        assert bystander.poll() is None
        bystander.kill()
