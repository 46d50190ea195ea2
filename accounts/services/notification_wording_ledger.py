"""The words of messages about hours that end."""

from django.utils.translation import gettext_noop as _

WORDS: dict[str, tuple[str, str]] = {
    "allocation_expiry": (
        _("%(hours)s accelerator-hours of %(project)s expire on %(date)s"),
        _(
            "Project %(project)s has %(hours)s accelerator-hours of %(resource)s left. They expire on %(date)s. "
            "Jobs that hold hours by then keep them."
        ),
    ),
}
