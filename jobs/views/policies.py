"""Policies: read by administrators and auditors, set by administrators."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import access
from accounts.acting import act_of
from accounts.models import Policy
from accounts.services.policy_changes import delete_policy, save_policy
from jobs.forms.limits import PolicyForm


@login_required
@require_safe
def policy_list(request: HttpRequest) -> HttpResponse:
    """All policies."""
    if not access.sees_all(request.user):
        raise Http404
    policies = Policy.objects.select_related("user", "project", "partition", "institution").order_by("pk")
    page = Paginator(policies.prefetch_related("allowed_classes"), 50).get_page(request.GET.get("page"))
    may_change = access.may_manage_policies(request.user)
    return render(request, "jobs/policies.html", {"page_obj": page, "may_change": may_change})


@login_required
@require_http_methods(["GET", "POST"])
def policy_edit(request: HttpRequest, policy_id: int | None = None) -> HttpResponse:
    """A new policy, or one to change."""
    _require_right(request)
    policy = get_object_or_404(Policy, pk=policy_id) if policy_id is not None else Policy()
    form = PolicyForm(request.POST or None, instance=policy)
    if request.method == "POST" and form.is_valid():
        data: dict[str, Any] = form.cleaned_data
        save_policy(form.instance, classes=data["allowed_classes"], act=act_of(request), reason=data["reason"])
        messages.success(request, _("The policy is saved; it holds from now on."))
        return redirect("policy-list")
    return render(request, "jobs/policy.html", {"form": form, "policy": policy if policy_id is not None else None})


@login_required
@require_POST
def policy_delete(request: HttpRequest, policy_id: int) -> HttpResponse:
    """Remove one."""
    _require_right(request)
    try:
        delete_policy(policy_id, act=act_of(request))
    except Policy.DoesNotExist as error:
        raise Http404 from error
    messages.success(request, _("The policy is removed."))
    return redirect("policy-list")


def _require_right(request: HttpRequest) -> None:
    if not access.may_manage_policies(request.user):
        raise Http404
