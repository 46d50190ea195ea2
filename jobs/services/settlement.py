"""Charging what was used: each job once, by what the scheduler's accounting says."""

import logging
from datetime import datetime

from django.db import transaction

from accounts.services import ledger
from jobs.backends.base import UsageRow
from jobs.models import EventKind, Job, JobSegment, UsageRecord
from jobs.services.lifecycle import record_event
from jobs.states import TERMINAL

logger = logging.getLogger(__name__)


@transaction.atomic
def settle_segment(segment: JobSegment, row: UsageRow, *, at: datetime) -> bool:
    """Record the usage of an ended segment and turn its job's hold into the charge, in one transaction.

    Returns False, and writes nothing, if the job is settled already.
    """
    job = segment.job
    used_s = ledger.billed_seconds(devices=row.devices, elapsed_s=row.elapsed_s, weight=job.billing_weight)
    # The job's row first: whoever settles at the same time waits here and then finds it done.
    open_job = Job.objects.select_for_update(of=("self",)).filter(
        pk=job.pk, state__in=TERMINAL, settled_at__isnull=True
    )
    if not open_job.exists():
        return False
    settlement = (
        ledger.settle(reference=job.reference, amount_s=used_s, at=at)
        if job.reserved_s
        else ledger.Settlement(charged_s=0, shortfall_s=used_s)
    )
    if settlement.shortfall_s:
        logger.warning("job %s used %d accelerator-seconds that nobody could cover", job.pk, settlement.shortfall_s)
    UsageRecord.objects.create(
        segment=segment,
        devices=row.devices,
        elapsed_s=row.elapsed_s,
        charged_s=settlement.charged_s,
        shortfall_s=settlement.shortfall_s,
        max_rss_bytes=row.max_rss_bytes,
        cpu_s=row.cpu_s,
        started_at=row.started_at,
        ended_at=row.ended_at,
        recorded_at=at,
    )
    Job.objects.filter(pk=job.pk).update(settled_at=at, charged_s=settlement.charged_s)
    record_event(
        job,
        EventKind.SETTLED,
        at=at,
        detail={
            "charged_s": settlement.charged_s,
            "released_s": job.reserved_s - min(settlement.charged_s, job.reserved_s),
            "shortfall_s": settlement.shortfall_s,
        },
    )
    return True
