"""Clusters: the circuit breaker around their schedulers, and what they have now (inventory)."""

import logging
from datetime import datetime, timedelta

from django.db import DatabaseError, transaction
from django.db.models import F
from django.db.models.functions import Least

from accounts.models import Cluster, Partition
from jobs.backends.base import PartitionInfo, SchedulerBackend, SchedulerUnavailable
from jobs.services.schedulers import SchedulerDoesNotExist, schedulers

logger = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 300


def backend_of(cluster_code: str) -> SchedulerBackend:
    """The cluster's backend.

    Raises:
        SchedulerUnavailable: settings.SCHEDULERS has no such alias; the same as a scheduler that is away.
    """
    try:
        backend: SchedulerBackend = schedulers[cluster_code]
    except SchedulerDoesNotExist as error:
        raise SchedulerUnavailable(f"settings.SCHEDULERS has no {cluster_code!r}") from error
    return backend


def askable_clusters(*, at: datetime) -> list[str]:
    """Codes of the clusters whose scheduler may be asked now."""
    return list(Cluster.objects.askable(at).values_list("code", flat=True))


def record_failure(cluster: Cluster, error: Exception, *, at: datetime) -> None:
    """Open the breaker: nobody asks this scheduler before the pause is over; the pause doubles each time."""
    failures = cluster.consecutive_failures + 1
    pause_s = min(2**failures, _LONGEST_PAUSE_S)
    Cluster.objects.filter(pk=cluster.pk).update(
        consecutive_failures=failures,
        unavailable_since_at=cluster.unavailable_since_at or at,
        retry_at=at + timedelta(seconds=pause_s),
        last_error=str(error)[:500],
    )
    logger.warning("cluster %s does not answer (%s); asked again in %d s", cluster.code, error, pause_s)


def record_success(cluster: Cluster, *, at: datetime) -> None:
    """Close the breaker."""
    if cluster.unavailable_since_at is not None:
        logger.info("cluster %s answers again", cluster.code)
    Cluster.objects.filter(pk=cluster.pk).update(
        consecutive_failures=0, unavailable_since_at=None, retry_at=None, last_error="", last_polled_at=at
    )


def sync_inventory(*, at: datetime) -> int:
    """Read the partitions of every cluster that may be asked, one call each. Returns how many were updated."""
    updated = 0
    for cluster in Cluster.objects.askable(at):
        try:
            partitions = backend_of(cluster.code).partitions()
        except SchedulerUnavailable as error:
            record_failure(cluster, error, at=at)
            continue
        updated += sum(_store_guarded(cluster, info, at) for info in partitions)
        gone = Partition.objects.filter(cluster=cluster).exclude(name__in=[info.name for info in partitions])
        gone.update(is_up=False, synced_at=at)
    return updated


def _store_guarded(cluster: Cluster, info: PartitionInfo, at: datetime) -> int:
    try:
        with transaction.atomic():
            return _store(cluster, info, at)
    except DatabaseError:
        # A partition without nodes, say: the others, and other clusters, must not wait for it.
        logger.exception("partition %s of cluster %s could not be written", info.name, cluster.code)
        return 0


def _store(cluster: Cluster, info: PartitionInfo, at: datetime) -> int:
    return Partition.objects.filter(cluster=cluster, name=info.name).update(
        is_up=info.is_up,
        nodes=info.nodes,
        devices_per_node=info.devices_per_node,
        gres_name=info.gres_name,
        gres_type=info.gres_type,
        max_time_limit_minutes=info.max_time_limit_minutes,
        default_time_limit_minutes=Least(F("default_time_limit_minutes"), info.max_time_limit_minutes),
        devices_in_use=info.devices_in_use,
        jobs_pending=info.jobs_pending,
        jobs_running=info.jobs_running,
        synced_at=at,
    )
