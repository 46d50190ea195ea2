"""Who holds which office: appointed and ended by the centre's administrators."""

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from accounts import access
from accounts.models import Appointment, Institution, Office
from accounts.services import audit
from accounts.services.acts import Act
from accounts.services.notifications import notify
from accounts.services.people import find_person
from accounts.services.refusals import ActForbidden, ActRefused, Refusal


@transaction.atomic
def appoint(*, person: str, office: str, institution: Institution | None, act: Act) -> Appointment:
    """Give a person, by user name or e-mail address, an office.

    Raises:
        ActForbidden: for anyone but administrators.
        ActRefused: nobody has that name, they hold the office already, or institution and office don't fit.
    """
    _check_administrator(act)
    if office not in Office.values:
        allowed = ", ".join(Office.values)
        raise _refusal("office", "invalid_choice", _("There is no such office."), office, allowed)
    is_manager = office == Office.INSTITUTION_MANAGER
    if is_manager and institution is None:
        raise _refusal("institution", "required", _("A manager is one of an institution: choose which."))
    if not is_manager and institution is not None:
        raise _refusal("institution", "not_allowed", _("This office is of the whole centre: leave this empty."))
    found = find_person(person)
    if found is None:
        message = _("There is nobody with this user name or e-mail address.")
        raise _refusal("person", "unknown_person", message, person)
    try:
        with transaction.atomic():
            made = Appointment.objects.create(user=found, office=office, institution=institution)
    except IntegrityError as error:
        raise _refusal("person", "already_appointed", _("This person holds this office already."), person) from error
    audit.record(
        act,
        "appointment.make",
        target_kind="appointment",
        target=found.username,
        after=_described(made),
        institution=institution,
    )
    notify([found], "appointment.made", at=act.at, figures={"by": str(act.actor or ""), **_described(made)})
    return made


@transaction.atomic
def end_appointment(pk: int, *, act: Act) -> Appointment:
    """Take an office back. Raises ActForbidden; Appointment.DoesNotExist if it has ended already."""
    _check_administrator(act)
    held = Appointment.objects.select_for_update(of=("self",)).select_related("user", "institution").get(pk=pk)
    held.delete()
    audit.record(
        act,
        "appointment.end",
        target_kind="appointment",
        target=held.user.username,
        before=_described(held),
        institution=held.institution,
    )
    notify([held.user], "appointment.ended", at=act.at, figures={"by": str(act.actor or ""), **_described(held)})
    return held


def _check_administrator(act: Act) -> None:
    if act.actor is not None and not access.is_administrator(act.actor):
        raise ActForbidden(act.actor.username)


def _described(appointment: Appointment) -> dict[str, str]:
    code = appointment.institution.code if appointment.institution is not None else ""
    return {"office": appointment.office, **({"institution": code} if code else {})}


def _refusal(field: str, code: str, message: str, value: str = "", allowed: str = "") -> ActRefused:
    return ActRefused(Refusal(field=field, code=code, message=message, value=value, allowed=allowed))
