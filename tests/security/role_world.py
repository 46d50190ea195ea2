"""A centre with one person in each role, in relation to one project and one job in it."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.utils import timezone

from accounts.models import (
    ActSource,
    Allocation,
    AllocationRequest,
    Appointment,
    Membership,
    Notification,
    Office,
    Partition,
    Policy,
    Project,
    RequestKind,
    Role,
    User,
)
from accounts.services import requests
from accounts.services.acts import Act
from accounts.services.request_rules import Draft
from jobs.backends.dummy import DummyBackend
from jobs.models import Job
from jobs.states import HoldReason, JobState
from tests.factories import make_allocation, make_institution, make_partition, make_project, make_user
from tests.job_factories import make_job


@dataclass(frozen=True, kw_only=True)
class World:
    """What the rows of the table act on. `people` has everyone but the anonymous, by the names of the table."""

    people: dict[str, User]
    newcomer: User
    project: Project
    partition: Partition
    allocation: Allocation
    job: Job
    appointment: Appointment
    request: AllocationRequest
    """Of the PI, to be decided."""
    asked: AllocationRequest
    """Of the PI, asked back."""
    notification: Notification
    """To the plain member."""
    policy: Policy
    big_job: Job
    """Waits for approval."""

    def job_body(self) -> dict[str, Any]:
        """A job that is allowed in the project."""
        return {
            "project": self.project.code,
            "cluster": self.partition.cluster.code,
            "partition": self.partition.name,
            "name": "train",
            "nodes": 1,
            "devices_per_node": 8,
            "time_limit_minutes": 60,
            "entry": {"kind": "script", "script": "#!/bin/bash\necho hello\n"},
        }

    def estimate_body(self) -> dict[str, Any]:
        """An estimate for the project."""
        return {
            "project": self.project.code,
            "cluster": self.partition.cluster.code,
            "partition": self.partition.name,
            "nodes": 1,
            "devices_per_node": 8,
            "workload": {"model": {"preset": "char-transformer-demo"}, "tokens": 10**6},
        }

    def request_body(self) -> dict[str, Any]:
        """A request for hours of the project."""
        return {
            "kind": "SUPPLEMENT",
            "project": self.project.code,
            "justification": "one more run",
            "amounts": {self.partition.resource_class.code: 3600},
            "start_at": (timezone.now() + timedelta(days=1)).isoformat(),
            "end_at": (timezone.now() + timedelta(days=100)).isoformat(),
        }


def make_world() -> World:
    now = timezone.now()
    names = ("stranger", "member", "owner", "manager", "pi", "institution", "foreign", "reviewer", "auditor")
    people = {name: make_user(f"the-{name}", unix_username=name) for name in names}
    people["administrator"] = make_user("the-administrator", is_staff=True)
    partition = make_partition()
    ours, theirs = make_institution("ours"), make_institution("theirs")
    project = make_project("nlp", institution=ours, pi=people["pi"], members=(people["member"], people["owner"]))
    Membership.objects.create(project=project, user=people["manager"], role=Role.MANAGER)
    make_project("elsewhere", institution=theirs, pi=people["stranger"])
    for name, institution in (("institution", ours), ("foreign", theirs)):
        Appointment.objects.create(user=people[name], office=Office.INSTITUTION_MANAGER, institution=institution)
    Appointment.objects.create(user=people["auditor"], office=Office.AUDITOR)
    appointment = Appointment.objects.create(user=people["reviewer"], office=Office.REVIEWER)
    allocation = make_allocation(
        project, partition.resource_class, start_at=now - timedelta(days=1), end_at=now + timedelta(days=300)
    )
    DummyBackend.reset("dummy", now=now)
    asking = Act(actor=people["pi"], at=now, source=ActSource.PAGE)
    reviewing = Act(actor=people["reviewer"], at=now, source=ActSource.PAGE)
    ended, leaving = (
        requests.submit(asking, Draft(kind=kind, project=project, justification="we are done", **more))
        for kind, more in (
            (RequestKind.END_OF_PROJECT, {}),
            (RequestKind.CHANGE_OF_PI, {"new_pi": people["manager"]}),
        )
    )
    big_job = make_job(people["owner"], project, partition, at=now)
    Job.objects.filter(pk=big_job.pk).update(state=JobState.HELD, state_reason=HoldReason.APPROVAL)
    return World(
        people=people,
        newcomer=make_user("newcomer"),
        project=project,
        partition=partition,
        allocation=allocation,
        job=make_job(people["owner"], project, partition, at=now),
        appointment=appointment,
        request=ended,
        asked=requests.ask_back(reviewing, leaving.uuid, "why?"),
        notification=Notification.objects.create(user=people["member"], at=now, kind="job_lost"),
        policy=Policy.objects.create(max_running_jobs=1000),
        big_job=big_job,
    )
