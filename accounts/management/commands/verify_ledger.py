"""`manage.py verify_ledger`: prove that every cached balance is the sum of its ledger entries."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import Allocation, LedgerEntry
from accounts.services.ledger import find_mismatches


class Command(BaseCommand):
    help = "Prove that every allocation's balance is the sum of its ledger entries; exit 1 if one is not."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--allocation", metavar="UUID", help="also list this allocation's entries, line by line")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["allocation"]:
            self._explain(options["allocation"])
        mismatches = find_mismatches()
        for row in mismatches:
            self.stderr.write(f"{row.allocation}: {row.field}: cached {row.cached_s}, ledger {row.ledger_s}")
        if mismatches:
            raise CommandError(f"{len(mismatches)} differences between cached balances and the ledger")
        allocations, entries = Allocation.objects.count(), LedgerEntry.objects.count()
        self.stdout.write(f"ledger exact: {allocations} allocations, {entries} entries, 0 differences")

    def _explain(self, uuid: str) -> None:
        entries = LedgerEntry.objects.filter(allocation__uuid=uuid).order_by("pk").select_related("actor")
        granted = reserved = used = 0
        for entry in entries.iterator():
            granted += entry.granted_delta_s
            reserved += entry.reserved_delta_s
            used += entry.used_delta_s
            self.stdout.write(
                f"{entry.at:%Y-%m-%d %H:%M:%S} {entry.kind:8} {entry.reference:44} "
                f"granted {granted:>12} reserved {reserved:>12} used {used:>12} "
                f"available {granted - reserved - used:>12} {entry.reason}"
            )
