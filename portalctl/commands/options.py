"""Options that several commands share."""

from typing import Annotated, Any
from uuid import UUID

import typer

from portalctl.session import Session


def _note_json(ctx: typer.Context, wanted: bool) -> bool:
    if wanted and isinstance(ctx.obj, Session):
        ctx.obj.as_json = True
    return wanted


AsJson = Annotated[
    bool, typer.Option("--json", callback=_note_json, is_eager=True, help="Print JSON for programs, errors too.")
]
JobArgument = Annotated[UUID, typer.Argument(metavar="JOB", help="Id of a job.")]


def session_of(ctx: typer.Context) -> Session:
    """What the root command has made."""
    session: Any = ctx.obj
    assert isinstance(session, Session)  # noqa: S101 - the root's callback has run before
    return session
