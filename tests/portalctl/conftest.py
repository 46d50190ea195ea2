"""A portal that answers as a test says, the real API in this process, and the command line before both."""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from django.core import signals
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from typer.testing import CliRunner

from portalctl.app import app
from portalctl.client import PortalClient, RetryPolicy
from portalctl.session import Session
from tests.api.conftest import Site, make_site

_numbers = itertools.count(1)
URL = "http://testserver"
JOB_ID = "0f9f1c1e-5d0a-4a53-9a61-0d3f5f4c7a10"


@dataclass
class FakePortal:
    """Answers from a list, and remembers what it was asked."""

    answers: list[Any] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    def say(self, *answers: Any) -> None:
        """What comes next: a response, a body of JSON, an exception, or a function of the request."""
        self.answers += answers

    def handle(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = self.answers.pop(0)
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    def client(self, **options: Any) -> PortalClient:
        """A client that never really waits."""
        return PortalClient(
            URL, "tp_secret", transport=httpx.MockTransport(self.handle), sleep=self.pauses.append, **options
        )

    def keys(self) -> list[str | None]:
        return [request.headers.get("Idempotency-Key") for request in self.requests]


def problem(status: int, slug: str, detail: str = "No.", *, headers: Any = None, **fields: Any) -> httpx.Response:
    body = {
        "type": f"{URL}/api/v1/problems/{slug}",
        "title": slug.replace("-", " "),
        "status": status,
        "detail": detail,
        "instance": "/api/v1/jobs",
        "invalid_params": [],
        **fields,
    }
    return httpx.Response(
        status, content=json.dumps(body), headers={"Content-Type": "application/problem+json", **(headers or {})}
    )


def page(*rows: Any, cursor: str | None = None) -> dict[str, Any]:
    following = f"https://inner.example/api/v1/jobs?limit=2&cursor={cursor}" if cursor else None
    return {"next": following, "previous": None, "has_more": cursor is not None, "results": list(rows)}


def summary(**fields: Any) -> dict[str, Any]:
    """A job of a list."""
    times = dict.fromkeys(("queued_at", "expected_start_at", "started_at", "ended_at", "cancel_requested_at"))
    return {
        "id": JOB_ID,
        "url": f"{URL}/api/v1/jobs/{JOB_ID}",
        "name": "train",
        "state": "RUNNING",
        "state_label": "Running",
        "reason": "",
        "reason_text": "",
        "reason_advice": "",
        "is_terminal": False,
        "is_preemptible": False,
        "user": "lin",
        "project": "nlp",
        "cluster": "demo",
        "partition": "a800",
        "nodes": 1,
        "devices_per_node": 8,
        "devices": 8,
        "time_limit_minutes": 60,
        "reserved_s": 28_800,
        "reserved_hours": 8.0,
        "charged_s": None,
        "charged_hours": None,
        "submitted_at": "2026-06-01T08:00:00Z",
        **times,
        **fields,
    }


def whole_job(**fields: Any) -> dict[str, Any]:
    """A job with all that is known of it."""
    return {
        **summary(),
        "state_meaning": "It runs.",
        "reason_detail": {},
        "settled_at": None,
        "exit_code": None,
        "exit_signal": None,
        "checkpoint_lead_s": 0,
        "segment_time_limit_minutes": None,
        "cloned_from": None,
        "override_estimate": False,
        "entry": {"kind": "script", "script": "#!/bin/bash\n"},
        "environment": {},
        "workload": None,
        "plan": None,
        "estimate": None,
        "usage": None,
        "segments": [segment(1)],
        "links": {},
        "billing_weight": 1.0,
        "preemptible_weight": 1.0,
        "preemptions": 0,
        "is_overrun": False,
        "queue_place": None,
        **fields,
    }


def segment(number: int) -> dict[str, Any]:
    nulls = (
        *("time_limit_minutes", "accepted_at", "started_at", "ended_at", "exit_code", "exit_signal", "last_step"),
        *("preempt_requested_at", "preempt_signalled_at"),
    )
    known = {"number": number, "key": f"key-{number}", "native_id": str(number), "cluster": "demo"}
    return {**known, "nodes": ["a-01"], "resubmissions": 0, "end_state": "", **dict.fromkeys(nulls)}


def ended_job(state: str = "COMPLETED", **fields: Any) -> dict[str, Any]:
    at = "2026-06-01T09:00:00Z"
    known = {"state": state, "is_terminal": True, "ended_at": at, "settled_at": at, "exit_code": 0}
    return whole_job(**{**known, **fields})


def piece(text: str, offset: int = 0, *, is_end: bool = True) -> dict[str, Any]:
    after = offset + len(text.encode())
    return {"text": text, "offset": offset, "next_offset": after, "size": after, "is_end": is_end}


@dataclass
class CommandLine:
    """`portalctl` as a person calls it, with one transport below."""

    transport: httpx.BaseTransport
    pauses: list[float] = field(default_factory=list)

    def __call__(self, *words: str | Path, typed: str | None = None) -> Result:
        session = Session(transport=self.transport, sleep=self.pauses.append)
        return CliRunner().invoke(app, [str(word) for word in words], input=typed, obj=session)

    def read(self, *words: str | Path) -> Any:
        """The JSON that a command prints; it must have worked."""
        result = self(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture(autouse=True)
def config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, in which nobody is signed in."""
    for name in ("PORTAL_URL", "PORTAL_TOKEN", "PORTALCTL_PROFILE", "LC_ALL", "LC_MESSAGES", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture
def fake() -> FakePortal:
    return FakePortal()


@pytest.fixture
def cli(fake: FakePortal, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """The command line before the fake portal, signed in by the environment."""
    monkeypatch.setenv("PORTAL_URL", URL)
    monkeypatch.setenv("PORTAL_TOKEN", "tp_secret")
    return CommandLine(httpx.MockTransport(fake.handle), fake.pauses)


@pytest.fixture
def site(db: None, settings: Any) -> Site:
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "LOCATION": f"portalctl-{next(_numbers)}",
        }
    }
    settings.ALLOWED_HOSTS = ["testserver"]
    made = make_site()
    made.owner.set_password("pass-phrase-7")
    made.owner.save()
    return made


@pytest.fixture
def real_transport(site: Site) -> Iterator[httpx.BaseTransport]:
    """The real API, in this process. A request closes no database connection here: the test's transaction is on it."""
    ends = (signals.request_started, signals.request_finished)
    for signal in ends:
        signal.disconnect(close_old_connections)
    yield httpx.WSGITransport(app=get_wsgi_application(), raise_app_exceptions=True)
    for signal in ends:
        signal.connect(close_old_connections)


SignInByClient = Callable[[Any], PortalClient]


@pytest.fixture
def sign_in(real_transport: httpx.BaseTransport) -> SignInByClient:
    """A client signed in as one of the site's people."""

    def make(user: Any) -> PortalClient:
        user.set_password("pass-phrase-7")
        user.save(update_fields=["password"])
        client = PortalClient(URL, transport=real_transport, retries=RetryPolicy(attempts=1))
        client.sign_in(user.username, "pass-phrase-7")
        return client

    return make


@pytest.fixture
def portal(site: Site, sign_in: SignInByClient) -> PortalClient:
    """Signed in as the site's owner."""
    return sign_in(site.owner)


Wrote = Callable[[str], Path]


@pytest.fixture
def job_file(tmp_path: Path) -> Wrote:
    """Writes a job file; returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write
