"""What an institution may hand out to its projects, and what a member may take of a project."""

from decimal import Decimal

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from accounts.models.identity import Institution, Membership
from accounts.models.resources import ResourceClass


class InstitutionShare(models.Model):
    """An institution's part of one resource class for a period: it caps the sum of its projects' grants.

    Every allocation whose period overlaps the share's counts. `overcommit` lets grants go beyond the share, as not
    every project uses all it was given: 1 is none, 1.5 half as much again. Without a share there is no cap.
    """

    institution = models.ForeignKey(
        Institution, on_delete=models.CASCADE, related_name="shares", verbose_name=_("institution")
    )
    resource_class = models.ForeignKey(
        ResourceClass, on_delete=models.PROTECT, related_name="shares", verbose_name=_("resource class")
    )
    amount_s = models.BigIntegerField(_("share (accelerator-seconds)"))
    overcommit = models.DecimalField(
        _("overcommit factor"),
        max_digits=5,
        decimal_places=2,
        default=Decimal(1),
        validators=[MinValueValidator(Decimal(1))],
    )
    start_at = models.DateTimeField(_("start"))
    end_at = models.DateTimeField(_("end"))

    class Meta:
        verbose_name = _("institution's share")
        verbose_name_plural = _("institutions' shares")
        constraints = [
            models.UniqueConstraint(fields=["institution", "resource_class", "start_at"], name="accounts_share_once"),
            models.CheckConstraint(condition=Q(end_at__gt=F("start_at")), name="accounts_share_period"),
            models.CheckConstraint(
                condition=Q(amount_s__gt=0, overcommit__gte=1), name="accounts_share_amount_positive"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.institution.code} · {self.resource_class.code} · {self.end_at:%Y-%m-%d}"

    @property
    def limit_s(self) -> int:
        """What grants may sum up to: the share times the overcommit factor."""
        return int(self.amount_s * self.overcommit)


class MemberCap(models.Model):
    """The most that one member may have reserved and used of the project's current allocations.

    Without a resource class it is over all of them; both kinds hold beside each other.
    """

    membership = models.ForeignKey(
        Membership, on_delete=models.CASCADE, related_name="caps", verbose_name=_("membership")
    )
    resource_class = models.ForeignKey(
        ResourceClass,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="+",
        verbose_name=_("resource class"),
        help_text=_("Empty: all."),
    )
    cap_s = models.BigIntegerField(_("cap (accelerator-seconds)"))

    class Meta:
        verbose_name = _("member's cap")
        verbose_name_plural = _("members' caps")
        constraints = [
            models.UniqueConstraint(
                fields=["membership", "resource_class"], nulls_distinct=False, name="accounts_membercap_once"
            ),
            models.CheckConstraint(condition=Q(cap_s__gte=0), name="accounts_membercap_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.membership} · {self.cap_s}"
