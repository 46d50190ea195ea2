"""From an estimate to a request for its hours: accounts doesn't know jobs, so a signed copy goes with the reader."""

from collections.abc import Mapping
from decimal import Decimal
from math import ceil
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from accounts.models import Partition
from accounts.services import estimate_snapshots, ledger
from jobs.models import Job


def request_url(
    *,
    project: str,
    partition: Partition,
    model: str,
    workload: Mapping[str, Any],
    estimate: Mapping[str, Any],
    devices: int,
    job: Job | None = None,
) -> str:
    """Where the hours of an estimated run are asked for, with the estimate attached.

    The hours are what the run is charged if it takes as long as estimated: devices × time × billing weight.
    """
    duration_s = ceil(estimate["duration_s"])
    weight: Decimal = partition.resource_class.billing_weight
    snapshot = {
        "model": model,
        "tokens": workload.get("tokens"),
        "partition": str(partition),
        "accelerator": partition.accelerator,
        "resource_class": partition.resource_class.code,
        "devices": devices,
        "duration_s": duration_s,
        "amount_s": ledger.billed_seconds(devices=devices, elapsed_s=duration_s, weight=weight),
        "engine_version": estimate["engine_version"],
        "job": str(job.pk) if job is not None else "",
    }
    query = urlencode({"project": project, "estimate": estimate_snapshots.sign(snapshot)})
    return f"{reverse('request-choose')}?{query}"
