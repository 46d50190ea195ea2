"""What is stored as codes and figures, in words: for pages and API alike, in the reader's language."""

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext, gettext_lazy, ngettext, pgettext_lazy
from django.utils.translation import gettext as _

from jobs.launch import CONTINUE_EXIT_CODE, NO_PROGRESS_EXIT_CODE
from jobs.models import EventKind, Job, JobEvent, JobSegment
from jobs.services.allowed_wording import describe_allowed
from jobs.services.borrowing import WaitReason
from jobs.services.calibration import describe_calibration
from jobs.services.chain import PREEMPTED
from jobs.services.fair_share import Place
from jobs.services.scheduler_wording import describe_scheduler_reason
from jobs.services.wording import duration_in_words, hours
from jobs.states import JobState

STATE_LABELS = {
    JobState.DRAFT: pgettext_lazy("job state", "Draft"),
    JobState.SUBMITTED: pgettext_lazy("job state", "Submitted"),
    JobState.HELD: pgettext_lazy("job state", "Held"),
    JobState.REJECTED: pgettext_lazy("job state", "Rejected"),
    JobState.QUEUED: pgettext_lazy("job state", "Queued"),
    JobState.DISPATCHING: pgettext_lazy("job state", "Dispatching"),
    JobState.PENDING: pgettext_lazy("job state", "Pending"),
    JobState.RUNNING: pgettext_lazy("job state", "Running"),
    JobState.COMPLETING: pgettext_lazy("job state", "Completing"),
    JobState.COMPLETED: pgettext_lazy("job state", "Completed"),
    JobState.FAILED: pgettext_lazy("job state", "Failed"),
    JobState.TIMEOUT: pgettext_lazy("job state", "Timed out"),
    JobState.OUT_OF_MEMORY: pgettext_lazy("job state", "Out of memory"),
    JobState.NODE_FAIL: pgettext_lazy("job state", "Node failure"),
    JobState.PREEMPTED: pgettext_lazy("job state", "Preempted"),
    JobState.CANCELLED: pgettext_lazy("job state", "Cancelled"),
    JobState.LOST: pgettext_lazy("job state", "Lost"),
}

STATE_MEANINGS = {
    JobState.DRAFT: gettext_lazy("Not submitted yet."),
    JobState.SUBMITTED: gettext_lazy("The portal works out what the job needs."),
    JobState.HELD: gettext_lazy("The job waits in the portal and goes on by itself."),
    JobState.REJECTED: gettext_lazy("The job was refused; nothing ran and nothing was charged."),
    JobState.QUEUED: gettext_lazy("The quota is reserved; the job is next to go to the cluster."),
    JobState.DISPATCHING: gettext_lazy("The job is being handed to the cluster."),
    JobState.PENDING: gettext_lazy("The cluster has the job; it has not started yet."),
    JobState.RUNNING: gettext_lazy("The job is running."),
    JobState.COMPLETING: gettext_lazy("The job has ended; the cluster is cleaning up."),
    JobState.COMPLETED: gettext_lazy("The job ended well."),
    JobState.FAILED: gettext_lazy("The job ended with an error; the log says more."),
    JobState.TIMEOUT: gettext_lazy("The job reached its time limit and was ended. Resume it from its checkpoint."),
    JobState.OUT_OF_MEMORY: gettext_lazy(
        "The job used more memory than it had. Use more accelerators or a smaller batch."
    ),
    JobState.NODE_FAIL: gettext_lazy("A node of the cluster failed; this is not the job's fault. Submit it again."),
    JobState.PREEMPTED: gettext_lazy("The cluster needed the accelerators for other work."),
    JobState.CANCELLED: gettext_lazy("The job was ended on request."),
    JobState.LOST: gettext_lazy(
        "The cluster doesn't know the job any more. Tell an administrator; its quota stays reserved meanwhile."
    ),
}

_PORTAL_REASONS = {
    "cancelled": gettext_lazy("on request"),
    "cluster_down": gettext_lazy("the cluster doesn't answer; the job waits and goes on by itself"),
    "approval": gettext_lazy("waits for approval: it is larger than policy lets run without"),
    "project_closed": gettext_lazy("This project is closed: no new jobs can be submitted."),
    "written_off": gettext_lazy("an administrator wrote it off; nothing was charged"),
    "owner_may_not_submit": gettext_lazy("its owner may no longer submit in this project"),
    "segment_ended": gettext_lazy("a segment of the run has ended; the next one goes on from its checkpoint"),
    "no_progress": gettext_lazy("its last segment wrote no new checkpoint, so it was not continued"),
    "forgotten": gettext_lazy("the cluster had forgotten it before it started; it is submitted again"),
    "started_twice": gettext_lazy(
        "the cluster lost sight of it when it had begun, and started it again; that second run did nothing"
    ),
    "preempted": gettext_lazy(
        "the owners of its accelerators needed them; it goes on by itself when some are idle again"
    ),
    "share_in_use": gettext_lazy("the project's share of the partition is in use; it waits for its own jobs to end"),
    "reclaiming": gettext_lazy("its share is lent out; the borrowers have been told to make room"),
    "nothing_idle": gettext_lazy("the owners use their shares themselves now; it starts when something is idle"),
    "borrowing_limit": gettext_lazy("its project borrows as much as it may; it starts when that has become less"),
    "lost": gettext_lazy("neither the cluster's queue nor its accounting knows the job"),
}

