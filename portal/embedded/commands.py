"""The command line: `python -m portal up | down | status | logs | shell-env`."""

import argparse
import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from portal.embedded.errors import AlreadyRunning, EmbeddedError, NotRunning
from portal.embedded.logs import format_line, read_merged
from portal.embedded.ports import LOOPBACK
from portal.embedded.processes import wait_until_gone
from portal.embedded.startup import UpOptions, ask_health, read_credentials, run_portal
from portal.embedded.state import CHECKOUT, Home, ProcessIdentity, Run, find_home, hold_lock, prepare_home, read_run
from portal.embedded.supervise import STOP_ORDER, STOP_STEPS, stop_leftovers

PARTS = ("postgres", "valkey", "web", "worker", "beat")
DETACHED_READY_S = 300.0
# Every part may use all the time it has; then the supervisor has forgotten how to stop.
DOWN_S = sum(step.seconds + 10 for part in STOP_ORDER for step in STOP_STEPS[part])


def main(argv: list[str] | None = None, *, environ: Mapping[str, str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed (one line on stderr says why), 3 (not) running."""
    environ = os.environ if environ is None else environ
    arguments = build_parser().parse_args(argv)
    try:
        home = find_home(environ)
        return int(arguments.run(home, arguments, environ))
    except EmbeddedError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        return _fail(describe_os_error(error), 1)
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    parser = argparse.ArgumentParser(
        prog="python -m portal",
        description="The portal on one machine, with its own PostgreSQL and Valkey. State is kept in .portal/ of the "
        "checkout, or in $PORTAL_HOME. DATABASE_URL and REDIS_URL, when set, name servers to use instead.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    up = commands.add_parser("up", help="start everything and show one log until Ctrl-C")
    up.add_argument("--bind", default=LOOPBACK, metavar="ADDRESS", help="address to serve on (default: %(default)s)")
    up.add_argument("--port", type=_read_port, metavar="PORT", help="port to serve on (default: 8000, or a free one)")
    up.add_argument("--detach", action="store_true", help="go on in the background; return when the portal answers")
    up.set_defaults(run=_up)

    down = commands.add_parser("down", help="stop everything; running jobs go on")
    down.set_defaults(run=_down)

    status = commands.add_parser("status", help="say what runs and where (exit code 3: not running)")
    status.set_defaults(run=_status)

    logs = commands.add_parser("logs", help="show the log")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with new lines")
    logs.add_argument("--part", choices=(*PARTS, "portal", "setup"), help="only this part")
    logs.add_argument("-n", "--lines", type=int, default=200, help="how many past lines (default: %(default)s)")
    logs.set_defaults(run=_logs)

    shell_env = commands.add_parser("shell-env", help="print the environment for manage.py: eval it in a shell")
    shell_env.set_defaults(run=_shell_env)
    return parser


def describe_os_error(error: OSError) -> str:
    """What the system refused, in one line."""
    where = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"disk full: cannot write{where}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to write{where} ({error.strerror}): set PORTAL_HOME to a directory of yours"
    return f"{error.strerror or error}{':' + where if where else ''}"


def _fail(message: str, code: int) -> int:
    print(f"portal: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


def _read_port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; allowed: 1 to 65535")
    return int(text)


# -- up ----------------------------------------------------------------------------------------------------------------


def _up(home: Home, arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    run = read_run(home)
    if run is not None and run.supervisor.is_alive():
        where = f"at {run.web_url}" if run.web_url else "(still starting)"
        raise AlreadyRunning(f"already running {where}; stop it with: python -m portal down")
    if arguments.detach:
        return _start_detached(home, arguments, environ)
    return run_portal(home, UpOptions(bind=arguments.bind, port=arguments.port), environ, sys.stdout)


def _start_detached(home: Home, arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    prepare_home(home)
    argv = [sys.executable, "-m", "portal", "up", "--bind", arguments.bind]
    argv += ["--port", str(arguments.port)] if arguments.port else []
    output = home.log_of("up")
    with output.open("wb") as file:
        # The merged log is in all.log; here go only the last words of an `up` that fails.
        process = subprocess.Popen(  # noqa: S603 - fixed argv, no shell
            argv,
            cwd=CHECKOUT,
            env={**environ, "PORTAL_HOME": str(home.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
        )
    print("Starting; the first time takes a minute or two. To watch: python -m portal logs -f", flush=True)
    deadline = time.monotonic() + DETACHED_READY_S
    try:
        while process.poll() is None:
            run = read_run(home)
            if run and run.supervisor.pid == process.pid and run.phase == "ready" and run.supervisor.is_alive():
                _print_ready(home, run)
                return 0
            if time.monotonic() > deadline:
                process.send_signal(signal.SIGTERM)
                raise EmbeddedError(f"not ready after {DETACHED_READY_S:.0f} s; see {home.log_of('all')}")
            time.sleep(0.1)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        raise
    said = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = said[-1].removeprefix("portal: ") if said else f"it was stopped; see {home.log_of('all')}"
    return _fail(reason, process.returncode if process.returncode > 0 else 1)


def _print_ready(home: Home, run: Run) -> None:
    print(f"The portal is ready at {run.web_url}")
    for line in read_credentials(home):
        print(line)
    print("Stop it with: python -m portal down")


# -- down --------------------------------------------------------------------------------------------------------------


def _down(home: Home, _arguments: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    run = read_run(home)
    if run is None:
        if not home.lock_file.exists():
            print("The portal is not running.")
            return 0
        with hold_lock(home):  # says so when a supervisor is just starting
            print("The portal is not running.")
            return 0
    stopped = 0
    if run.supervisor.is_alive():
        print(f"Stopping the portal (process {run.supervisor.pid}) …", flush=True)
        run.supervisor.send_signal(signal.SIGTERM)
        stopped += 1
        if not wait_until_gone(run.supervisor, DOWN_S):
            print(f"process {run.supervisor.pid} didn't end in {DOWN_S:.0f} s and is killed")
            run.supervisor.send_signal(signal.SIGKILL)
            wait_until_gone(run.supervisor, 10)
        run = read_run(home)  # what a supervisor that didn't end by itself has left
    with hold_lock(home):
        if run is not None:
            stopped += stop_leftovers(home, run, say=print)
            home.run_file.unlink(missing_ok=True)
    print("The portal is stopped." if stopped else "The portal is not running.")
    return 0


# -- looking -----------------------------------------------------------------------------------------------------------


def _status(home: Home, _arguments: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    run = read_run(home)
    if run is None:
        print(f"The portal of {home.path} is not running.")
        return NotRunning.exit_code
    is_supervised = run.supervisor.is_alive()
    running = {part: identity for part, identity in run.parts.items() if identity.is_alive()}
    if not is_supervised:
        print(f"The portal of {home.path} is not running.")
        if running:
            print(f"Left of a killed run: {_list_processes(running)}; stop with: python -m portal down")
        return NotRunning.exit_code
    health = ask_health(run.web_url) if run.phase == "ready" else None
    words = {None: "doesn't answer", 200: "answers"}.get(health, f"answers with status {health}")
    print(f"{run.web_url or '-'}  {run.phase if run.phase != 'ready' else words}  (process {run.supervisor.pid})")
    for part in PARTS:
        if part in run.external:
            print(f"  {part:<9} not embedded: the environment names a server")
        elif part in running:
            print(f"  {part:<9} running, process {running[part].pid}")
        else:
            print(f"  {part:<9} down")
    is_healthy = health == 200 and all(part in running or part in run.external for part in PARTS)
    return 0 if is_healthy else NotRunning.exit_code


def _list_processes(parts: dict[str, ProcessIdentity]) -> str:
    return ", ".join(f"{part} (process {identity.pid})" for part, identity in parts.items())


def _logs(home: Home, arguments: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    if not Path(home.logs).is_dir():
        raise NotRunning(f"there is no log yet in {home.logs}")
    try:
        for line in read_merged(home, part=arguments.part, last=arguments.lines, is_following=arguments.follow):
            print(format_line(line, sys.stdout), flush=arguments.follow)
        sys.stdout.flush()
    except BrokenPipeError:  # `… logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _shell_env(home: Home, _arguments: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    run = read_run(home)
    if run is None or not run.supervisor.is_alive() or not run.environment:
        raise NotRunning(f"the portal of {home.path} is not running; start it with: python -m portal up --detach")
    print("export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in run.environment.items()))
    return 0
