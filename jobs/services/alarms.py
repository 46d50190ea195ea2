"""What goes wrong without anybody looking at it: administrators are told once of each."""

from datetime import datetime, timedelta
from typing import Final

from django.urls import reverse

from accounts.models import Cluster, User
from accounts.services.notifications import notify
from jobs.models import Job, JobSegment
from jobs.states import JobState

USAGE_OVERDUE_AFTER: Final = timedelta(hours=1)
"""Slurm's accounting takes seconds, minutes after an outage. A record that lacks its end never comes by itself."""

UNAVAILABLE_AFTER: Final = timedelta(minutes=10)
"""A scheduler's restart is no news."""

_AT_ONCE: Final = 100


def raise_alarms(*, at: datetime) -> int:
    """Tell the administrators of lost jobs, of usage that accounting owes, and of clusters that don't answer.

    Harmless to repeat. Returns how many such things there are now, at most a hundred of each kind.
    """
    people = list(User.objects.filter(is_staff=True, is_active=True))
    found = 0
    for job in Job.objects.filter(state=JobState.LOST).select_related("partition__cluster").order_by("pk")[:_AT_ONCE]:
        figures = {"job": str(job.pk), "name": job.name, "cluster": job.partition.cluster.code}
        notify(people, "job_lost", at=at, figures=figures, path=job.get_absolute_url(), once=f"job_lost/{job.pk}")
        found += 1
    overdue = JobSegment.objects.filter(
        accounted_at__isnull=True, ended_at__lte=at - USAGE_OVERDUE_AFTER
    ).select_related("job", "cluster")
    for segment in overdue.order_by("ended_at", "pk")[:_AT_ONCE]:
        figures = {"job": str(segment.job_id), "cluster": segment.cluster.code, "native_id": segment.native_id}
        path = segment.job.get_absolute_url()
        notify(people, "usage_overdue", at=at, figures=figures, path=path, once=f"usage_overdue/{segment.key}")
        found += 1
    silent = Cluster.objects.filter(unavailable_since_at__lte=at - UNAVAILABLE_AFTER)
    for cluster in silent.order_by("pk"):
        since = cluster.unavailable_since_at
        figures = {"cluster": cluster.code, "error": cluster.last_error}
        once = f"cluster_unavailable/{cluster.code}/{since:%Y%m%dT%H%M%S}"
        notify(people, "cluster_unavailable", at=at, figures=figures, path=reverse("cluster-list"), once=once)
        found += 1
    return found
