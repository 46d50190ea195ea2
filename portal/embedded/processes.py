"""Start a child process so that it can be found, stopped in order, and never outlives its parent unnoticed."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from portal.embedded.state import ProcessIdentity

Say = Callable[[str], None]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class UnixUser:
    """Whom a child runs as when the portal itself runs as root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class StopStep:
    """One signal and how many seconds it gets to work before the next step."""

    signal: signal.Signals
    seconds: float


@dataclass(frozen=True)
class ProcessSpec:
    """How to run and stop one part. After the last stop step comes SIGKILL."""

    name: str
    argv: tuple[str, ...]
    cwd: Path
    env: dict[str, str]
    log: Path
    user: UnixUser | None = None
    inherited_fds: tuple[int, ...] = ()
    """Open files that the process gets, such as a socket that it is to serve."""
    stop_steps: tuple[StopStep, ...] = (StopStep(signal.SIGTERM, 20),)


def discard(_line: str) -> None:
    """A `say` for callers that have no log."""


def spawn(spec: ProcessSpec) -> "subprocess.Popen[bytes]":
    """Start the process in its own session, its output appended to its log file.

    A file instead of a pipe: a supervisor that dies or stalls can neither break nor block its children. The child gets
    its first stop signal when the parent dies (Linux). Call from the main thread of a process without other threads:
    the kernel ties that signal to the thread that started the child.
    """
    parent_pid = os.getpid()
    death_signal = spec.stop_steps[0].signal

    def follow_parent() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal))
            if os.getppid() != parent_pid:  # it died before the request was made
                os._exit(1)

    with spec.log.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - argv is built by this package, no shell
            spec.argv,
            cwd=spec.cwd,
            env=spec.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
            pass_fds=spec.inherited_fds,
            user=spec.user.uid if spec.user else None,
            group=spec.user.gid if spec.user else None,
            extra_groups=[] if spec.user else None,
            preexec_fn=follow_parent,
        )


def find_group_members(leader_pid: int) -> list[ProcessIdentity]:
    """The other processes in the process group that `leader_pid` leads (Celery's pool, gunicorn's workers).

    Jobs of the local scheduler are in sessions of their own, hence never among them.
    """
    members = []
    for pid in psutil.pids():
        try:
            if pid != leader_pid and os.getpgid(pid) == leader_pid and (identity := ProcessIdentity.of(pid)):
                members.append(identity)
        except (ProcessLookupError, PermissionError):
            continue
    return members


def kill_orphans(leader_pid: int, *, home: Path) -> int:
    """Kill the group that a part left behind when its leader was killed; returns how many processes that were.

    The kernel doesn't give a number away again while a group uses it, so a foreign process that has `leader_pid` now
    means that no orphans are left. What remains must also be of this portal home by its environment.
    """
    if ProcessIdentity.of(leader_pid) is not None:
        return 0
    killed = 0
    for member in find_group_members(leader_pid):
        try:
            is_ours = psutil.Process(member.pid).environ().get("PORTAL_HOME") == str(home)
        except psutil.Error:
            continue
        if is_ours and member.send_signal(signal.SIGKILL):
            killed += 1
    return killed


def wait_until_gone(identity: ProcessIdentity, seconds: float, *, tick: Callable[[], None] | None = None) -> bool:
    """Whether the process ended within `seconds`; `tick` is called while waiting."""
    deadline = time.monotonic() + seconds
    while identity.is_alive():
        if time.monotonic() >= deadline:
            return False
        if tick is not None:
            tick()
        time.sleep(0.05)
    return True


def stop_process(
    name: str,
    identity: ProcessIdentity,
    steps: tuple[StopStep, ...],
    *,
    say: Say,
    tick: Callable[[], None] | None = None,
    is_hurried: Callable[[], bool] = lambda: False,
) -> None:
    """Stop one process and its group step by step and wait; SIGKILL, and a line that says so, when no step worked."""
    members: set[ProcessIdentity] = set()
    for step in steps:
        if not identity.is_alive():
            break
        members.update(find_group_members(identity.pid))
        identity.send_signal(step.signal)
        started = time.monotonic()
        while not wait_until_gone(identity, 0.2, tick=tick):
            waited = time.monotonic() - started
            if waited >= step.seconds or (is_hurried() and waited >= 1):
                say(f"{name} (process {identity.pid}) didn't end {waited:.0f} s after {step.signal.name}")
                break
    if identity.send_signal(signal.SIGKILL):
        say(f"{name} (process {identity.pid}) is killed")
        wait_until_gone(identity, 10, tick=tick)
    if leftovers := sum(member.send_signal(signal.SIGKILL) for member in members):
        say(f"{name}: killed {leftovers} of its processes that stayed behind")
