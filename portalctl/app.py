"""The command line's root: its options, its commands, and what becomes of their errors."""

import io
import sys
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from portalctl import __version__
from portalctl.client import ApiProblem, PortalError
from portalctl.commands import account, before, jobs, watching
from portalctl.exits import Exit, exit_of_error
from portalctl.output import plain
from portalctl.profiles import ProfileError
from portalctl.session import BadInput, Session, SubmissionRefused


class Commands(TyperGroup):
    """Turns errors into words and exit codes: nobody sees a traceback for what can be expected."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SubmissionRefused as refusal:
            report(ctx.obj, refusal.problem, refusal.places)
            raise typer.Exit(exit_of_error(refusal.problem)) from refusal
        except PortalError as error:
            report(ctx.obj, error)
            raise typer.Exit(exit_of_error(error)) from error
        except BadInput as error:
            report(ctx.obj, error)
            raise typer.Exit(Exit.USAGE) from error
        except ProfileError as error:
            report(ctx.obj, error)
            raise typer.Exit(Exit.ERROR) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(Exit.INTERRUPTED) from error


def report(session: Session | None, error: Exception, places: dict[str, str] | None = None) -> None:
    """Say on standard error what went wrong: as JSON if JSON was asked for, else in words."""
    session = session or Session()
    places = places or {}
    if session.as_json:
        session.err().print(session.json_text({"error": describe(error)}), soft_wrap=True)
        return
    console = session.err()
    if isinstance(error, ApiProblem) and error.invalid_params:
        console.print(Text(f"error: {plain(error.title)}", style="red"))
        for param in error.invalid_params:
            place = f"{places[param.name]}: " if places.get(param.name) else ""
            console.print(f"  {place}{plain(param.name)}: {plain(param.reason)}", soft_wrap=True)
        return
    words = error.errors if isinstance(error, BadInput) else (str(error),)
    if isinstance(error, ApiProblem):
        words = (f"{error.title}: {error.detail}" if error.detail else error.title,)
    for line in words:
        console.print(Text("error: ", style="red") + Text(plain(line)), soft_wrap=True)
    if isinstance(error, ApiProblem) and error.status == 401:
        console.print("Sign in (again) with: portalctl login", soft_wrap=True)
    if isinstance(error, ApiProblem) and error.retry_after_s is not None:
        console.print(f"Try again in {error.retry_after_s:.0f} s.", soft_wrap=True)


def describe(error: Exception) -> dict[str, Any]:
    """An error for programs."""
    if not isinstance(error, ApiProblem):
        return {"kind": type(error).__name__, "detail": str(error)}
    params = [
        {name: getattr(param, name) for name in ("name", "code", "reason", "value", "allowed")}
        for param in error.invalid_params
    ]
    return {
        "kind": "ApiProblem",
        "type": error.type,
        "status": error.status,
        "title": error.title,
        "detail": error.detail,
        "invalid_params": params,
        "retry_after_s": error.retry_after_s,
    }


app = typer.Typer(
    name="portalctl",
    cls=Commands,
    help="Estimate, submit and follow training jobs on the portal.",
    epilog="Exit codes: 0 done, 2 not valid, 3 refused, 4 not signed in, 5 not found, 6 unavailable, "
    "10 to 16 how a watched job ended.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"portalctl {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    url: Annotated[str | None, typer.Option("--url", help="Address of the portal; PORTAL_URL otherwise.")] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", help="Which sign-in; PORTALCTL_PROFILE or the last one otherwise.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that one call may take.")] = 30.0,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    session = ctx.ensure_object(Session)
    session.url = url or session.url
    session.profile = profile or session.profile
    session.timeout_s = timeout


account.register(app)
before.register(app)
jobs.register(app)
watching.register(app)


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name must not fail where the locale has no sign for it
    app()
