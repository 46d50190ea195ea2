"""Jobs: list, look at, end; and what projects have left."""

from datetime import datetime
from itertools import islice
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table

from portalctl.client import Estimate, Job, LedgerEntry, Usage
from portalctl.commands.options import AsJson, JobArgument, session_of
from portalctl.output import (
    duration,
    fields_table,
    gibibytes,
    hours,
    jobs_table,
    list_table,
    moment,
    plain,
    state_text,
)
from portalctl.session import Session

_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]


def list_jobs(
    ctx: typer.Context,
    state: Annotated[list[str] | None, typer.Option("--state", "-s", help="Only this state; may be repeated.")] = None,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Only of this project.")] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", "-c", help="Only on this cluster.")] = None,
    partition: Annotated[str | None, typer.Option("--partition", "-P", help="Only on this partition.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Only of this person.")] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Only those whose name holds this.")] = None,
    since: Annotated[datetime | None, typer.Option(formats=_FORMATS, help="Submitted then or later.")] = None,
    before: Annotated[datetime | None, typer.Option(formats=_FORMATS, help="Submitted before.")] = None,
    unfinished: Annotated[
        bool | None, typer.Option("--unfinished/--finished", help="Only jobs that have not ended, or that have.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="How many; it is said if there are more.")] = 50,
    every: Annotated[bool, typer.Option("--all", "-a", help="All, however many.")] = False,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first: yours, and those of projects that you lead."""
    session = session_of(ctx)
    with session.open() as portal:
        rows = portal.jobs(
            state=[one.upper() for one in state or ()],
            project=project,
            cluster=cluster,
            partition=partition,
            user=user,
            submitted_after=since.astimezone() if since else None,
            submitted_before=before.astimezone() if before else None,
            name_contains=name,
            unfinished=unfinished,
            page_size=None if every else min(limit + 1, 200),
        )
        found = list(rows if every else islice(rows, limit + 1))
    has_more = not every and len(found) > limit
    shown = found[:limit] if has_more else found
    if as_json:
        session.print_json({"results": shown, "has_more": has_more})
        return
    console = session.out()
    if not shown:
        session.err().print("No such jobs.")
        return
    console.print(jobs_table(shown, console))
    if has_more:
        session.err().print(f"There are more than these {limit}: --limit or --all shows them.")


def show(
    ctx: typer.Context,
    job_id: JobArgument,
    events: Annotated[bool, typer.Option("--events", "-e", help="Its timeline, too.")] = False,
    script: Annotated[bool, typer.Option("--script", help="Only its batch script.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of a job."""
    session = session_of(ctx)
    with session.open() as portal:
        if script:
            found = portal.script(job_id)
            if as_json:
                session.print_json(found)
            else:
                print(found.script, end="" if found.script.endswith("\n") else "\n")
            return
        job = portal.job(job_id)
        timeline = list(portal.events(job_id)) if events else []
    if as_json:
        data = job.model_dump(mode="json")
        session.print_json({**data, "events": timeline} if events else data)
        return
    console = session.out()
    print_job(console, job)
    if timeline:
        console.print()
        rows = [[moment(one.at), one.text or f"{one.from_state} → {one.to_state}", one.actor or ""] for one in timeline]
        console.print(list_table(["AT", "WHAT", "WHO"], rows, width=console.width, flexible=1))


def print_job(console: Console, job: Job) -> None:
    """A job in lines."""
    estimate, usage = job.estimate, job.usage
    ended = "" if job.exit_code is None else f"{job.exit_code}"
    if job.exit_signal:
        ended += f" (signal {job.exit_signal})"
    rows: list[tuple[str, object]] = [
        ("job", str(job.id)),
        ("name", job.name),
        ("state", state_text(job.state)),
        ("", ""),
        ("means", job.state_meaning),
        ("reason", job.reason_text),
        ("advice", job.reason_advice),
        ("user", f"{job.user}, project {job.project}"),
        ("where", f"{job.cluster}/{job.partition}, {job.nodes} × {job.devices_per_node} accelerators"),
        ("time limit", None if job.time_limit_minutes is None else duration(job.time_limit_minutes * 60)),
        ("submitted", moment(job.submitted_at)),
        ("expected start", moment(job.expected_start_at) if job.started_at is None else None),
        ("started", moment(job.started_at)),
        ("ended", moment(job.ended_at)),
        ("exit code", ended),
        ("held", f"{hours(job.reserved_hours)} h" if job.charged_s is None and job.reserved_s else None),
        ("charged", f"{hours(job.charged_hours)} h" if job.charged_s is not None else None),
    ]
    console.print(fields_table(rows))
    if estimate is not None or usage is not None:
        console.print()
        console.print(_compare(estimate, usage, width=console.width))
    if len(job.segments) > 1:
        console.print()
        segments = [
            [one.number, one.native_id, one.end_state or "–", moment(one.started_at), moment(one.ended_at)]
            for one in job.segments
        ]
        console.print(
            list_table(
                ["SEGMENT", "SCHEDULER'S ID", "END", "STARTED", "ENDED"], segments, width=console.width, flexible=1
            )
        )


def _compare(estimate: Estimate | None, used: Usage | None, *, width: int) -> Table:
    expected = [
        duration(estimate.duration_s if estimate else None),
        hours(estimate.accelerator_hours if estimate else None),
        f"{gibibytes(estimate.memory_bytes)} per card" if estimate else "–",
    ]
    actual = [
        duration(used.elapsed_s if used else None),
        hours(used.accelerator_hours if used else None),
        f"{gibibytes(used.max_rss_bytes)} of a host" if used and used.max_rss_bytes else "–",
    ]
    rows = zip(("duration", "accelerator-hours", "memory"), expected, actual, strict=True)
    return list_table(["", "ESTIMATED", "USED"], list(rows), width=width, flexible=2)


def cancel(
    ctx: typer.Context,
    job_id: JobArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """End a job. Asks once; what it has not saved is lost."""
    session = session_of(ctx)
    with session.open() as portal:
        job = portal.job(job_id)
        if not job.is_terminal:
            if not yes:
                typer.confirm(f"Cancel {plain(job.name)} ({job.state}, of {plain(job.user)})?", abort=True, err=True)
            job = portal.cancel(job_id)
    if as_json:
        session.print_json(job)
        return
    session.out().print(
        f"{plain(job.name)} has ended: {job.state}."
        if job.is_terminal
        else f"{plain(job.name)} is being ended; it is {job.state} now."
    )


def usage(
    ctx: typer.Context,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Only of this project.")] = None,
    every: Annotated[bool, typer.Option("--all", "-a", help="Past and coming allocations, too.")] = False,
    entries: Annotated[
        UUID | None, typer.Option("--entries", metavar="ALLOCATION", help="The ledger of one allocation, by its id.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="How many lines of a ledger.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show what your projects were granted, have used, hold and have left, in accelerator-hours."""
    session = session_of(ctx)
    with session.open() as portal:
        if entries is not None:
            _show_entries(session, list(islice(portal.entries(entries), limit + 1)), limit)
            return
        found = list(portal.allocations(project=project, active=None if every else True))
    if as_json:
        session.print_json({"results": found})
        return
    if not found:
        session.err().print("No allocations." if every else "No current allocations; --all shows past and coming ones.")
        return
    rows = [
        [
            one.project,
            one.resource_class,
            *(hours(value) for value in (one.granted_hours, one.used_hours, one.reserved_hours, one.available_hours)),
            one.end_at.astimezone().strftime("%Y-%m-%d"),
        ]
        for one in found
    ]
    headings = ["PROJECT", "CLASS", "GRANTED", "USED", "HELD", "AVAILABLE", "UNTIL"]
    console = session.out()
    console.print(list_table(headings, rows, width=console.width, flexible=0, right=(2, 3, 4, 5)))
    if console.is_terminal:
        session.err().print("portalctl usage --json gives their ids; --entries ID shows what made the figures.")


def _show_entries(session: Session, lines: list[LedgerEntry], limit: int) -> None:
    shown, has_more = lines[:limit], len(lines) > limit
    if session.as_json:
        session.print_json({"results": shown, "has_more": has_more})
        return
    rows = [
        [
            moment(one.at),
            one.kind_label,
            *(
                f"{delta / 3600:+.3f}" if delta else ""
                for delta in (one.granted_delta_s, one.reserved_delta_s, one.used_delta_s)
            ),
            one.reference,
        ]
        for one in shown
    ]
    console = session.out()
    headings = ["AT", "WHAT", "GRANTED", "HELD", "USED", "FOR"]
    console.print(list_table(headings, rows, width=console.width, flexible=5, right=(2, 3, 4)))
    if has_more:
        session.err().print(f"There are more than these {limit}: --limit shows them.")


def register(app: typer.Typer) -> None:
    app.command(name="list")(list_jobs)
    for command in (show, cancel, usage):
        app.command()(command)
