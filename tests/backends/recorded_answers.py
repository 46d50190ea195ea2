"""The stored answers of slurmrestd, and a client of a server that gives them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx

from jobs.backends.slurm.backend import Submission
from jobs.backends.slurm.rest import RestClient
from jobs.spec import JobSpec

DIRECTORY: Final = Path(__file__).parent / "recorded"
VERSIONS: Final = ("v0.0.38", "v0.0.39", "v0.0.40", "v0.0.41", "v0.0.42")
TIMEOUT_S: Final = 1.0


class AnyToken:
    """A broker that has a token for everybody."""

    def token_for(self, user: str) -> str:
        return "token"

    def discard(self, user: str) -> None:
        """It is always the same."""


def load(version: str, name: str) -> dict[str, Any]:
    """One answer."""
    answer: dict[str, Any] = json.loads((DIRECTORY / version / f"{name}.json").read_text())
    return answer


def file_for(path: str, version: str) -> str:
    """The name of the answer to a question."""
    part, _, rest = path.strip("/").partition(f"/{version}/")
    if part == "slurmdb":
        return "accounting" if rest == "jobs" else "accounting-nothing"
    return {"job/submit": "submitted"}.get(rest, "job-unknown" if rest.startswith("job/") else rest)


def client_of(answer: Callable[[httpx.Request], httpx.Response], *, version: str = "") -> RestClient:
    """A client of whatever answers so."""
    return RestClient(
        url="http://slurm",
        user="portal",
        tokens=AnyToken(),
        timeout_s=TIMEOUT_S,
        version=version,
        transport=httpx.MockTransport(answer),
    )


def client_of_version(
    version: str, *, changed: dict[str, Any] | None = None, seen: list[httpx.Request] | None = None
) -> RestClient:
    """A client of a server of one version; `changed` are answers, by name, that differ from the stored ones."""

    def handle(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        name = "openapi" if request.url.path == "/openapi/v3" else file_for(request.url.path, version)
        status = 404 if name == "job-unknown" else 200
        return httpx.Response(status, json=(changed or {}).get(name, load(version, name)))

    return client_of(handle)


def make_submission(**changes: Any) -> Submission:
    """A job on its way."""
    values: dict[str, Any] = {
        "key": "key-submitted",
        "name": "train",
        "script": "#!/bin/bash\ntrue\n",
        "partition": "gpu-a800",
        "nodes": 2,
        "devices_per_node": 8,
        "gres_type": "a800",
        "time_limit_minutes": 60,
        "memory_bytes_per_node": 2**30 + 1,
        "slurm_account": "laba",
        "unix_user": "alice",
    }
    return Submission(  # noqa: S604  # the shell of an account
        spec=JobSpec(**{**values, **changes}),
        user="alice",
        home="/home/alice",
        shell="/bin/bash",
        directory="/cluster/jobs/key-submitted",
        environment={"NCCL_DEBUG": "WARN"},
    )
