"""A server that is about to run: how it is started, when it can be used, and why it ended if it doesn't get there."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from portal.embedded.errors import EmbeddedError
from portal.embedded.processes import ProcessSpec


@dataclass(frozen=True)
class PreparedServer:
    """A server that is ready to be started by `spec`, and the address it will answer at."""

    spec: ProcessSpec
    url: str
    is_answering: Callable[[], bool]


def wait_until_answering(
    server: PreparedServer,
    *,
    is_alive: Callable[[], bool],
    log_offset: int,
    seconds: float = 120,
    tick: Callable[[], None] = lambda: time.sleep(0.05),
) -> None:
    """Wait until the server can be used. Long enough for a crash recovery; a server that ends is noticed at once.

    Raises EmbeddedError with the last thing that the server wrote since `log_offset`.
    """
    deadline = time.monotonic() + seconds
    while not server.is_answering():
        if not is_alive():
            raise describe_failure(server.spec, log_offset)
        if time.monotonic() > deadline:
            raise EmbeddedError(f"{server.spec.name} doesn't answer after {seconds:.0f} s; see {server.spec.log}")
        tick()


def measure_log(log: Path) -> int:
    """Size in bytes of a log that may not exist yet."""
    return log.stat().st_size if log.exists() else 0


_PASSING = re.compile(r"the database system is (starting up|not yet accepting|shutting down)")
_TELLING = re.compile(
    r"FATAL|PANIC|Unknown command|[Ee]rror|ERROR|No space left|Failed|[Cc]an't|Could not|Permission denied"
)


def describe_failure(spec: ProcessSpec, log_offset: int) -> EmbeddedError:
    """The error that says in one line why a part ended, in the part's own words."""
    with spec.log.open("rb") as file:
        file.seek(log_offset)
        return EmbeddedError(f"{spec.name} stopped: {pick_telling_line(file.read())}; see {spec.log}")


def pick_telling_line(output: bytes) -> str:
    """The line of a log that names the failure best: the last one that looks like an error, else the last one."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if _TELLING.search(line) and not _PASSING.search(line)]
    return (telling or lines or ["it said nothing"])[-1]
