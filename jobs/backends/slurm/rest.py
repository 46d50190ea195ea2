"""Slurm by slurmrestd. https://slurm.schedmd.com/rest_api.html"""

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from jobs.backends.base import Inventory, PartitionInfo, SchedulerUnavailable, SubmissionRejected
from jobs.backends.slurm.backend import SlurmBackend, SlurmClient, Submission
from jobs.backends.slurm.errors import (
    DUPLICATE_CODE,
    UNSPECIFIED,
    DuplicateSubmission,
    is_unavailability,
    may_mean_bad_token,
)
from jobs.backends.slurm.inventory import get_from_rest
from jobs.backends.slurm.options import RestOptions, read_rest_options
from jobs.backends.slurm.probes import RestProbe
from jobs.backends.slurm.records import SlurmJob
from jobs.backends.slurm.rest_answers import Record, describe, error_code, errors_of, read_answer
from jobs.backends.slurm.rest_transport import MAX_ANSWER_BYTES, DeadlineTransport
from jobs.backends.slurm.rest_v0038 import RestV0038
from jobs.backends.slurm.rest_v0039 import RestV0039
from jobs.backends.slurm.rest_v0040 import RestV0040, RestV0041, RestV0042
from jobs.backends.slurm.rest_versions import RestVersion
from jobs.backends.slurm.states import is_end, read_state
from jobs.backends.slurm.text import expand_hosts, read_gres
from jobs.backends.slurm.timer import add_signal_timer
from jobs.backends.slurm.tokens import TokenBroker, TokenDirectory, TokenRefused, TokenSource
from jobs.spec import MAX_TIME_LIMIT_MINUTES
from jobs.states import JobState

SUPPORTED: Final[tuple[RestVersion, ...]] = (RestV0042(), RestV0041(), RestV0040(), RestV0039(), RestV0038())
"""Versions of the interface that can be used, the best first."""

_MAX_SINGLE_IDS: Final = 4
"""Up to so many jobs are asked for one by one; for more, the list of all is shorter."""

