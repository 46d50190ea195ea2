"""Against the real servers; the homes are throw-away ones, hence fast."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dj_database_url
import kombu
import psycopg
import pytest
import redis

from portal.embedded import postgres, testing
from portal.embedded.errors import EmbeddedError
from portal.embedded.processes import UnixUser, wait_until_gone
from portal.embedded.servers import start_postgres, start_valkey
from portal.embedded.state import Home, ProcessIdentity


@pytest.fixture(scope="module")
def stopped_home() -> Iterator[Home]:
    """A home whose PostgreSQL ran once and holds one row."""
    with tempfile.TemporaryDirectory(prefix="portal-test-") as directory:
        home = Home(Path(directory) / "with a 'space' and CAPITALS")
        with start_postgres(home.path, is_throwaway=True) as server, psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept (value text)")
            connection.execute("INSERT INTO kept VALUES ('Ærøskøbing 深圳')")
        yield home


def read_kept(url: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT upper(value) FROM kept").fetchone()
    assert row is not None
    return str(row[0])


def test_data_survives_a_stop_and_letters_beyond_ascii_have_case(stopped_home: Home) -> None:
    with start_postgres(stopped_home.path, is_throwaway=True) as server:
        assert read_kept(server.url) == "ÆRØSKØBING 深圳"
    assert not server.identity.is_alive()


def test_the_portals_role_may_create_databases_but_is_no_superuser(stopped_home: Home) -> None:
    query = "SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user"
    with start_postgres(stopped_home.path, is_throwaway=True) as server, psycopg.connect(server.url) as connection:
        assert connection.execute(query).fetchone() == (False, True)


def test_django_reads_the_url_of_a_path_with_capitals_and_spaces(stopped_home: Home) -> None:
    with start_postgres(stopped_home.path, is_throwaway=True) as server:
        settings = dj_database_url.parse(server.url)
    assert settings["NAME"] == settings["USER"] == "portal"
    assert settings["OPTIONS"]["host"] == str(stopped_home.postgres)


def test_a_path_too_long_for_a_socket_gets_loopback_with_a_password(own_path: Path) -> None:
    home = own_path / ("long" * 30)
    with start_postgres(home, is_throwaway=True) as server:
        assert "@127.0.0.1:" in server.url
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.url.replace("portal:", "portal:not"))


def test_a_stale_pid_file_whose_number_another_process_has_now_is_no_hindrance(stopped_home: Home) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as bystander:
        pid_file = stopped_home.postgres / "data" / "postmaster.pid"
        pid_file.write_text(f"{bystander.pid}\n{stopped_home.postgres / 'data'}\n")
        with start_postgres(stopped_home.path, is_throwaway=True) as server:
            assert read_kept(server.url)
        assert bystander.poll() is None
        bystander.kill()


def test_a_server_that_a_killed_run_left_is_stopped_first(stopped_home: Home) -> None:
    said: list[str] = []
    first = start_postgres(stopped_home.path, is_throwaway=True)
    with start_postgres(stopped_home.path, is_throwaway=True, say=said.append) as second:
        assert read_kept(second.url)
        assert not first.identity.is_alive()
    first.stop()
    assert any(f"process {first.identity.pid}" in line for line in said)


def test_a_killed_server_recovers_what_was_committed(own_path: Path) -> None:
    start_postgres(own_path, is_throwaway=True).stop()  # a quick initdb
    server = start_postgres(own_path)
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 'committed' AS value")
    server.identity.send_signal(signal.SIGKILL)
    server.stop()
    with start_postgres(own_path, is_throwaway=True) as again:
        assert read_kept(again.url) == "COMMITTED"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.txt": "mine"}, "is not a PostgreSQL data directory"),
        ({"PG_VERSION": "17\n"}, r"made by PostgreSQL 17, this is 18"),
    ],
)
def test_a_foreign_data_directory_is_refused_and_left_alone(home: Home, files: dict[str, str], message: str) -> None:
    data = home.postgres / "data"
    data.mkdir(parents=True)
    for name, text in files.items():
        (data / name).write_text(text)
    if os.geteuid() == 0:
        user = postgres.find_postgres_user()
        os.chown(data, user.uid, user.gid)
    with pytest.raises(EmbeddedError, match=message) as caught:
        start_postgres(home.path)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in data.iterdir()) == sorted(files)


def test_a_data_directory_of_another_user_is_refused(home: Home) -> None:
    home.path.mkdir()
    other = UnixUser("other", os.geteuid() + 1, os.getegid())
    with pytest.raises(
        EmbeddedError, match=f"belongs to uid {os.geteuid()}, but PostgreSQL would run as uid {other.uid}"
    ):
        postgres._check_data_directory(home.path, other)


def test_what_postgresql_says_when_it_refuses_is_passed_on(stopped_home: Home) -> None:
    conf = stopped_home.postgres / "data" / "postgresql.conf"
    good = conf.read_text()
    conf.write_text(good + "\nshared_buffers = 'plenty'\n")
    try:
        with pytest.raises(EmbeddedError, match=r"postgres stopped: .*FATAL.*errors; see .*postgres\.log"):
            start_postgres(stopped_home.path)
    finally:
        conf.write_text(good)


def test_a_nearly_full_disk_is_said_before_initdb_starts(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "NEEDED_BYTES", 10**18)
    with pytest.raises(EmbeddedError, match=r"disk full: .* MB are free"):
        start_postgres(home.path)


def test_valkey_serves_those_who_know_the_password_and_keeps_its_data(home: Home) -> None:
    with start_valkey(home.path) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("kept", "yes")
        with kombu.Connection(server.url) as connection:
            connection.ensure_connection(max_retries=1)
        port = int(server.url.rpartition(":")[2].split("/")[0])
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
    with start_valkey(home.path) as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert client.get("kept") == "yes"


def test_what_valkey_says_when_it_refuses_is_passed_on(home: Home) -> None:
    home.valkey.mkdir(parents=True)
    (home.valkey / "dump.rdb").write_bytes(b"no dump at all")
    with pytest.raises(EmbeddedError, match=r"valkey stopped: .*see .*valkey\.log"):
        start_valkey(home.path)


def test_test_servers_work_and_leave_nothing(own_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    urls, stop = testing.ensure_test_servers(own_path)
    with psycopg.connect(urls["DATABASE_URL"]) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("off",)
    with redis.Redis.from_url(urls["REDIS_URL"]) as client:
        assert client.ping()
    stop()
    assert list(own_path.iterdir()) == []


def test_servers_of_a_killed_test_run_end_and_are_cleared_away(own_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from portal.embedded.testing import ensure_test_servers;"
        "ensure_test_servers(Path(sys.argv[1])); print('up', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "DATABASE_URL": "", "REDIS_URL": ""}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(own_path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        (left,) = own_path.iterdir()
        pid = int((left / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])
        server = ProcessIdentity.of(pid)
        assert server is not None
        run.kill()
    assert wait_until_gone(server, 20)
    testing._remove_leftovers(own_path)
    assert list(own_path.iterdir()) == []
