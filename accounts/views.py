"""Pages of projects and of a person's own profile."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, cast

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Count, OuterRef, Prefetch, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_safe

from accounts import access
from accounts.forms import ProfileForm
from accounts.models import Allocation, Membership, Role, User

_LOW_SHARE: Final = 0.1
_SOON: Final = timedelta(days=30)
_ROLE_ORDER: Final = {Role.PI.value: 0, Role.MANAGER.value: 1, Role.MEMBER.value: 2}


@dataclass(frozen=True, slots=True)
class Balance:
    """An allocation as people look at it at one moment: how much is left, and is that a worry."""

    allocation: Allocation
    now: datetime

    @property
    def is_active(self) -> bool:
        return self.allocation.start_at <= self.now < self.allocation.end_at

    @property
    def is_ended(self) -> bool:
        return self.allocation.end_at <= self.now

    @property
    def is_low(self) -> bool:
        """Less than a tenth is left."""
        return self.is_active and self.allocation.available_s < _LOW_SHARE * self.allocation.granted_s

    @property
    def is_ending_soon(self) -> bool:
        return self.is_active and self.allocation.end_at - self.now < _SOON

    @property
    def can_spend(self) -> bool:
        return self.is_active and self.allocation.available_s > 0

    @property
    def used_permille(self) -> int:
        """For a bar of 1,000 units."""
        return self._permille(self.allocation.used_s)

    @property
    def reserved_permille(self) -> int:
        return self._permille(self.allocation.reserved_s)

    @property
    def used_share(self) -> float:
        return self.allocation.used_s / self.allocation.granted_s if self.allocation.granted_s else 0.0

    def _permille(self, amount_s: int) -> int:
        return round(1000 * amount_s / self.allocation.granted_s) if self.allocation.granted_s else 0


def list_balances(user: User, *, now: datetime) -> list[Balance]:
    """Current and coming allocations of the projects that the person is a member of. One query."""
    allocations = access.visible_allocations(user).filter(project__memberships__user=user, end_at__gt=now)
    return _balances(allocations.order_by("project__code", "resource_class__code", "end_at"), now)


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
    balances = _balances(allocations, now)
    context = {
        "project": project,
        "members": members,
        "own_role": next((member for member in members if member.user_id == request.user.pk), None),
        "balances": [balance for balance in balances if not balance.is_ended],
        "ended": [balance for balance in balances if balance.is_ended],
    }
    return render(request, "accounts/project.html", context)


@login_required
@require_http_methods(["GET", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    """A person's own name and time zone."""
    user = cast(User, request.user)
    if request.method == "POST":
        # A copy: a refused value must not show in the page's head.
        form = ProfileForm(request.POST, instance=User.objects.get(pk=user.pk))
        if form.is_valid():
            form.save()
            messages.success(request, _("Your profile is saved."))
            return redirect("profile")
    else:
        form = ProfileForm(instance=user)
    memberships = user.memberships.select_related("project").order_by("project__code")
    return render(request, "accounts/profile.html", {"form": form, "memberships": memberships})


def _balances(allocations: QuerySet[Allocation], now: datetime) -> list[Balance]:
    return [Balance(allocation, now) for allocation in allocations.select_related("project", "resource_class")]
