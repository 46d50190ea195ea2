"""The portal's API as methods.

with PortalClient("https://portal.example.org", token="tp_…") as portal:
    for job in portal.jobs(unfinished=True):
        print(job.id, job.state)
"""

import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Literal, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import httpx
from pydantic import ValidationError

from portalctl.client import models
from portalctl.client.errors import ApiProblem, InvalidArgument, UnexpectedReply
from portalctl.client.transport import Exchange, Repeat, RetryPolicy, Transport

LogFile = Literal["stdout", "stderr"]
JobId = uuid.UUID | str
Found = TypeVar("Found", bound=models.Reply)
Row = TypeVar("Row", bound=models.Reply)

LARGEST_PIECE_BYTES: Final = 1024 * 1024
_LARGEST_PAGE: Final = 200
_KEY: Final = re.compile(r"\A[\x21-\x7e]{1,255}\Z")
_TOKEN: Final = re.compile(r"\A[\x21-\x7e]{1,4096}\Z")
_LINE_BYTES: Final = 200
"""A first guess at the length of a line, when the last lines of a log are looked for."""


class PortalClient:
    """Calls the API as the person whose token it has. Not for several threads at once.

    Connection errors, 429, 502, 503 and 504 are tried again as `retries` says. Every call that changes something
    carries an idempotency key, the same one at each try. Signing in is tried again only where no connection came
    about: it has no key, and each success makes a token.

    All methods raise:
        InvalidArgument: an id, a key, a time or a body can't be sent.
        ApiProblem: the portal refused; `status`, `type` and `invalid_params` say why.
        Unreachable: no reply, after all tries.
        UnexpectedReply: a reply that is not the API's, or lacks a field.
    """

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

    def __enter__(self) -> "PortalClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._transport.close()

    # Signing in

    def sign_in(self, username: str, password: str) -> models.Token:
        """A new token, which later calls of this client use."""
        body = {"username": username, "password": password}
        token = self._call(models.Token, "POST", "/auth/token", body=body, repeat=Repeat.UNSENT)
        self._transport.token = token.token
        return token

    def sign_out(self) -> None:
        """Revoke the token. One that is no longer valid is no error: that is what was wanted."""
        try:
            self._send("DELETE", "/auth/token", key=_new_key())
        except ApiProblem as problem:
            if problem.status != 401:
                raise
        self._transport.token = None

    def me(self) -> models.Me:
        return self._call(models.Me, "GET", "/me")

    # What there is

    def projects(self) -> Iterator[models.Project]:
        return self._rows(models.Project, "/projects")

    def project(self, code: str) -> models.ProjectDetail:
        return self._call(models.ProjectDetail, "GET", f"/projects/{quote(code, safe='')}")

    def clusters(self) -> Iterator[models.Cluster]:
        return self._rows(models.Cluster, "/clusters")

    def partitions(self) -> Iterator[models.Partition]:
        """Those that you may submit to."""
        return self._rows(models.Partition, "/partitions")

    def presets(self) -> list[models.Preset]:
        return self._call(models.Catalogue[models.Preset], "GET", "/presets").results

    def accelerators(self) -> list[models.Accelerator]:
        return self._call(models.Catalogue[models.Accelerator], "GET", "/accelerators").results

    def allocations(
        self, *, project: str | None = None, resource_class: str | None = None, active: bool | None = None
    ) -> Iterator[models.Allocation]:
        """Earliest end first: the order in which they are spent."""
        query = {"project": project, "resource_class": resource_class, "active": active}
        return self._rows(models.Allocation, "/allocations", query)

    def allocation(self, allocation_id: uuid.UUID | str) -> models.Allocation:
        return self._call(models.Allocation, "GET", f"/allocations/{_as_uuid(allocation_id)}")

    def entries(self, allocation_id: uuid.UUID | str) -> Iterator[models.LedgerEntry]:
        """The ledger of an allocation, newest first."""
        return self._rows(models.LedgerEntry, f"/allocations/{_as_uuid(allocation_id)}/entries")

    # Before a job

    def estimate(self, request: Mapping[str, Any]) -> models.Quote:
        """What a run needs and costs; nothing is stored. A model that doesn't fit is an answer, not an error."""
        return self._call(models.Quote, "POST", "/estimates", body=dict(request))

    def prepare(self, request: Mapping[str, Any]) -> models.PreparedJob:
        """What `submit` would do, checked and priced. It writes nothing."""
        return self._call(models.PreparedJob, "POST", "/jobs", {"validate_only": True}, body=dict(request))

    def submit(self, request: Mapping[str, Any], *, idempotency_key: str | None = None) -> models.Job:
        """Submit a job. Called again with the same key (1 to 255 visible ASCII characters), also by another process,
        it returns the first call's job. Without one, a new key is used for this call and its retries.
        """
        return self._call(models.Job, "POST", "/jobs", body=dict(request), key=_check_key(idempotency_key))

    # Jobs

    def jobs(
        self,
        *,
        state: Sequence[str] = (),
        project: str | None = None,
        cluster: str | None = None,
        partition: str | None = None,
        user: str | None = None,
        submitted_after: datetime | None = None,
        submitted_before: datetime | None = None,
        name_contains: str | None = None,
        unfinished: bool | None = None,
        page_size: int | None = None,
    ) -> Iterator[models.JobSummary]:
        """Newest first, to the last one: pages are fetched as they are needed. Times need a zone."""
        query = {
            "state": list(state) or None,
            "project": project,
            "cluster": cluster,
            "partition": partition,
            "user": user,
            "submitted_after": _as_time(submitted_after),
            "submitted_before": _as_time(submitted_before),
            "q": name_contains,
            "unfinished": unfinished,
        }
        return self._rows(models.JobSummary, "/jobs", query, page_size=page_size)

    def job(self, job_id: JobId) -> models.Job:
        return self._call(models.Job, "GET", f"/jobs/{_as_uuid(job_id)}")

    def events(self, job_id: JobId) -> Iterator[models.JobEvent]:
        """What happened to a job, oldest first."""
        return self._rows(models.JobEvent, f"/jobs/{_as_uuid(job_id)}/events")

    def script(self, job_id: JobId) -> models.Script:
        return self._call(models.Script, "GET", f"/jobs/{_as_uuid(job_id)}/script")

    def cancel(self, job_id: JobId, *, idempotency_key: str | None = None) -> models.Job:
        """Ask for the end of a job; repeating is harmless."""
        return self._call(models.Job, "POST", f"/jobs/{_as_uuid(job_id)}/cancel", key=_check_key(idempotency_key))

    def resubmit(self, job_id: JobId, *, idempotency_key: str | None = None) -> models.Job:
        """Submit a new job that asks for the same."""
        return self._call(models.Job, "POST", f"/jobs/{_as_uuid(job_id)}/resubmit", key=_check_key(idempotency_key))

    # What a job writes

    def log(
        self,
        job_id: JobId,
        *,
        offset: int = 0,
        limit: int | None = None,
        file: LogFile = "stdout",
        segment: int | None = None,
    ) -> models.LogPiece:
        """A piece of its output, of the newest segment unless one is named. A negative offset reads the end."""
        query = {"offset": offset, "limit": limit, "file": file, "segment": segment}
        return self._call(models.LogPiece, "GET", f"/jobs/{_as_uuid(job_id)}/log", query)

    def read_log(
        self, job_id: JobId, *, offset: int = 0, file: LogFile = "stdout", segment: int | None = None
    ) -> Iterator[models.LogPiece]:
        """All that is written now from `offset` on, in pieces."""
        while True:
            piece = self.log(job_id, offset=offset, limit=LARGEST_PIECE_BYTES, file=file, segment=segment)
            if piece.text:
                yield piece
            if piece.size < offset:
                offset = 0  # a job that was started again writes its file anew
                continue
            if piece.is_end or piece.next_offset == offset:
                return
            offset = piece.next_offset

    def find_last_lines(
        self, job_id: JobId, lines: int, *, file: LogFile = "stdout", segment: int | None = None
    ) -> int:
        """The offset at which the last so many lines of a log start; 0 if it has no more. Looks back 1 MiB at most."""
        reach = min(max(lines, 1) * _LINE_BYTES, LARGEST_PIECE_BYTES)
        while True:
            piece = self.log(job_id, offset=-reach, limit=LARGEST_PIECE_BYTES, file=file, segment=segment)
            kept = piece.text.splitlines(keepends=True)
            if len(kept) > lines:
                wanted = "".join(kept[len(kept) - lines :]) if lines else ""
                return max(piece.next_offset - len(wanted.encode()), piece.offset)
            if piece.offset == 0 or reach == LARGEST_PIECE_BYTES:
                return piece.offset
            reach = min(reach * 8, LARGEST_PIECE_BYTES)

    def follow_log(
        self,
        job_id: JobId,
        *,
        offset: int = 0,
        file: LogFile = "stdout",
        segment: int | None = None,
        poll_s: float = 1.0,
    ) -> Iterator[models.LogPiece]:
        """Pieces of a log as they are written, until the job has ended and all is read.

        Of a chain, the segments after `segment` (default: the newest) follow, each from its start. Waits `poll_s`
        between calls; a job that has not started is waited for.
        """
        while True:
            # Asked before the log: what it wrote before its end is then in the log.
            job = self.job(job_id)
            numbers = sorted(one.number for one in job.segments if one.native_id)
            if segment is None and numbers:
                segment = numbers[-1]
            if segment is not None:
                for piece in self.read_log(job_id, offset=offset, file=file, segment=segment):
                    yield piece
                    offset = piece.next_offset
                later = [number for number in numbers if number > segment]
                if later:
                    segment, offset = later[0], 0
                    continue
            if job.is_terminal:
                return
            self._sleep(poll_s)

    def metrics(self, job_id: JobId, *, offset: int = 0) -> models.Metrics:
        """Points that the program reported; to follow, call again with `next_offset`."""
        return self._call(models.Metrics, "GET", f"/jobs/{_as_uuid(job_id)}/metrics", {"offset": offset})

    # Below

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


def _check_key(key: str | None) -> str:
    """The key, or a new one.

    Raises:
        InvalidArgument: the API takes no such key.
    """
    if key is not None and not _KEY.match(key):
        raise InvalidArgument(f"{key[:80]!r} is not an idempotency key; allowed: 1 to 255 visible ASCII characters")
    return key or _new_key()


def _new_key() -> str:
    return str(uuid.uuid4())


def _as_uuid(value: uuid.UUID | str) -> uuid.UUID:
    try:
        return value if isinstance(value, uuid.UUID) else uuid.UUID(value)
    except ValueError:
        raise InvalidArgument(f"{str(value)[:80]!r} is not an id; allowed: such as {uuid.UUID(int=0)}") from None


def _as_time(value: datetime | None) -> str | None:
    if value is not None and value.tzinfo is None:
        raise InvalidArgument(f"{value} has no time zone")
    return None if value is None else value.isoformat()
