"""A centre with everyone in it, and clients that speak for them."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from knox.models import AuthToken

from accounts.models import Allocation, Partition, Project, User
from jobs.backends.dummy import DummyBackend
from jobs.models import Job
from jobs.services import admission, dispatch, reconcile
from jobs.services.schedulers import schedulers
from tests.factories import make_allocation, make_partition, make_project, make_user

_numbers = itertools.count(1)


class ApiClient:
    """Calls the API as one person, or as nobody; `answer.json()` is the body."""

    def __init__(self, user: User | None = None) -> None:
        self.user = user
        self.client = Client()
        self.headers: dict[str, str] = {}
        if user is not None:
            _token, key = AuthToken.objects.create(user=user, expiry=timedelta(hours=1))
            self.headers["Authorization"] = f"Bearer {key}"

    def call(self, method: str, path: str, data: Any = None, *, body: Any = None, **headers: str) -> Any:
        """`data` is sent as JSON; `body` as it is. Header names are written with underscores."""
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        url = path if path.startswith(("/", "http")) else f"/api/v1/{path}"
        content_type = extra.pop("Content-Type", "application/json")
        if body is not None:
            return self.client.generic(method, url, body, content_type, headers={**self.headers, **extra})
        send = getattr(self.client, method.lower())
        if method in ("GET", "HEAD"):
            return send(url, headers={**self.headers, **extra})
        return send(
            url, data={} if data is None else data, content_type=content_type, headers={**self.headers, **extra}
        )

    def get(self, path: str, **headers: str) -> Any:
        return self.call("GET", path, **headers)

    def post(self, path: str, data: Any = None, **headers: str) -> Any:
        return self.call("POST", path, data, **headers)

    def delete(self, path: str, **headers: str) -> Any:
        return self.call("DELETE", path, **headers)


@dataclass
class Site:
    """A project with its PI, two members, a stranger and staff; one partition; 1,000 accelerator-hours."""

    pi: User
    owner: User
    teammate: User
    stranger: User
    staff: User
    project: Project
    partition: Partition
    allocation: Allocation
    backend: DummyBackend

    def api(self, user: User | None = None) -> ApiClient:
        """A client for a person; for nobody if None."""
        return ApiClient(user)

    def body(self, **fields: Any) -> dict[str, Any]:
        """A job that is allowed: 8 accelerators for an hour."""
        return {
            "project": self.project.code,
            "cluster": "dummy",
            "partition": "a800",
            "name": "train",
            "nodes": 1,
            "devices_per_node": 8,
            "time_limit_minutes": 60,
            "entry": {"kind": "script", "script": "#!/bin/bash\necho hello\n"},
            **fields,
        }

    def submit(self, user: User | None = None, **fields: Any) -> Job:
        """A job, through the API."""
        answer = ApiClient(user or self.owner).post("jobs", self.body(**fields))
        assert answer.status_code == 201, answer.content
        job: Job = Job.objects.get(pk=answer.json()["id"])
        return job

    def tick(self, seconds: float = 0) -> None:
        """Let time pass on the cluster, then every worker do its round once."""
        self.backend.advance(seconds)
        admission.admit_submitted_jobs(at=timezone.now())
        dispatch.dispatch_queued_jobs(now=timezone.now, lease_s=60)
        reconcile.reconcile_clusters(now=timezone.now, lost_after_s=300)

    def native_id(self, job: Job) -> str:
        return str(job.segments.order_by("number").last().native_id)


@pytest.fixture(autouse=True)
def _own_throttles(settings: Any) -> None:
    """Each test counts its requests by itself."""
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": f"api-{next(_numbers)}"}
    }


def make_site() -> Site:
    pi, owner, teammate = make_user("chen"), make_user("lin"), make_user("wang")
    partition = make_partition()
    project = make_project("nlp", pi=pi, members=(owner, teammate))
    now = timezone.now()
    allocation = make_allocation(
        project, partition.resource_class, start_at=now - timedelta(days=1), end_at=now + timedelta(days=300)
    )
    DummyBackend.reset("dummy", now=now)
    backend = schedulers["dummy"]
    assert isinstance(backend, DummyBackend)
    return Site(
        pi=pi,
        owner=owner,
        teammate=teammate,
        stranger=make_user("zhao"),
        staff=make_user("admin", is_staff=True),
        project=project,
        partition=partition,
        allocation=allocation,
        backend=backend,
    )


@pytest.fixture
def site(db: None) -> Site:
    return make_site()


@pytest.fixture
def api(site: Site) -> ApiClient:
    """The owner's client."""
    return site.api(site.owner)


@pytest.fixture
def assert_problem() -> Callable[..., dict[str, Any]]:
    """Check that an answer is a problem document of one kind; return it."""

    def check(answer: Any, status: int, slug: str, *, name: str | None = None) -> dict[str, Any]:
        assert answer.status_code == status, answer.content
        assert answer["Content-Type"] == "application/problem+json"
        problem: dict[str, Any] = answer.json()
        assert set(problem) == {"type", "title", "status", "detail", "instance", "invalid_params"}
        assert problem["type"].endswith(f"/api/v1/problems/{slug}")
        assert problem["status"] == status
        assert problem["title"]
        assert problem["detail"]
        for param in problem["invalid_params"]:
            assert set(param) == {"name", "code", "reason", "value", "allowed"}
            assert param["reason"]
            assert len(str(param["value"])) <= 90
        if name is not None:
            names = [param["name"] for param in problem["invalid_params"]]
            assert name in names, problem
        return problem

    return check
