"""`manage.py explain_charge JOB`: where each hour that a job was charged came from."""

import uuid
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobs.models import Job
from jobs.services.charges import explain_charge


class Command(BaseCommand):
    help = "Explain a job's charge: its segments, what they cost, and each ledger entry that paid or gave back."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("job", metavar="JOB", help="the job's UUID, as on its page")

    def handle(self, *args: Any, **options: Any) -> None:
        job = self._find(options["job"])
        charge = explain_charge(job)
        self.stdout.write(f"job {job.pk} ({job.state}) of project {job.project.code}; accelerator-seconds:")
        for row in charge.segments:
            beyond = f", of which {row.shortfall_s} nobody could cover" if row.shortfall_s else ""
            self.stdout.write(
                f"  segment {row.segment.number}: {row.devices} devices × {row.elapsed_s} s × {charge.weight} "
                f"= {row.charged_s + row.shortfall_s}{beyond}"
            )
        for entry in charge.entries:
            allocation = entry.allocation
            by = f" by {entry.actor.username}" if entry.actor else ""
            self.stdout.write(
                f"  {entry.at:%Y-%m-%d %H:%M:%S} {entry.kind:8} held {entry.reserved_delta_s:+} "
                f"used {entry.used_delta_s:+} allocation {allocation.uuid} ({allocation.resource_class.code}, "
                f"ends {allocation.end_at:%Y-%m-%d}){by} {entry.reason}".rstrip()
            )
        self.stdout.write(f"used {charge.cost_s}, paid {charge.paid_s}, held now {charge.held_s}")

    def _find(self, name: str) -> Job:
        try:
            key = uuid.UUID(name)
        except ValueError:
            raise CommandError(f"{name!r} is not allowed; allowed: a job's UUID") from None
        job: Job | None = Job.objects.select_related("project").filter(pk=key).first()
        if job is None:
            raise CommandError(f"no job {name}")
        return job
