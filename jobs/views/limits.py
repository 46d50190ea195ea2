"""Which limits hold for a person in a project on a partition, where each comes from, and what is used of it."""

from typing import Any, cast

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts import access
from accounts.models import User
from jobs.forms.limits import LimitsForm
from jobs.services.limit_overview import explain_limits


@login_required
@require_safe
def limits_page(request: HttpRequest) -> HttpResponse:
    """For oneself; administrators and auditors choose any person."""
    user = cast(User, request.user)
    form = LimitsForm(request.GET or None, user=user)
    context: dict[str, Any] = {"form": form, "may_manage": access.sees_all(user)}
    choice = form.chosen()
    if choice is not None:
        context |= {"choice": choice, "rows": explain_limits(**choice, at=timezone.now())}
    return render(request, "jobs/limits.html", context)
