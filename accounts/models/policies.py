"""Limits that keep one person or project from starving the others."""

import operator
from functools import reduce
from typing import TYPE_CHECKING

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q, Value
from django.db.models.functions import Coalesce
from django.utils.translation import gettext_lazy as _

from accounts.models.identity import Institution, Project, User
from accounts.models.resources import Partition, ResourceClass

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

LIMIT_FIELDS = (
    "max_queued_jobs",
    "max_running_jobs",
    "max_accelerators_in_use",
    "max_accelerators_per_job",
    "max_time_limit_minutes",
    "max_jobs_per_day",
    "approval_above_s",
)
SCOPE_FIELDS = ("user", "project", "job_kind", "partition", "institution")


class JobKind(models.TextChoices):
    """What a job is to policy: with a described workload, or a script or command that the portal knows nothing of."""

    TRAINING = "training", _("described training")
    SCRIPT = "script", _("script or command alone")


def _limit(label: "_StrPromise") -> "models.PositiveIntegerField[int | None, int | None]":
    return models.PositiveIntegerField(label, null=True, blank=True, validators=[MinValueValidator(0)])


NO_SCOPE = Q(**{f"{scope}__isnull": True for scope in SCOPE_FIELDS})


def _only_one_scope() -> Q:
    """At most one of the scope's fields is set."""
    shapes = [Q(**{f"{other}__isnull": True for other in SCOPE_FIELDS if other != scope}) for scope in SCOPE_FIELDS]
    return reduce(operator.or_, shapes)


class Policy(models.Model):
    """Limits at one scope. An empty field sets no limit here.

    Centre, institution, partition, job kind and user scopes limit each *person*, and the most specific that sets a
    field wins (user, job kind, partition, institution, centre). Project scope limits the whole *project*, and holds
    besides. An institution's scope is the work of each person in that institution's projects.
    """

    user = models.OneToOneField(User, null=True, blank=True, on_delete=models.CASCADE, verbose_name=_("user"))
    project = models.OneToOneField(Project, null=True, blank=True, on_delete=models.CASCADE, verbose_name=_("project"))
    partition = models.OneToOneField(
        Partition, null=True, blank=True, on_delete=models.CASCADE, verbose_name=_("partition")
    )
    institution = models.OneToOneField(
        Institution, null=True, blank=True, on_delete=models.CASCADE, verbose_name=_("institution")
    )
    job_kind = models.CharField(
        _("job kind"), max_length=8, choices=JobKind.choices, null=True, blank=True, unique=True
    )
    max_queued_jobs = _limit(_("queued jobs"))
    max_running_jobs = _limit(_("running jobs"))
    max_accelerators_in_use = _limit(_("accelerators in use"))
    max_accelerators_per_job = _limit(_("accelerators per job"))
    max_time_limit_minutes = _limit(_("time limit (minutes)"))
    max_jobs_per_day = _limit(_("jobs submitted in 24 hours"))
    allowed_classes = models.ManyToManyField(
        ResourceClass,
        blank=True,
        verbose_name=_("allowed resource classes"),
        help_text=_("None chosen: no limit here."),
    )
    approval_above_s = models.PositiveBigIntegerField(
        _("approval needed above (accelerator-seconds)"), null=True, blank=True
    )
    lead_may_approve = models.BooleanField(
        _("the project's lead may approve"),
        default=False,
        help_text=_("Besides reviewers and administrators; nobody's own job."),
    )

    class Meta:
        verbose_name = _("policy")
        verbose_name_plural = _("policies")
        constraints = [
            models.CheckConstraint(
                condition=_only_one_scope(),
                name="accounts_policy_one_scope",
            ),
            # At most one policy for the whole centre: all such rows have the same value of the expression.
            models.UniqueConstraint(
                Coalesce("user", "project", "partition", Value(0)),
                condition=NO_SCOPE,
                name="accounts_policy_one_centre",
            ),
        ]

    def __str__(self) -> str:
        kind = self.get_job_kind_display() if self.job_kind else None
        return str(self.user or self.project or kind or self.partition or self.institution or _("whole centre"))

    @property
    def scope(self) -> str:
        """user, project, job_kind, partition, institution or centre."""
        for scope in SCOPE_FIELDS:
            if getattr(self, scope if scope == "job_kind" else f"{scope}_id") is not None:
                return scope
        return "centre"
