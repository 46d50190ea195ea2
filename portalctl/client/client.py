"""The portal's API as methods.

with PortalClient("https://portal.example.org", token="tp_…") as portal:
    for job in portal.jobs(unfinished=True):
        print(job.id, job.state)
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from portalctl.client import models
from portalctl.client.calls import as_time, as_uuid, check_key, new_key
from portalctl.client.errors import ApiProblem
from portalctl.client.project_calls import ProjectCalls
from portalctl.client.transport import Repeat

LogFile = Literal["stdout", "stderr"]
JobId = uuid.UUID | str

LARGEST_PIECE_BYTES: Final = 1024 * 1024
_LINE_BYTES: Final = 200
"""A first guess at the length of a line, when the last lines of a log are looked for."""


class PortalClient(ProjectCalls):
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
            self._send("DELETE", "/auth/token", key=new_key())
        except ApiProblem as problem:
            if problem.status != 401:
                raise
        self._transport.token = None

    def me(self) -> models.Me:
        return self._call(models.Me, "GET", "/me")

    # What there is

    def clusters(self) -> Iterator[models.Cluster]:
        return self._rows(models.Cluster, "/clusters")

    def partitions(self) -> Iterator[models.Partition]:
        """Those that you may submit to."""
        return self._rows(models.Partition, "/partitions")

    def presets(self) -> list[models.Preset]:
        return self._call(models.Catalogue[models.Preset], "GET", "/presets").results

    def accelerators(self) -> list[models.Accelerator]:
        return self._call(models.Catalogue[models.Accelerator], "GET", "/accelerators").results

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
        return self._call(models.Job, "POST", "/jobs", body=dict(request), key=check_key(idempotency_key))

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
            "submitted_after": as_time(submitted_after),
            "submitted_before": as_time(submitted_before),
            "q": name_contains,
            "unfinished": unfinished,
        }
        return self._rows(models.JobSummary, "/jobs", query, page_size=page_size)

    def job(self, job_id: JobId) -> models.Job:
        return self._call(models.Job, "GET", f"/jobs/{as_uuid(job_id)}")

    def events(self, job_id: JobId) -> Iterator[models.JobEvent]:
        """What happened to a job, oldest first."""
        return self._rows(models.JobEvent, f"/jobs/{as_uuid(job_id)}/events")

    def script(self, job_id: JobId) -> models.Script:
        return self._call(models.Script, "GET", f"/jobs/{as_uuid(job_id)}/script")

    def cancel(self, job_id: JobId, *, idempotency_key: str | None = None) -> models.Job:
        """Ask for the end of a job; repeating is harmless."""
        return self._call(models.Job, "POST", f"/jobs/{as_uuid(job_id)}/cancel", key=check_key(idempotency_key))

    def resubmit(self, job_id: JobId, *, idempotency_key: str | None = None) -> models.Job:
        """Submit a new job that asks for the same."""
        return self._call(models.Job, "POST", f"/jobs/{as_uuid(job_id)}/resubmit", key=check_key(idempotency_key))

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
        return self._call(models.LogPiece, "GET", f"/jobs/{as_uuid(job_id)}/log", query)

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
        return self._call(models.Metrics, "GET", f"/jobs/{as_uuid(job_id)}/metrics", {"offset": offset})
