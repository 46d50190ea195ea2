"""Makes jobs for tests, through the front door."""

from datetime import datetime
from typing import Any

from accounts.models import Partition, Project, User
from jobs.models import Job
from jobs.services.submission import SubmissionRequest, submit_job
from tests.factories import NOW


def make_request(project: Project, partition: Partition, **fields: Any) -> SubmissionRequest:
    return SubmissionRequest(
        **{
            "project": project.code,
            "cluster": partition.cluster.code,
            "partition": partition.name,
            "name": "job",
            "nodes": 1,
            "devices_per_node": 8,
            "entry_kind": "script",
            "script": "#!/bin/bash\necho hello\n",
            "time_limit_minutes": 60,
            **fields,
        }
    )


def make_job(user: User, project: Project, partition: Partition, *, at: datetime = NOW, **fields: Any) -> Job:
    """A job in state SUBMITTED, through the front door."""
    job, _ = submit_job(user=user, request=make_request(project, partition, **fields), at=at)
    return job
