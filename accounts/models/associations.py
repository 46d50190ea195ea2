"""What the portal changed in the accounting of Slurm clusters, and how far those were from it when last looked."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from accounts.models.resources import Cluster


class ChangeOutcome(models.TextChoices):
    """How a change stands. A call that was cut off leaves `STARTED` as its last line."""

    STARTED = "STARTED", _("begun")
    DONE = "DONE", _("done")
    WAITING = "WAITING", _("waits for jobs to end")
    REFUSED = "REFUSED", _("refused")
    UNKNOWN = "UNKNOWN", _("no answer")


class ChangeOrigin(models.TextChoices):
    """From where a change was asked for."""

    PAGE = "PAGE", _("page")
    COMMAND = "COMMAND", _("command line")
    TASK = "TASK", _("hourly task")


class AssociationChange(models.Model):
    """One line of the log of changes to a cluster's accounting: never edited, never deleted (a trigger refuses both).

    Each call has a line before it and a line after it, with the same `call`. The log also tells which users'
    associations are the portal's own: Slurm has no place to write that down.
    """

    cluster = models.ForeignKey(
        Cluster, on_delete=models.PROTECT, related_name="association_changes", verbose_name=_("cluster")
    )
    call = models.UUIDField(_("call"), default=uuid.uuid4)
    at = models.DateTimeField(_("at"))
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        verbose_name=_("by"),
        related_name="+",
    )
    origin = models.CharField(_("from"), max_length=8, choices=ChangeOrigin.choices)
    kind = models.CharField(_("change"), max_length=24)
    target = models.CharField(_("account, user or QOS"), max_length=130)
    settings = models.JSONField(_("before and after"), default=list)
    outcome = models.CharField(_("result"), max_length=8, choices=ChangeOutcome.choices)
    words = models.CharField(_("Slurm's words"), max_length=500, blank=True)

    class Meta:
        verbose_name = _("association change")
        verbose_name_plural = _("association changes")
        indexes = [models.Index(fields=["cluster", "target", "-id"], name="accounts_assocchange_target")]
        constraints = [
            models.UniqueConstraint(
                fields=["call"], condition=Q(outcome="STARTED"), name="accounts_assocchange_begun_once"
            ),
            models.UniqueConstraint(
                fields=["call"], condition=~Q(outcome="STARTED"), name="accounts_assocchange_ended_once"
            ),
            models.CheckConstraint(
                condition=Q(outcome__in=ChangeOutcome.values), name="accounts_assocchange_outcome_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.target} {self.outcome}"


class AssociationReview(models.Model):
    """How far a cluster's accounting was from the portal when last looked; one row per cluster."""

    cluster = models.OneToOneField(
        Cluster, on_delete=models.CASCADE, related_name="association_review", verbose_name=_("cluster")
    )
    looked_at = models.DateTimeField(_("looked at"), null=True)
    plan = models.JSONField(_("differences"), default=dict)
    failed_at = models.DateTimeField(_("not answered at"), null=True)
    error = models.CharField(_("error"), max_length=500, blank=True)

    class Meta:
        verbose_name = _("association review")
        verbose_name_plural = _("association reviews")

    def __str__(self) -> str:
        return f"{self.cluster_id}: {self.looked_at}"
