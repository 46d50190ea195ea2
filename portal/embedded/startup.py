"""`up`: bring every part of the portal up in order, then watch over it until it is asked to stop."""

import hashlib
import http.client
import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import psutil

from portal.embedded.errors import EmbeddedError, StopRequested
from portal.embedded.logs import MergedLog
from portal.embedded.ports import LOOPBACK, describe_port_owner, listen_near, listen_on
from portal.embedded.postgres import prepare_postgres
from portal.embedded.processes import ProcessSpec, Say
from portal.embedded.readiness import PreparedServer, describe_failure, measure_log, wait_until_answering
from portal.embedded.state import (
    CHECKOUT,
    Home,
    ProcessIdentity,
    Run,
    hold_lock,
    prepare_home,
    read_run,
    write_private,
    write_run,
)
from portal.embedded.supervise import STOP_STEPS, Supervisor, stop_leftovers
from portal.embedded.valkey import prepare_valkey

DEFAULT_PORT = 8000
WEB_READY_S = 90.0
WEB_WORKERS, WEB_THREADS = 2, 16
CELERY_CONCURRENCY = 4  # two clusters may hang, and the others are still served
EXTERNAL = {"DATABASE_URL": "postgres", "REDIS_URL": "valkey"}
_ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True)
class UpOptions:
    """What the command line asked for; `port` None means 8000 or the next free one."""

    bind: str = LOOPBACK
    port: int | None = None


def run_portal(home: Home, options: UpOptions, environ: Mapping[str, str], terminal: IO[str]) -> int:
    """Start everything, watch over it, stop everything; returns the exit code.

    Raises EmbeddedError when something keeps the portal from starting; what had started is stopped by then.
    """
    prepare_home(home)
    own = ProcessIdentity.of(os.getpid())
    if own is None:
        raise EmbeddedError("cannot read the start time of this process")
    with hold_lock(home):
        log = MergedLog(home, terminal)
        try:
            if (earlier := read_run(home)) is not None:
                stop_leftovers(home, earlier, say=log.say)
            supervisor = Supervisor(home, Run(own), log)
            write_run(home, supervisor.run)
            with supervisor.handle_signals():
                try:
                    return _bring_up_and_watch(supervisor, options, environ)
                finally:
                    supervisor.stop_all()
                    home.run_file.unlink(missing_ok=True)
        finally:
            log.close()


def _bring_up_and_watch(supervisor: Supervisor, options: UpOptions, environ: Mapping[str, str]) -> int:
    try:
        # Held from here to the end: nobody else can answer in the portal's place, and while the web server is being
        # started again, requests wait instead of being refused.
        listener = listen_for_web(options, say=supervisor.log.say)
        port = listener.getsockname()[1]
        urls = start_servers(supervisor, environ)
        environment = build_environment(supervisor.home, environ, bind=options.bind, port=port, urls=urls)
        supervisor.run.environment = {name: environment[name] for name in _SHARED if name in environment}
        supervisor.run.web_url = environment["PORTAL_URL"]
        prepare_site(supervisor, environment)
        start_site(supervisor, environment, listener=listener)
        supervisor.run.phase = "ready"
        write_run(supervisor.home, supervisor.run)
        _announce(supervisor)
    except StopRequested:
        supervisor.log.say("stopped before it was ready")
        return 130
    supervisor.watch()
    return 0


def listen_for_web(options: UpOptions, *, say: Say) -> socket.socket:
    """The socket to serve on. Raises EmbeddedError when the port that was asked for is taken."""
    wanted = DEFAULT_PORT if options.port is None else options.port
    if (listener := listen_on(options.bind, wanted)) is not None:
        return listener
    owner = describe_port_owner(wanted)
    if options.port is not None:
        raise EmbeddedError(f"port {wanted} is in use by {owner}: choose another --port, or none to get a free one")
    listener = listen_near(options.bind, preferred=wanted + 1)
    say(f"port {wanted} is in use by {owner}; using {listener.getsockname()[1]}")
    return listener


