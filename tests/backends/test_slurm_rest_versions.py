"""Each version of slurmrestd's interface, by stored answers: see recorded/README.md for which of these are real."""

import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from jobs.backends.base import SchedulerUnavailable, SubmissionRejected
from jobs.states import JobState
from tests.backends.recorded_answers import VERSIONS, client_of, client_of_version, load, make_submission

pytestmark = pytest.mark.parametrize("version", VERSIONS)
ROOT = "/cluster/jobs"


def test_the_queue_is_read(version: str) -> None:
    jobs = {job.key_under(ROOT): job for job in client_of_version(version).list_queue(None)}
    states = {key: job.state for key, job in jobs.items()}
    assert states == {
        "key-failed": JobState.FAILED,
        "key-completed": JobState.COMPLETED,
        "key-signal": JobState.FAILED,
        "key-running": JobState.RUNNING,
        "key-waiting": JobState.PENDING,
        "key-cancelled": JobState.CANCELLED,
    }
    assert {job.user for job in jobs.values()} == {"alice"}
    failed = jobs["key-failed"].to_status("key-failed")
    assert failed is not None
    assert (failed.exit_code, failed.exit_signal, failed.reason) == (7, None, "NonZeroExitCode")
    assert failed.nodes == ("a800-01",)
    assert failed.started_at is not None
    assert failed.ended_at is not None
    killed = jobs["key-signal"].to_status("key-signal")
    assert killed is not None
    assert (killed.exit_code, killed.exit_signal, killed.reason) == (0, 9, "RaisedSignal:9")
    waiting = jobs["key-waiting"].to_status("key-waiting")
    assert waiting is not None
    assert (waiting.reason, waiting.started_at, waiting.nodes) == ("Resources", None, ())
    assert waiting.expected_start_at is not None
    running = jobs["key-running"].to_status("key-running")
    assert running is not None
    assert (running.nodes, running.ended_at, running.exit_code) == (("a800-01", "a800-02"), None, None)


def test_accounting_is_read_and_no_success_is_believed_of_a_job_that_failed(version: str) -> None:
    client = client_of_version(version)
    runs = {run.key_under(ROOT): run for run in client.list_accounting(since=datetime.now(UTC) - timedelta(days=1))}
    assert len(runs) == 6
    assert runs["key-completed"].exit_code == 0
    assert runs["key-completed"].tres is not None
    assert runs["key-completed"].tres["gres/gpu:a800"] == 2
    assert runs["key-failed"].state is JobState.FAILED
    assert runs["key-failed"].exit_code in (7, None)  # v0.0.38 doesn't know it
    assert runs["key-signal"].exit_signal == 9
    assert runs["key-running"].ended_at is None
    assert runs["key-running"].elapsed_s > 0
    assert (runs["key-cancelled"].nodes, runs["key-cancelled"].elapsed_s) == ("", 0)
    assert client.list_accounting(job_ids=[999999]) == []


def test_partitions_are_read(version: str) -> None:
    main, npu, closed = client_of_version(version).partitions()
    assert (main.name, main.nodes, main.devices_per_node, main.gres_name, main.gres_type) == (
        *("gpu-a800", 2, 8),
        *("gpu", "a800"),
    )
    assert (main.max_time_limit_minutes, main.devices_in_use) == (600, 16)
    assert (main.jobs_pending, main.jobs_running) == (1, 1)
    assert (npu.gres_name, npu.gres_type) == ("npu", "ascend910b")
    assert (main.is_up, npu.is_up) == (True, True)
    # 23.02 doesn't tell.
    assert closed.is_up == (version == "v0.0.39")


def test_the_controller_is_asked_whether_it_is_up(version: str) -> None:
    client_of_version(version).ping()
    pings = load(version, "ping")
    for item in pings["pings"]:
        for name in ("ping", "pinged", "status", "responding"):
            item.pop(name, None)
    with pytest.raises(SchedulerUnavailable):
        client_of_version(version, changed={"ping": pings}).ping()


def test_a_job_that_is_not_known_is_absent_and_no_error(version: str) -> None:
    client = client_of_version(version)
    assert client.list_queue([999999]) == []
    client.cancel(999999, user="alice")


def test_the_batch_script_is_signalled_where_the_interface_can_name_it(version: str) -> None:
    seen: list[httpx.Request] = []
    client = client_of_version(version, seen=seen)
    client.signal(999999, "USR1", user="alice")  # not there any more: no error
    sent = seen[-1]
    assert (sent.method, sent.url.path) == ("DELETE", f"/slurm/{version}/job/999999")
    flags = {} if version == "v0.0.38" else {"flags": "BATCH_JOB"}
    assert dict(sent.url.params) == {"signal": "USR1", **flags}
    assert sent.headers["X-SLURM-USER-NAME"] == "alice"


