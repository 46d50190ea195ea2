"""What the embedded portal keeps on disk: the layout of its home directory, run.json, and who a process is.

Imports neither Django nor a database driver: settings.py reads `running_urls` while Django itself is being set up.
"""

import errno
import fcntl
import json
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from portal.embedded.errors import AlreadyRunning, EmbeddedError

CHECKOUT = Path(__file__).resolve().parents[2]
RUN_VERSION = 1


@dataclass(frozen=True)
class Home:
    """The directory that holds all state of one installation, `.portal` in the checkout unless $PORTAL_HOME says."""

    path: Path

    @property
    def run_file(self) -> Path:
        return self.path / "run.json"

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"

    @property
    def secret_key_file(self) -> Path:
        return self.path / "secret_key"

    @property
    def credentials_file(self) -> Path:
        return self.path / "credentials"

    @property
    def postgres(self) -> Path:
        return self.path / "postgres"

    @property
    def valkey(self) -> Path:
        return self.path / "valkey"

    @property
    def beat(self) -> Path:
        return self.path / "beat"

    @property
    def scheduler(self) -> Path:
        """Root of the local scheduler. Its jobs outlive the portal: nothing in this package touches them."""
        return self.path / "scheduler"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def log_of(self, part: str) -> Path:
        return self.logs / f"{part}.log"


def find_home(environ: Mapping[str, str]) -> Home:
    """The home directory that the environment names, made absolute."""
    return Home(Path(environ.get("PORTAL_HOME") or CHECKOUT / ".portal").expanduser().absolute())


def prepare_home(home: Home) -> None:
    """Create the home directory and what must exist before any part starts; closed to other users.

    Raises EmbeddedError when the directory cannot serve as a home.
    """
    if home.path in (Path("/"), Path("/tmp"), Path(os.path.expanduser("~"))):  # noqa: S108 - refused, not used
        raise EmbeddedError(f"PORTAL_HOME is {home.path}: give the portal a directory of its own")
    home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = home.path.stat()
    if found.st_uid != os.geteuid():
        raise EmbeddedError(
            f"{home.path} belongs to uid {found.st_uid} and you are uid {os.geteuid()}: "
            "run as its owner or set PORTAL_HOME to a directory of yours"
        )
    if found.st_mode & 0o067:  # 0710 is left: as root, PostgreSQL's user passes through by its group
        home.path.chmod(0o700)
    for directory in (home.logs, home.beat, home.scheduler):
        directory.mkdir(mode=0o700, exist_ok=True)
    if not home.secret_key_file.exists():
        write_private(home.secret_key_file, secrets.token_urlsafe(50) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write `text` so that readers see the old or the new file, never half of one, and only the owner can read it."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # created with mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextmanager
def hold_lock(home: Home) -> Iterator[None]:
    """Be the only supervisor of this home. The kernel drops the lock however this process ends.

    Raises AlreadyRunning when another process holds it.
    """
    with home.lock_file.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise EmbeddedError(f"cannot lock {home.lock_file}: {error.strerror}") from error
            run = read_run(home)
            where = f" at {run.web_url}" if run and run.web_url else f" in {home.path}"
            raise AlreadyRunning(f"already running{where}; stop it with: python -m portal down") from error
        yield


# -- who a process is --------------------------------------------------------------------------------------------------


@cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def read_start_time(pid: int) -> str | None:
    """When process `pid` started, as an opaque text that a later process of the same number never has.

    None when there is no such process, or only its corpse (a zombie).
    """
    if sys.platform != "linux":
        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
        except psutil.NoSuchProcess:
            return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # proc(5): the command, in parentheses, may hold anything; field 3 is the state, field 22 the start in clock ticks
    # since boot, which unlike a wall-clock time doesn't move when the clock is set.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{_boot_id()}:{fields[19]}"


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, told apart from any later one that gets the same number."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity | None":
        """The process that has `pid` now, None when nothing has."""
        started = read_start_time(pid)
        return None if started is None else cls(pid, started)

    def is_alive(self) -> bool:
        return read_start_time(self.pid) == self.started

    def send_signal(self, signal_number: int) -> bool:
        """Signal exactly this process; False when it is gone. A new owner of the number is never hit."""
        try:
            if not hasattr(os, "pidfd_open"):
                if not self.is_alive():
                    return False
                os.kill(self.pid, signal_number)
                return True
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            if not self.is_alive():
                return False
            os.kill(self.pid, signal_number)
            return True
        try:
            # The handle pins the process; identity is checked after it was taken, so no re-use can come between.
            if not self.is_alive():
                return False
            signal.pidfd_send_signal(handle, signal_number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True


# -- run.json ----------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What runs now. Written by the supervisor only; holds passwords, hence mode 0600."""

    supervisor: ProcessIdentity
    phase: str = "starting"  # starting, ready, stopping
    web_url: str = ""
    environment: dict[str, str] = field(default_factory=dict)  # what `shell-env` prints
    parts: dict[str, ProcessIdentity] = field(default_factory=dict)
    external: list[str] = field(default_factory=list)  # parts that the environment points elsewhere


def write_run(home: Home, run: Run) -> None:
    """Replace run.json."""
    write_private(home.run_file, json.dumps({"version": RUN_VERSION, **asdict(run)}, indent=1) + "\n")


def read_run(home: Home) -> Run | None:
    """What run.json says; None when there is none or it isn't one of ours. Says nothing about who is alive."""
    try:
        raw: dict[str, Any] = json.loads(home.run_file.read_text(encoding="utf-8"))
        if raw.pop("version") != RUN_VERSION:
            return None
        raw["supervisor"] = ProcessIdentity(**raw["supervisor"])
        raw["parts"] = {part: ProcessIdentity(**identity) for part, identity in raw["parts"].items()}
        return Run(**raw)
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError, TypeError, KeyError, AttributeError):
        return None


def running_urls(home: Path) -> dict[str, str] | None:
    """DATABASE_URL and REDIS_URL of the embedded portal that runs in `home`; None when none does."""
    run = read_run(Home(Path(home).absolute()))
    if run is None or not run.supervisor.is_alive():
        return None
    names = ["DATABASE_URL", "REDIS_URL"]
    if not all(name in run.environment for name in names):  # the servers are still starting
        return None
    return {name: run.environment[name] for name in names}
