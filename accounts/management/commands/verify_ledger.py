"""`manage.py verify_ledger`: prove that every cached balance is the sum of its ledger entries, and explain it."""

import uuid
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import Allocation, LedgerEntry
from accounts.services.ledger import find_mismatches


class Command(BaseCommand):
    help = "Prove that every allocation's balance is the sum of its ledger entries; exit 1 if one is not."

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group()
        which.add_argument("--allocation", metavar="UUID", help="also list this allocation's entries, line by line")
        which.add_argument("--project", metavar="CODE", help="also list the entries of all allocations of a project")

    def handle(self, *args: Any, **options: Any) -> None:
        for allocation in self._chosen(options["allocation"], options["project"]):
            self._explain(allocation)
        mismatches = find_mismatches()
        for row in mismatches:
            self.stderr.write(f"{row.allocation}: {row.field}: cached {row.cached_s}, ledger {row.ledger_s}")
        if mismatches:
            raise CommandError(f"{len(mismatches)} differences between cached balances and the ledger")
        allocations, entries = Allocation.objects.count(), LedgerEntry.objects.count()
        self.stdout.write(f"ledger exact: {allocations} allocations, {entries} entries, 0 differences")

    def _chosen(self, name: str | None, project: str | None) -> list[Allocation]:
        rows = Allocation.objects.select_related("project", "resource_class").order_by("end_at", "pk")
        if name:
            try:
                found = list(rows.filter(uuid=uuid.UUID(name)))
            except ValueError:
                raise CommandError(f"--allocation {name!r} is not allowed; allowed: an allocation's UUID") from None
        elif project:
            found = list(rows.filter(project__code=project))
        else:
            return []
        if not found:
            raise CommandError(f"no allocation of {name or project}")
        return found

    def _explain(self, allocation: Allocation) -> None:
        self.stdout.write(
            f"allocation {allocation.uuid}: project {allocation.project.code}, {allocation.resource_class.code}, "
            f"{allocation.start_at:%Y-%m-%d} to {allocation.end_at:%Y-%m-%d}, accelerator-seconds"
        )
        entries = LedgerEntry.objects.filter(allocation=allocation).order_by("pk").select_related("actor", "person")
        granted = reserved = used = 0
        for entry in entries.iterator():
            granted += entry.granted_delta_s
            reserved += entry.reserved_delta_s
            used += entry.used_delta_s
            by = f" by {entry.actor.username}" if entry.actor else ""
            whose = f" for {entry.person.username}" if entry.person else ""
            undoes = f" undoes line {entry.undoes_id}" if entry.undoes_id else ""
            self.stdout.write(
                f"{entry.pk:>8} {entry.at:%Y-%m-%d %H:%M:%S} {entry.kind:8} {entry.reference:44} "
                f"granted {entry.granted_delta_s:+} = {granted}, reserved {entry.reserved_delta_s:+} = {reserved}, "
                f"used {entry.used_delta_s:+} = {used}, available {granted - reserved - used}"
                f"{by}{whose}{undoes} {entry.reason}".rstrip()
            )
        self.stdout.write(
            f"the row says: granted {allocation.granted_s}, reserved {allocation.reserved_s}, "
            f"used {allocation.used_s}, available {allocation.available_s}"
        )
