"""What people are at the centre and at institutions, beside what they are in projects (`Membership`)."""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from accounts.models.identity import Institution


class Office(models.TextChoices):
    """What somebody is appointed to. The centre's administrators are `User.is_staff`."""

    INSTITUTION_MANAGER = "INSTITUTION_MANAGER", _("institution manager")
    REVIEWER = "REVIEWER", _("reviewer")
    AUDITOR = "AUDITOR", _("auditor")


class Appointment(models.Model):
    """A person in an office: of one institution (its manager), or of the whole centre (reviewer, auditor)."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="appointments", verbose_name=_("user")
    )
    office = models.CharField(_("office"), max_length=20, choices=Office.choices)
    institution = models.ForeignKey(
        Institution,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="appointments",
        verbose_name=_("institution"),
        help_text=_("Of an institution manager only."),
    )
    since_at = models.DateTimeField(_("since"), auto_now_add=True)

    class Meta:
        verbose_name = _("appointment")
        verbose_name_plural = _("appointments")
        constraints = [
            models.UniqueConstraint(
                fields=["user", "office", "institution"], nulls_distinct=False, name="accounts_appointment_once"
            ),
            models.CheckConstraint(
                condition=Q(office="INSTITUTION_MANAGER", institution__isnull=False)
                | Q(office__in=("REVIEWER", "AUDITOR"), institution__isnull=True),
                name="accounts_appointment_institution_fits_office",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} · {self.get_office_display()}" + (f" · {self.institution}" if self.institution_id else "")
