"""Use per day: sums of what the usage records say, so that a report needn't read a million of them."""

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.models import Partition, Project

MODEL_FAMILY_LENGTH = 32


class UsageDay(models.Model):
    """The sums of one day (UTC) × project × person × partition × model family × end; `services.usage_days` writes them.

    Segments count on the day they ended, jobs on the day they ended. All sums are whole numbers, so that they equal
    the raw sum to the last digit. Amounts are accelerator-seconds; `used_s` not weighted, the others as billed.
    `end_state` is empty while a chain has ended segments and is not at its end itself.
    """

    day = models.DateField(_("day"))
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+", verbose_name=_("project"))
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", verbose_name=_("user")
    )
    partition = models.ForeignKey(Partition, on_delete=models.CASCADE, related_name="+", verbose_name=_("partition"))
    model_family = models.CharField(_("model family"), max_length=MODEL_FAMILY_LENGTH, blank=True)
    end_state = models.CharField(_("end"), max_length=16, blank=True)

    jobs = models.BigIntegerField(default=0)
    records = models.BigIntegerField(default=0)
    used_s = models.BigIntegerField(default=0)
    charged_s = models.BigIntegerField(default=0)
    shortfall_s = models.BigIntegerField(default=0)
    reserved_s = models.BigIntegerField(default=0, help_text=_("Held for jobs that started, until their end."))
    idle_s = models.BigIntegerField(default=0, help_text=_("Held and not used: what was reserved less the charge."))
    wait_s = models.BigIntegerField(default=0)
    waited_jobs = models.BigIntegerField(default=0)
    # Logarithms of actual ÷ estimated in millionths: as they are (bias), and without their sign (error).
    time_bias_e6 = models.BigIntegerField(default=0)
    time_error_e6 = models.BigIntegerField(default=0)
    time_jobs = models.BigIntegerField(default=0)
    memory_bias_e6 = models.BigIntegerField(default=0)
    memory_error_e6 = models.BigIntegerField(default=0)
    memory_jobs = models.BigIntegerField(default=0)

    class Meta:
        verbose_name = _("use of a day")
        verbose_name_plural = _("use by day")
        indexes = [
            models.Index(fields=["project", "day"], name="jobs_usageday_of_project"),
            models.Index(fields=["user", "day"], name="jobs_usageday_of_user"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["day", "project", "user", "partition", "model_family", "end_state"], name="jobs_usageday_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.project_id} {self.user_id}"


class UsageDayToRefresh(models.Model):
    """A day whose sums may have changed. Triggers of the database write it with the change, in one transaction.

    Deliberately not unique: two jobs that are settled on one day must not wait for each other.
    """

    day = models.DateField()

    class Meta:
        verbose_name = _("day to be summed again")
        verbose_name_plural = _("days to be summed again")

    def __str__(self) -> str:
        return str(self.day)
