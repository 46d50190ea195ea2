"""Looking whether a cluster gives the portal all that it needs."""

from collections.abc import Iterator

from django.conf import settings

from jobs.backends.checks import Check
from jobs.services.schedulers import SchedulerDoesNotExist, schedulers


class UnknownCluster(Exception):
    """settings.SCHEDULERS has no such alias; the message lists those that it has."""


def check_cluster(alias: str, *, as_user: str = "") -> Iterator[Check]:
    """Check one cluster, one line for each thing.

    Raises:
        UnknownCluster: there is none of this name.
        ImproperlyConfigured: its OPTIONS are not allowed.
    """
    try:
        backend = schedulers[alias]
    except SchedulerDoesNotExist:
        known = ", ".join(sorted(settings.SCHEDULERS)) or "none"
        raise UnknownCluster(f"There is no cluster {alias!r} in SCHEDULERS; there are: {known}") from None
    return backend.check(as_user=as_user, poll_interval_s=settings.POLL_INTERVAL_S)
