"""Watching a job to its end, and reading what it prints."""

import sys
import time
from typing import Annotated
from uuid import UUID

import typer

from portalctl.client import ApiProblem, LogFile, LogPiece, PortalClient
from portalctl.commands.options import AsJson, JobArgument, session_of
from portalctl.exits import Exit, exit_of_state
from portalctl.output import plain_log
from portalctl.progress import Watcher
from portalctl.session import Session

_SETTLEMENT_S = 15
"""How long after a job's end its charge is waited for; it is no part of the exit code."""


def watch(
    ctx: typer.Context,
    job_id: JobArgument,
    every: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between looks.")] = 2.0,
    timeout: Annotated[float | None, typer.Option("--for", min=0, help="Give up after so many seconds.")] = None,
    as_json: AsJson = False,
) -> None:
    """Watch a job to its end, and exit as it ended: 0 only if it completed.

    Ctrl-C ends the watching, not the job. With --json, each change is one line.
    """
    session = session_of(ctx)
    with session.open(is_patient=True) as portal:
        raise typer.Exit(watch_job(session, portal, job_id, every_s=every, timeout_s=timeout))


def watch_job(
    session: Session, portal: PortalClient, job_id: UUID, *, every_s: float = 2.0, timeout_s: float | None = None
) -> Exit:
    """Show how a job goes until it has ended; the exit code that says how."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    ended_at: float | None = None
    offset = 0
    with Watcher(session) as watcher:
        while True:
            job = portal.job(job_id)
            points: list[dict[str, float]] = []
            if job.started_at is not None:
                points, offset = _read_points(portal, job_id, offset)
            watcher.look(job, points)
            if job.is_terminal:
                ended_at = time.monotonic() if ended_at is None else ended_at
                is_charged = job.settled_at is not None or job.started_at is None
                if is_charged or time.monotonic() - ended_at > _SETTLEMENT_S:
                    watcher.finish(job)
                    return exit_of_state(job.state)
            elif deadline is not None and time.monotonic() >= deadline:
                return Exit.STILL_RUNNING
            session.sleep(min(every_s, 1.0) if job.is_terminal else every_s)


def _read_points(portal: PortalClient, job_id: UUID, offset: int) -> tuple[list[dict[str, float]], int]:
    """Metrics that are new. A cluster that does not answer hides them, and not the job, whose state is the portal's."""
    try:
        metrics = portal.metrics(job_id, offset=offset)
    except ApiProblem as problem:
        if problem.status != 503:
            raise
        return [], offset
    return metrics.points, metrics.next_offset


def logs(
    ctx: typer.Context,
    job_id: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    lines: Annotated[int | None, typer.Option("--lines", "-n", min=0, help="Only the last so many lines.")] = None,
    stderr: Annotated[bool, typer.Option("--stderr", help="Standard error instead of standard output.")] = False,
    segment: Annotated[
        int | None, typer.Option("--segment", min=1, help="Of a chain, which one; the newest otherwise.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print what a job has printed. With --json, each piece is one line."""
    session = session_of(ctx)
    file: LogFile = "stderr" if stderr else "stdout"
    with session.open(is_patient=follow) as portal:
        offset = 0
        if lines is not None:
            offset = portal.find_last_lines(job_id, lines, file=file, segment=segment)
        pieces = (
            portal.follow_log(job_id, offset=offset, file=file, segment=segment)
            if follow
            else portal.read_log(job_id, offset=offset, file=file, segment=segment)
        )
        for piece in pieces:
            _write(session, piece)


def _write(session: Session, piece: LogPiece) -> None:
    """At once; a pipe gets the text as it is, a terminal without what could steer it."""
    if session.as_json:
        session.print_json_line(piece)
        return
    sys.stdout.write(plain_log(piece.text) if sys.stdout.isatty() else piece.text)
    sys.stdout.flush()


def register(app: typer.Typer) -> None:
    for command in (watch, logs):
        app.command()(command)
