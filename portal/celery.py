"""The Celery application. A beat alone is enough for everything to go on; events only make it sooner."""

import os

from celery import Celery
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")

app = Celery("portal")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["jobs"])


_ALARMS_S = 300
_MAIL_S = 30
_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 24 * 3600


def _every(task: str, seconds: float) -> dict[str, object]:
    # `expires` keeps ticks from piling up while no worker runs.
    return {"task": task, "schedule": seconds, "options": {"expires": max(seconds, 5)}}


app.conf.beat_schedule = {
    "estimate": _every("jobs.estimate_submitted_jobs", settings.POLL_INTERVAL_S),
    "dispatch": _every("jobs.dispatch_queued_jobs", settings.POLL_INTERVAL_S),
    "reconcile": _every("jobs.reconcile_clusters", settings.POLL_INTERVAL_S),
    "release-held": _every("jobs.release_held_jobs", 5 * settings.POLL_INTERVAL_S),
    "inventory": _every("jobs.sync_inventory", 5 * settings.POLL_INTERVAL_S),
    "alarms": _every("jobs.raise_alarms", _ALARMS_S),
    "associations": _every("jobs.sync_associations", _HOUR_S),
    "mail": _every("jobs.send_mail", _MAIL_S),
    "expire": _every("jobs.expire_allocations", _HOUR_S),
    "usage-days": _every("jobs.refresh_usage_days", _MINUTE_S),
    "calibrate": _every("jobs.calibrate", _DAY_S),
}
