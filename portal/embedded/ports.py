"""TCP ports: taking one for good, which are free, and who holds the others."""

import errno
import socket

import psutil

from portal.embedded.errors import EmbeddedError

LOOPBACK = "127.0.0.1"
BACKLOG = 2048


def listen_on(host: str, port: int) -> socket.socket | None:
    """A listening socket on `host`:`port` (0: any port), None when somebody else has the port.

    A port that was merely found free may be taken before a server gets to it; one that is listened on can't be.

    Raises EmbeddedError when the address itself cannot be used (not of this machine, or a port that needs privileges).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    # As servers do: a port whose last connections are in TIME_WAIT counts as free.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            return None
        reason = error.strerror or str(error)
        if error.errno == errno.EACCES:
            reason = "ports below 1024 need privileges; use --port 8000 or above"
        raise EmbeddedError(f"cannot listen on {host}:{port}: {reason}") from error
    return listener


def find_free_port(host: str = LOOPBACK) -> int:
    """A free port that the operating system picks."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def listen_near(host: str, *, preferred: int, tries: int = 20) -> socket.socket:
    """A listening socket on `preferred` when it is free, else on the next free port after it, else on any."""
    for port in range(preferred, min(preferred + tries, 65536)):
        if (listener := listen_on(host, port)) is not None:
            return listener
    listener = listen_on(host, 0)
    if listener is None:
        raise EmbeddedError(f"no port of {host} is free")
    return listener


def describe_port_owner(port: int) -> str:
    """Who listens on `port`, for a message: "nginx (process 812)", or "another process" where we may not look."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return "another process"
    for connection in connections:
        listens_here = connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,)
        if listens_here and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
            except psutil.Error:
                return f"process {connection.pid}"
    return "another process"
