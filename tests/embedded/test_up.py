"""`up`, `down` and the rest as a user meets them: real processes, a site of a few lines, one run with real servers."""

import os
import signal
import socket
from pathlib import Path

import psycopg
import pytest

from portal.embedded.commands import describe_os_error, main
from portal.embedded.ports import LOOPBACK, find_free_port
from portal.embedded.processes import wait_until_gone
from portal.embedded.startup import ask_health, build_environment, compute_static_stamp
from portal.embedded.state import Home, ProcessIdentity, Run, prepare_home, read_run, running_urls, write_run

from .conftest import FakeSite, wait_for


def read_parts(home: Home) -> Run:
    run = read_run(home)
    assert run is not None
    return run


def test_up_serves_and_down_stops_all_of_it(site: FakeSite, home: Home) -> None:
    port = find_free_port()
    up = site.start_until_ready("up", "--port", str(port))
    run = read_parts(home)
    assert set(run.parts) == {"web", "worker", "beat"}
    assert ask_health(f"http://{LOOPBACK}:{port}") == 200

    code, out, _ = site.run("status")
    assert code == 0
    assert f"http://{LOOPBACK}:{port}  answers" in out
    assert "postgres  not embedded" in out

    code, out, err = site.run("up")
    assert (code, out) == (3, "")
    assert err == f"portal: already running at http://{LOOPBACK}:{port}; stop it with: python -m portal down\n"

    code, out, _ = site.run("shell-env")
    assert code == 0
    assert "DATABASE_URL=postgresql://elsewhere/portal REDIS_URL=redis://elsewhere/0" in out

    code, out, _ = site.run("down")
    assert (code, out.splitlines()[-1]) == (0, "The portal is stopped.")
    assert not any(identity.is_alive() for identity in run.parts.values())
    log = up.communicate(timeout=20)[0]
    assert up.returncode == 0
    assert "portal   |   admin secret-word" in log
    ends = [log.index(f"| {part} ends") for part in ("beat", "web", "worker")]
    assert ends == sorted(ends)
    assert site.run("down")[:2] == (0, "The portal is not running.\n")
    assert site.run("status")[0] == 3
    assert site.run("logs", "--part", "beat")[1].splitlines() == ["beat     | beat works", "beat     | beat ends"]


def test_ctrl_c_stops_everything(site: FakeSite, home: Home) -> None:
    up = site.start_until_ready()
    run = read_parts(home)
    up.send_signal(signal.SIGINT)
    out, err = up.communicate(timeout=30)
    assert (up.returncode, err) == (0, "")
    assert out.endswith("portal   | everything is stopped\n")
    assert not any(identity.is_alive() for identity in run.parts.values())


def test_a_second_up_after_kill_9_starts_afresh(site: FakeSite, home: Home) -> None:
    first = site.start_until_ready()
    left = read_parts(home)
    first.kill()
    first.communicate()
    assert running_urls(home.path) is None
    code, out, _ = site.run("status")
    assert code == 3
    assert "not running" in out
    site.start_until_ready()
    assert not any(identity.is_alive() for identity in left.parts.values())
    assert site.run("status")[0] == 0
    # Unchanged static files were not collected a second time; the database was looked at.
    setup = site.run("logs", "--part", "setup")[1]
    assert (setup.count("manage collectstatic"), setup.count("manage migrate")) == (1, 2)


def test_a_dying_part_comes_back_while_up_runs(site: FakeSite, home: Home) -> None:
    site.start_until_ready()
    worker = read_parts(home).parts["worker"]
    worker.send_signal(signal.SIGKILL)
    wait_for(lambda: read_parts(home).parts["worker"] != worker)
    assert read_parts(home).parts["worker"].is_alive()


def test_a_taken_default_port_is_replaced_and_one_asked_for_is_an_error(site: FakeSite, home: Home) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        code, _, err = site.run("up", "--port", str(port))
    assert code == 1
    assert err.startswith(f"portal: port {port} is in use by python")
    assert err.count("\n") == 1
    assert not home.run_file.exists()


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        (
            "migrate",
            "portal: manage.py migrate failed (exit code 1): OperationalError: the disk is made of cheese; see ",
        ),
        ("web", "portal: web stopped: ImportError: no module named wsgi; see "),
    ],
)
def test_what_keeps_it_from_starting_is_said_in_one_line(
    site: FakeSite, home: Home, failing: str, message: str
) -> None:
    code, _, err = site.run("up", FAKE_FAILS=failing)
    assert code == 1
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert not home.run_file.exists()


