import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal.embedded.errors import AlreadyRunning, EmbeddedError
from portal.embedded.state import (
    Home,
    ProcessIdentity,
    Run,
    find_home,
    hold_lock,
    prepare_home,
    read_run,
    running_urls,
    write_run,
)

from .conftest import wait_for

URLS = {"DATABASE_URL": "postgresql://portal@/portal", "REDIS_URL": "redis://127.0.0.1:1/0"}


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def identify(pid: int) -> ProcessIdentity:
    identity = ProcessIdentity.of(pid)
    assert identity is not None
    return identity


def test_a_process_is_recognized_while_it_lives(sleeper: "subprocess.Popen[bytes]") -> None:
    identity = identify(sleeper.pid)
    assert identity.is_alive()
    assert identity.send_signal(signal.SIGTERM)
    sleeper.wait()
    assert not identity.is_alive()
    assert not identity.send_signal(signal.SIGTERM)


def test_a_reused_number_is_another_process_and_gets_no_signal(sleeper: "subprocess.Popen[bytes]") -> None:
    earlier = ProcessIdentity(sleeper.pid, "boot:1")
    assert not earlier.is_alive()
    assert not earlier.send_signal(signal.SIGKILL)
    assert sleeper.poll() is None


def test_a_process_that_waits_to_be_collected_counts_as_gone(sleeper: "subprocess.Popen[bytes]") -> None:
    identity = identify(sleeper.pid)
    os.kill(sleeper.pid, signal.SIGKILL)
    wait_for(lambda: not identity.is_alive())  # nobody has collected it yet
    assert ProcessIdentity.of(sleeper.pid) is None


def test_a_command_name_with_parentheses_does_not_confuse_the_start_time(tmp_path: Path) -> None:
    odd = tmp_path / ") R 1 ("
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "60"]) as process:
        assert identify(process.pid).started.rpartition(":")[2] == identify(process.pid).started.rpartition(":")[2]
        assert int(identify(process.pid).started.rpartition(":")[2]) >= int(
            identify(os.getpid()).started.rpartition(":")[2]
        )
        process.kill()


def test_the_home_is_private_and_its_secret_stays(home: Home) -> None:
    prepare_home(home)
    secret = home.secret_key_file.read_text()
    prepare_home(home)
    assert home.secret_key_file.read_text() == secret
    assert len(secret.strip()) >= 50
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.secret_key_file.stat().st_mode) == 0o600


def test_a_home_that_others_could_read_is_closed(home: Home) -> None:
    home.path.mkdir(mode=0o755)
    prepare_home(home)
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700


@pytest.mark.parametrize("shared", ["/", "/tmp"])  # noqa: S108
def test_a_shared_directory_is_refused_as_home(shared: str) -> None:
    with pytest.raises(EmbeddedError, match="a directory of its own"):
        prepare_home(Home(Path(shared)))


def test_the_home_comes_from_the_environment_and_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_home({"PORTAL_HOME": "here"}).path == tmp_path / "here"
    assert find_home({"PORTAL_HOME": ""}).path.name == ".portal"


def test_run_json_comes_back_as_written_and_is_private(home: Home) -> None:
    home.path.mkdir()
    run = Run(identify(os.getpid()), phase="ready", environment=URLS, parts={"web": ProcessIdentity(7, "boot:9")})
    write_run(home, run)
    assert read_run(home) == run
    assert stat.S_IMODE(home.run_file.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 99}', '{"version": 1, "supervisor": 3}', "null"])
def test_a_damaged_or_foreign_run_json_reads_as_none(home: Home, content: str) -> None:
    home.path.mkdir()
    home.run_file.write_text(content)
    assert read_run(home) is None
    assert running_urls(home.path) is None


def test_the_running_servers_are_found_while_their_supervisor_lives(
    home: Home, sleeper: "subprocess.Popen[bytes]"
) -> None:
    home.path.mkdir()
    assert running_urls(home.path) is None
    write_run(home, Run(identify(sleeper.pid)))
    assert running_urls(home.path) is None  # still starting
    write_run(home, Run(identify(sleeper.pid), environment={**URLS, "DEBUG": "false"}))
    assert running_urls(home.path) == URLS
    sleeper.kill()
    sleeper.wait()
    assert running_urls(home.path) is None


def test_only_one_supervisor_holds_the_lock(home: Home) -> None:
    prepare_home(home)
    with hold_lock(home), pytest.raises(AlreadyRunning, match="already running"), hold_lock(home):
        pytest.fail("two at once")
    with hold_lock(home):
        assert home.lock_file.exists()


def test_reading_the_state_imports_neither_django_nor_a_driver() -> None:
    code = "import sys, portal.embedded.state; print([m for m in ('django', 'psycopg', 'celery') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
