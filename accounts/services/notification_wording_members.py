"""What people are told about their memberships and offices."""

from typing import Final

from django.utils.translation import gettext_noop as _

WORDS: Final[dict[str, tuple[str, str]]] = {
    "member.added": (
        _("You are in project %(project)s"),
        _("%(by)s has taken you into project %(project)s (%(title)s). You can submit jobs in it now."),
    ),
    "member.changed": (
        _("Your role in project %(project)s has changed"),
        _("%(by)s has changed your role in project %(project)s (%(title)s). The project's page shows what it is now."),
    ),
    "member.removed": (
        _("You are no longer in project %(project)s"),
        _(
            "%(by)s has taken you out of project %(project)s (%(title)s). Your running jobs in it go on; those that "
            "wait are rejected."
        ),
    ),
    "appointment.made": (
        _("You have been given an office"),
        _("%(by)s has appointed you. The pages that it opens are in the menu “More”."),
    ),
    "appointment.ended": (
        _("An office of yours has ended"),
        _("%(by)s has ended an appointment of yours. Your memberships in projects are as they were."),
    ),
}
