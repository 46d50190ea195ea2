"""A whole portal of its own for tests: the embedded one, with real workers, in a directory that vanishes."""

import atexit
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from portal.embedded.state import Home, read_run

SESSION_VARIABLE = "PORTAL_TEST_SESSION"
CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass
class RunningPortal:
    """Where it is, and its people's passwords."""

    home: Home
    url: str
    passwords: dict[str, str]
    environment: dict[str, str]

    def client(self, user: str) -> httpx.Client:
        """Signed in to the API."""
        answer = httpx.post(
            f"{self.url}/api/v1/auth/token", json={"username": user, "password": self.passwords[user]}, timeout=30
        )
        answer.raise_for_status()
        return httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers={"Authorization": f"Bearer {answer.json()['token']}"},
            timeout=30,
        )

    def processes(self, part: str) -> list[psutil.Process]:
        """The part's process and its children, at this moment; empty while it is being restarted."""
        run = read_run(self.home)
        identity = run.parts.get(part) if run else None
        if identity is None or not identity.is_alive():
            return []
        try:
            parent = psutil.Process(identity.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def manage(self, *arguments: str) -> str:
        """Run manage.py against it; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=CHECKOUT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            raise AssertionError(f"manage.py {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout


def template_directory() -> Path:
    """Where this test session keeps an installed portal to copy: initdb, migrations and demo are most of a start."""
    # Workers of one session inherit it from their controller (tests/conftest.py).
    if SESSION_VARIABLE not in os.environ:
        os.environ[SESSION_VARIABLE] = uuid.uuid4().hex
        atexit.register(remove_template)
    return Path(tempfile.gettempdir()) / f"portal-template-{os.environ[SESSION_VARIABLE]}"


def remove_template() -> None:
    """For the end of a session."""
    shutil.rmtree(template_directory(), ignore_errors=True)


def _copy_of_template(home: Home, environment: Mapping[str, str]) -> None:
    """Put an installed portal where `home` will be. The first that asks makes it, and the others wait meanwhile."""
    directory = template_directory()
    directory.mkdir(mode=0o755, exist_ok=True)
    plain = {name: value for name, value in environment.items() if name != "SCHEDULERS_FILE"}
    made = Home(directory / "home")
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "done").exists():
            plain["PORTAL_HOME"] = str(made.path)
            try:
                _portal(("up", "--detach"), made, plain)
            finally:
                _portal(("down",), made, plain)
            shutil.rmtree(made.logs)
            (directory / "done").touch()
        # With its owners: PostgreSQL's files are another user's when the tests run as root.
        subprocess.run(["cp", "-a", str(made.path), str(home.path)], check=True)


def _portal(arguments: Sequence[str], home: Home, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "portal", *arguments],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode:
        log = (home.logs / "all.log").read_text(errors="replace")[-4000:] if home.logs.exists() else ""
        raise AssertionError(f"portal {arguments[0]} failed: {done.stdout}{done.stderr}\n{log}")


@contextmanager
def running_portal(extra: Mapping[str, str] | None = None) -> Iterator[RunningPortal]:
    """Start a portal, and stop it and all its jobs at the end."""
    directory = Path(tempfile.mkdtemp(prefix="portal-"))
    directory.chmod(0o755)  # PostgreSQL runs as another user when the tests run as root
    home = Home(directory / "home")
    dropped = {"DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DJANGO_SETTINGS_MODULE"}
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment |= {"PORTAL_HOME": str(home.path), "POLL_INTERVAL_S": "1", **(extra or {})}

    try:
        _copy_of_template(home, environment)
        _portal(("up", "--detach"), home, environment)
        run = read_run(home)
        assert run is not None
        lines = home.credentials_file.read_text().splitlines()
        yield RunningPortal(home, run.web_url, dict(line.split() for line in lines), environment)
    finally:
        _portal(("down",), home, environment)
        _end_jobs(home.scheduler)
        shutil.rmtree(directory, ignore_errors=True)


def _end_jobs(scheduler_root: Path) -> None:
    """Jobs outlive the portal on purpose: end those of this one."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = " ".join(process.info["cmdline"] or []) + str(process.info["cwd"] or "")
        if str(scheduler_root) in words:
            process.kill()
