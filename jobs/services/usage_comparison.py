"""Does the ledger say what the scheduler's accounting says? Every difference, segment by segment."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from django.db.models import Sum

from accounts.models import Cluster, LedgerEntry, LedgerKind
from accounts.services import ledger
from jobs.backends.base import SchedulerBackend, UsageRow
from jobs.models import Job, JobSegment

DifferenceKind = Literal["not_in_accounting", "not_in_portal", "not_recorded", "usage", "twice", "bill"]

_BATCH = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that the two don't say alike. `portal` and `scheduler` are figures, or what is there at all."""

    kind: DifferenceKind
    key: str
    native_id: str
    portal: str
    scheduler: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was compared. `portal_s` and `scheduler_s` are accelerator-seconds, not weighted."""

    segments: int
    portal_s: int
    scheduler_s: int
    differences: list[Difference]


def compare_usage(cluster: Cluster, backend: SchedulerBackend, *, since: datetime) -> Comparison:
    """Compare every segment that ended at or after `since` with one answer of the cluster's accounting.

    The bill of a job is compared once it is settled: what was charged plus what nobody covered is the sum over its
    segments of accounting's devices times seconds, times the job's weight.

    Raises:
        SchedulerUnavailable: accounting doesn't answer.
    """
    segments = {segment.key: segment for segment in _ended_since(cluster, since)}
    rows_of: dict[str, list[UsageRow]] = {}
    for one in backend.usage(since, awaited=[(segment.native_id, key) for key, segment in segments.items()]):
        rows_of.setdefault(one.key, []).append(one)
    segments |= {segment.key: segment for segment in _with_keys(cluster, set(rows_of) - set(segments))}
    rows = {key: _choose(segments.get(key), found) for key, found in rows_of.items()}
    differences: list[Difference] = []
    portal_s = scheduler_s = 0
    for key in sorted(rows.keys() | segments.keys()):
        row, segment = rows.get(key), segments.get(key)
        usage = getattr(segment, "usage", None)
        portal_s += usage.devices * usage.elapsed_s if usage else 0
        scheduler_s += row.devices * row.elapsed_s if row else 0
        differences += _find_doubles(key, rows_of.get(key, []))
        differences += _compare_segment(key, segment, row)
    differences += _compare_bills({segment.job_id for segment in segments.values()}, rows)
    return Comparison(
        segments=len(rows.keys() | segments.keys()), portal_s=portal_s, scheduler_s=scheduler_s, differences=differences
    )


def _choose(segment: JobSegment | None, rows: list[UsageRow]) -> UsageRow:
    """Of jobs with one key, the one that the portal follows: an earlier one was lost by the scheduler."""
    return next((row for row in rows if segment is not None and row.native_id == segment.native_id), rows[-1])


def _ended_since(cluster: Cluster, since: datetime) -> Iterable[JobSegment]:
    ended = JobSegment.objects.filter(cluster=cluster, ended_at__gte=since).exclude(native_id="")
    return ended.select_related("usage").iterator(chunk_size=_BATCH)


def _with_keys(cluster: Cluster, keys: set[str]) -> Iterable[JobSegment]:
    wanted = sorted(keys)
    for first in range(0, len(wanted), _BATCH):
        part = wanted[first : first + _BATCH]
        yield from JobSegment.objects.filter(cluster=cluster, key__in=part).select_related("usage")


def _find_doubles(key: str, rows: list[UsageRow]) -> list[Difference]:
    ran = [row.native_id for row in rows if row.elapsed_s]
    if len(ran) < 2:
        return []
    return [Difference(kind="twice", key=key, native_id=", ".join(ran), portal="1 job", scheduler=f"{len(ran)} jobs")]


def _compare_segment(key: str, segment: JobSegment | None, row: UsageRow | None) -> list[Difference]:
    usage = getattr(segment, "usage", None)
    said = _describe(row.devices, row.elapsed_s) if row else ""
    if segment is None:
        native_id = row.native_id if row else ""
        return [Difference(kind="not_in_portal", key=key, native_id=native_id, portal="nothing", scheduler=said)]
    kept = _describe(usage.devices, usage.elapsed_s) if usage else "nothing"
    if row is None:
        return [
            Difference(kind="not_in_accounting", key=key, native_id=segment.native_id, portal=kept, scheduler="nothing")
        ]
    if usage is None:
        kind: DifferenceKind = "not_recorded"
    elif (usage.devices, usage.elapsed_s, segment.native_id) != (row.devices, row.elapsed_s, row.native_id):
        kind = "usage"
        kept, said = f"job {segment.native_id}, {kept}", f"job {row.native_id}, {said}"
    else:
        return []
    return [Difference(kind=kind, key=key, native_id=row.native_id, portal=kept, scheduler=said)]


def _compare_bills(job_ids: set[UUID], rows: dict[str, UsageRow]) -> list[Difference]:
    """Bills of settled jobs all of whose segments are in accounting's answer, beside the ledger's own entries."""
    differences = []
    wanted = sorted(job_ids, key=str)
    for first in range(0, len(wanted), _BATCH):
        jobs = Job.objects.filter(pk__in=wanted[first : first + _BATCH], settled_at__isnull=False)
        jobs = jobs.annotate(shortfall=Sum("segments__usage__shortfall_s"))
        segments_of: dict[UUID, list[str]] = {}
        for job_id, key in JobSegment.objects.filter(job__in=jobs).exclude(native_id="").values_list("job_id", "key"):
            segments_of.setdefault(job_id, []).append(key)
        references = [job.reference for job in jobs]
        posted = LedgerEntry.objects.filter(reference__in=references, kind=LedgerKind.SETTLE).values("reference")
        charged_of = dict(posted.annotate(total=Sum("used_delta_s")).values_list("reference", "total"))
        for job in jobs:
            found = [rows.get(key) for key in segments_of.get(job.pk, [])]
            if not found or any(row is None for row in found):
                continue  # part of it ended before the time compared
            used_s = sum(
                ledger.billed_seconds(devices=row.devices, elapsed_s=row.elapsed_s, weight=job.billing_weight)
                for row in found
                if row is not None
            )
            billed_s = charged_of.get(job.reference, 0) + (job.shortfall or 0)
            if billed_s != used_s:
                differences.append(
                    Difference(
                        kind="bill",
                        key=job.reference,
                        native_id="",
                        portal=f"{billed_s} accelerator-seconds billed",
                        scheduler=f"{used_s} accelerator-seconds used",
                    )
                )
    return differences


def _describe(devices: int, elapsed_s: int) -> str:
    return f"{devices} accelerators × {elapsed_s} s"
