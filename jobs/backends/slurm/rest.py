"""Slurm by slurmrestd. https://slurm.schedmd.com/rest_api.html"""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from jobs.backends.base import Inventory, PartitionInfo, SchedulerUnavailable, SubmissionRejected
from jobs.backends.slurm.backend import SlurmBackend, SlurmClient, Submission
from jobs.backends.slurm.directories import STDOUT_FILE
from jobs.backends.slurm.errors import is_unavailability
from jobs.backends.slurm.inventory import get_from_rest
from jobs.backends.slurm.options import RestOptions, read_rest_options
from jobs.backends.slurm.records import COMMENT_PREFIX, SlurmJob
from jobs.backends.slurm.states import is_end, read_state, read_wait_status
from jobs.backends.slurm.text import expand_hosts, read_gres
from jobs.backends.slurm.timer import add_signal_timer
from jobs.backends.slurm.tokens import TokenDirectory, TokenSource
from jobs.spec import MAX_TIME_LIMIT_MINUTES

VERSIONS: Final = ("v0.0.38",)
"""Versions of the interface that this module reads, the best first."""

_MIB: Final = 1024 * 1024
_MAX_SINGLE_IDS: Final = 4
"""Up to so many jobs are asked for one by one; for more, the list of all is shorter."""

_NOT_KNOWN: Final = 2017
_AT_ITS_END: Final = 2021
_NOTHING_FOUND: Final = ("Nothing found with query", "Nothing found")
_PARTS: Final = ("slurm", "slurmdb")


class SlurmRestBackend(SlurmBackend):
    """Slurm by slurmrestd, with a token of the researcher's own for what is done for a researcher.

    Directories are made, and output read, as on the command line: RUN_AS. See `RestOptions` for its OPTIONS.
    """

    _options: RestOptions

    def _read_options(self, options: Mapping[str, Any]) -> RestOptions:
        return read_rest_options(options)

    def _make_client(self) -> "RestClient":
        options = self._options
        return RestClient(
            url=options.url,
            user=options.user,
            tokens=TokenDirectory(options.token_directory),
            timeout_s=options.timeout_s,
        )


