"""The page of one job, its live part, and its end on request."""

import uuid
from dataclasses import dataclass
from typing import Any, Final, cast

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import conditional_page, require_POST, require_safe

from accounts import access
from accounts.acting import act_of
from accounts.models import User
from jobs.estimation import presets
from jobs.models import Job, JobEvent, JobSegment
from jobs.presentation import describe_event, describe_place, describe_segment_end, describe_state
from jobs.services.approval import may_decide
from jobs.services.cancellation import CancelForbidden, cancel_job
from jobs.services.estimates import accelerator_title, preset_title
from jobs.services.fair_share import place_of
from jobs.services.lending import count_preemptions
from jobs.states import IN_SCHEDULER, JobState
from jobs.tasks import nudge_after_commit
from jobs.views.estimate_panel import describe_estimate
from jobs.views.figures import describe_progress
from jobs.views.hours_requests import request_url

_FAST_S: Final = 2
_SLOW_S: Final = 10
_LIVE_STOPPED: Final = 286

_TONES: Final = {JobState.COMPLETED: "good", JobState.RUNNING: "running", JobState.COMPLETING: "running"}
_BAD: Final = frozenset(
    {JobState.FAILED, JobState.TIMEOUT, JobState.OUT_OF_MEMORY, JobState.NODE_FAIL, JobState.REJECTED}
)
_ATTENTION: Final = frozenset({JobState.HELD, JobState.PREEMPTED, JobState.LOST})


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """An event in words."""

    event: JobEvent
    text: str


@dataclass(frozen=True, slots=True)
class ChainLink:
    """A segment of a chain with its end in words."""

    segment: JobSegment
    end: str


@login_required
@require_safe
def job_page(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """The page."""
    user = cast(User, request.user)
    job = _get_job(user, job_id)
    live = _live_context(job, user)
    model = _describe_model(job)
    context = {
        **live,
        "hours_url": _hours_url(job, model, live["comparison"]),
        "estimate": describe_estimate(live["comparison"]) if live["comparison"] else None,
        "sees_original": Job.objects.visible_to(user).filter(pk=job.cloned_from_id).exists()
        if job.cloned_from_id
        else False,
        "model": model,
        "accelerator": accelerator_title(job.partition.accelerator),
        "environment": sorted(job.environment.items()),
        "reads_contents": access.may_read_job(user, owner_id=job.user_id, project_id=job.project_id),
    }
    return render(request, "jobs/detail.html", context)


@login_required
@require_safe
@conditional_page
def job_live(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """What of the page changes: asked often while the job moves, seldom while it waits, not any more once settled."""
    user = cast(User, request.user)
    job = _get_job(user, job_id)
    response = render(request, "jobs/_job_live.html", _live_context(job, user))
    response["X-Live-Interval"] = str(_interval_s(job))
    if not job.is_live:
        response.status_code = _LIVE_STOPPED
    return response


@login_required
@require_POST
def job_cancel(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """End the job."""
    user = cast(User, request.user)
    job = _get_job(user, job_id)
    try:
        act = act_of(request)
        was_unfinished = cancel_job(job=job, user=user, at=act.at, source=act.source, ip_address=act.ip_address)
    except CancelForbidden as error:
        raise PermissionDenied from error
    if not was_unfinished:
        messages.info(request, _("The job had ended already."))
    else:
        nudge_after_commit(cancelled=True)
        messages.success(request, _("The end of “%(name)s” is on its way.") % {"name": job.name})
    return redirect(job)


def _get_job(user: User, job_id: uuid.UUID) -> Job:
    job: Job = get_object_or_404(Job.objects.visible_to(user).with_names(), pk=job_id)
    return job


def _live_context(job: Job, user: User) -> dict[str, Any]:
    segments = list(job.segments.select_related("usage").order_by("number"))
    estimate = job.estimates.order_by("-created_at", "-pk").first()
    events = list(job.events.select_related("actor").order_by("pk"))
    usages = [segment.usage for segment in segments if hasattr(segment, "usage")]
    peaks = [usage.max_rss_bytes for usage in usages if usage.max_rss_bytes is not None]
    return {
        "job": job,
        "progress": describe_progress(job, now=timezone.now()),
        "tone": _tone(job),
        "meaning": describe_state(job),
        "comparison": estimate.result if estimate else None,
        "timeline": [TimelineEntry(event, describe_event(event)) for event in events],
        "requeues": sum(_is_requeue(event) for event in events),
        "segments": segments,
        "preemptions": count_preemptions(segments),
        "chain": [ChainLink(segment, describe_segment_end(segment)) for segment in segments] if job.is_chain else [],
        "node_names": list(dict.fromkeys(name for segment in segments for name in segment.nodes)),
        "shortfall_s": sum(usage.shortfall_s for usage in usages),
        "max_rss_bytes": max(peaks, default=None),
        # On a partition of CPU cores, host memory is the memory that was estimated.
        "is_host_memory": job.partition.accelerator == "host-cpu",
        "is_in_scheduler": job.state in IN_SCHEDULER,
        "place": _describe_place(job),
        "may_decide": job.is_held_for_approval and may_decide(user, job),
        "may_cancel": _may_ask_for_end(job, user),
        "interval_s": _interval_s(job),
    }


def _describe_place(job: Job) -> str:
    """Where a job that waits in the portal stands; "" for others."""
    place = place_of(job, at=timezone.now())
    return describe_place(place) if place else ""


def _is_requeue(event: JobEvent) -> bool:
    """Did the scheduler put the running job back into its queue?"""
    return event.from_state in (JobState.RUNNING, JobState.COMPLETING) and event.to_state == JobState.PENDING


def _interval_s(job: Job) -> int:
    """A long queue is asked about seldom; whatever the portal or the cluster is working on, often."""
    return _SLOW_S if job.state in (JobState.PENDING, JobState.HELD, JobState.LOST) else _FAST_S


def _tone(job: Job) -> str:
    state = JobState(job.state)
    if state in _BAD:
        return "bad"
    if state in _ATTENTION:
        return "attention"
    if state == JobState.CANCELLED:
        return "neutral"
    return _TONES.get(state, "waiting")


def _describe_model(job: Job) -> dict[str, Any] | None:
    """The workload with the name of its model; None for a job that only runs a script."""
    if job.workload is None:
        return None
    model = job.workload["model"]
    preset = presets().get(model.get("preset", ""))
    return {**job.workload, "preset": preset, "title": preset_title(preset) if preset else _("Own model (config.json)")}


def _hours_url(job: Job, model: dict[str, Any] | None, estimate: dict[str, Any] | None) -> str:
    """Where more hours are asked for with this job's estimate; empty without one."""
    if model is None or estimate is None:
        return ""
    return request_url(
        project=job.project.code,
        partition=job.partition,
        model=model["title"],
        workload=model,
        estimate=estimate,
        devices=job.devices,
        job=job,
    )


def _may_ask_for_end(job: Job, user: User) -> bool:
    """Once is enough, but for a lost job: staff write it off, whoever asked before."""
    if job.is_terminal or not access.may_cancel_job(user, owner_id=job.user_id, project_id=job.project_id):
        return False
    return job.cancel_requested_at is None or (job.state == JobState.LOST and user.is_staff)
