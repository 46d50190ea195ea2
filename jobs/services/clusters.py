"""Clusters: the circuit breaker around their schedulers, and asking them what they have now."""

import logging
from datetime import datetime, timedelta

from accounts.models import Cluster
from jobs.backends.base import SchedulerBackend, SchedulerUnavailable
from jobs.services.inventory import store_inventory
from jobs.services.schedulers import SchedulerDoesNotExist, schedulers
from jobs.services.waiting import measure_waits

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
    """Close the breaker, unless another worker has opened it since `cluster` was read."""
    if cluster.unavailable_since_at is not None:
        logger.info("cluster %s answers again", cluster.code)
    as_read = Cluster.objects.filter(pk=cluster.pk, consecutive_failures=cluster.consecutive_failures)
    as_read.update(consecutive_failures=0, unavailable_since_at=None, retry_at=None, last_error="", last_polled_at=at)


def sync_inventory(*, at: datetime) -> int:
    """Read what every cluster has that may be asked, in a few calls each. Returns how many partitions were updated."""
    updated = sum(sync_cluster(code, at=at) for code in askable_clusters(at=at))
    measure_waits(at=at)
    return updated


def sync_cluster(cluster_code: str, *, at: datetime) -> int:
    """Read what one cluster has, if it may be asked now. Returns how many partitions were updated."""
    cluster = Cluster.objects.askable(at).filter(code=cluster_code).first()
    if cluster is None:
        return 0
    try:
        backend = backend_of(cluster.code)
        partitions = backend.partitions()
        inventory = backend.inventory() if backend.supports_inventory else None
    except SchedulerUnavailable as error:
        record_failure(cluster, error, at=at)
        return 0
    return store_inventory(cluster, partitions, inventory, at=at)