def start_servers(supervisor: Supervisor, environ: Mapping[str, str]) -> dict[str, str]:
    """Start the servers that the environment doesn't name; returns DATABASE_URL and REDIS_URL."""
    prepared: dict[str, PreparedServer] = {}
    urls: dict[str, str] = {}
    for variable, part in EXTERNAL.items():
        if environ.get(variable):
            urls[variable] = environ[variable]
            supervisor.run.external.append(part)
            supervisor.log.say(f"{part} isn't started: {variable} is set")
    if "DATABASE_URL" not in urls:
        prepared["DATABASE_URL"] = prepare_postgres(supervisor.home, say=supervisor.log.say)
    if "REDIS_URL" not in urls:
        prepared["REDIS_URL"] = prepare_valkey(supervisor.home)
    offsets = {variable: measure_log(server.spec.log) for variable, server in prepared.items()}
    for server in prepared.values():
        supervisor.start(server.spec)
    for variable, server in prepared.items():
        wait_until_answering(
            server,
            is_alive=partial(supervisor.is_running, server.spec.name),
            log_offset=offsets[variable],
            tick=supervisor.tick,
        )
        urls[variable] = server.url
    return urls


_SHARED = (
    "DATABASE_URL",
    "REDIS_URL",
    "PORTAL_HOME",
    "SECRET_KEY_FILE",
    "ALLOWED_HOSTS",
    "PORTAL_URL",
    "DEBUG",
    "DJANGO_SETTINGS_MODULE",
)


def build_environment(
    home: Home, environ: Mapping[str, str], *, bind: str, port: int, urls: Mapping[str, str]
) -> dict[str, str]:
    """The environment of the site's processes: the caller's, the servers' addresses, defaults for what is unset."""
    hosts, address = _list_hosts(bind)
    defaults = {
        "SECRET_KEY_FILE": str(home.secret_key_file),
        "ALLOWED_HOSTS": ",".join(hosts),
        "PORTAL_URL": f"http://{address}:{port}",
        "DEBUG": "false",
        "DJANGO_SETTINGS_MODULE": "portal.settings",
    }
    chosen = {name: environ.get(name) or default for name, default in defaults.items()}
    return {**environ, **chosen, **urls, "PORTAL_HOME": str(home.path), "PYTHONUNBUFFERED": "1"}


def _list_hosts(bind: str) -> tuple[list[str], str]:
    """The names that the site answers to, and the one to print."""
    bracketed = f"[{bind}]" if ":" in bind else bind
    local = ["localhost", LOOPBACK, "[::1]"]
    if bind in _ANY_ADDRESS:
        addresses = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries]
        seen = [address for address in addresses if "." in address and ":" not in address]
        name = socket.gethostname()
        return sorted({*local, *seen, name, socket.getfqdn()}), name
    return sorted({*local, bracketed}), bracketed


# -- the site ----------------------------------------------------------------------------------------------------------


def prepare_site(supervisor: Supervisor, environment: dict[str, str]) -> None:
    """Bring the database and the static files up to date, and create the first installation when there is none."""

    def manage(*arguments: str) -> None:
        spec = _site_spec(supervisor.home, "setup", environment, "manage.py", *arguments)
        supervisor.run_once(spec, describe=f"manage.py {arguments[0]}")

    manage("migrate", "--noinput")
    manage("ensure_installation")
    stamp_file = supervisor.home.path / "static.stamp"
    static_root = Path(environment.get("STATIC_ROOT") or supervisor.home.path / "static")
    stamp = compute_static_stamp(CHECKOUT, static_root, home=supervisor.home.path)
    if not static_root.is_dir() or not stamp_file.exists() or stamp_file.read_text() != stamp:
        manage("collectstatic", "--noinput", "--verbosity", "0")
        write_private(stamp_file, stamp)


