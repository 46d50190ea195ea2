"""Signing in and out, and who one is."""

import os
import sys
from dataclasses import replace
from typing import Annotated
from urllib.parse import urlsplit

import typer

from portalctl.commands.options import AsJson, session_of
from portalctl.output import fields_table, list_table, moment, plain
from portalctl.profiles import Profile, profiles_file, save_profiles
from portalctl.session import BadInput


def login(
    ctx: typer.Context,
    url: Annotated[str | None, typer.Option("--url", help="Address of the portal.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="User name or e-mail address.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input, for scripts.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Sign in, and keep the token in a file that only you can read.

    The password is asked for, and not kept. A named --profile keeps several sign-ins apart.
    """
    session = session_of(ctx)
    session.url = url or session.url or session.find_url() or typer.prompt("Address of the portal", err=True)
    address = session.find_url()
    if address is None:
        raise BadInput("No address of a portal was given.")
    stored = session.stored()
    username = user or (stored.username if stored and stored.url == address else "") or typer.prompt("User", err=True)
    parts = urlsplit(address)
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        session.err().print(f"warning: {address} is not encrypted: others on the way can read password and token.")
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = typer.prompt("Password", hide_input=True, err=True)
    if not password:
        raise BadInput("The password is empty.")
    with session.connect(address, None) as portal:
        token = portal.sign_in(username, password)
    profile = Profile(url=address, username=username, token=token.token, expires_at=token.expires_at.isoformat())
    save_profiles(session.profiles.with_profile(session.profile_name, profile, make_current=True))
    if os.environ.get("PORTAL_TOKEN"):
        session.err().print("warning: PORTAL_TOKEN is set, and wins over this sign-in.")
    if as_json:
        session.print_json({"url": address, "username": username, "expires_at": token.expires_at.isoformat()})
        return
    session.out().print(
        f"Signed in at {address} as {plain(username)} until {moment(token.expires_at)}.", soft_wrap=True
    )
    session.err().print(f"The token is in {profiles_file()}.", soft_wrap=True)


def logout(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Revoke the token, and forget it."""
    session = session_of(ctx)
    with session.open() as portal:
        url = portal.base_url
        token = session.find_token(url)
        portal.sign_out()
    profiles = session.profiles
    for name, stored in profiles.by_name.items():
        if stored.url == url and stored.token == token:
            profiles = profiles.with_profile(name, replace(stored, token="", expires_at=""), make_current=False)
    if profiles != session.profiles:
        save_profiles(profiles)
    if as_json:
        session.print_json({"url": url})
        return
    session.out().print(f"Signed out of {url}.")


def whoami(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show who you are, where, and your projects."""
    session = session_of(ctx)
    with session.open() as portal:
        me = portal.me()
        url = portal.base_url
    if as_json:
        session.print_json(me)
        return
    console = session.out()
    name = f"{me.username} ({me.name})" if me.name else me.username
    console.print(fields_table([("user", name), ("portal", url), ("staff", "yes" if me.is_staff else "")]))
    if me.projects:
        console.print()
        rows = [[one.code, one.role, "yes" if one.is_active else "no", one.title] for one in me.projects]
        console.print(list_table(["PROJECT", "ROLE", "ACTIVE", "TITLE"], rows, width=console.width, flexible=3))


def register(app: typer.Typer) -> None:
    for command in (login, logout, whoami):
        app.command()(command)
