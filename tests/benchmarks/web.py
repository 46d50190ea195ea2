"""Pages and API with 100,000 jobs, through gunicorn, beside /healthz of the same server."""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from knox.models import AuthToken

from accounts.models import Membership, Policy, Role, User
from jobs.models import Estimate, Job, JobEvent, JobSegment
from portal.embedded.ports import LOOPBACK, find_free_port
from tests.benchmarks.measure import describe_load, latency_row, print_table, read_size
from tests.benchmarks.population import BenchmarkCentre, analyze, copy_rows
from tests.factories import make_allocation, make_project, make_user

_CHECKOUT = Path(__file__).resolve().parent.parent.parent
_USERS, _PROJECTS = 50, 20
_WORKERS, _THREADS = 2, 4
_READY_S = 60
_WITH_DETAIL = 10
"""One in so many jobs has its estimate, segment and events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody who is signed in to the pages and to the API."""

    user: User
    project: str
    cookie: str
    token: str
    job_ids: tuple[uuid.UUID, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one of the people asks for; `number` says who, and what of theirs."""

    method: str = "GET"
    path: Callable[[Person, int], str]
    body: Callable[[Person, int], dict[str, Any]] | None = None
    expected: int = 200
    is_of_newcomer: bool = False


def _submission(person: Person, number: int) -> dict[str, Any]:
    return {
        "project": person.project,
        "cluster": "dummy",
        "partition": "a800",
        "name": f"bench-{number}",
        "nodes": 1,
        "devices_per_node": 8,
        "time_limit_minutes": 60,
        "entry": {"kind": "script", "script": "#!/bin/bash\necho hello\n"},
    }


REQUESTS = {
    "GET /healthz": Request(path=lambda _person, _number: "/healthz"),
    "GET / (dashboard)": Request(path=lambda _person, _number: "/"),
    "GET /jobs/ (mine)": Request(path=lambda _person, _number: "/jobs/"),
    "GET /jobs/?scope=all (of a lead)": Request(path=lambda _person, _number: "/jobs/?scope=all"),
    "GET /jobs/?scope=all (few visible)": Request(
        path=lambda _person, _number: "/jobs/?scope=all", is_of_newcomer=True
    ),
    "GET /jobs/?state=failed (few or none)": Request(path=lambda _person, _number: "/jobs/?state=failed&scope=all"),
    "GET /jobs/?q=… (matches many)": Request(path=lambda _person, number: f"/jobs/?scope=all&q=copy-{number}"),
    "GET /jobs/<id>": Request(
        path=lambda person, number: f"/jobs/{person.job_ids[number % len(person.job_ids)]}",
    ),
    "GET /api/v1/jobs": Request(path=lambda _person, _number: "/api/v1/jobs"),
    "GET /api/v1/jobs/<id>": Request(
        path=lambda person, number: f"/api/v1/jobs/{person.job_ids[number % len(person.job_ids)]}",
    ),
    "POST /api/v1/jobs": Request(
        method="POST", path=lambda _person, _number: "/api/v1/jobs", body=_submission, expected=201
    ),
}
BASELINE = "GET /healthz"
_LIMITS = httpx.Limits(max_connections=100, keepalive_expiry=1.0)  # gunicorn closes idle connections after 2 s


def run() -> None:
    jobs, rate, seconds = read_size("JOBS", 100_000, low=1000), read_size("RATE", 50), read_size("DURATION_S", 20)
    start = time.perf_counter()
    people = _populate(jobs)
    print(
        f"\n{Job.objects.count()} jobs of {_USERS} people in {_PROJECTS} projects: {time.perf_counter() - start:.0f} s"
    )
    queries = {name: _count_queries(request, people) for name, request in REQUESTS.items()}
    with _serve() as url, httpx.Client(base_url=url, timeout=60, limits=_LIMITS) as client:
        found: dict[str, list[float]] = {name: [] for name in REQUESTS}
        for number in range(read_size("ROUNDS", 40) + 2):
            for name, request in REQUESTS.items():
                found[name].append(_send_once(client, request, people, number))
        alone = {name: values[2:] for name, values in found.items()}  # without what is made on first use
        print_table(
            f"web: one request at a time, {jobs} jobs ({describe_load()})",
            ["", "p50 ms", "p95 ms", "× healthz", "queries"],
            [latency_row(name, values, alone[BASELINE], str(queries[name])) for name, values in alone.items()],
        )
        loaded = {}
        for name, request in REQUESTS.items():
            loaded[name] = asyncio.run(_send_steadily(url, request, people, rate=rate, seconds=seconds))
        print_table(
            f"web: {rate} requests/s for {seconds} s each, open loop, {_WORKERS} × {_THREADS} ({describe_load()})",
            ["", "p50 ms", "p95 ms", "p99 ms", "× healthz", "answered/s", "errors"],
            [
                latency_row(
                    name, taken, loaded[BASELINE][0], f"{len(taken) / span:.1f}", str(errors), percents=(50, 95, 99)
                )
                for name, (taken, span, errors) in loaded.items()
            ],
        )


def _populate(jobs: int) -> list[Person]:
    """The people; the last is a newcomer who leads a project with one job."""
    centre = BenchmarkCentre()
    Policy.objects.create(max_queued_jobs=10**6, max_running_jobs=10**6, max_accelerators_in_use=10**6)
    template = centre.make_template()
    now = timezone.now()
    projects = [make_project(f"p{number}") for number in range(_PROJECTS)]
    users = [make_user(f"u{number}") for number in range(_USERS)]
    for number, project in enumerate(projects):
        make_allocation(project, centre.partition.resource_class, hours=10**7, end_at=now + timedelta(days=300))
        Membership.objects.create(project=project, user=users[number], role=Role.PI)
    for number, user in enumerate(users):
        project = projects[number % _PROJECTS]
        Membership.objects.get_or_create(project=project, user=user, defaults={"role": Role.MEMBER})
    people_ids = f"(ARRAY[{', '.join(str(user.pk) for user in users)}])[1 + mod(n, {_USERS})]"
    project_ids = (
        f"(ARRAY[{', '.join(str(project.pk) for project in projects)}])[1 + mod(mod(n, {_USERS}), {_PROJECTS})]"
    )
    # The newest 3 % are unfinished; of the others every twentieth has failed.
    unfinished = jobs * 3 // 100
    state = f"CASE WHEN n <= {unfinished} THEN 'PENDING' WHEN mod(n, 20) = 0 THEN 'FAILED' ELSE 'COMPLETED' END"
    submitted_at = "template.submitted_at - n * interval '5 minutes'"
    copy_rows(
        Job,
        jobs - 1,
        where={"id": template.pk},
        changes={
            "id": "gen_random_uuid()",
            "user_id": people_ids,
            "project_id": project_ids,
            "name": "'copy-' || n",
            "state": state,
            "submitted_at": submitted_at,
            "queued_at": submitted_at,
            "started_at": f"CASE WHEN n > {unfinished} THEN {submitted_at} END",
            "ended_at": f"CASE WHEN n > {unfinished} THEN {submitted_at} + interval '1 hour' END",
            "settled_at": f"CASE WHEN n > {unfinished} THEN {submitted_at} + interval '1 hour' END",
            "charged_s": f"CASE WHEN n > {unfinished} THEN 28800 END",
        },
    )
    _copy_detail(template)
    analyze()
    people = [_sign_in(user, projects[number % _PROJECTS].code) for number, user in enumerate(users)]
    return [*people, _sign_in(centre.pi, centre.project.code)]


def _copy_detail(template: Job) -> None:
    """Estimate, segment and events of the template for some of the copies."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMP TABLE chosen AS SELECT id FROM jobs_job"
            " WHERE name LIKE 'copy-%%' AND mod(substr(name, 6)::int / %s, %s) = 0",
            [_USERS, _WITH_DETAIL],
        )
    for model, changes in (
        (Estimate, {}),
        (JobEvent, {}),
        (JobSegment, {"key": "chosen.id || '-1'"}),
    ):
        for row in model.objects.filter(job=template):
            copy_rows(
                model, 1, where={"id": row.pk}, changes={"job_id": "chosen.id", **changes}, source="CROSS JOIN chosen"
            )


