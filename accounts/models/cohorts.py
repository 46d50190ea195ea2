"""Who has which part of a partition, and what others may borrow of it while it is idle."""

from decimal import Decimal

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from accounts.models.identity import Institution, Project
from accounts.models.resources import Partition


class Cohort(models.Model):
    """A partition whose accelerators are divided into shares; what is idle of them is lent for preemptible jobs.

    Projects without a share of their own, and whose institution has none, have what is left of the partition together.
    """

    partition = models.OneToOneField(
        Partition, on_delete=models.CASCADE, related_name="cohort", verbose_name=_("partition")
    )
    is_enabled = models.BooleanField(
        _("in force"), default=True, help_text=_("If not, the partition's jobs start as if it had no shares.")
    )
    preemptible_weight = models.DecimalField(
        _("weight of preemptible use"),
        max_digits=4,
        decimal_places=3,
        default=Decimal("0.5"),
        validators=[MinValueValidator(Decimal("0.001")), MaxValueValidator(Decimal(1))],
        help_text=_("A preemptible job costs this part of the usual price: 0.5 is half."),
    )
    grace_s = models.PositiveIntegerField(
        _("time to write a checkpoint (s)"),
        default=120,
        validators=[MinValueValidator(1), MaxValueValidator(86_400)],
        help_text=_("From the signal to the end of a job whose accelerators their owner needs."),
    )
    may_overrun = models.BooleanField(
        _("beyond the allocation"),
        default=False,
        help_text=_(
            "Preemptible jobs of a project whose allocation is used up may run on idle accelerators, uncharged."
        ),
    )

    class Meta:
        verbose_name = _("cohort")
        verbose_name_plural = _("cohorts")
        constraints = [
            models.CheckConstraint(
                condition=Q(preemptible_weight__gt=0, preemptible_weight__lte=1), name="accounts_cohort_weight_discount"
            ),
            models.CheckConstraint(condition=Q(grace_s__gte=1), name="accounts_cohort_grace_positive"),
        ]

    def __str__(self) -> str:
        return str(self.partition)


class CohortShare(models.Model):
    """What an institution or a project has of a cohort's partition for sure, in accelerators.

    A project's own share goes before that of its institution. `borrowing_limit` is how much it may have beyond
    `nominal` while others leave it idle (empty: no limit), `lending_limit` how much of `nominal` others may have
    (empty: all).
    """

    cohort = models.ForeignKey(Cohort, on_delete=models.CASCADE, related_name="shares", verbose_name=_("cohort"))
    institution = models.ForeignKey(
        Institution,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="cohort_shares",
        verbose_name=_("institution"),
    )
    project = models.ForeignKey(
        Project,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="cohort_shares",
        verbose_name=_("project"),
    )
    nominal = models.PositiveIntegerField(_("nominal share (accelerators)"))
    borrowing_limit = models.PositiveIntegerField(
        _("borrowing limit"), null=True, blank=True, help_text=_("Beyond the nominal share; empty: no limit.")
    )
    lending_limit = models.PositiveIntegerField(
        _("lending limit"), null=True, blank=True, help_text=_("Of the nominal share; empty: all that is idle is lent.")
    )

    class Meta:
        verbose_name = _("share")
        verbose_name_plural = _("shares")
        constraints = [
            models.CheckConstraint(
                condition=Q(institution__isnull=False, project__isnull=True)
                | Q(institution__isnull=True, project__isnull=False),
                name="accounts_cohortshare_one_holder",
            ),
            models.CheckConstraint(
                condition=Q(lending_limit__isnull=True) | Q(lending_limit__lte=F("nominal")),
                name="accounts_cohortshare_lends_its_own",
            ),
            models.UniqueConstraint(
                fields=["cohort", "institution", "project"], nulls_distinct=False, name="accounts_cohortshare_once"
            ),
        ]

    def __str__(self) -> str:
        return str(self.project or self.institution)