_WAITS_FOR_SHARES = frozenset({PREEMPTED, *WaitReason})

_LIMITS = {
    "max_queued_jobs": gettext_lazy("%(allowed)s queued jobs are allowed"),
    "max_running_jobs": gettext_lazy("%(allowed)s running jobs are allowed"),
    "max_accelerators_in_use": gettext_lazy("%(allowed)s accelerators in use are allowed"),
    "max_accelerators_per_job": gettext_lazy("%(allowed)s accelerators per job are allowed"),
    "max_time_limit_minutes": gettext_lazy("%(allowed)s minutes of time limit are allowed"),
    "max_jobs_per_day": gettext_lazy("%(allowed)s jobs in 24 hours are allowed"),
    "allowed_classes": gettext_lazy("resource classes %(allowed)s are allowed"),
}

_SCOPES = {
    "user": gettext_lazy("for you"),
    "partition": gettext_lazy("on this partition"),
    "job_kind": gettext_lazy("for this kind of job"),
    "institution": gettext_lazy("in this institution's projects"),
    "centre": gettext_lazy("at this centre"),
    "project": gettext_lazy("for this project"),
}


SIZE_LABELS = {
    "1": gettext_lazy("1 node"),
    "2-4": gettext_lazy("2–4 nodes"),
    "5-16": gettext_lazy("5–16 nodes"),
    "17+": gettext_lazy("over 16 nodes"),
}
"""The sizes of jobs of jobs.services.waiting, in words."""


# What the engine says an estimate rests on, where it gives no count of published runs.
BASIS_WORDING = {
    "fitted_to_published_runs": gettext_lazy("Rests on published runs on this accelerator."),
    "same_architecture_as_fitted": gettext_lazy("Rests on published runs on accelerators of the same family."),
    "datasheet_only": gettext_lazy(
        "Rests on the accelerator's data sheet: no published runs on it or its family are known."
    ),
    "measured_peak": gettext_lazy("Rests on the rate measured on this partition."),
    "one_machine": gettext_lazy("Rests on runs on one machine of this kind."),
}


def describe_basis(result: Mapping[str, Any]) -> str:
    """What an estimate (as stored) rests on: published runs, and finished jobs of this centre."""
    basis, runs = result["basis"], result.get("rests_on") or {}
    if basis == "fitted_to_published_runs" and runs:
        text = ngettext(
            "Rests on %(count)d published run on this accelerator.",
            "Rests on %(count)d published runs on this accelerator.",
            runs["accelerator"],
        ) % {"count": runs["accelerator"]}
    elif basis == "same_architecture_as_fitted" and runs:
        text = ngettext(
            "Rests on %(count)d published run on accelerators of the same family.",
            "Rests on %(count)d published runs on accelerators of the same family.",
            runs["family"],
        ) % {"count": runs["family"]}
    else:
        text = str(BASIS_WORDING.get(basis, basis))
    if not runs:
        return text
    jobs = result.get("calibration") or {"level": "none", "jobs_at_level": {}}
    return f"{text} {describe_calibration(jobs)}"


def describe_state(job: Job) -> str:
    """What the job's state means."""
    if job.state == JobState.QUEUED and job.state_reason in _WAITS_FOR_SHARES:
        return _("The job waits in the portal and goes on by itself.")
    return str(STATE_MEANINGS.get(JobState(job.state), ""))


def describe_reason(reason: str, detail: Mapping[str, Any]) -> str:
    """Why a job waits or ended, as a clause; the scheduler's raw word if it is none that we know."""
    if not reason:
        return ""
    if reason in ("limit", "policy"):
        return _describe_limit(detail)
    if reason == "does_not_fit":
        return _("needs %(needed)s GiB a card, which has %(capacity)s GiB") % {
            "needed": f"{detail.get('memory_bytes', 0) / 2**30:.1f}",
            "capacity": f"{detail.get('capacity_bytes', 0) / 2**30:.1f}",
        }
    if reason == "insufficient_allocation":
        return _("needs %(needed)s accelerator-hours; the project has %(available)s left") % {
            "needed": hours(detail.get("needed_s", 0)),
            "available": hours(detail.get("available_s", 0)),
        }
    if reason == "member_cap":
        return _("needs %(needed)s accelerator-hours; its owner has %(taken)s of at most %(cap)s in the project") % {
            key: hours(detail.get(f"{key}_s", 0)) for key in ("needed", "taken", "cap")
        }
    if reason == "invalid":
        return _("%(field)s is not allowed; allowed: %(allowed)s") % {
            "field": detail.get("field", "?"),
            "allowed": describe_allowed(detail.get("allowed", "?")),
        }
    if reason == "scheduler":
        return _("the cluster refused it: %(words)s") % {"words": detail.get("words", "")}
    if reason == "approval_refused":
        return _("approval was refused: %(words)s") % {"words": detail.get("words", "")}
    if reason in _PORTAL_REASONS:
        return str(_PORTAL_REASONS[reason])
    words = describe_scheduler_reason(reason)
    return words.clause if words else _("other reason, in the scheduler's own word: %(word)s") % {"word": reason}


