"""What only slurmrestd does: tokens, odd answers, and an interface that lacks some of the command line's abilities."""

import re
import time
from collections.abc import Iterator

import httpx
import pytest

from jobs.backends.base import SchedulerUnavailable, SubmissionRejected
from jobs.backends.slurm.timer import add_signal_timer
from jobs.states import JobState
from tests.backends.harness import Behaviour
from tests.backends.recorded_answers import client_of, make_submission
from tests.backends.slurm_harness import SlurmRestHarness
from tests.integration.slurm.lab import SlurmLab

OPENAPI = {"paths": {"/slurm/v0.0.38/jobs": {}, "/slurmdb/v0.0.38/jobs": {}}}


@pytest.fixture
def rest(slurm_lab: SlurmLab) -> Iterator[SlurmRestHarness]:
    """A real slurmrestd."""
    with SlurmRestHarness.on(slurm_lab) as harness:
        yield harness


def test_a_failed_job_is_failed_in_accounting_whatever_code_accounting_gives(rest: SlurmRestHarness) -> None:
    native_id = rest.submit(Behaviour(exit_code=7))
    status = rest.wait(native_id)
    assert (status.state, status.exit_code) == (JobState.FAILED, 7)
    assert status.ended_at is not None
    assert rest.usage(native_id, status.ended_at)[native_id].state is JobState.FAILED
    (run,) = rest.backend._client.list_accounting(job_ids=[int(native_id)])
    assert (run.state, run.exit_code) == (JobState.FAILED, None)


def test_the_signal_before_the_end_reaches_the_batch_script(rest: SlurmRestHarness) -> None:
    native_id = rest.submit_script(
        "trap 'echo checkpoint; exit 42' USR1",
        "while true; do sleep 0.1; done",
        time_limit_minutes=10,
        signal_name="USR1",
        signal_lead_s=599,
    )
    status = rest.wait(native_id)
    assert (status.state, status.exit_code) == (JobState.FAILED, 42)
    assert rest.read_text(native_id) == "checkpoint\n"


def test_a_job_that_ends_before_its_signal_leaves_no_timer(rest: SlurmRestHarness) -> None:
    native_id = rest.submit(Behaviour(), signal_name="USR1", signal_lead_s=60)
    assert rest.wait(native_id).state is JobState.COMPLETED


def test_the_timer_goes_into_bash_scripts_only(rest: SlurmRestHarness) -> None:
    spec = rest.make_spec(signal_name="USR1", signal_lead_s=60, script="#!/usr/bin/python3\nprint(1)\n")
    assert add_signal_timer(spec) == spec.script


def test_a_server_of_an_unknown_version_is_named() -> None:
    paths = {"paths": {"/slurm/v0.0.99/jobs": {}, "/slurmdb/v0.0.99/jobs": {}}}
    with pytest.raises(SchedulerUnavailable, match=re.escape("v0.0.99")):
        client_of(lambda request: httpx.Response(200, json=paths)).ping()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (httpx.Response(200, json={"job_id": 7, "errors": [{"error_code": 2042, "error": "Job is held"}]}), 7),
        (
            httpx.Response(500, json={"errors": [{"error_code": 2000, "error": "Invalid partition"}]}),
            SubmissionRejected,
        ),
        (
            httpx.Response(500, json={"errors": [{"error_number": 5004, "error": "Socket timed out"}]}),
            SchedulerUnavailable,
        ),
        (httpx.Response(500, json={"errors": [{"error_code": 5005, "error": "Zero Bytes"}]}), SchedulerUnavailable),
        (httpx.Response(200, json={"job_id": 0, "errors": []}), SchedulerUnavailable),
    ],
    ids=["held", "refused", "silent", "expired token", "no id"],
)
def test_a_submission_counts_by_its_id_and_is_refused_by_slurms_own_codes_only(
    answer: httpx.Response, expected: int | type[Exception]
) -> None:
    client = client_of(
        lambda request: httpx.Response(200, json=OPENAPI) if request.url.path == "/openapi/v3" else answer
    )
    submission = make_submission()
    if isinstance(expected, int):
        assert client.submit(submission) == expected
    else:
        with pytest.raises(expected):
            client.submit(submission)


def test_many_submissions_use_one_connection(rest: SlurmRestHarness) -> None:
    began = time.monotonic()
    keys = []
    for _ in range(20):
        spec = rest.make_spec()
        rest.backend.submit(spec, key=spec.key)
        keys.append(spec.key)
    assert time.monotonic() - began < 10
    assert rest.backend._client._http._transport.open_connections == 1
