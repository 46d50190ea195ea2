"""Saying that somebody is a researcher, with which they get their starter allocation."""

from typing import cast

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from accounts import access
from accounts.acting import act_of
from accounts.forms import VerifyForm
from accounts.models import User, Verification
from accounts.services import starter
from accounts.services.request_rules import RequestError


@login_required
@require_http_methods(["GET", "POST"])
def verify(request: HttpRequest) -> HttpResponse:
    """For administrators and institution managers: the form, and whom they have verified last."""
    user = cast(User, request.user)
    if not access.may_verify(user):
        raise Http404
    form = VerifyForm(request.POST if request.method == "POST" else None, user=user)
    if request.method == "POST" and form.is_valid() and _verify(request, form):
        return redirect("researcher-verify")
    latest = (
        Verification.objects.filter(institution__in=access.managed_institutions(user).values("pk"))
        .select_related("user__starter_grant__allocation__project", "institution", "verified_by")
        .order_by("-at", "-pk")[:50]
    )
    return render(request, "accounts/verify.html", {"form": form, "latest": latest})


def _verify(request: HttpRequest, form: VerifyForm) -> bool:
    text = form.cleaned_data["person"].strip()
    person = User.objects.filter(Q(username__iexact=text) | Q(email__iexact=text)).first()
    if person is None:
        form.add_error("person", _("There is no account “%(value)s”.") % {"value": text})
        return False
    try:
        grant = starter.verify(act_of(request), person, form.cleaned_data["institution"])
    except RequestError as error:
        form.add_error(None, str(error))
        return False
    if grant is None:
        messages.success(
            request, _("%(name)s is verified. There was no starter allocation to give.") % {"name": person}
        )
    else:
        words = _("%(name)s is verified and has the project %(code)s to start with.")
        messages.success(request, words % {"name": person, "code": grant.allocation.project.code})
    return True
