"""Celery shells: "go and look". The rows are the queue; each task is harmless to repeat and to lose."""

from functools import partial

from celery import shared_task
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from jobs.services import admission, associations, clusters, dispatch, recalibration, reconcile

DISPATCH_BATCH = 20


@shared_task(name="jobs.estimate_submitted_jobs")
def estimate_submitted_jobs() -> None:
    if admission.admit_submitted_jobs(at=timezone.now()):
        dispatch_queued_jobs.delay()


@shared_task(name="jobs.release_held_jobs")
def release_held_jobs() -> None:
    if admission.release_held_jobs(at=timezone.now()):
        dispatch_queued_jobs.delay()


@shared_task(name="jobs.dispatch_queued_jobs")
def dispatch_queued_jobs() -> None:
    accepted = dispatch.dispatch_queued_jobs(now=timezone.now, lease_s=settings.DISPATCH_LEASE_S, limit=DISPATCH_BATCH)
    if accepted:
        reconcile_clusters.delay()
    if accepted == DISPATCH_BATCH:
        dispatch_queued_jobs.delay()  # there are more: don't wait for the next tick


@shared_task(name="jobs.reconcile_clusters")
def reconcile_clusters() -> None:
    reconcile.reconcile_clusters(now=timezone.now, lost_after_s=settings.LOST_AFTER_S)


@shared_task(name="jobs.sync_inventory")
def sync_inventory() -> None:
    clusters.sync_inventory(at=timezone.now())


@shared_task(name="jobs.sync_associations")
def sync_associations() -> None:
    associations.sync_associations(now=timezone.now)


@shared_task(name="jobs.calibrate")
def calibrate() -> None:
    recalibration.recalibrate(at=timezone.now())


def nudge_after_commit(*, cancelled: bool = False) -> None:
    """Let a worker look at once instead of at the next tick. A broker that is down only costs that latency."""
    task = reconcile_clusters if cancelled else estimate_submitted_jobs
    transaction.on_commit(partial(task.apply_async, retry=False), robust=True)