_SIGNALS_WHOLE_JOBS: Final = "v0.0.38"
_NOT_KNOWN: Final = 2017
_AT_ITS_END: Final = 2021
_PARTS: Final = ("slurm", "slurmdb")
_DESCRIPTIONS: Final = ("/openapi/v3", "/openapi.json", "/openapi")
"""Where servers describe themselves; later releases may give up the first."""


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
            tokens=TokenBroker(options.token_broker)
            if options.token_broker
            else TokenDirectory(options.token_directory),
            timeout_s=options.timeout_s,
            version=options.version,
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
        version: str = "",
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`version` is the only one to be used; without it the best that the server has."""
        self._user = user
        self._tokens = tokens
        # trust_env: a proxy of the portal's environment must not see tokens.
        self._http = httpx.Client(
            base_url=url, trust_env=False, transport=transport or DeadlineTransport(timeout_s=timeout_s)
        )
        self._usable = tuple(one for one in SUPPORTED if version in ("", one.name))
        self._chosen: RestVersion | None = None

    def open_probe(self) -> RestProbe:
        return RestProbe(self._ask_as, user=self._user, tokens=self._tokens)

    def _ask_as(self, part: str, path: str, *, user: str) -> dict[str, Any]:
        return self._ask(part, path, user=user).values

    def ping(self) -> None:
        answer = self._ask("slurm", "ping")
        if not any(self._version.read_ping(item) for item in answer.records("pings")):
            raise SchedulerUnavailable("No Slurm controller answers.")

    def submit(self, submission: Submission) -> int:
        body = self._version.write_submission(submission, add_signal_timer(submission.spec))
        try:
            response = self._send("POST", "slurm", "job/submit", user=submission.user, body=body)
        except TokenRefused as error:
            raise SubmissionRejected(str(error)) from error
        answer = read_answer(response)
        # A job that waits because it is held comes with an id and an error entry at once: the id counts.
        job_id = answer.optional_number("job_id")
        if response.status_code == 200 and job_id is not None and job_id > 0:
            return job_id
        refusal = _read_refusal(response, answer)
        if describe(errors_of(answer)) == UNSPECIFIED:
            # Mostly a rule of the site's, whose words are not handed on. A token that is no good is told the same
            # elsewhere: one with which the controller answers leaves the rule.
            self._ask("slurm", "ping", user=submission.user)
            refusal = SubmissionRejected(f"{UNSPECIFIED}: refused by a rule of this cluster, probably")
        raise refusal

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
            found = self._ask("slurm", "jobs", is_list=True).records("jobs")
            return [self._version.read_queue_job(item) for item in found]
        jobs = []
        for job_id in sorted(job_ids):
            response = self._send("GET", "slurm", f"job/{job_id}")
            answer = read_answer(response)
            if response.status_code != 200 and any(error_code(item) == _NOT_KNOWN for item in errors_of(answer)):
                continue
            _check(response, answer)
            jobs += [self._version.read_queue_job(item) for item in answer.records("jobs")]
        return jobs

    def list_accounting(
        self, *, job_ids: Collection[int] = (), since: datetime | None = None, user: str = ""
    ) -> list[SlurmJob]:
        if job_ids:
            found = [
                item for job_id in sorted(job_ids) for item in self._ask("slurmdb", f"job/{job_id}").records("jobs")
            ]
        else:
            start = f"uts{int(since.timestamp())}" if since else "now-30days"
            answer = self._ask("slurmdb", "jobs", parameters={"start_time": start}, is_list=True)
            found = answer.records("jobs")
        runs = [self._version.read_run(item) for item in found]
        return [run for run in runs if not user or run.user == user]

    def cancel(self, job_id: int, *, user: str) -> None:
        response = self._send("DELETE", "slurm", f"job/{job_id}", user=user)
        answer = read_answer(response)
        if any(error_code(item) in (_NOT_KNOWN, _AT_ITS_END) for item in errors_of(answer)):
            return  # not there any more, or at its end already
        _check(response, answer)

    def signal(self, job_id: int, signal_name: str, *, user: str) -> None:
        # The oldest interface can only signal the whole job, its steps and its script; a program gets it twice then.
        parameters = {"signal": signal_name}
        if self._version.name != _SIGNALS_WHOLE_JOBS:
            parameters["flags"] = "BATCH_JOB"
        response = self._send("DELETE", "slurm", f"job/{job_id}", user=user, parameters=parameters)
        answer = read_answer(response)
        if any(error_code(item) in (_NOT_KNOWN, _AT_ITS_END) for item in errors_of(answer)):
            return  # not there any more, or at its end already
        _check(response, answer)

    def partitions(self) -> list[PartitionInfo]:
        found = self._ask("slurm", "partitions", is_list=True).records("partitions")
        nodes = {node.text("name"): node for node in self._ask("slurm", "nodes", is_list=True).records("nodes")}
        pending: Counter[str] = Counter()
        running: Counter[str] = Counter()
        for job in self._ask("slurm", "jobs", is_list=True).records("jobs"):
            state = read_state(self._version.read_state(job))
            if state is not None and not is_end(state):
                (pending if state is JobState.PENDING else running).update(job.text("partition").split(","))
        return [
            _read_partition(
                self._version,
                item,
                nodes,
                pending=pending[item.text("name")],
                running=running[item.text("name")],
            )
            for item in found
        ]

    def inventory(self) -> Inventory:
        return get_from_rest(lambda part, path: self._ask(part, path, is_list=True).values)

    def _ask(
        self,
        part: str,
        path: str,
        *,
        user: str = "",
        parameters: Mapping[str, str] | None = None,
        is_list: bool = False,
    ) -> Record:
        """An answer without errors, asked as the portal itself unless `user` is given."""
        response = self._send("GET", part, path, user=user, parameters=parameters, is_list=is_list)
        answer = read_answer(response)
        _check(response, answer)
        return answer

    def _send(
        self,
        method: str,
        part: str,
        path: str,
        *,
        user: str = "",
        body: Mapping[str, Any] | None = None,
        parameters: Mapping[str, str] | None = None,
        is_list: bool = False,
    ) -> httpx.Response:
        name = user or self._user
        headers = self._headers(name)
        url = f"/{part}/{self._version.name}/{path}"
        response = self._request(method, url, headers=headers, body=body, parameters=parameters, is_list=is_list)
        if response.status_code == 404 and not response.headers.get("content-type", "").startswith("application/json"):
            self._chosen = None  # no such path: the server is another since it was asked what it has
        if response.status_code in (401, 500) and may_mean_bad_token(response.text):
            self._tokens.discard(name)
        return response

    def _headers(self, user: str) -> dict[str, str]:
        return {"X-SLURM-USER-NAME": user, "X-SLURM-USER-TOKEN": self._tokens.token_for(user)}

    def _request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        parameters: Mapping[str, str] | None = None,
        is_list: bool = False,
    ) -> httpx.Response:
        extensions = {"max_answer_bytes": MAX_ANSWER_BYTES} if is_list else {}
        try:
            return self._http.request(method, url, headers=headers, json=body, params=parameters, extensions=extensions)
        except (httpx.HTTPError, httpx.DecodingError) as error:
            raise SchedulerUnavailable(f"slurmrestd doesn't answer: {type(error).__name__} {error}") from error

    @property
    def _version(self) -> RestVersion:
        """The version of the interface to use, from the server's own description of itself."""
        version = self._chosen
        if version is None:
            version = self._chosen = self._choose_version()
        return version

    def _choose_version(self) -> RestVersion:
        headers = self._headers(self._user)
        for path in _DESCRIPTIONS:
            response = self._request("GET", path, headers=headers)
            if response.status_code != 404:
                break
        paths = read_answer(response).record("paths").names()
        offered = {tuple(path.split("/")[1:3]) for path in paths}
        for version in self._usable:
            if all((part, version.name) in offered for part in _PARTS):
                return version
        there = sorted("/".join(item) for item in offered if len(item) == 2 and item[0] in _PARTS)
        raise SchedulerUnavailable(
            f"slurmrestd offers none of {', '.join(one.name for one in self._usable)} for jobs and accounting; it has: "
            f"{', '.join(there) or 'nothing'}"
        )


