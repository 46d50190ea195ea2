"""Linux processes: who they are, whether they still live, and how to be sure that none is left.

Numbers are used again; so a process is its number *and* the moment it started, on one boot of the machine.
"""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

MARKER_VARIABLE: Final = "PORTAL_JOB_MARKER"
"""Environment variable with a job's random marker, by which its processes are found when its supervisor is dead."""

_PR_SET_CHILD_SUBREAPER: Final = 36
_PROJECT_ROOT: Final = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that can't be mistaken for a later one with the same number."""

    pid: int
    start_ticks: int
    boot_id: str


def identify_process(pid: int) -> ProcessIdentity | None:
    """The identity of a live process; None if it is gone or a zombie."""
    start_ticks = _read_start_ticks(pid)
    return None if start_ticks is None else ProcessIdentity(pid, start_ticks, read_boot_id())


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether that very process still runs."""
    return identify_process(identity.pid) == identity


def read_boot_id() -> str:
    """The kernel's random name of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _read_start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)): clock ticks since boot at which the process started."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field, the name in brackets, may hold anything: count from its end.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def send_signal(identity: ProcessIdentity, signum: signal.Signals) -> bool:
    """Signal that very process, and no other that got its number; False if it is gone.

    Raises PermissionError if the process belongs to somebody else.
    """
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        # The descriptor holds on to whatever has the number now; so the look must come after the opening.
        if not is_alive(identity):
            return False
        signal.pidfd_send_signal(descriptor, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def become_subreaper() -> None:
    """From now on orphans among our descendants become our children, so that none can slip away (prctl(2)).

    Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(number)}")


def list_descendants() -> list[psutil.Process]:
    """All live descendants of this process."""
    return psutil.Process().children(recursive=True)


def find_leftovers(marker: str, *, known: Iterable[ProcessIdentity]) -> list[psutil.Process]:
    """The live processes of a job whose supervisor is dead.

    Found by the marker in their environment, by being one of those the supervisor has `known`, by belonging to the
    session of one of these, or by descending from any of them.
    """
    entry = f"{MARKER_VARIABLE}={marker}".encode()
    boot_id = read_boot_id()
    known_here = [identity for identity in known if identity.boot_id == boot_id]
    known_pids = {identity.pid for identity in known_here if is_alive(identity)}
    # The kernel gives a number to no new process while it still names a session: a dead leader's session is its own.
    sessions = {
        identity.pid for identity in known_here if _read_start_ticks(identity.pid) in (None, identity.start_ticks)
    }
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        pid = process.pid
        if pid in known_pids or _session_of(pid) in sessions or entry in _read_environment(pid):
            found[pid] = process
            try:
                found.update((child.pid, child) for child in process.children(recursive=True))
            except psutil.NoSuchProcess:
                continue
    found.pop(os.getpid(), None)
    return [process for process in found.values() if _read_start_ticks(process.pid) is not None]


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return -1


def _read_environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, or somebody else's and so none of the job's
        return []


def signal_all(processes: Iterable[psutil.Process], signum: signal.Signals) -> None:
    """Signal processes; those that are gone meanwhile are no error (psutil guards against re-used numbers)."""
    for process in processes:
        try:
            process.send_signal(signum)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def kill_all(
    find: Callable[[], list[psutil.Process]], *, patience_s: float, reap: Callable[[], None] = lambda: None
) -> bool:
    """SIGKILL whatever `find` finds until it finds nothing; False if that took longer than `patience_s`.

    `reap` is called between, for processes that only their parent can make go.
    """
    deadline = time.monotonic() + patience_s
    pause_s = 0.002
    while True:
        reap()
        processes = find()
        if not processes:
            return True
        if time.monotonic() > deadline:
            return False
        signal_all(processes, signal.SIGKILL)
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.1)


def spawn_detached(arguments: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
    """Start a process that belongs to nobody: not our child, own session, no descriptor of ours but the log.

    A shell stands between, since forking by ourselves isn't safe in a process with threads, and a direct child
    would stay a zombie until we care for it. Arguments are passed as such: nothing is put into shell text.

    Raises OSError.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        shell = subprocess.Popen(  # noqa: S603  (fixed command; arguments are ours)
            ["/bin/sh", "-c", '"$@" &', "sh", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd="/",
            env={**environment, "PYTHONPATH": str(_PROJECT_ROOT)},
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    shell.wait()