def test_a_job_is_submitted_with_everything_it_needs(version: str) -> None:
    seen: list[httpx.Request] = []
    client = client_of_version(version, seen=seen)
    assert client.submit(make_submission(qos="high", cpus_per_node=16)) == load(version, "submitted")["job_id"]
    assert seen[-1].url.path == f"/slurm/{version}/job/submit"
    assert seen[-1].headers["X-SLURM-USER-NAME"] == "alice"
    body = json.loads(seen[-1].content)
    job = body["job"]
    later = version != "v0.0.38"

    def number(value: int) -> object:
        return {"set": True, "infinite": False, "number": value} if later else value

    assert (body.get("script") or job["script"]) == "#!/bin/bash\ntrue\n"
    assert job["comment"] == "portal:key-submitted"
    assert job["current_working_directory"] == "/cluster/jobs/key-submitted"
    assert job["standard_output"] == "/cluster/jobs/key-submitted/stdout.log"
    assert (job["partition"], job["qos"], job["account"], job["requeue"]) == ("gpu-a800", "high", "laba", False)
    assert (job["nodes"], job["tasks_per_node"], job["cpus_per_task"]) == ("2" if later else 2, 1, 16)
    assert (job["time_limit"], job["memory_per_node"]) == (number(60), number(1025))
    gres = {"v0.0.38": ("gres", "gpu:a800:8"), "v0.0.39": ("tres_per_node", "gres:gpu:a800:8")}
    name, value = gres.get(version, ("tres_per_node", "gres/gpu:a800:8"))
    assert job[name] == value
    assert job["open_mode"] == (["APPEND"] if later else "append")
    environment = job["environment"]
    variables = dict(item.split("=", 1) for item in environment) if later else environment
    assert variables == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/home/alice",
        "SHELL": "/bin/bash",
        "USER": "alice",
        "LOGNAME": "alice",
        "LANG": "C.UTF-8",
        "NCCL_DEBUG": "WARN",
    }


def test_a_refusal_is_told_in_slurms_words(version: str) -> None:
    client = client_of_version(version, changed={"submitted": load(version, "refused")})
    with pytest.raises(SubmissionRejected, match="Invalid partition name"):
        client.submit(make_submission())


def test_the_version_is_chosen_by_asking_the_server(version: str) -> None:
    """Each description offers older versions, too."""
    seen: list[httpx.Request] = []
    client_of_version(version, seen=seen).ping()
    assert seen[0].url.path == "/openapi/v3"
    assert seen[1].url.path == f"/slurm/{version}/ping"


def test_an_operators_choice_of_version_goes_first_and_one_that_is_not_there_is_named(version: str) -> None:
    paths = [f"/{part}/{name}/jobs/" for part in ("slurm", "slurmdb") for name in VERSIONS]
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        is_description = request.url.path == "/openapi/v3"
        return httpx.Response(
            200, json={"paths": {path: {} for path in paths}} if is_description else load(version, "ping")
        )

    client_of(handle, version=version).ping()
    assert asked[-1] == f"/slurm/{version}/ping"
    paths[:] = [path for path in paths if version not in path]
    with pytest.raises(SchedulerUnavailable, match=f"none of {version}"):
        client_of(handle, version=version).ping()


def test_a_server_that_was_replaced_by_another_release_is_asked_anew(version: str) -> None:
    """The first answer to a path that it no longer has costs one call."""
    known = load(version, "openapi")
    is_old = True

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/openapi/v3":
            old = {"paths": {"/slurm/v0.0.38/jobs/": {}, "/slurmdb/v0.0.38/jobs/": {}}}
            return httpx.Response(200, json=old if is_old else known)
        if f"/{'v0.0.38' if is_old else version}/" not in request.url.path:
            return httpx.Response(404, text="not found", headers={"content-type": "text/plain"})
        return httpx.Response(200, json=load("v0.0.38" if is_old else version, "ping"))

    client = client_of(handle)
    client.ping()
    is_old = False
    if version != "v0.0.38":
        with pytest.raises(SchedulerUnavailable, match="404"):
            client.ping()
    client.ping()


@pytest.mark.parametrize("missing", [1, 2])
def test_the_description_is_looked_for_in_three_places(version: str, missing: int) -> None:
    places = ["/openapi/v3", "/openapi.json", "/openapi"]

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path in places[:missing]:
            return httpx.Response(404, text="not found")
        name = "openapi" if request.url.path in places else "ping"
        return httpx.Response(200, json=load(version, name))

    client_of(handle).ping()