class RestClient(SlurmClient):
    """One pool of connections that are kept open. Safe to use from several threads."""

    def __init__(
        self,
        *,
        url: str,
        user: str,
        tokens: TokenSource,
        timeout_s: float,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._user = user
        self._tokens = tokens
        # trust_env: a proxy of the portal's environment must not see tokens.
        self._http = httpx.Client(base_url=url, timeout=timeout_s, trust_env=False, transport=transport)
        self._versions: dict[str, str] = {}

    def ping(self) -> None:
        answer = self._ask("GET", "slurm", "ping")
        controllers = _list(answer, "pings")
        if not any(item.get("ping") == "UP" or item.get("status") == 0 for item in controllers):
            raise SchedulerUnavailable("No Slurm controller answers.")

    def submit(self, submission: Submission) -> int:
        body = {
            "script": add_signal_timer(submission.spec),
            "job": _job_properties(submission),
        }
        response = self._send("POST", "slurm", "job/submit", user=submission.user, body=body)
        answer = _read_json(response)
        # A job that waits because it is held comes with an id and an error entry at once: the id counts.
        job_id = answer.get("job_id")
        if response.status_code == 200 and isinstance(job_id, int) and job_id > 0:
            return job_id
        raise _read_refusal(response, answer)

    def forecast(self, submission: Submission) -> datetime | None:
        # This interface can't try a submission; what is free now starts now.
        info = {partition.name: partition for partition in self.partitions()}.get(submission.spec.partition)
        spec = submission.spec
        if info is None or not info.is_up or spec.time_limit_minutes > info.max_time_limit_minutes:
            return None
        if spec.devices_per_node and (spec.gres_name != info.gres_name or spec.gres_type not in ("", info.gres_type)):
            return None
        free = info.nodes * info.devices_per_node - info.devices_in_use
        fits = spec.nodes <= info.nodes and spec.devices_per_node <= info.devices_per_node
        if fits and spec.devices <= free and not info.jobs_pending:
            return datetime.now(UTC).replace(microsecond=0)
        return None

    def list_queue(self, job_ids: Collection[int] | None) -> list[SlurmJob]:
        if job_ids is None or len(job_ids) > _MAX_SINGLE_IDS:
            return [_read_queue_job(item) for item in _list(self._ask("GET", "slurm", "jobs"), "jobs")]
        jobs = []
        for job_id in sorted(job_ids):
            response = self._send("GET", "slurm", f"job/{job_id}")
            answer = _read_json(response)
            if response.status_code != 200 and any(_error_code(item) == _NOT_KNOWN for item in _errors(answer)):
                continue
            self._check(response, answer)
            jobs += [_read_queue_job(item) for item in _list(answer, "jobs")]
        return jobs

    def list_accounting(
        self, *, job_ids: Collection[int] = (), since: datetime | None = None, user: str = ""
    ) -> list[SlurmJob]:
        if job_ids:
            found = []
            for job_id in sorted(job_ids):
                found += _list(self._ask("GET", "slurmdb", f"job/{job_id}"), "jobs")
        else:
            start = f"uts{int(since.timestamp())}" if since else "now-30days"
            found = _list(self._ask("GET", "slurmdb", "jobs", parameters={"start_time": start}), "jobs")
        runs = [_read_run(item) for item in found]
        return [run for run in runs if not user or run.user == user]

    def cancel(self, job_id: int, *, user: str) -> None:
        response = self._send("DELETE", "slurm", f"job/{job_id}", user=user)
        answer = _read_json(response)
        if any(_error_code(item) in (_NOT_KNOWN, _AT_ITS_END) for item in _errors(answer)):
            return  # not there any more, or at its end already
        self._check(response, answer)

    def partitions(self) -> list[PartitionInfo]:
        found = _list(self._ask("GET", "slurm", "partitions"), "partitions")
        nodes = {str(node["name"]): node for node in _list(self._ask("GET", "slurm", "nodes"), "nodes")}
        pending: Counter[str] = Counter()
        running: Counter[str] = Counter()
        for job in _list(self._ask("GET", "slurm", "jobs"), "jobs"):
            word = str(job.get("job_state", ""))
            state = read_state(word)
            if state is not None and not is_end(state):
                names = str(job.get("partition", "")).split(",")
                (pending if state == "PENDING" else running).update(names)
        return [
            _read_partition(item, nodes, pending=pending[str(item["name"])], running=running[str(item["name"])])
            for item in found
        ]

    def inventory(self) -> Inventory:
        return get_from_rest(lambda part, path: self._ask("GET", part, path))

    def _ask(self, method: str, part: str, path: str, *, parameters: Mapping[str, str] | None = None) -> dict[str, Any]:
        """An answer without errors, asked as the portal itself."""
        response = self._send(method, part, path, parameters=parameters)
        answer = _read_json(response)
        self._check(response, answer)
        return answer

    def _check(self, response: httpx.Response, answer: Mapping[str, Any]) -> None:
        # An accounting daemon that is away comes as 200, no jobs, and an entry in errors; so does an empty result.
        errors = [item for item in _errors(answer) if item.get("error") not in _NOTHING_FOUND]
        if response.status_code != 200 or errors:
            raise SchedulerUnavailable(f"slurmrestd answered {response.status_code}: {_describe(errors)}")

    def _send(
        self,
        method: str,
        part: str,
        path: str,
        *,
        user: str = "",
        body: Mapping[str, Any] | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        name = user or self._user
        headers = {"X-SLURM-USER-NAME": name, "X-SLURM-USER-TOKEN": self._tokens.token_for(name)}
        url = f"/{part}/{self._version_of(part, headers)}/{path}"
        return self._request(method, url, headers=headers, body=body, parameters=parameters)

    def _request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        try:
            return self._http.request(method, url, headers=headers, json=body, params=parameters)
        except httpx.HTTPError as error:
            raise SchedulerUnavailable(f"slurmrestd doesn't answer: {type(error).__name__} {error}") from error

    def _version_of(self, part: str, headers: Mapping[str, str]) -> str:
        """The version of the interface to use, from the server's own description of itself."""
        if not self._versions:
            description = _read_json(self._request("GET", "/openapi/v3", headers=headers))
            paths = description.get("paths")
            offered = {tuple(str(path).split("/")[1:3]) for path in paths} if isinstance(paths, dict) else set()
            chosen = {one: version for one in _PARTS for version in reversed(VERSIONS) if (one, version) in offered}
            if set(chosen) != set(_PARTS):
                there = sorted("/".join(item) for item in offered if item[0] in _PARTS and len(item) == 2)
                raise SchedulerUnavailable(
                    f"slurmrestd offers none of {', '.join(VERSIONS)} for jobs and accounting; it has: "
                    f"{', '.join(there) or 'nothing'}"
                )
            self._versions = chosen
        return self._versions[part]


def _job_properties(submission: Submission) -> dict[str, Any]:
    """A job of v0.0.38. Directives in the script are not read by slurmrestd; nothing is added to the environment."""
    spec = submission.spec
    properties: dict[str, Any] = {
        "name": spec.name,
        "comment": f"{COMMENT_PREFIX}{spec.key}",
        "current_working_directory": submission.directory,
        "partition": spec.partition,
        "nodes": spec.nodes,
        "tasks_per_node": 1,
        "time_limit": spec.time_limit_minutes,
        "standard_output": f"{submission.directory}/{STDOUT_FILE}",
        "standard_input": "/dev/null",
        "open_mode": "append",
        "requeue": False,
        "environment": {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": submission.home,
            "SHELL": submission.shell,
            "USER": submission.user,
            "LOGNAME": submission.user,
            "LANG": "C.UTF-8",
            **submission.environment,
        },
    }
    cpus = spec.cpus_per_node
    if spec.gres_name == "cpu":
        cpus = spec.devices_per_node or cpus
    elif spec.devices_per_node:
        kind = f":{spec.gres_type}" if spec.gres_type else ""
        properties["gres"] = f"{spec.gres_name}{kind}:{spec.devices_per_node}"
    if cpus is not None:
        properties["cpus_per_task"] = cpus
    if spec.memory_bytes_per_node is not None:
        properties["memory_per_node"] = -(-spec.memory_bytes_per_node // _MIB)
    if spec.qos:
        properties["qos"] = spec.qos
    if spec.slurm_account:
        properties["account"] = spec.slurm_account
    return properties


def _read_queue_job(item: Mapping[str, Any]) -> SlurmJob:
    exit_code, exit_signal = read_wait_status(int(item.get("exit_code") or 0))
    return SlurmJob(
        job_id=int(item["job_id"]),
        user=str(item.get("user_name") or ""),
        word=str(item.get("job_state") or ""),
        work_directory=str(item.get("current_working_directory") or ""),
        comment=str(item.get("comment") or ""),
        submitted_at=_time(item.get("submit_time")),
        started_at=_time(item.get("start_time")),
        ended_at=_time(item.get("end_time")),
        # The description says more: of nodes that are all drained the reason has only "Resources". squeue does so, too.
        reason=str(item.get("state_description") or item.get("state_reason") or ""),
        nodes=str(item.get("nodes") or ""),
        exit_code=exit_code,
        exit_signal=exit_signal,
    )


def _read_run(item: Mapping[str, Any]) -> SlurmJob:
    """A record of accounting. This version says SUCCESS of jobs that failed: a code is believed only if it is none."""
    word = str(item["state"]["current"])
    nodes = str(item.get("nodes") or "")
    exit_status = item.get("exit_code") or {}
    is_known = word == "COMPLETED" or exit_status.get("status") not in (None, "SUCCESS")
    signal = (exit_status.get("signal") or {}).get("signal_id") if is_known else None
    times = item["time"]
    allocated = (item.get("tres") or {}).get("allocated") or []
    tres = {
        f"{entry['type']}/{entry['name']}" if entry.get("name") else str(entry["type"]): int(entry["count"])
        for entry in allocated
        if entry.get("count") is not None
    }
    total = times.get("total") or {}
    return SlurmJob(
        job_id=int(item["job_id"]),
        user=str(item.get("user") or ""),
        word=word,
        work_directory=str(item.get("working_directory") or ""),
        comment=str((item.get("comment") or {}).get("job") or ""),
        submitted_at=_time(times.get("submission")),
        started_at=_time(times.get("start")),
        ended_at=_time(times.get("end")),
        nodes="" if nodes == "None assigned" else nodes,
        exit_code=int(exit_status.get("return_code") or 0) if is_known else None,
        exit_signal=signal or None,
        elapsed_s=int(times.get("elapsed") or 0),
        tres=tres,
        cpu_s=float(total.get("seconds") or 0) + float(total.get("microseconds") or 0) / 1e6,
    )


def _read_partition(
    item: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]], *, pending: int, running: int
) -> PartitionInfo:
    own = [nodes[name] for name in expand_hosts(str(item.get("nodes") or "")) if name in nodes]
    gres = [entry for node in own for entry in read_gres(str(node.get("gres") or ""))]
    kind, label = (gres[0][0], gres[0][1]) if gres else ("", "")
    used = [entry for node in own for entry in read_gres(str(node.get("gres_used") or ""))]
    limit = item.get("max_time_limit")
    return PartitionInfo(
        name=str(item["name"]),
        is_up=item.get("state") == "UP",
        nodes=len(own),
        devices_per_node=max((count for one, two, count in gres if (one, two) == (kind, label)), default=0),
        gres_name=kind,
        gres_type=label,
        max_time_limit_minutes=limit if isinstance(limit, int) and limit > 0 else MAX_TIME_LIMIT_MINUTES,
        devices_in_use=sum(count for one, two, count in used if (one, two) == (kind, label)),
        jobs_pending=pending,
        jobs_running=running,
    )


def _read_json(response: httpx.Response) -> dict[str, Any]:
    """The answer as an object. Raises SchedulerUnavailable for HTML, half an answer, a refused token."""
    try:
        answer = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        answer = None
    if not isinstance(answer, dict):
        raise SchedulerUnavailable(f"slurmrestd answered {response.status_code} with no JSON: {response.text[:100]!r}")
    return answer


def _list(answer: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    items = answer.get(name)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise SchedulerUnavailable(f"slurmrestd's answer has no list of {name}")
    return items


def _errors(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    errors = answer.get("errors")
    return [item for item in errors if isinstance(item, dict)] if isinstance(errors, list) else []


def _error_code(item: Mapping[str, Any]) -> int:
    """Entries are not uniform: either name is used."""
    code = item.get("error_code") or item.get("error_number") or 0
    return code if isinstance(code, int) else 0


def _describe(errors: list[dict[str, Any]]) -> str:
    words = [str(item.get("error") or item.get("description") or item) for item in errors]
    return "; ".join(words) or "no reason given"


def _read_refusal(response: httpx.Response, answer: Mapping[str, Any]) -> SchedulerUnavailable | SubmissionRejected:
    """What an answer without a job's id means. Slurm's codes for refusals begin at 2000."""
    errors = _errors(answer)
    words = _describe(errors)
    is_refusal = any(2000 <= _error_code(item) < 5000 for item in errors)
    if response.status_code == 400 and any(_error_code(item) == 9001 for item in errors):
        is_refusal = True  # a value that Slurm can't read, such as a GRES that it doesn't have: nothing was submitted
        words = f"Invalid specification, such as an unknown generic resource: {words}"
    if is_refusal and not (response.status_code != 400 and is_unavailability(words)):
        return SubmissionRejected(words)
    return SchedulerUnavailable(f"slurmrestd answered {response.status_code}: {words}")


def _time(value: object) -> datetime | None:
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int) and value > 0 else None
