"""Monthly statements of a project, made to be printed."""

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts import access
from jobs.services.statements import make_statement, months_of, parse_month


@login_required
@require_safe
def statement_list(request: HttpRequest, code: str) -> HttpResponse:
    """The months of which there is a statement."""
    project = get_object_or_404(access.statement_projects(request.user), code=code)
    months = months_of(project, at=timezone.now())
    return render(request, "jobs/statements.html", {"project": project, "months": months})


@login_required
@require_safe
def statement_page(request: HttpRequest, code: str, month: str) -> HttpResponse:
    """One month, such as 2026-05."""
    project = get_object_or_404(access.statement_projects(request.user).select_related("institution"), code=code)
    now = timezone.now()
    first_day = parse_month(month)
    statement = make_statement(project, first_day, at=now) if first_day else None
    if statement is None:
        raise Http404
    context = {
        "statement": statement,
        "project": project,
        "lead": project.memberships.filter(role="PI").select_related("user").first(),
        "made_at": now,
        "zone": timezone.get_default_timezone_name(),
    }
    return render(request, "jobs/statement.html", context)
