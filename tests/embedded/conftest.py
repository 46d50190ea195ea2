"""Homes, and a stand-in for the site: the supervision is tested with the real thing around tiny web and worker."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from portal.embedded.state import CHECKOUT, Home, read_run

FAKE_MANAGE = """
import os, sys
from pathlib import Path
print("manage", *sys.argv[1:])
if sys.argv[1] == "ensure_installation":
    (Path(os.environ["PORTAL_HOME"]) / "credentials").write_text("admin secret-word\\n")
if sys.argv[1] == "collectstatic":
    (Path(os.environ["PORTAL_HOME"]) / "static").mkdir(exist_ok=True)
if sys.argv[1] == os.environ.get("FAKE_FAILS"):
    sys.exit("OperationalError: the disk is made of cheese")
"""
FAKE_GUNICORN = """
import http.server, os, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: (print("web ends"), sys.exit(0)))
if os.environ.get("FAKE_FAILS") == "web":
    sys.exit("ImportError: no module named wsgi")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
listener = socket.socket(fileno=int(sys.argv[sys.argv.index("--bind") + 1].removeprefix("fd://")))
server = http.server.HTTPServer(listener.getsockname(), Handler, bind_and_activate=False)
server.socket = listener
print("web listens")
server.serve_forever()
"""
FAKE_CELERY = """
import signal, sys
part = "beat" if "beat" in sys.argv else "worker"
signal.signal(signal.SIGTERM, lambda *_: (print(part, "ends"), sys.exit(0)))
print(part, "works")
while True:
    signal.pause()
"""
DRIVER = """
import sys
from pathlib import Path
from portal.embedded import commands, startup
startup.CHECKOUT = Path(sys.argv[1])
sys.exit(commands.main(sys.argv[2:]))
"""


@pytest.fixture
def own_path() -> Iterator[Path]:
    """A temporary directory outside pytest's: each pytest session closes /tmp/pytest-of-root to all users but root, and
    with it to the user as whom the PostgreSQL of a session that runs beside it reads its files.
    """
    with tempfile.TemporaryDirectory(prefix="portal-test-") as directory:
        yield Path(directory)


@pytest.fixture
def home(own_path: Path) -> Home:
    """A home that doesn't exist yet, with a space in its path."""
    return Home(own_path / "my portal")


def wait_for(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    """Wait until `condition` holds; fail when it doesn't in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


class FakeSite:
    """Starts real `up` processes over a checkout whose site is a few lines long."""

    def __init__(self, home: Home, checkout: Path) -> None:
        self.home = home
        self.checkout = checkout
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **extra: str) -> "subprocess.Popen[str]":
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": "",
            "PYTHONPATH": str(CHECKOUT),
            "PORTAL_HOME": str(self.home.path),
            "DATABASE_URL": "postgresql://elsewhere/portal",
            "REDIS_URL": "redis://elsewhere/0",
        }
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(self.checkout), *arguments],
            env={**environment, **extra},
            cwd=self.checkout,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, **extra: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command that ends by itself."""
        process = self.start(*arguments, **extra)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def start_until_ready(self, *arguments: str, **extra: str) -> "subprocess.Popen[str]":
        process = self.start(*(arguments or ("up",)), **extra)
        wait_for(lambda: process.poll() is not None or self._is_ready(process.pid), seconds=40)
        assert process.poll() is None, process.communicate()
        return process

    def _is_ready(self, pid: int) -> bool:
        run = read_run(self.home)
        return run is not None and run.supervisor.pid == pid and run.phase == "ready"

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=60)


@pytest.fixture
def site(home: Home, tmp_path: Path) -> Iterator[FakeSite]:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name, text in (("manage", FAKE_MANAGE), ("gunicorn", FAKE_GUNICORN), ("celery", FAKE_CELERY)):
        (checkout / f"{name}.py").write_text(textwrap.dedent(text))
    fake = FakeSite(home, checkout)
    yield fake
    fake.close()
