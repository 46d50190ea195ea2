"""A dispatcher that dies at any line that matters leaves a job that its successor brings to Slurm once, by its key."""

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, Final

import pytest
from django.db import connection
from django.utils import timezone

from jobs.models import Job, JobSegment
from jobs.services import admission, dispatch
from jobs.states import JobState
from tests.backends.slurm_harness import SlurmHarness
from tests.factories import make_allocation, make_partition, make_project, make_user
from tests.integration.slurm.layout import ACCOUNTS, ALICE
from tests.job_factories import make_job

pytestmark = [pytest.mark.slurm, pytest.mark.django_db(transaction=True)]

DIED: Final = 77
LEASE_S: Final = 60
PATIENCE_S: Final = 30

Patch = Callable[[pytest.MonkeyPatch, SlurmHarness], None]


def die() -> None:
    """As by a power cut: no handler runs, no buffer is written, no transaction is ended."""
    os._exit(DIED)


def _around(owner: Any, name: str, *, is_before: bool, only: Callable[..., bool] = lambda *_: True) -> Patch:
    def patch(monkeypatch: pytest.MonkeyPatch, _slurm: SlurmHarness) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            if is_before and only(*arguments):
                die()
            answer = real(*arguments, **named)
            if only(*arguments):
                die()
            return answer

        monkeypatch.setattr(owner, name, call)

    return patch


def _around_backend(name: str, *, is_before: bool) -> Patch:
    return lambda monkeypatch, slurm: _around(slurm.backend, name, is_before=is_before)(monkeypatch, slurm)


def _around_client(name: str, *, is_before: bool) -> Patch:
    return lambda monkeypatch, slurm: _around(slurm.backend._client, name, is_before=is_before)(monkeypatch, slurm)


def _into(state: JobState) -> Callable[..., bool]:
    return lambda _job, to, *_: to is state


POINTS: Final[dict[str, tuple[Patch, int, JobState]]] = {
    # What dies there; how many jobs Slurm then has; and the job's state in the database.
    "before the claim": (_around(dispatch, "claim_due_jobs", is_before=True), 0, JobState.QUEUED),
    "before the claim commits": (
        _around(dispatch, "transition", is_before=False, only=_into(JobState.DISPATCHING)),
        0,
        JobState.QUEUED,
    ),
    "after the claim": (_around(dispatch, "_call_scheduler", is_before=True), 0, JobState.DISPATCHING),
    "before submit": (_around_backend("submit", is_before=True), 0, JobState.DISPATCHING),
    "before Slurm is called": (_around_client("submit", is_before=True), 0, JobState.DISPATCHING),
    "after Slurm has accepted": (_around_client("submit", is_before=False), 1, JobState.DISPATCHING),
    "after submit": (_around_backend("submit", is_before=False), 1, JobState.DISPATCHING),
    "before the answer is written": (_around(dispatch, "_apply", is_before=True), 1, JobState.DISPATCHING),
    "before the answer is committed": (
        _around(dispatch, "transition", is_before=False, only=_into(JobState.PENDING)),
        1,
        JobState.DISPATCHING,
    ),
    "after the answer is committed": (_around(dispatch, "_apply", is_before=False), 1, JobState.PENDING),
}


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, slurm: SlurmHarness) -> Iterator[Job]:
    """An admitted job on a cluster that is the lab."""
    monkeypatch.setattr(dispatch, "backend_of", lambda _code: slurm.backend)
    at = timezone.now()
    user = make_user("lin", unix_username=ALICE)
    project = make_project("nlp", members=(user,), slurm_account=ACCOUNTS[ALICE])
    partition = make_partition("gpu-a800", nodes=2, gres_type="a800", max_time_limit_minutes=600)
    make_allocation(project, partition.resource_class, start_at=at - timedelta(days=1), end_at=at + timedelta(days=9))
    script = "#!/bin/bash\nsleep 300\n"
    job = make_job(user, project, partition, at=at, devices_per_node=1, script=script)
    assert admission.admit_submitted_jobs(at=at) == 1
    yield job
    slurm.lab.cancel_all()


def start_dispatcher(prepare: Callable[[], None]) -> int:
    """A worker process of its own, by its id."""
    connection.close()  # each has its own
    child = os.fork()
    if child:
        return child
    try:
        prepare()
        dispatch.dispatch_queued_jobs(now=timezone.now, lease_s=LEASE_S)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def wait_for_end(child: int) -> int:
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def succeed(job: Job) -> int:
    """The next workers, after all leases and pauses, until the job is with Slurm. Returns how many it took."""
    deadline = time.monotonic() + PATIENCE_S
    for number in range(1, 10_000):
        later = timedelta(hours=number)

        def clock(later: timedelta = later) -> datetime:
            return timezone.now() + later

        dispatch.dispatch_queued_jobs(now=clock, lease_s=LEASE_S)
        job.refresh_from_db()
        if job.state == JobState.PENDING:
            return number
        assert time.monotonic() < deadline, f"still {job.state}"
        time.sleep(0.1)
    raise AssertionError("unreachable")


def assert_is_at_slurm_once(job: Job, slurm: SlurmHarness) -> None:
    segment = JobSegment.objects.get(job=job)
    assert slurm.jobs_with(segment.key) == [segment.native_id]
    assert slurm.backend.find(segment.key) == segment.native_id
    assert segment.accepted_at is not None


@pytest.mark.parametrize("point", POINTS)
def test_a_dispatcher_that_dies_leaves_a_job_that_reaches_slurm_once(job: Job, slurm: SlurmHarness, point: str) -> None:
    patch, at_slurm, state = POINTS[point]

    def prepare() -> None:
        patch(pytest.MonkeyPatch(), slurm)

    assert wait_for_end(start_dispatcher(prepare)) == DIED
    job.refresh_from_db()
    assert job.state == state
    assert len(slurm.jobs_with(f"{job.pk}-1")) == at_slurm

    succeed(job)
    assert_is_at_slurm_once(job, slurm)


def test_a_dispatcher_that_is_killed_while_slurm_hesitates_leaves_one_job(job: Job, slurm: SlurmHarness) -> None:
    key = f"{job.pk}-1"
    with slurm.lab.paused("slurmctld"):
        child = start_dispatcher(lambda: None)
        deadline = time.monotonic() + PATIENCE_S
        while slurm.backend._directories.read_attempt(key) is None:
            assert time.monotonic() < deadline, "the submission never began"
            time.sleep(0.02)
        time.sleep(0.5)  # the request is on its way by now
        os.kill(child, signal.SIGKILL)
        assert wait_for_end(child) == -signal.SIGKILL
    succeed(job)
    assert_is_at_slurm_once(job, slurm)
