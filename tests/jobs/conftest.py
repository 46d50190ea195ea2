"""A portal whose workers are called by hand, on a scheduler whose clock is turned by hand."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from accounts.models import Allocation, Cluster, Partition, Project, User
from jobs.backends.dummy import DummyBackend
from jobs.models import Job
from jobs.services import admission, dispatch, reconcile
from jobs.services.schedulers import schedulers
from tests.factories import NOW, make_allocation, make_partition, make_project, make_user
from tests.job_factories import make_job

LEASE_S = 60
LOST_AFTER_S = 300


@dataclass
class Centre:
    """One researcher in one project with one allocation of 1,000 hours on one partition."""

    user: User
    project: Project
    partition: Partition
    allocation: Allocation
    backend: DummyBackend

    def now(self) -> datetime:
        return self.backend.now

    def submit(self, **fields: Any) -> Job:
        return make_job(self.user, self.project, self.partition, at=self.now(), **fields)

    def admit(self) -> int:
        return admission.admit_submitted_jobs(at=self.now())

    def release_held(self) -> int:
        return admission.release_held_jobs(at=self.now())

    def dispatch(self) -> int:
        return dispatch.dispatch_queued_jobs(now=self.now, lease_s=LEASE_S)

    def reconcile(self) -> int:
        return reconcile.reconcile_clusters(now=self.now, lost_after_s=LOST_AFTER_S)

    def tick(self, seconds: float = 0) -> None:
        """Let time pass, then every worker do its round once."""
        self.backend.advance(seconds)
        self.admit()
        self.release_held()
        self.dispatch()
        self.reconcile()

    def balance(self) -> tuple[int, int]:
        """Reserved and used accelerator-seconds."""
        self.allocation.refresh_from_db()
        return self.allocation.reserved_s, self.allocation.used_s

    @property
    def cluster(self) -> Cluster:
        return Cluster.objects.get(code="dummy")


@pytest.fixture
def centre(db: None) -> Centre:
    user = make_user("lin")
    partition = make_partition()
    project = make_project("nlp", pi=make_user("chen"), members=(user,))
    allocation = make_allocation(project, partition.resource_class)
    DummyBackend.reset("dummy", now=NOW)
    backend = schedulers["dummy"]
    assert isinstance(backend, DummyBackend)
    return Centre(user, project, partition, allocation, backend)


def native_id(job: Job) -> str:
    """The scheduler's id of the job's newest segment."""
    return str(job.segments.order_by("number").last().native_id)
