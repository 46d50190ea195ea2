"""Who holds which office: for administrators to change, for auditors to read."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from accounts import access
from accounts.acting import act_of
from accounts.forms.members import AppointmentForm
from accounts.models import Appointment
from accounts.services import appointments
from accounts.services.refusals import ActRefused

PAGE_SIZE = 50


@login_required
@require_safe
def appointment_page(request: HttpRequest) -> HttpResponse:
    """The offices and who holds them."""
    if not access.sees_all(request.user):
        raise Http404
    return _render(request, AppointmentForm())


@login_required
@require_POST
def appoint(request: HttpRequest) -> HttpResponse:
    """Give somebody an office."""
    _check_administrator(request)
    form = AppointmentForm(request.POST)
    if form.is_valid():
        try:
            made = appointments.appoint(**form.cleaned_data, act=act_of(request))
        except ActRefused as error:
            form.show(error.refusal)
        else:
            words = _("%(person)s is %(office)s now.")
            messages.success(request, words % {"person": made.user, "office": made.get_office_display()})
            return redirect("appointment-list")
    return _render(request, form, status=422)


@login_required
@require_POST
def end(request: HttpRequest, pk: int) -> HttpResponse:
    """Take an office back."""
    _check_administrator(request)
    try:
        ended = appointments.end_appointment(pk, act=act_of(request))
    except Appointment.DoesNotExist:
        messages.info(request, _("This appointment had ended already."))
    else:
        messages.success(request, _("The appointment of %(person)s has ended.") % {"person": ended.user})
    return redirect("appointment-list")


def _check_administrator(request: HttpRequest) -> None:
    if not access.is_administrator(request.user):
        raise Http404


def _render(request: HttpRequest, form: AppointmentForm, *, status: int = 200) -> HttpResponse:
    rows = access.visible_appointments(request.user).select_related("user", "institution")
    page = Paginator(rows.order_by("office", "user__username", "pk"), PAGE_SIZE).get_page(request.GET.get("page"))
    context = {"form": form, "page_obj": page, "may_change": access.is_administrator(request.user)}
    return render(request, "accounts/appointments.html", context, status=status)
