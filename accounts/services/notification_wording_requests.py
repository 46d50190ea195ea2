"""Words of messages about requests and starter allocations."""

from typing import Final

from django.utils.translation import gettext_noop

WORDS: Final[dict[str, tuple[str, str]]] = {
    "request.submit": (
        gettext_noop("New request: %(request_kind_label)s, %(project)s"),
        gettext_noop("%(actor)s asks for “%(title)s” (%(request_kind_label)s). It waits for a decision."),
    ),
    "request.ask_back": (
        gettext_noop("A question about the request for %(project)s"),
        gettext_noop("%(actor)s asks about “%(title)s” (%(request_kind_label)s): %(words)s"),
    ),
    "request.answer": (
        gettext_noop("An answer about the request for %(project)s"),
        gettext_noop("%(actor)s answers about “%(title)s” (%(request_kind_label)s): %(words)s"),
    ),
    "request.granted": (
        gettext_noop("Granted: %(granted_hours)s accelerator-hours for %(project)s"),
        gettext_noop(
            "%(actor)s has approved the request for “%(title)s” (%(request_kind_label)s) "
            "with %(granted_hours)s accelerator-hours: %(words)s"
        ),
    ),
    "request.approve": (
        gettext_noop("Approved: %(request_kind_label)s, %(project)s"),
        gettext_noop("%(actor)s has approved the request for “%(title)s” (%(request_kind_label)s): %(words)s"),
    ),
    "request.reject": (
        gettext_noop("Rejected: %(request_kind_label)s, %(project)s"),
        gettext_noop("%(actor)s has rejected the request for “%(title)s” (%(request_kind_label)s): %(words)s"),
    ),
    "request.withdraw": (
        gettext_noop("Withdrawn: %(request_kind_label)s, %(project)s"),
        gettext_noop("%(actor)s has withdrawn the request for “%(title)s” (%(request_kind_label)s)."),
    ),
    "starter.granted": (
        gettext_noop("You can start: %(granted_hours)s accelerator-hours"),
        gettext_noop(
            "You are verified as a researcher. Your project %(project)s has %(granted_hours)s accelerator-hours of "
            "%(resource_class)s until %(end_day)s."
        ),
    ),
}
