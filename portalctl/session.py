"""What all commands of one call share: which portal, who, and how to speak."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic import BaseModel
from rich.console import Console

from portalctl.client import ApiProblem, PortalClient, PortalError, RetryPolicy
from portalctl.client.calls import check_address
from portalctl.output import plain
from portalctl.profiles import Profile, Profiles, load_profiles

_PATIENT = RetryPolicy(attempts=16)
_WORTH_A_WORD_S = 1.5
_WIDE = 10_000
"""Columns of what isn't a terminal: a table in a pipe is never cut."""


class NotSignedIn(PortalError):
    """There is no token for the portal that was named."""


class BadInput(Exception):
    """What the user gave is not allowed; `errors` are lines that name field, value and what is allowed."""

    def __init__(self, *errors: str) -> None:
        self.errors = errors
        super().__init__("\n".join(errors))


class SubmissionRefused(Exception):
    """The portal refused a job; `places` says of its fields where in the job file they stand."""

    def __init__(self, problem: ApiProblem, places: dict[str, str]) -> None:
        self.problem = problem
        self.places = places
        super().__init__(str(problem))


@dataclass
class Session:
    """Made by the root command; tests make their own with a transport."""

    url: str | None = None
    profile: str | None = None
    timeout_s: float = 30.0
    as_json: bool = False
    transport: httpx.BaseTransport | None = None
    sleep: Callable[[float], None] = time.sleep
    _profiles: Profiles | None = field(default=None, repr=False)

    @property
    def profiles(self) -> Profiles:
        if self._profiles is None:
            self._profiles = load_profiles()
        return self._profiles

    @property
    def profile_name(self) -> str:
        return self.profile or os.environ.get("PORTALCTL_PROFILE") or self.profiles.current

    def stored(self) -> Profile | None:
        """The profile in use, if there is one of its name."""
        return self.profiles.by_name.get(self.profile_name)

    def find_url(self) -> str | None:
        """The option, then PORTAL_URL, then the profile's.

        Raises:
            InvalidArgument: it is not an address.
        """
        stored = self.stored() if not (self.url or os.environ.get("PORTAL_URL")) else None
        found = self.url or os.environ.get("PORTAL_URL") or (stored.url if stored else None)
        return check_address(found) if found else None

    def find_token(self, url: str) -> str | None:
        """PORTAL_TOKEN, then a profile's token for this very portal: one portal's token is not shown to another."""
        from_environment = os.environ.get("PORTAL_TOKEN")
        if from_environment:
            return from_environment
        mine = self.stored()
        if mine is not None and mine.url == url:
            return mine.token or None
        # The portal was named, and the profile in use is another's: is there one for it?
        others = [] if self.profile else self.profiles.by_name.values()
        return next((one.token for one in others if one.token and one.url == url), None)

    def open(self, *, is_patient: bool = False) -> PortalClient:
        """A client that is signed in; a patient one waits for a portal that is away for ten minutes.

        Raises:
            NotSignedIn: no portal is named, or there is no token for it.
        """
        url = self.find_url()
        if url is None:
            raise NotSignedIn("No portal is known. Do: portalctl login --url https://…, or set PORTAL_URL.")
        token = self.find_token(url)
        if token is None:
            raise NotSignedIn(f"You are not signed in at {url}. Do: portalctl login --url {url}")
        return self.connect(url, token, retries=_PATIENT if is_patient else None)

    def connect(self, url: str, token: str | None, *, retries: RetryPolicy | None = None) -> PortalClient:
        return PortalClient(
            url,
            token,
            timeout_s=self.timeout_s,
            language=read_language(),
            retries=retries,
            transport=self.transport,
            sleep=self.sleep,
            on_retry=self._say_retry,
        )

    def _say_retry(self, why: str, pause_s: float) -> None:
        if pause_s >= _WORTH_A_WORD_S:
            self.err().print(f"{plain(why)}; trying again in {pause_s:.0f} s", soft_wrap=True)

    def out(self) -> Console:
        """For what was asked."""
        return _console(stderr=False)

    def err(self) -> Console:
        """For what goes on meanwhile."""
        return _console(stderr=True)

    @staticmethod
    def json_text(value: Any) -> str:
        return json.dumps(as_data(value), ensure_ascii=False, indent=2)

    def print_json(self, value: Any) -> None:
        """One JSON document."""
        print(self.json_text(value))

    def print_json_line(self, value: Any) -> None:
        """One line of JSON Lines, at once."""
        print(json.dumps(as_data(value), ensure_ascii=False), flush=True)


def as_data(value: Any) -> Any:
    """A reply, a list or an object of replies, as what JSON can hold."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {name: as_data(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_data(one) for one in value]
    return value


def read_language() -> str:
    """The language of the portal's words, by the first locale variable that is set, as gettext reads them."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name)
        if value:
            return "zh-hans" if value.lower().startswith("zh") else "en"
    return "en"


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    is_terminal = stream.isatty()
    return Console(
        file=stream,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
        width=None if is_terminal else _WIDE,
    )
