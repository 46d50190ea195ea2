"""What was granted, and the ledger that explains every second of it."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from accounts.models.identity import Project
from accounts.models.resources import ResourceClass
from accounts.querysets import AllocationQuerySet


class Allocation(models.Model):
    """A grant of accelerator-seconds of one resource class to a project, for a period.

    `granted_s`, `reserved_s` and `used_s` are a cache of the ledger: they are the sums of its entries, kept in
    the same transaction under a row lock by `accounts.services.ledger`, the only writer. The CHECK constraints
    make an overdraft impossible even if that code were wrong.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(
        Project, on_delete=models.PROTECT, related_name="allocations", verbose_name=_("project")
    )
    resource_class = models.ForeignKey(
        ResourceClass, on_delete=models.PROTECT, related_name="allocations", verbose_name=_("resource class")
    )
    start_at = models.DateTimeField(_("start"))
    end_at = models.DateTimeField(_("end"))
    granted_s = models.BigIntegerField(_("granted (accelerator-seconds)"), default=0, editable=False)
    reserved_s = models.BigIntegerField(_("reserved (accelerator-seconds)"), default=0, editable=False)
    used_s = models.BigIntegerField(_("used (accelerator-seconds)"), default=0, editable=False)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)

    objects = AllocationQuerySet.as_manager()

    class Meta:
        verbose_name = _("allocation")
        verbose_name_plural = _("allocations")
        indexes = [models.Index(fields=["project", "resource_class", "end_at"], name="accounts_allocation_spend")]
        constraints = [
            models.CheckConstraint(condition=Q(end_at__gt=F("start_at")), name="accounts_allocation_period"),
            models.CheckConstraint(
                condition=Q(granted_s__gte=0, reserved_s__gte=0, used_s__gte=0),
                name="accounts_allocation_not_negative",
            ),
            models.CheckConstraint(
                condition=Q(granted_s__gte=F("used_s") + F("reserved_s")), name="accounts_allocation_not_overdrawn"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.project.code} · {self.resource_class.code} · {self.end_at:%Y-%m-%d}"

    @property
    def available_s(self) -> int:
        """What can still be reserved, were the allocation active now."""
        return self.granted_s - self.reserved_s - self.used_s


class LedgerKind(models.TextChoices):
    """What a ledger entry does. Sign conventions are in `accounts.services.ledger`."""

    GRANT = "GRANT", _("grant")
    RESERVE = "RESERVE", _("hold")
    SETTLE = "SETTLE", _("settlement")
    RELEASE = "RELEASE", _("release")
    REFUND = "REFUND", _("refund")
    ADJUST = "ADJUST", _("adjustment")
    EXPIRE = "EXPIRE", _("expiry")
    TRANSFER = "TRANSFER", _("transfer")
    REVERSE = "REVERSE", _("reversal")


class LedgerEntry(models.Model):
    """One line of the ledger: never edited, never deleted (a database trigger refuses both).

    `reference` is the job's uuid, or whatever makes the act unique: the same kind for the same reference can
    touch an allocation once, so that a repeated call has no second effect. There is deliberately no foreign key
    to a job: accounts doesn't know jobs, and history outlives them.
    """

    allocation = models.ForeignKey(
        Allocation, on_delete=models.PROTECT, related_name="entries", verbose_name=_("allocation")
    )
    kind = models.CharField(_("kind"), max_length=8, choices=LedgerKind.choices)
    reference = models.CharField(_("reference"), max_length=64)
    granted_delta_s = models.BigIntegerField(_("change of granted"), default=0)
    reserved_delta_s = models.BigIntegerField(_("change of reserved"), default=0)
    used_delta_s = models.BigIntegerField(_("change of used"), default=0)
    at = models.DateTimeField(_("at"))
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        verbose_name=_("by"),
        related_name="+",
    )
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    person = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        db_index=False,
        verbose_name=_("person"),
        related_name="+",
        help_text=_("Whose job it is, where the entry is of a job."),
    )
    undoes = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        db_index=False,
        verbose_name=_("reversal of"),
        related_name="undone_by",
    )

    class Meta:
        verbose_name = _("ledger entry")
        verbose_name_plural = _("ledger entries")
        indexes = [
            models.Index(fields=["reference"], name="accounts_ledger_reference"),
            models.Index(fields=["allocation", "-id"], name="accounts_ledger_statement"),
            # What a member took of an allocation is summed up when a cap is looked at: from the index alone.
            models.Index(
                fields=["person", "allocation"],
                include=["reserved_delta_s", "used_delta_s"],
                condition=Q(person__isnull=False),
                name="accounts_ledger_person",
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["allocation", "kind", "reference"], name="accounts_ledger_once"),
            models.UniqueConstraint(
                fields=["undoes"], condition=Q(undoes__isnull=False), name="accounts_ledger_undone_once"
            ),
            models.CheckConstraint(condition=Q(kind__in=LedgerKind.values), name="accounts_ledger_kind_known"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.reference}"
