"""The first page: my jobs, what my projects have left, how the clusters are."""

from typing import Any, cast

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import conditional_page, require_safe

from accounts import access
from accounts.models import User
from accounts.services.balances import list_balances
from jobs.models import Job
from jobs.views.clusters import list_clusters
from jobs.views.figures import describe_progress

_UNFINISHED_SHOWN = 20
_RECENT_SHOWN = 8


@login_required
@require_safe
def dashboard(request: HttpRequest) -> HttpResponse:
    """The page."""
    user = cast(User, request.user)
    now = timezone.now()
    balances = list_balances(user, now=now)
    context = {
        **_live_context(user),
        "balances": balances,
        "project_count": access.submittable_projects(user).count(),
        "has_spendable": any(balance.can_spend for balance in balances),
    }
    return render(request, "jobs/dashboard.html", context)


@login_required
@require_safe
@conditional_page
def dashboard_live(request: HttpRequest) -> HttpResponse:
    """My jobs and the clusters: what of the page changes by itself."""
    return render(request, "jobs/_dashboard_live.html", _live_context(cast(User, request.user)))


def _live_context(user: User) -> dict[str, Any]:
    now = timezone.now()
    mine = Job.objects.visible_to(user).filter(user=user).with_names().without_contents()
    mine = mine.order_by("-submitted_at", "-pk")
    unfinished = list(mine.unfinished()[: _UNFINISHED_SHOWN + 1])
    recent = list(mine.exclude(ended_at=None)[:_RECENT_SHOWN])
    return {
        "unfinished": [describe_progress(job, now=now) for job in unfinished[:_UNFINISHED_SHOWN]],
        "has_more_unfinished": len(unfinished) > _UNFINISHED_SHOWN,
        "recent": [describe_progress(job, now=now) for job in recent],
        "clusters": list_clusters(access.usable_partitions(user)),
    }
