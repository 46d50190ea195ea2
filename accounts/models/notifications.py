"""What people are told, in the portal and by mail."""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _


class Notification(models.Model):
    """One message to one person. The row is the queue of the mails: those without `mailed_at` are due.

    The words are made from `kind` and `figures` when it is read, in the reader's language
    (`accounts.services.notification_wording`). `once` makes a notice that a repeated task gives harmless.
    """

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="notifications", verbose_name=_("user")
    )
    at = models.DateTimeField(_("at"))
    kind = models.CharField(_("kind"), max_length=48)
    figures = models.JSONField(_("figures"), default=dict)
    path = models.CharField(_("page"), max_length=200, blank=True)
    once = models.CharField(max_length=120, blank=True, editable=False)
    read_at = models.DateTimeField(_("read at"), null=True)
    mailed_at = models.DateTimeField(_("mailed at"), null=True)
    mail_attempts = models.PositiveSmallIntegerField(default=0)
    mail_due_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = _("notification")
        verbose_name_plural = _("notifications")
        indexes = [
            models.Index(fields=["user", "-at"], name="accounts_notice_latest"),
            models.Index(fields=["user"], condition=Q(read_at__isnull=True), name="accounts_notice_unread"),
            models.Index(fields=["mail_due_at"], condition=Q(mailed_at__isnull=True), name="accounts_notice_due"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["user", "once"], condition=~Q(once=""), name="accounts_notice_once")
        ]

    def __str__(self) -> str:
        return f"{self.kind} → {self.user_id}"
