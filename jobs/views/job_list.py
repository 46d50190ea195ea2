"""The list of jobs, with filters in its address and rows that refresh themselves."""

from typing import cast

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_safe

from accounts.models import User
from jobs.forms import JobFilterForm
from jobs.presentation import STATE_LABELS
from jobs.views.figures import describe_progress
from jobs.views.keyset import Position, read_page

PAGE_SIZE = 50


@login_required
@require_safe
def job_list(request: HttpRequest) -> HttpResponse:
    """The page; for htmx the list alone; for the poller what is in the list."""
    form = JobFilterForm(request.GET, user=cast(User, request.user), state_labels=STATE_LABELS)
    jobs = form.apply().with_names().without_contents()  # type: ignore[attr-defined]
    page = read_page(jobs, parameters=request.GET, size=PAGE_SIZE)
    is_live = request.headers.get("X-Live") == "true"
    is_part = (
        request.headers.get("HX-Request") == "true" and request.headers.get("HX-History-Restore-Request") != "true"
    )
    now = timezone.now()
    context = {
        "form": form,
        "rows": [describe_progress(job, now=now) for job in page.jobs],
        "newer_url": _page_url(request, "before", page.newer),
        "older_url": _page_url(request, "after", page.older),
        "is_any_unfinished": any(not job.is_terminal for job in page.jobs),
    }
    template = "jobs/_job_rows.html" if is_live else "jobs/_job_list.html" if is_part else "jobs/list.html"
    response = render(request, template, context)
    patch_vary_headers(response, ["HX-Request", "X-Live"])
    return response


def _page_url(request: HttpRequest, name: str, position: Position | None) -> str:
    """The address of a neighbouring page with the same filters; empty if there is none."""
    if position is None:
        return ""
    parameters = request.GET.copy()
    for key in ("after", "before"):
        parameters.pop(key, None)
    parameters[name] = str(position)
    return f"{request.path}?{parameters.urlencode()}"
