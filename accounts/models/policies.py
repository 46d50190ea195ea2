"""Limits that keep one person or project from starving the others."""

from typing import TYPE_CHECKING

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q, Value
from django.db.models.functions import Coalesce
from django.utils.translation import gettext_lazy as _

from accounts.models.identity import Project, User
from accounts.models.resources import Partition

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

LIMIT_FIELDS = (
    "max_queued_jobs",
    "max_running_jobs",
    "max_accelerators_in_use",
    "max_accelerators_per_job",
    "max_time_limit_minutes",
)


def _limit(label: "_StrPromise") -> "models.PositiveIntegerField[int | None, int | None]":
    return models.PositiveIntegerField(label, null=True, blank=True, validators=[MinValueValidator(0)])


class Policy(models.Model):
    """Limits at one scope. An empty field sets no limit here.

    Centre, partition and user scopes limit each *person*, and the most specific that sets a field wins
    (user, then partition, then centre). Project scope limits the whole *project*, and holds besides.
    """

    user = models.OneToOneField(User, null=True, blank=True, on_delete=models.CASCADE, verbose_name=_("user"))
    project = models.OneToOneField(Project, null=True, blank=True, on_delete=models.CASCADE, verbose_name=_("project"))
    partition = models.OneToOneField(
        Partition, null=True, blank=True, on_delete=models.CASCADE, verbose_name=_("partition")
    )
    max_queued_jobs = _limit(_("queued jobs"))
    max_running_jobs = _limit(_("running jobs"))
    max_accelerators_in_use = _limit(_("accelerators in use"))
    max_accelerators_per_job = _limit(_("accelerators per job"))
    max_time_limit_minutes = _limit(_("time limit (minutes)"))

    class Meta:
        verbose_name = _("policy")
        verbose_name_plural = _("policies")
        constraints = [
            models.CheckConstraint(
                condition=(
                    Q(project__isnull=True, partition__isnull=True)
                    | Q(user__isnull=True, partition__isnull=True)
                    | Q(user__isnull=True, project__isnull=True)
                ),
                name="accounts_policy_one_scope",
            ),
            # At most one policy for the whole centre: all such rows have the same value of the expression.
            models.UniqueConstraint(
                Coalesce("user", "project", "partition", Value(0)),
                condition=Q(user__isnull=True, project__isnull=True, partition__isnull=True),
                name="accounts_policy_one_centre",
            ),
        ]

    def __str__(self) -> str:
        return str(self.user or self.project or self.partition or _("whole centre"))

    @property
    def scope(self) -> str:
        """user, project, partition or centre."""
        for scope in ("user", "project", "partition"):
            if getattr(self, f"{scope}_id") is not None:
                return scope
        return "centre"
