"""Sending a request until there is an answer: bounded, patient, and never twice what must not be done twice."""

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, Final

import httpx

from portalctl import __version__
from portalctl.client.errors import ApiProblem, InvalidArgument, InvalidParam, UnexpectedReply, Unreachable

LARGEST_REPLY_BYTES: Final = 64 * 1024 * 1024
_BUSY: Final = frozenset({429, 502, 503, 504})
_IN_FLIGHT: Final = 409
_SHOWN_CHARACTERS: Final = 200


class Repeat(Enum):
    """May a request be sent again when it is not known what became of it?"""

    SAFE = "safe"
    """Yes: it changes nothing, or its idempotency key makes a second one harmless."""

    UNSENT = "unsent"
    """Only if no connection came about, so that the portal can't have read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often to try, and how long to wait between: twice as long each time, of which a random half is left out so
    that many clients don't come back together. A `Retry-After` is kept to; one beyond the longest pause ends the tries.
    """

    attempts: int = 5
    first_pause_s: float = 0.5
    longest_pause_s: float = 60.0

    def pause_s(self, attempt: int) -> float:
        """Before the next try, after `attempt` (from 1) have failed."""
        most: float = min(self.first_pause_s * 2.0 ** (attempt - 1), self.longest_pause_s)
        return most * random.uniform(0.5, 1)  # noqa: S311 - jitter is no secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request, and whether it may be repeated."""

    method: str
    path: str
    repeat: Repeat
    query: Mapping[str, Any]
    body: Any = None
    key: str | None = None

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


