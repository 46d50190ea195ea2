"""Charging what was used: each job once, by what the scheduler's accounting says of all its segments."""

import logging
from datetime import datetime

from django.db import transaction

from accounts.models import ActSource
from accounts.services import audit, ledger
from accounts.services.acts import Act
from jobs.backends.base import UsageRow
from jobs.models import EventKind, Job, JobSegment, UsageRecord
from jobs.services import chain
from jobs.services.lifecycle import record_event
from jobs.states import TERMINAL, JobState

logger = logging.getLogger(__name__)


@transaction.atomic
def account_segment(segment: JobSegment, row: UsageRow, *, at: datetime) -> bool:
    """Record the usage of an ended segment; then its chain goes on, or its job is charged, in the same transaction.

    Returns False, and writes nothing, if that was done already.
    """
    # The job's row first: whoever accounts at the same time waits here and then finds it done.
    job = Job.objects.select_for_update(of=("self",)).select_related("partition").get(pk=segment.job_id)
    still_open = JobSegment.objects.filter(pk=segment.pk, accounted_at__isnull=True)
    if not still_open.update(accounted_at=at):
        return False
    UsageRecord.objects.create(
        segment=segment,
        devices=row.devices,
        elapsed_s=row.elapsed_s,
        charged_s=ledger.billed_seconds(devices=row.devices, elapsed_s=row.elapsed_s, weight=job.billing_weight),
        max_rss_bytes=row.max_rss_bytes,
        cpu_s=row.cpu_s,
        started_at=row.started_at,
        ended_at=row.ended_at,
        recorded_at=at,
    )
    if job.state == JobState.COMPLETING and job.is_chain and segment.number == job.segment_number:
        chain.go_on(job, at=at)
    if job.state in TERMINAL:
        settle_job(job, at=at)
    return True


@transaction.atomic
def settle_job(job: Job, *, at: datetime) -> bool:
    """Turn the hold of an ended job into the charge: the sum over its segments.

    Returns False, and writes nothing, while accounting still owes the usage of a segment, or if it is settled already.
    """
    open_job = Job.objects.select_for_update(of=("self",)).filter(
        pk=job.pk, state__in=TERMINAL, settled_at__isnull=True
    )
    if not open_job.exists():
        return False
    if JobSegment.objects.filter(job=job, accounted_at__isnull=True).exclude(native_id="").exists():
        return False
    records = list(UsageRecord.objects.filter(segment__job=job).order_by("segment__number"))
    used_s = sum(record.charged_s for record in records)
    settlement = (
        ledger.settle(reference=job.reference, amount_s=used_s, at=at)
        if job.reserved_s
        else ledger.Settlement(charged_s=0, shortfall_s=used_s)
    )
    if settlement.shortfall_s:
        if not job.is_overrun:
            logger.warning("job %s used %d accelerator-seconds that nobody could cover", job.pk, settlement.shortfall_s)
        _spread_shortfall(records, settlement.shortfall_s)
    Job.objects.filter(pk=job.pk).update(settled_at=at, charged_s=settlement.charged_s)
    record_event(
        job,
        EventKind.SETTLED,
        at=at,
        detail={
            "charged_s": settlement.charged_s,
            "released_s": job.reserved_s - min(settlement.charged_s, job.reserved_s),
            "shortfall_s": settlement.shortfall_s,
            **({"is_overrun": True} if job.is_overrun else {}),
        },
    )
    if job.state == JobState.NODE_FAIL and records:
        _refund_node_failure(job, records[-1].charged_s, at=at)
    return True


def _refund_node_failure(job: Job, lost_s: int, *, at: datetime) -> None:
    """Give back what the run that a node's failure ended was charged, if the resource class's policy says so.

    Earlier segments ended by themselves and left their checkpoints: they stay charged.
    """
    if not lost_s or not job.partition.resource_class.refunds_node_failures:
        return
    reason = "node failure"
    ledger.refund(
        reference=job.reference,
        refund_reference=f"{job.reference}/node-fail",
        amount_s=lost_s,
        at=at,
        actor=None,
        reason=reason,
    )
    audit.record(
        Act(actor=None, at=at, source=ActSource.TASK),
        "job.refund",
        target_kind="job",
        target=str(job.pk),
        after={"refunded_s": lost_s},
        project=job.project,
        reason=reason,
    )


def _spread_shortfall(records: list[UsageRecord], shortfall_s: int) -> None:
    """What nobody covered was used last."""
    for record in reversed(records):
        part_s = min(record.charged_s, shortfall_s)
        record.charged_s -= part_s
        record.shortfall_s = part_s
        shortfall_s -= part_s
        record.save(update_fields=["charged_s", "shortfall_s"])
        if not shortfall_s:
            return
