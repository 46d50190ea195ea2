"""HTTP towards slurmrestd: connections that are kept open, one deadline for a whole exchange, answers of bounded size.

httpx's time-outs are for each read, so a server that drips a byte now and then would hold a worker for ever. Here
every wait is cut to what is left of the exchange, by way of httpcore's network backend, on which httpx is built.
"""

import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any, Final

import httpcore
import httpx

MAX_ANSWER_BYTES: Final = 128 * 1024 * 1024
"""Of a list: 10,000 jobs are 31 MB in v0.0.38."""

MAX_SINGLE_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""Of everything else, such as the answer to a submission or the server's description of itself."""

_WRITE_BYTES: Final = 64 * 1024
_FAILURES: Final = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)


class DeadlineTransport(httpx.BaseTransport):
    """Reads every answer whole, within `timeout_s` for all of it. Safe to use from several threads.

    Raises httpx.TransportError: no answer, none in time, only a part of one, or one that is too long.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._deadline = _Deadline()
        self._pool = httpcore.ConnectionPool(
            # trust_env: neither proxies nor certificates come from the portal's environment.
            ssl_context=httpx.create_ssl_context(trust_env=False),
            max_connections=32,
            max_keepalive_connections=16,
            keepalive_expiry=30.0,
            network_backend=_Network(self._deadline),
        )

    @property
    def open_connections(self) -> int:
        """How many connections are kept."""
        return len(self._pool.connections)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send and receive."""
        self._deadline.ends_at = time.monotonic() + self._timeout_s
        try:
            answer = self._pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=request.url.raw_scheme,
                        host=request.url.raw_host,
                        port=request.url.port,
                        target=request.url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=request.read(),
                    extensions={"timeout": {"pool": self._timeout_s}},
                )
            )
            try:
                content = _read_whole(answer, limit=request.extensions.get("max_answer_bytes", MAX_SINGLE_ANSWER_BYTES))
            finally:
                answer.close()
        except _FAILURES as error:
            raise httpx.TransportError(f"{type(error).__name__} {error}".strip()) from error
        finally:
            self._deadline.ends_at = None
        return httpx.Response(answer.status, headers=answer.headers, content=content)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


def _read_whole(answer: httpcore.Response, *, limit: int) -> bytes:
    parts, size = [], 0
    for part in answer.iter_stream():
        size += len(part)
        if size > limit:
            raise httpcore.NetworkError(f"the answer is longer than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


class _Deadline(threading.local):
    """When the exchange of this thread has to be over; on the monotonic clock."""

    ends_at: float | None = None

    def left_s(self, timeout_s: float | None) -> float | None:
        """What remains, if that is less. Raises httpcore.ReadTimeout when nothing does."""
        if self.ends_at is None:
            return timeout_s
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("there was no whole answer in time")
        return left if timeout_s is None else min(left, timeout_s)


class _Stream(httpcore.NetworkStream):
    """A connection whose every wait ends with the exchange."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.left_s(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_BYTES):
            self._inner.write(buffer[start : start + _WRITE_BYTES], self._deadline.left_s(timeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._inner.start_tls(ssl_context, server_hostname, self._deadline.left_s(timeout))
        return _Stream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    def close(self) -> None:
        self._inner.close()


class _Network(httpcore.NetworkBackend):
    """Makes such connections."""

    def __init__(self, deadline: _Deadline) -> None:
        self._inner = httpcore.SyncBackend()
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left_s = self._deadline.left_s(timeout)
        return _Stream(self._inner.connect_tcp(host, port, left_s, local_address, socket_options), self._deadline)