class Transport:
    """HTTP with time-outs, retries and problem documents. Bodies are JSON; redirects are not followed."""

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None,
        timeout_s: float,
        retries: RetryPolicy,
        language: str,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        on_retry: Callable[[str, float], None] | None = None,
    ) -> None:
        self.token = token
        self._timeout_s = timeout_s
        self._retries = retries
        self._sleep = sleep
        self._on_retry = on_retry
        self._http = httpx.Client(
            base_url=f"{base_url}/api/v1",
            timeout=timeout_s,
            headers={
                "Accept": "application/json, application/problem+json",
                "Accept-Language": language,
                "User-Agent": f"portalctl/{__version__}",
            },
            transport=transport,
        )

    def close(self) -> None:
        self._http.close()

    def send(self, exchange: Exchange) -> Any:
        """The body of the reply; None if it has none.

        Raises:
            ApiProblem: the portal refused.
            Unreachable: no reply, after all tries.
            UnexpectedReply: a reply that is not the API's.
        """
        for attempt in range(1, self._retries.attempts + 1):
            is_last = attempt == self._retries.attempts
            try:
                response, content = self._exchange(exchange)
            except (httpx.TransportError, httpx.StreamError) as error:
                words = _describe_failure(exchange, self._http.base_url, error, attempt)
                if is_last or not _may_repeat(exchange, error):
                    raise Unreachable(words) from error
                self._wait(self._retries.pause_s(attempt), words)
                continue
            pause_s = self._pause_after(exchange, response, attempt)
            if pause_s is None or is_last:
                return _read(exchange, response, content)
            self._wait(pause_s, f"{exchange.name}: the portal answers {response.status_code}")
        raise AssertionError("a policy with no attempts")

    def _wait(self, pause_s: float, why: str) -> None:
        if self._on_retry is not None:
            self._on_retry(why, pause_s)
        self._sleep(pause_s)

    def _exchange(self, exchange: Exchange) -> tuple[httpx.Response, bytes]:
        """One request. A reply that drips is given up when the time is over, httpx counts each piece anew."""
        request = self._http.build_request(
            exchange.method,
            exchange.path,
            params={name: value for name, value in exchange.query.items() if value is not None},
            headers=self._headers(exchange),
            content=None if exchange.body is None else _encode(exchange),
        )
        deadline = time.monotonic() + self._timeout_s
        response = self._http.send(request, stream=True)
        try:
            content = bytearray()
            for piece in response.iter_bytes():
                content += piece
                if len(content) > LARGEST_REPLY_BYTES:
                    message = f"{exchange.name}: the reply is larger than {LARGEST_REPLY_BYTES} bytes."
                    raise UnexpectedReply(message, status=response.status_code)
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"the reply was not complete after {self._timeout_s:g} s")
        finally:
            response.close()
        return response, bytes(content)

    def _headers(self, exchange: Exchange) -> dict[str, str]:
        headers = {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if exchange.body is not None:
            headers["Content-Type"] = "application/json"
        if exchange.key is not None:
            headers["Idempotency-Key"] = exchange.key
        return headers

    def _pause_after(self, exchange: Exchange, response: httpx.Response, attempt: int) -> float | None:
        """How long to wait before the same request again; None if this reply is the answer."""
        if exchange.repeat is not Repeat.SAFE:
            return None
        asked_s = read_retry_after(response)
        is_waiting = response.status_code == _IN_FLIGHT and asked_s is not None
        if response.status_code not in _BUSY and not is_waiting:
            return None
        if asked_s is None:
            return self._retries.pause_s(attempt)
        return asked_s if asked_s <= self._retries.longest_pause_s else None


def _encode(exchange: Exchange) -> bytes:
    try:
        return json.dumps(exchange.body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{exchange.name}: the request can't be written as JSON: {error}") from error


def read_retry_after(response: httpx.Response) -> float | None:
    """Seconds that the reply asks to wait, as a number or a date; None if it doesn't, or not in a way to be read."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max((at - datetime.now(UTC)).total_seconds(), 0.0)


def _may_repeat(exchange: Exchange, error: Exception) -> bool:
    never_came = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    is_mistake = isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError | httpx.TooManyRedirects)
    return not is_mistake and (exchange.repeat is Repeat.SAFE or never_came)


def _describe_failure(exchange: Exchange, url: httpx.URL, error: Exception, attempts: int) -> str:
    what = str(error) or type(error).__name__
    tries = f" after {attempts} tries" if attempts > 1 else ""
    place = f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}"
    return f"{exchange.name}: {place} does not answer{tries}: {what}"


def _read(exchange: Exchange, response: httpx.Response, content: bytes) -> Any:
    status = response.status_code
    if 300 <= status < 400:
        place = response.headers.get("Location", "elsewhere")[:_SHOWN_CHARACTERS]
        message = f"{exchange.name}: the portal's address leads on to {place}; use that one."
        raise UnexpectedReply(message, status=status)
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if status >= 400:
        raise _read_problem(exchange, response, content, media_type)
    if not content and status == 204:
        return None
    if media_type != "application/json":
        raise UnexpectedReply(_describe_odd(exchange, response, content, media_type), status=status)
    return _parse(exchange, content, status)


def _read_problem(exchange: Exchange, response: httpx.Response, content: bytes, media_type: str) -> Exception:
    status, found = response.status_code, None
    if media_type == "application/problem+json":
        found = _parse(exchange, content, status)
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        return UnexpectedReply(_describe_odd(exchange, response, content, media_type), status=status)
    params = found.get("invalid_params")
    return ApiProblem(
        status=status,
        type=found["type"],
        title=str(found.get("title") or ""),
        detail=str(found.get("detail") or ""),
        instance=str(found.get("instance") or ""),
        invalid_params=tuple(_read_param(one) for one in params or () if isinstance(one, dict))
        if isinstance(params, list)
        else (),
        retry_after_s=read_retry_after(response),
    )


def _read_param(found: dict[str, Any]) -> InvalidParam:
    words = {name: str(found.get(name) or "") for name in ("name", "reason", "code", "allowed")}
    return InvalidParam(**words, value=found.get("value"))


def _parse(exchange: Exchange, content: bytes, status: int) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnexpectedReply(
            f"{exchange.name}: the reply ({status}) is not whole JSON: {error}.", status=status
        ) from error


def _describe_odd(exchange: Exchange, response: httpx.Response, content: bytes, media_type: str) -> str:
    start = " ".join(content[:_SHOWN_CHARACTERS].decode("utf-8", "replace").split())
    kind = media_type or "something without a type"
    return (
        f"{exchange.name}: the reply ({response.status_code}) is {kind}, not the portal's API. "
        f"Is the address right, or is something between? It starts: {start or 'with nothing'}"
    )
