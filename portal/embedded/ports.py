"""Which TCP ports are free, and who holds the others."""

import errno
import socket

import psutil

from portal.embedded.errors import EmbeddedError

LOOPBACK = "127.0.0.1"


def is_port_free(host: str, port: int) -> bool:
    """Whether a server could listen on `host`:`port` now.

    Raises EmbeddedError when the address itself cannot be used (not of this machine, or a port that needs privileges).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            reason = error.strerror or str(error)
            if error.errno == errno.EACCES:
                reason = "ports below 1024 need privileges; use --port 8000 or above"
            raise EmbeddedError(f"cannot listen on {host}:{port}: {reason}") from error
    return True


def find_free_port(host: str = LOOPBACK) -> int:
    """A free port that the operating system picks."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def choose_port(host: str, *, preferred: int, tries: int = 20) -> int:
    """`preferred` when it is free, else the next free one after it, else any."""
    for port in range(preferred, min(preferred + tries, 65536)):
        if is_port_free(host, port):
            return port
    return find_free_port(host)


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