def _read_partition(
    version: RestVersion, item: Record, nodes: Mapping[str, Record], *, pending: int, running: int
) -> PartitionInfo:
    try:
        names = expand_hosts(version.read_partition_nodes(item))
    except ValueError as error:
        raise SchedulerUnavailable(f"slurmrestd's answer has a list of nodes that can't be read: {error}") from error
    own = [nodes[name] for name in names if name in nodes]
    gres = [entry for node in own for entry in read_gres(node.text("gres"))]
    kind, label = (gres[0][0], gres[0][1]) if gres else ("", "")
    used = [entry for node in own for entry in read_gres(node.text("gres_used"))]
    return PartitionInfo(
        name=item.text("name"),
        is_up=version.read_partition_is_up(item),
        nodes=len(own),
        devices_per_node=max((count for one, two, count in gres if (one, two) == (kind, label)), default=0),
        gres_name=kind,
        gres_type=label,
        max_time_limit_minutes=version.read_partition_limit(item) or MAX_TIME_LIMIT_MINUTES,
        devices_in_use=sum(count for one, two, count in used if (one, two) == (kind, label)),
        jobs_pending=pending,
        jobs_running=running,
    )


def _check(response: httpx.Response, answer: Record) -> None:
    """Raises SchedulerUnavailable for an answer with errors.

    An accounting daemon that is away comes as 200, no jobs, and an entry in errors; so does an empty result.
    """
    errors = errors_of(answer)
    if response.status_code != 200 or errors:
        raise SchedulerUnavailable(f"slurmrestd answered {response.status_code}: {describe(errors)}")


def _read_refusal(response: httpx.Response, answer: Record) -> SchedulerUnavailable | SubmissionRejected:
    """What an answer without a job's id means. Slurm's codes for refusals begin at 2000."""
    errors = errors_of(answer)
    words = describe(errors)
    if any(error_code(item) == DUPLICATE_CODE for item in errors):
        return DuplicateSubmission(words)
    is_refusal = any(2000 <= error_code(item) < 5000 for item in errors)
    if response.status_code == 400 and any(error_code(item) == 9001 for item in errors):
        is_refusal = True  # a value that Slurm can't read, such as a GRES that it doesn't have: nothing was submitted
        words = f"Invalid specification, such as an unknown generic resource: {words}"
    if is_refusal and not (response.status_code != 400 and is_unavailability(words)):
        return SubmissionRejected(words)
    return SchedulerUnavailable(f"slurmrestd answered {response.status_code}: {words}")
