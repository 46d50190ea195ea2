"""A person's own profile."""

from typing import cast

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from accounts.forms import ProfileForm
from accounts.models import User


@login_required
@require_http_methods(["GET", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    """A person's own name, time zone and language of mails."""
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
