"""A whole portal of its own for tests: the embedded one, with real workers, in a directory that vanishes."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from portal.embedded.state import Home, read_run

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


@contextmanager
def running_portal(extra: Mapping[str, str] | None = None) -> Iterator[RunningPortal]:
    """Start a portal, and stop it and all its jobs at the end."""
    directory = Path(tempfile.mkdtemp(prefix="portal-"))
    directory.chmod(0o755)  # PostgreSQL runs as another user when the tests run as root
    home = Home(directory / "home")
    dropped = {"DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DJANGO_SETTINGS_MODULE"}
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment |= {"PORTAL_HOME": str(home.path), "POLL_INTERVAL_S": "1", **(extra or {})}

    def portal(*arguments: str) -> None:
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

    portal("up", "--detach")
    try:
        run = read_run(home)
        assert run is not None
        lines = home.credentials_file.read_text().splitlines()
        yield RunningPortal(home, run.web_url, dict(line.split() for line in lines), environment)
    finally:
        portal("down")
        _end_jobs(home.scheduler)
        shutil.rmtree(directory, ignore_errors=True)


def _end_jobs(scheduler_root: Path) -> None:
    """Jobs outlive the portal on purpose: end those of this one."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = " ".join(process.info["cmdline"] or []) + str(process.info["cwd"] or "")
        if str(scheduler_root) in words:
            process.kill()
