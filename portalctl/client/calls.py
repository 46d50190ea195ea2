"""What all calls of the API have in common: the way there and back, lists, and what may be sent."""

import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import httpx
from pydantic import ValidationError

from portalctl.client import models
from portalctl.client.errors import InvalidArgument, UnexpectedReply
from portalctl.client.transport import Exchange, Repeat, RetryPolicy, Transport

Found = TypeVar("Found", bound=models.Reply)
Row = TypeVar("Row", bound=models.Reply)

_LARGEST_PAGE: Final = 200
_KEY: Final = re.compile(r"\A[\x21-\x7e]{1,255}\Z")
_TOKEN: Final = re.compile(r"\A[\x21-\x7e]{1,4096}\Z")


class Calls:
    """The connection to one portal, and how a call is made on it."""

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        retries: RetryPolicy | None = None,
        language: str = "en",
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        on_retry: Callable[[str, float], None] | None = None,
    ) -> None:
        """`timeout_s` is for one try, not for all. `language` is that of the portal's words: en or zh-hans.
        `on_retry` is told before each further try what was wrong, and for how many seconds it waits.

        Raises:
            InvalidArgument: the address is not http:// or https:// with a host, or the token can't be one.
        """
        self.base_url = check_address(base_url)
        if token is not None and not _TOKEN.match(token):
            raise InvalidArgument("the token has characters that no token has")
        self._sleep = sleep
        self._transport = Transport(
            self.base_url,
            token=token,
            timeout_s=timeout_s,
            retries=retries or RetryPolicy(),
            language=language,
            transport=transport,
            sleep=sleep,
            on_retry=on_retry,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._transport.close()

    def _rows(
        self, model: type[Row], path: str, query: Mapping[str, Any] | None = None, *, page_size: int | None = None
    ) -> Iterator[Row]:
        """All rows of a list. Only the cursor is taken from `next`: the token goes to no address but the portal's."""
        page_query = {**(query or {}), "limit": page_size or _LARGEST_PAGE}
        seen: set[str] = set()
        while True:
            page = self._call(models.Page[model], "GET", path, page_query)  # type: ignore[valid-type]
            yield from page.results
            if not page.has_more:
                return
            cursor = next(iter(parse_qs(urlsplit(page.next or "").query).get("cursor", ())), None)
            if cursor is None or cursor in seen:
                raise UnexpectedReply(f"GET {path}: the list goes on, and does not say where.", status=200)
            seen.add(cursor)
            page_query["cursor"] = cursor

    def _call(
        self,
        model: type[Found],
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        body: Any = None,
        key: str | None = None,
        repeat: Repeat = Repeat.SAFE,
    ) -> Found:
        reply = self._send(method, path, query, body=body, key=key, repeat=repeat)
        try:
            return model.model_validate(reply)
        except ValidationError as error:
            raise UnexpectedReply(f"{method} {path}: {describe_misfit(error)}", status=200) from error

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        body: Any = None,
        key: str | None = None,
        repeat: Repeat = Repeat.SAFE,
    ) -> Any:
        exchange = Exchange(method=method, path=path, query=query or {}, body=body, key=key, repeat=repeat)
        return self._transport.send(exchange)


def check_address(text: str) -> str:
    """The address of a portal without what may follow: a slash, or the path of its API.

    Raises:
        InvalidArgument: it is not http:// or https:// with a host, or holds a password.
    """
    address = text.strip().rstrip("/").removesuffix("/api/v1")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise InvalidArgument(f"{text!r} is not the address of a portal; allowed: such as https://portal.example.org")
    return address


def describe_misfit(error: ValidationError) -> str:
    """Which fields of a reply are missing or not what they should be."""
    found = error.errors(include_url=False, include_input=False)
    missing = [_path(one["loc"]) for one in found if one["type"] == "missing"]
    wrong = [f"{_path(one['loc']) or 'the reply'}: {one['msg']}" for one in found if one["type"] != "missing"]
    words = [f"the reply lacks {', '.join(missing[:5])}"] if missing else []
    return "; ".join([*words, *wrong[:5]]) + ". Is the portal of another version?"


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def check_key(key: str | None) -> str:
    """The key, or a new one.

    Raises:
        InvalidArgument: the API takes no such key.
    """
    if key is not None and not _KEY.match(key):
        raise InvalidArgument(f"{key[:80]!r} is not an idempotency key; allowed: 1 to 255 visible ASCII characters")
    return key or new_key()


def new_key() -> str:
    return str(uuid.uuid4())


def as_uuid(value: uuid.UUID | str) -> uuid.UUID:
    try:
        return value if isinstance(value, uuid.UUID) else uuid.UUID(value)
    except ValueError:
        raise InvalidArgument(f"{str(value)[:80]!r} is not an id; allowed: such as {uuid.UUID(int=0)}") from None


def as_code(code: str) -> str:
    """A project's code or a user name as one part of a path, whatever it holds."""
    return quote(code, safe="")


def as_time(value: datetime | None) -> str | None:
    if value is not None and value.tzinfo is None:
        raise InvalidArgument(f"{value} has no time zone")
    return None if value is None else value.isoformat()