def _sign_in(user: User, project: str) -> Person:
    client = Client()
    client.force_login(user)
    _token, key = AuthToken.objects.create(user=user, expiry=timedelta(hours=10))
    job_ids = Job.objects.filter(user=user, estimates__isnull=False).values_list("pk", flat=True)[:200]
    return Person(
        user=user,
        project=project,
        cookie=client.cookies[settings.SESSION_COOKIE_NAME].value,
        token=key,
        job_ids=tuple(job_ids),
    )


@contextlib.contextmanager
def _serve() -> Iterator[str]:
    """The site behind gunicorn, as `portal up` runs it, on this benchmark's database."""
    port = find_free_port()
    address = urlsplit(settings.DATABASE_URL)
    database = urlunsplit(address._replace(path=f"/{connection.settings_dict['NAME']}"))
    arguments = (
        *("--bind", f"{LOOPBACK}:{port}", "--worker-class", "gthread"),
        *("--workers", str(_WORKERS), "--threads", str(_THREADS), "--no-control-socket"),
    )
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "portal.wsgi:application", *arguments],
            cwd=_CHECKOUT,
            env={**os.environ, "DATABASE_URL": database},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        url = f"http://{LOOPBACK}:{port}"
        try:
            _wait_until_it_answers(url, server)
            yield url
        finally:
            server.terminate()
            server.wait(30)


