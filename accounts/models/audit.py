"""Who did what as an administrator, reviewer, manager or PI: what was before, what after, when, and from where."""

from django.conf import settings
from django.contrib.postgres.indexes import GinIndex, OpClass
from django.db import models
from django.db.models import F, Q, Value
from django.db.models.functions import Concat
from django.utils.translation import gettext_lazy as _

from accounts.querysets import AuditQuerySet


class ActSource(models.TextChoices):
    """The way by which somebody acted."""

    PAGE = "PAGE", _("page")
    API = "API", _("API")
    ADMIN = "ADMIN", _("back-office")
    COMMAND = "COMMAND", _("command line")
    TASK = "TASK", _("scheduled task")


class AuditEvent(models.Model):
    """One act: never edited, never deleted (a database trigger refuses both).

    What was acted on is named by `target_kind` and `target` in words that stay true when the row is gone; there is
    deliberately no foreign key to it. `institution` and `project` are codes, to search by.
    """

    at = models.DateTimeField(_("at"))
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        verbose_name=_("by"),
        related_name="+",
        help_text=_("Empty: the portal itself, by policy."),
    )
    source = models.CharField(_("from"), max_length=8, choices=ActSource.choices)
    ip_address = models.GenericIPAddressField(_("address"), null=True, blank=True)
    action = models.CharField(_("act"), max_length=64, help_text=_("As in “request.approve”."))
    target_kind = models.CharField(_("kind"), max_length=32)
    target = models.CharField(_("what"), max_length=200)
    institution = models.CharField(_("institution"), max_length=32, blank=True)
    project = models.CharField(_("project"), max_length=32, blank=True)
    before = models.JSONField(_("before"), default=dict)
    after = models.JSONField(_("after"), default=dict)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    words = models.GeneratedField(
        expression=Concat(F("action"), Value(" "), F("target"), Value(" "), F("reason")),
        output_field=models.TextField(),
        db_persist=True,
    )

    objects = AuditQuerySet.as_manager()

    class Meta:
        verbose_name = _("audit event")
        verbose_name_plural = _("audit events")
        indexes = [
            models.Index(fields=["-at", "-id"], name="accounts_audit_latest"),
            models.Index(fields=["actor", "-at"], name="accounts_audit_actor"),
            models.Index(fields=["project", "-at"], name="accounts_audit_project"),
            models.Index(fields=["target_kind", "target", "-at"], name="accounts_audit_target"),
            models.Index(fields=["institution", "-at"], name="accounts_audit_institution"),
            models.Index(fields=["action", "-at"], name="accounts_audit_action"),
            GinIndex(OpClass(F("words"), name="gin_trgm_ops"), name="accounts_audit_words"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(source__in=ActSource.values), name="accounts_audit_source_known")
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.target_kind} {self.target}"
