"""Pages of projects."""

from typing import Final

from django.contrib.auth.decorators import login_required
from django.db.models import Count, OuterRef, Prefetch, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts import access
from accounts.models import Allocation, Membership, Role
from accounts.services.balances import Balance, describe_balances

_ROLE_ORDER: Final = {Role.PI.value: 0, Role.MANAGER.value: 1, Role.MEMBER.value: 2}


@login_required
@require_safe
def project_list(request: HttpRequest) -> HttpResponse:
    """The projects that the person may see, with what each has left."""
    now = timezone.now()
    # Its own query: the filter of visible projects joins the reader's membership alone.
    counts = Membership.objects.filter(project=OuterRef("pk")).order_by().values("project")
    projects = (
        access.visible_projects(request.user)
        .select_related("institution")
        .annotate(member_count=Subquery(counts.annotate(count=Count("pk")).values("count")))
        .prefetch_related(
            Prefetch("memberships", Membership.objects.filter(role=Role.PI).select_related("user"), "leads"),
            Prefetch(
                "allocations",
                Allocation.objects.filter(end_at__gt=now).select_related("resource_class").order_by("end_at"),
                "current_allocations",
            ),
        )
        .order_by("state", "code")
    )
    rows = [(project, [Balance(allocation, now) for allocation in project.current_allocations]) for project in projects]
    return render(request, "accounts/project_list.html", {"rows": rows})


@login_required
@require_safe
def project_page(request: HttpRequest, code: str) -> HttpResponse:
    """One project: what it has left and who is in it; use and ledger are loaded as parts."""
    now = timezone.now()
    project = get_object_or_404(access.visible_projects(request.user).select_related("institution"), code=code)
    members = sorted(
        project.memberships.select_related("user"),
        key=lambda member: (_ROLE_ORDER[member.role], member.user.username),
    )
    allocations = access.visible_allocations(request.user).filter(project=project).order_by("-end_at", "pk")
    balances = describe_balances(allocations, now)
    own_role = next((member for member in members if member.user_id == request.user.pk), None)
    leads = own_role is not None and own_role.role in (Role.PI, Role.MANAGER)
    context = {
        "project": project,
        "members": members,
        "own_role": own_role,
        "leads": leads,
        "sees_statements": access.statement_projects(request.user).filter(pk=project.pk).exists(),
        "balances": [balance for balance in balances if not balance.is_ended],
        "may_manage_members": leads or access.is_administrator(request.user),
        "has_audit": leads or access.oversees(request.user, project),
        "ended": [balance for balance in balances if balance.is_ended],
    }
    return render(request, "accounts/project.html", context)