def _wait_until_it_answers(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/healthz", timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"gunicorn doesn't answer at {url}")


def _arguments(request: Request, people: list[Person], number: int) -> dict[str, Any]:
    """For httpx; each person has their turn."""
    person = people[-1] if request.is_of_newcomer else people[number % _USERS]
    path = request.path(person, number)
    headers = (
        {"Authorization": f"Bearer {person.token}"}
        if path.startswith("/api/")
        else {"Cookie": f"{settings.SESSION_COOKIE_NAME}={person.cookie}"}
    )
    body = None if request.body is None else request.body(person, number)
    return {"method": request.method, "url": path, "headers": headers, "json": body}


def _send_once(client: httpx.Client, request: Request, people: list[Person], number: int) -> float:
    arguments = _arguments(request, people, number)
    start = time.perf_counter()
    answer = client.request(**arguments)
    seconds = time.perf_counter() - start
    assert answer.status_code == request.expected, (arguments["url"], answer.status_code, answer.text[:300])
    return seconds


async def _send_steadily(
    url: str, request: Request, people: list[Person], *, rate: int, seconds: int
) -> tuple[list[float], float, int]:
    """Seconds from the moment each request was due, how long all took, and how many answers were wrong.

    The next request doesn't wait for the last answer: a server that falls behind is seen as it is by its users.
    """
    taken: list[float] = []
    errors = 0
    clock = asyncio.get_running_loop().time
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=_LIMITS) as client:
        start = clock() + 0.2

        async def send(number: int) -> None:
            nonlocal errors
            due = start + number / rate
            await asyncio.sleep(due - clock())
            try:
                answer = await client.request(**_arguments(request, people, number))
            except httpx.TransportError:
                errors += 1
                return
            taken.append(clock() - due)
            errors += answer.status_code != request.expected

        await asyncio.gather(*(send(number) for number in range(rate * seconds)))
        return taken, clock() - start, errors


def _count_queries(request: Request, people: list[Person]) -> int:
    arguments = _arguments(request, people, 0)
    name, value = next(iter(arguments["headers"].items()))
    headers = {name: value}
    client = Client(headers=headers, SERVER_NAME=LOOPBACK)
    if name == "Cookie":
        client.cookies[settings.SESSION_COOKIE_NAME] = people[0].cookie
    ask = lambda: client.generic(  # noqa: E731
        arguments["method"],
        arguments["url"],
        "" if arguments["json"] is None else httpx.Request("POST", "http://x", json=arguments["json"]).content,
        "application/json",
    )
    ask()
    with CaptureQueriesContext(connection) as captured:
        answer = ask()
    assert answer.status_code == request.expected, (arguments["url"], answer.status_code)
    control = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE SAVEPOINT")
    return sum(not query["sql"].startswith(control) for query in captured.captured_queries)
