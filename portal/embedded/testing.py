"""Throw-away servers for a test run: a fresh, fast PostgreSQL and a Valkey that vanish with it."""

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from portal.embedded.servers import RunningServer, start_postgres, start_valkey
from portal.embedded.state import ProcessIdentity

_OWNER_FILE = "owner"


def ensure_test_servers(home: Path) -> tuple[dict[str, str], Callable[[], None]]:
    """Start throw-away servers in a new directory under `home`.

    Returns ({"DATABASE_URL": …, "REDIS_URL": …}, stop). `stop` ends the servers and removes their directory; should
    the test process be killed, the servers die with it (Linux) and the next call removes what it left. Runs side by
    side don't meet. A part whose variable is set in the environment is used as it is and not started.
    """
    home = home.absolute()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_leftovers(home)
    own = home / f"run-{secrets.token_hex(4)}"
    own.mkdir(mode=0o700)
    identity = ProcessIdentity.of(os.getpid())
    if identity is None:
        raise RuntimeError("cannot read the start time of this process")
    (own / _OWNER_FILE).write_text(f"{identity.pid} {identity.started}")
    servers: list[RunningServer] = []

    def stop() -> None:
        while servers:
            servers.pop().stop()
        shutil.rmtree(own, ignore_errors=True)

    urls = {}
    try:
        for variable, start in (("DATABASE_URL", start_postgres), ("REDIS_URL", start_valkey)):
            if os.environ.get(variable):
                urls[variable] = os.environ[variable]
                continue
            server = start(own, is_throwaway=True)
            servers.append(server)
            urls[variable] = server.url
    except BaseException:
        stop()
        raise
    return urls, stop


def _remove_leftovers(home: Path) -> None:
    """Remove the directories of test runs whose process is gone."""
    for directory in home.glob("run-*"):
        try:
            pid, started = (directory / _OWNER_FILE).read_text().split()
        except (OSError, ValueError):  # just being made by another run, or half removed by one
            continue
        if not ProcessIdentity(int(pid), started).is_alive():
            shutil.rmtree(directory, ignore_errors=True)
