"""Many rows in little time: one real job, made by the services, copied inside the database."""

from collections.abc import Mapping
from datetime import timedelta

from django.db import connection
from django.db.models import Model
from django.utils import timezone

from accounts.models import Allocation, Partition, Project, User
from jobs.backends.dummy import DummyBackend
from jobs.models import Job
from jobs.services import admission, dispatch
from jobs.services.schedulers import schedulers
from tests.factories import make_allocation, make_partition, make_project, make_user
from tests.job_factories import make_job

WORKLOAD = {"model": {"preset": "llama-2-7b"}, "tokens": 10**9}


class BenchmarkCentre:
    """A researcher in a project that can't run out of hours, on a partition of 8,192 accelerators."""

    def __init__(self) -> None:
        now = timezone.now()
        DummyBackend.reset("dummy", now=now)
        self.user: User = make_user("lin")
        self.pi: User = make_user("chen")
        self.partition: Partition = make_partition(nodes=1024)
        self.project: Project = make_project("nlp", pi=self.pi, members=(self.user,))
        self.allocation: Allocation = make_allocation(
            self.project, self.partition.resource_class, hours=10**8, end_at=now + timedelta(days=300)
        )
        backend = schedulers["dummy"]
        assert isinstance(backend, DummyBackend)
        self.backend = backend

    def submit(self, **fields: object) -> Job:
        return make_job(self.user, self.project, self.partition, at=timezone.now(), **fields)

    def make_template(self) -> Job:
        """A training job that the scheduler runs, with its estimate, segment and events."""
        job = self.submit(workload=WORKLOAD)
        admission.admit_submitted_jobs(at=timezone.now())
        dispatch.dispatch_queued_jobs(now=timezone.now, lease_s=60)
        job.refresh_from_db()
        return job


def copy_rows(
    model: type[Model], count: int, *, where: Mapping[str, object], changes: Mapping[str, str], source: str = ""
) -> None:
    """Copy the row of `model` that `where` names `count` times, for n from 1.

    `changes` gives columns as SQL expressions, in which `n` is the number, and further tables of `source` may be
    named. A primary key counted by the database is left to it.
    """
    automatic = model._meta.auto_field
    columns = [field.column for field in model._meta.concrete_fields if field is not automatic]
    table = model._meta.db_table
    expressions = [changes.get(column, f'template."{column}"') for column in columns]
    conditions = [f"template.{column} = %s" for column in where]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({', '.join(f'{chr(34)}{column}{chr(34)}' for column in columns)}) "  # noqa: S608
            f"SELECT {', '.join(expressions)} FROM {table} template, generate_series(1, %s) n {source} "
            f"WHERE {' AND '.join(conditions)}",
            [count, *where.values()],
        )


def analyze() -> None:
    """What autovacuum would have done by now; throw-away servers have it off."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
