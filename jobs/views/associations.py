"""What a cluster's accounting lacks beside the portal, and making it so: for staff.

Opening the page asks only the database: Slurm is asked when somebody presses a button.
"""

from typing import Any, Final, cast

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST, require_safe

from accounts import access
from accounts.acting import act_of
from accounts.models import AssociationChange, AssociationReview, ChangeOrigin, ChangeOutcome, Cluster, User
from jobs.backends.associations import SchedulerUnavailable
from jobs.services.association_setup import is_managed, setups
from jobs.services.association_wording import describe_change, describe_finding, describe_setting
from jobs.services.associations import (
    Applied,
    ApplyInProgress,
    PlanChanged,
    apply_associations,
    record_apply,
    review_associations,
)

_SHOWN_CHANGES: Final = 200
_SHOWN_LOG_LINES: Final = 30
_SHOWN_CHARACTERS: Final = 300
_APPLY_S: Final = 15.0
"""What one press of the button may take; the rest waits for the next, or for the hourly task."""


@login_required
@require_safe
def cluster_associations(request: HttpRequest, code: str) -> HttpResponse:
    """The page: the last look, and the last lines of the log."""
    cluster = _get_cluster(request, code, may_open=access.may_see_cluster_setup(request.user))
    review = AssociationReview.objects.filter(cluster=cluster).first()
    changes = review.plan.get("changes", []) if review else []
    ended = AssociationChange.objects.filter(cluster=cluster).exclude(outcome=ChangeOutcome.STARTED)
    log = ended.select_related("actor").order_by("-pk")
    return render(
        request,
        "jobs/associations.html",
        {
            "cluster": cluster,
            "review": review,
            "fingerprint": review.plan.get("fingerprint", "") if review else "",
            "count": len(changes),
            "changes": [_in_words(change) for change in changes[:_SHOWN_CHANGES]],
            "hidden": max(len(changes) - _SHOWN_CHANGES, 0),
            "findings": [describe_finding(item) for item in review.plan.get("findings", [])] if review else [],
            "log": [(row, describe_change(row.kind)) for row in log[:_SHOWN_LOG_LINES]],
            "applies": setups[cluster.code].applies,
            "may_change": access.may_manage_clusters(request.user),
        },
    )


@login_required
@require_POST
def cluster_associations_look(request: HttpRequest, code: str) -> HttpResponse:
    """Ask Slurm now."""
    cluster = _get_cluster(request, code)
    try:
        review_associations(cluster, at=timezone.now())
    except SchedulerUnavailable as error:
        messages.error(request, _("Slurm's accounting doesn't answer: %(words)s") % {"words": error})
    return redirect("cluster-associations", code=cluster.code)


@login_required
@require_POST
def cluster_associations_apply(request: HttpRequest, code: str) -> HttpResponse:
    """Make the changes that were shown, and no others."""
    cluster = _get_cluster(request, code)
    try:
        applied = apply_associations(
            cluster,
            now=timezone.now,
            origin=ChangeOrigin.PAGE,
            actor=cast(User, request.user),
            fingerprint=request.POST.get("fingerprint", ""),
            seconds=_APPLY_S,
        )
    except PlanChanged:
        messages.warning(request, _("Something has changed since you looked. Nothing was applied: look again."))
    except ApplyInProgress:
        messages.warning(request, _("Changes to this cluster are being applied right now. Look again in a moment."))
    except SchedulerUnavailable as error:
        messages.error(request, _("Slurm's accounting doesn't answer: %(words)s") % {"words": error})
    else:
        act = act_of(request)
        record_apply(act, cluster, applied)
        _tell(request, applied)
    return redirect("cluster-associations", code=cluster.code)


def _tell(request: HttpRequest, applied: Applied) -> None:
    if not applied.results:
        messages.info(request, _("There was nothing to do."))
        return
    done, untried = applied.count(ChangeOutcome.DONE), applied.count(None)
    failed = [result for result in applied.results if result.outcome not in (ChangeOutcome.DONE, None)]
    if done:
        text = ngettext("%(count)d change was made.", "%(count)d changes were made.", done)
        messages.success(request, text % {"count": done})
    for result in failed[:5]:
        what = f"{describe_change(result.change.kind)} {result.change.target}"
        label = result.outcome.label if result.outcome else ""
        messages.warning(request, f"{what}: {label}. {result.words[:_SHOWN_CHARACTERS]}")
    if untried:
        text = ngettext("%(count)d change was not tried yet.", "%(count)d changes were not tried yet.", untried)
        messages.warning(request, text % {"count": untried})


def _get_cluster(request: HttpRequest, code: str, *, may_open: bool | None = None) -> Cluster:
    if not (access.may_manage_clusters(request.user) if may_open is None else may_open):
        raise Http404
    cluster = get_object_or_404(Cluster, code=code)
    if not is_managed(cluster.code):
        raise Http404
    return cluster


def _in_words(change: dict[str, Any]) -> dict[str, Any]:
    return {
        "text": describe_change(change["kind"]),
        "target": change["target"],
        "settings": [describe_setting(setting) for setting in change["settings"]],
    }