def compute_static_stamp(checkout: Path, static_root: Path, *, home: Path) -> str:
    """Changes whenever a static file of the checkout or a version of an installed package does, or the place of them.

    A place within `home` counts from there: a home that was moved or copied as a whole has its files already.
    """
    place = static_root.relative_to(home) if static_root.is_relative_to(home) else static_root
    digest = hashlib.sha256(f"{place}\n".encode())
    for path in sorted(checkout.glob("*/static/**/*")):
        found = path.stat()
        digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    versions = sorted(f"{distribution.name}=={distribution.version}" for distribution in distributions())
    digest.update("\n".join(versions).encode())
    return digest.hexdigest()


def start_site(supervisor: Supervisor, environment: dict[str, str], *, listener: socket.socket) -> None:
    """Start web server, worker and beat, and wait until the site answers /healthz."""
    home = supervisor.home
    web = _module_spec(home, "web", environment, "gunicorn", *_list_gunicorn_arguments(listener.fileno()))
    web = replace(web, inherited_fds=(listener.fileno(),))
    celery = ("--app", "portal")
    worker_arguments = ("--pool", "prefork", "--concurrency", str(CELERY_CONCURRENCY), "--loglevel", "INFO")
    worker = _module_spec(
        home, "worker", environment, "celery", *celery, "worker", *worker_arguments, "--without-gossip"
    )
    schedule = str(home.beat / "schedule")
    beat = _module_spec(
        home, "beat", environment, "celery", *celery, "beat", "--schedule", schedule, "--pidfile", "", "--loglevel",
        "INFO",
    )  # fmt: skip
    offset = measure_log(web.log)
    for spec in (web, worker, beat):
        supervisor.start(spec)
    deadline = time.monotonic() + WEB_READY_S
    bind, port = listener.getsockname()[:2]
    reachable = LOOPBACK if bind in _ANY_ADDRESS else bind
    connect_to = f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
    while (status := ask_health(connect_to)) != http.client.OK:
        if not supervisor.is_running("web"):
            raise describe_failure(web, offset)
        if time.monotonic() > deadline:
            answer = f"answers {status}" if status else "doesn't answer"
            raise EmbeddedError(f"the portal {answer} at {connect_to}/healthz after {WEB_READY_S:.0f} s; see {web.log}")
        supervisor.tick()


def _list_gunicorn_arguments(listener_fd: int) -> tuple[str, ...]:
    return (
        "portal.wsgi:application",
        *("--bind", f"fd://{listener_fd}"),
        *("--worker-class", "gthread", "--workers", str(WEB_WORKERS), "--threads", str(WEB_THREADS)),
        *("--timeout", "60", "--graceful-timeout", "10"),
        *("--keep-alive", "75"),  # longer than pages and clients wait between two polls
        "--no-control-socket",  # it would be made under $HOME
    )


def _site_spec(home: Home, part: str, environment: dict[str, str], *arguments: str) -> ProcessSpec:
    return ProcessSpec(
        name=part,
        argv=(sys.executable, *arguments),
        cwd=CHECKOUT,
        env=environment,
        log=home.log_of(part),
        stop_steps=STOP_STEPS[part],
    )


def _module_spec(home: Home, part: str, environment: dict[str, str], module: str, *arguments: str) -> ProcessSpec:
    return _site_spec(home, part, environment, "-m", module, *arguments)


def ask_health(url: str, *, timeout_s: float = 5) -> int | None:
    """The HTTP status of /healthz at `url`, None when nothing answers. Goes past any proxy of the environment."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or LOOPBACK, address.port, timeout=timeout_s)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _announce(supervisor: Supervisor) -> None:
    log, home = supervisor.log, supervisor.home
    log.pump()
    log.say(f"the portal is ready at {supervisor.run.web_url}")
    for line in read_credentials(home):
        log.say(line)
    log.say("stop it with Ctrl-C or: python -m portal down")


def read_credentials(home: Home) -> list[str]:
    """The lines to print about signing in: where the credentials are, and the first ones themselves."""
    if not home.credentials_file.exists():
        return []
    lines = home.credentials_file.read_text(encoding="utf-8").splitlines()
    return [f"sign in with (from {home.credentials_file}):", *(f"  {line}" for line in lines if line.strip())]