def describe_place(place: Place) -> str:
    """Where a waiting job stands and why, as sentences."""
    return _(
        "Place %(position)s of %(total)s. Share of the project: %(share)s, its recent use: %(use)s; yours of all: "
        "%(own)s. Waiting for %(age)s; for its use it counts as %(advantage)s older."
    ) % {
        "position": place.position,
        "total": place.total,
        "share": f"{place.project_share:.1%}",
        "use": f"{place.project_use:.1%}",
        "own": f"{place.person_use:.1%}",
        "age": duration_in_words(int(place.age_s)),
        "advantage": duration_in_words(int(place.advantage_s)),
    }


def describe_advice(reason: str) -> str:
    """What the reader of a scheduler's reason can do, as sentences; "" where there is nothing to say."""
    words = None if reason in _PORTAL_REASONS else describe_scheduler_reason(reason)
    return words.advice if words else ""


def describe_event(event: JobEvent) -> str:
    """One line of the timeline."""
    if event.kind == EventKind.TRANSITION:
        label = str(STATE_LABELS[JobState(event.to_state)])
        why = describe_reason(event.reason, event.detail)
        return _("%(state)s: %(why)s") % {"state": label, "why": why} if why else label
    if event.kind == EventKind.CANCEL_REQUESTED:
        return _("Cancellation requested")
    if event.kind == EventKind.APPROVED:
        return _("Approved")
    if event.kind == EventKind.DISPATCH_DELAYED:
        return _("The cluster doesn't answer; the job is handed over when it does")
    if event.kind == EventKind.TIME_LIMIT_CHANGED:
        return _("The cluster's operator changed its time limit from %(old)s to %(new)s") % {
            "old": duration_in_words(60 * event.detail.get("from_minutes", 0)),
            "new": duration_in_words(60 * event.detail.get("to_minutes", 0)),
        }
    if event.kind == EventKind.PREEMPT_REQUESTED:
        return _("The owners of its accelerators need them: it is told to write a checkpoint and make room")
    if event.kind == EventKind.SEGMENT_ENDED:
        return _describe_segment_end(event)
    text = _("Charged %(charged)s accelerator-hours; %(released)s given back") % {
        "charged": hours(event.detail.get("charged_s", 0)),
        "released": hours(event.detail.get("released_s", 0)),
    }
    if event.detail.get("is_overrun"):
        return _("Not charged: %(hours)s accelerator-hours used beyond the allocation, on idle accelerators") % {
            "hours": hours(event.detail.get("shortfall_s", 0))
        }
    if event.detail.get("shortfall_s"):
        text += gettext(" (%(shortfall)s could not be charged)") % {"shortfall": hours(event.detail["shortfall_s"])}
    return text


def describe_segment_end(segment: JobSegment) -> str:
    """How a segment of a chain ended; "" while it hasn't."""
    return _name_end(segment.end_state, segment.exit_code) if segment.end_state else ""


def _name_end(state: str, exit_code: int | None) -> str:
    """A segment that stopped to be continued is no failure, though its scheduler calls it one."""
    if state == JobState.PREEMPTED and exit_code == CONTINUE_EXIT_CODE:
        return _("made room, at a checkpoint")
    if state == JobState.FAILED and exit_code == CONTINUE_EXIT_CODE:
        return _("stopped at a checkpoint")
    if state == JobState.FAILED and exit_code == NO_PROGRESS_EXIT_CODE:
        return _("stopped without a new checkpoint")
    return str(STATE_LABELS[JobState(state)])


def _describe_segment_end(event: JobEvent) -> str:
    figures = {
        "number": event.detail.get("number"),
        "state": _name_end(event.detail["end"], event.detail.get("exit_code")),
        "step": event.detail.get("last_step"),
    }
    if figures["step"] is None:
        return _("Segment %(number)s ended: %(state)s") % figures
    return _("Segment %(number)s ended at step %(step)s: %(state)s") % figures


def _describe_limit(detail: Mapping[str, Any]) -> str:
    template = _LIMITS.get(detail.get("limit", ""))
    if template is None:
        return _("a limit of policy is reached")
    limit = str(template) % {"allowed": detail.get("allowed")}
    return _("only %(limit)s %(scope)s") % {"limit": limit, "scope": _SCOPES.get(detail.get("scope", ""), "")}
