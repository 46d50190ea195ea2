"""Celery shells: "go and look". The rows are the queue; each task is harmless to repeat and to lose."""

from functools import partial
from typing import Any

from celery import shared_task
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.services import expiry, mail
from jobs.services import (
    admission,
    alarms,
    associations,
    clusters,
    dispatch,
    recalibration,
    reconcile,
    usage_days,
    waiting,
)
from jobs.services.schedulers import queue_of
from jobs.services.turns import take_turn

DISPATCH_BATCH = 40
CLUSTER_WORK_EXPIRES_S = 30


def _for_cluster(task: Any, code: str) -> None:
    """Each cluster's work is a message of its own, for its own workers if it has a queue: none waits for another's."""
    task.apply_async(args=[code], queue=queue_of(code), expires=CLUSTER_WORK_EXPIRES_S)


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
    for code in dispatch.clusters_with_due_jobs(at=timezone.now()):
        _for_cluster(dispatch_cluster, code)


@shared_task(name="jobs.dispatch_cluster")
def dispatch_cluster(code: str) -> None:
    with take_turn("dispatch", code) as has_turn:
        if not has_turn:
            return
        accepted = dispatch.dispatch_cluster(
            code, now=timezone.now, lease_s=settings.DISPATCH_LEASE_S, limit=DISPATCH_BATCH
        )
    if accepted:
        _for_cluster(reconcile_cluster, code)
    if accepted == DISPATCH_BATCH:
        _for_cluster(dispatch_cluster, code)  # there are more: don't wait for the next tick


@shared_task(name="jobs.reconcile_clusters")
def reconcile_clusters() -> None:
    for code in clusters.askable_clusters(at=timezone.now()):
        _for_cluster(reconcile_cluster, code)


@shared_task(name="jobs.reconcile_cluster")
def reconcile_cluster(code: str) -> None:
    with take_turn("reconcile", code) as has_turn:
        if has_turn:
            reconcile.reconcile_guarded(code, now=timezone.now, lost_after_s=settings.LOST_AFTER_S)


@shared_task(name="jobs.sync_inventory")
def sync_inventory() -> None:
    for code in clusters.askable_clusters(at=timezone.now()):
        _for_cluster(sync_cluster, code)
    waiting.measure_waits(at=timezone.now())


@shared_task(name="jobs.sync_cluster")
def sync_cluster(code: str) -> None:
    with take_turn("inventory", code) as has_turn:
        if has_turn:
            clusters.sync_cluster(code, at=timezone.now())


@shared_task(name="jobs.sync_associations")
def sync_associations() -> None:
    associations.sync_associations(now=timezone.now)


@shared_task(name="jobs.calibrate")
def calibrate() -> None:
    recalibration.recalibrate(at=timezone.now())


@shared_task(name="jobs.raise_alarms")
def raise_alarms() -> None:
    alarms.raise_alarms(at=timezone.now())


@shared_task(name="jobs.send_mail")
def send_mail() -> None:
    if mail.send_due_mail(now=timezone.now) == mail.BATCH:
        send_mail.delay()  # there are more: don't wait for the next tick


@shared_task(name="jobs.expire_allocations")
def expire_allocations() -> None:
    expiry.expire_allocations(at=timezone.now())
    expiry.announce_expiry(at=timezone.now())


@shared_task(name="jobs.refresh_usage_days")
def refresh_usage_days() -> None:
    usage_days.refresh_usage_days()


def nudge_after_commit(*, cancelled: bool = False) -> None:
    """Let a worker look at once instead of at the next tick. A broker that is down only costs that latency."""
    task = reconcile_clusters if cancelled else estimate_submitted_jobs
    transaction.on_commit(partial(task.apply_async, retry=False), robust=True)
