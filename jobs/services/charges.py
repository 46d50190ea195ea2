"""Where a job's hours came from: its segments, what they cost, and the ledger's entries that paid."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from django.db.models import Q

from accounts.models import LedgerEntry
from jobs.models import Job, UsageRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """A job's charge, explained. `paid_s` is what its entries sum up to: the charge less what was refunded."""

    weight: Decimal
    segments: Sequence[UsageRecord]
    entries: Sequence[LedgerEntry]

    @property
    def cost_s(self) -> int:
        """What the segments cost: devices × seconds × weight, covered or not."""
        return sum(row.charged_s + row.shortfall_s for row in self.segments)

    @property
    def paid_s(self) -> int:
        return sum(entry.used_delta_s for entry in self.entries)

    @property
    def held_s(self) -> int:
        return sum(entry.reserved_delta_s for entry in self.entries)


def explain_charge(job: Job) -> Charge:
    """Two queries."""
    segments = UsageRecord.objects.filter(segment__job=job).select_related("segment").order_by("segment__number")
    entries = LedgerEntry.objects.filter(
        Q(reference=job.reference) | Q(reference__startswith=f"{job.reference}/")
    ).select_related("allocation__project", "allocation__resource_class", "actor")
    return Charge(weight=job.billing_weight, segments=list(segments), entries=list(entries.order_by("pk")))