def test_real_servers_are_started_watched_and_found_again(site: FakeSite, home: Home) -> None:
    own = {"DATABASE_URL": "", "REDIS_URL": ""}
    up = site.start_until_ready("up", **own)
    urls = running_urls(home.path)
    assert urls is not None
    with psycopg.connect(urls["DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE kept (value int)")
    servers = [read_parts(home).parts[part] for part in ("postgres", "valkey")]
    up.kill()
    up.communicate()
    up = site.start_until_ready("up", **own)
    assert not any(server.is_alive() for server in servers)
    urls = running_urls(home.path)
    assert urls is not None
    with psycopg.connect(urls["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    servers = [read_parts(home).parts[part] for part in ("postgres", "valkey")]
    assert site.run("down")[0] == 0
    assert all(wait_until_gone(server, 1) for server in servers)
    out = up.communicate()[0]
    assert "database system is shut down" in out
    out = out.partition("the portal is ready")[2]  # before it are the leftovers of the first run
    assert out.index("stopping worker") < out.index("stopping valkey") < out.index("stopping postgres")


def test_down_never_touches_a_process_that_has_the_number_now(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_home(home)
    own = ProcessIdentity(os.getpid(), "boot:1")  # this test itself
    write_run(home, Run(own, phase="ready", parts={"web": own}))
    assert main(["down"], environ={"PORTAL_HOME": str(home.path)}) == 0
    assert capsys.readouterr().out == "The portal is not running.\n"
    assert not home.run_file.exists()


def test_a_home_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["up"], environ={"PORTAL_HOME": str(tmp_path / "file" / "home")}) == 1
    assert capsys.readouterr().err == f"portal: Not a directory: {tmp_path}/file/home\n"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (28, "disk full: cannot write /home/x"),
        (13, "no permission to write /home/x (Permission denied): set PORTAL_HOME to a directory of yours"),
        (30, "no permission to write /home/x (Read-only file system): set PORTAL_HOME to a directory of yours"),
    ],
)
def test_what_the_system_refuses_is_said_plainly(number: int, expected: str) -> None:
    assert describe_os_error(OSError(number, os.strerror(number), "/home/x")) == expected


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_an_impossible_port_is_named_with_what_is_allowed(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["up", f"--port={port}"])
    assert f"'{port}' is not a port; allowed: 1 to 65535" in capsys.readouterr().err


def test_the_callers_own_settings_win_over_the_defaults(home: Home) -> None:
    urls = {"DATABASE_URL": "postgresql://a", "REDIS_URL": "redis://b"}
    environ = {"PORTAL_URL": "https://portal.example.org", "DEBUG": "true", "ALLOWED_HOSTS": ""}
    made = build_environment(home, environ, bind="0.0.0.0", port=81, urls=urls)  # noqa: S104
    assert made["PORTAL_URL"] == "https://portal.example.org"
    assert made["DEBUG"] == "true"
    assert {"localhost", "127.0.0.1", socket.gethostname()} <= set(made["ALLOWED_HOSTS"].split(","))
    assert made["SECRET_KEY_FILE"] == str(home.secret_key_file)
    assert build_environment(home, {}, bind="::1", port=81, urls=urls)["PORTAL_URL"] == "http://[::1]:81"


def test_the_static_stamp_follows_the_files(tmp_path: Path) -> None:
    static = tmp_path / "app" / "static"
    static.mkdir(parents=True)
    (static / "a.css").write_text("a")
    before = compute_static_stamp(tmp_path, tmp_path / "root", home=tmp_path)
    assert compute_static_stamp(tmp_path, tmp_path / "root", home=tmp_path) == before
    assert compute_static_stamp(tmp_path, tmp_path / "other", home=tmp_path) != before
    copy = tmp_path / "copy"
    assert compute_static_stamp(tmp_path, copy / "root", home=copy) == before, "a copied home has its files"
    (static / "a.css").write_text("ab")
    assert compute_static_stamp(tmp_path, tmp_path / "root", home=tmp_path) != before
