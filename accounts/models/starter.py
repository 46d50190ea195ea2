"""Whom the centre knows to be a researcher, and the small allocation with which they can start that day."""

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from accounts.models.allocations import Allocation
from accounts.models.identity import Institution
from accounts.models.requests import MAX_REQUEST_S
from accounts.models.resources import ResourceClass


class InstitutionDomain(models.Model):
    """A mail domain whose people are researchers of an institution. Subdomains are domains of their own."""

    domain = models.CharField(
        _("domain"),
        max_length=253,
        unique=True,
        validators=[
            RegexValidator(
                r"\A[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+\Z",
                _("Write the domain in small letters, as in cs.example.edu.cn."),
            )
        ],
        help_text=_("Whoever has a confirmed address there is taken for a researcher of the institution."),
    )
    institution = models.ForeignKey(
        Institution, on_delete=models.CASCADE, related_name="domains", verbose_name=_("institution")
    )

    class Meta:
        verbose_name = _("mail domain")
        verbose_name_plural = _("mail domains")

    def __str__(self) -> str:
        return self.domain


class Verification(models.Model):
    """The centre knows this person to be a researcher of an institution: since when, and by whom.

    `verified_by` is empty if it was the confirmed mail address.
    """

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="verification", verbose_name=_("user")
    )
    institution = models.ForeignKey(
        Institution, on_delete=models.PROTECT, related_name="verifications", verbose_name=_("institution")
    )
    at = models.DateTimeField(_("at"))
    verified_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("verified by"),
        help_text=_("Empty: by a confirmed mail address."),
    )

    class Meta:
        verbose_name = _("verification")
        verbose_name_plural = _("verifications")
        constraints = [
            models.CheckConstraint(
                condition=Q(verified_by__isnull=True) | ~Q(verified_by=models.F("user")),
                name="accounts_verification_not_by_oneself",
            )
        ]

    def __str__(self) -> str:
        return f"{self.user_id} · {self.institution_id}"


class StarterPolicy(models.Model):
    """What a newly verified researcher gets. One policy is in force at most."""

    is_enabled = models.BooleanField(_("in force"), default=False)
    resource_class = models.ForeignKey(
        ResourceClass, on_delete=models.PROTECT, related_name="+", verbose_name=_("resource class")
    )
    amount_s = models.BigIntegerField(_("amount (accelerator-seconds)"))
    validity_days = models.PositiveIntegerField(
        _("valid for (days)"), default=90, validators=[MinValueValidator(1), MaxValueValidator(3660)]
    )
    institution = models.ForeignKey(
        Institution,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("institution"),
        help_text=_("To which starter projects belong. Empty: to the person's own."),
    )

    class Meta:
        verbose_name = _("starter policy")
        verbose_name_plural = _("starter policies")
        constraints = [
            models.UniqueConstraint(
                fields=["is_enabled"], condition=Q(is_enabled=True), name="accounts_starterpolicy_one_in_force"
            ),
            models.CheckConstraint(
                condition=Q(amount_s__gt=0, amount_s__lte=MAX_REQUEST_S), name="accounts_starterpolicy_amount"
            ),
            models.CheckConstraint(
                condition=Q(validity_days__gt=0, validity_days__lte=3660), name="accounts_starterpolicy_validity"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.resource_class} · {self.amount_s // 3600} h"


class StarterGrant(models.Model):
    """The starter allocation that a person got: once, ever."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="starter_grant", verbose_name=_("user")
    )
    allocation = models.OneToOneField(
        Allocation, on_delete=models.PROTECT, related_name="starter_grant", verbose_name=_("allocation")
    )
    at = models.DateTimeField(_("at"))

    class Meta:
        verbose_name = _("starter grant")
        verbose_name_plural = _("starter grants")

    def __str__(self) -> str:
        return f"{self.user_id}"
