"""People, their institutions and projects."""

import zoneinfo
from functools import cached_property
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils.translation import get_language
from django.utils.translation import gettext_lazy as _

from accounts.querysets import ProjectQuerySet


def choose_by_language(english: str, chinese: str) -> str:
    """The Chinese name for readers of Chinese, if there is one."""
    return chinese if chinese and (get_language() or "").startswith("zh") else english


validate_code = RegexValidator(
    r"\A[a-z][a-z0-9_-]{0,31}\Z",
    _("Use 1 to 32 of a-z, 0-9, “_” and “-”, starting with a letter."),
)


def validate_time_zone(value: str) -> None:
    """Refuse a name that the time zone database doesn't have."""
    if value not in zoneinfo.available_timezones():
        raise ValidationError(
            _("“%(value)s” is no time zone; use a name such as Asia/Shanghai."), params={"value": value}
        )


class User(AbstractUser):
    """A person. Rights come from memberships and `is_staff`, never from here.

    There is deliberately no balance and no limit on a person: allocations belong to projects.
    """

    unix_username = models.CharField(
        _("Unix user name"),
        max_length=32,
        blank=True,
        validators=[RegexValidator(r"\A[a-z_][a-z0-9_-]{0,31}\Z")],
        help_text=_("The user on the clusters as whom this person's jobs run."),
    )
    time_zone = models.CharField(
        _("time zone"),
        max_length=64,
        blank=True,
        validators=[validate_time_zone],
        help_text=_("Empty: the centre's."),
    )
    language = models.CharField(
        _("language of mails"),
        max_length=10,
        blank=True,
        choices=settings.LANGUAGES,
        help_text=_("Empty: the centre's."),
    )

    class Meta:
        verbose_name = _("user")
        verbose_name_plural = _("users")
        constraints = [
            # One spelling per name: "Alice" can't be registered beside "alice".
            models.UniqueConstraint(Lower("username"), name="accounts_user_username_canonical"),
            models.UniqueConstraint(Lower("email"), condition=~Q(email=""), name="accounts_user_email_canonical"),
        ]

    def __str__(self) -> str:
        return self.get_full_name() or self.username

    @cached_property
    def offices(self) -> frozenset[tuple[str, int | None]]:
        """What the person is appointed to: (office, id of the institution or None). Read once for each request."""
        return frozenset(self.appointments.values_list("office", "institution_id"))

    @property
    def managed_institution_ids(self) -> list[int]:
        """Ids of the institutions that the person is appointed to manage."""
        return sorted(pk for _office, pk in self.offices if pk is not None)

    def holds(self, *offices: str) -> bool:
        """Is the person appointed to one of these offices?"""
        return any(office in offices for office, _institution_id in self.offices)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """A new password ends what the old one opened: sessions end by themselves, API tokens here."""
        # `_password` is set from set_password() to save(); django-stubs knows neither it nor knox's relation.
        is_password_new = getattr(self, "_password", None) is not None and self.pk is not None
        super().save(*args, **kwargs)
        if is_password_new:
            self.auth_token_set.all().delete()  # type: ignore[attr-defined]


class Institution(models.Model):
    """A university, institute or company whose projects use the centre."""

    code = models.CharField(_("code"), max_length=32, unique=True, validators=[validate_code])
    name = models.CharField(_("name"), max_length=200)
    name_zh = models.CharField(_("Chinese name"), max_length=200, blank=True)

    class Meta:
        verbose_name = _("institution")
        verbose_name_plural = _("institutions")

    def __str__(self) -> str:
        return choose_by_language(self.name, self.name_zh)


class ProjectState(models.TextChoices):
    """Only an active project may spend."""

    ACTIVE = "ACTIVE", _("active")
    CLOSED = "CLOSED", _("closed")


class Project(models.Model):
    """A research project: the unit that holds allocations and whose members run jobs."""

    code = models.CharField(_("code"), max_length=32, unique=True, validators=[validate_code])
    title = models.CharField(_("title"), max_length=200)
    institution = models.ForeignKey(
        Institution, on_delete=models.PROTECT, related_name="projects", verbose_name=_("institution")
    )
    field_of_science = models.CharField(_("field of science"), max_length=100, blank=True)
    state = models.CharField(_("state"), max_length=8, choices=ProjectState.choices, default=ProjectState.ACTIVE)
    slurm_account = models.CharField(
        _("Slurm account"),
        max_length=32,
        blank=True,
        validators=[validate_code],
        help_text=_("The charge label on the clusters. Empty: the project's code."),
    )
    members = models.ManyToManyField(User, through="Membership", related_name="projects")
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)

    objects = ProjectQuerySet.as_manager()

    class Meta:
        verbose_name = _("project")
        verbose_name_plural = _("projects")
        constraints = [
            models.CheckConstraint(condition=Q(state__in=ProjectState.values), name="accounts_project_state_known")
        ]

    def __str__(self) -> str:
        return f"{self.code} · {self.title}"


class Role(models.TextChoices):
    """What a member is in a project."""

    PI = "PI", _("principal investigator")
    MANAGER = "MANAGER", _("manager")
    MEMBER = "MEMBER", _("member")


class Membership(models.Model):
    """A person in a project. A project has one PI at most."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships", verbose_name=_("user"))
    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="memberships", verbose_name=_("project")
    )
    role = models.CharField(_("role"), max_length=8, choices=Role.choices, default=Role.MEMBER)
    joined_at = models.DateTimeField(_("joined at"), auto_now_add=True)

    class Meta:
        verbose_name = _("membership")
        verbose_name_plural = _("memberships")
        constraints = [
            models.UniqueConstraint(fields=["user", "project"], name="accounts_membership_once"),
            models.UniqueConstraint(fields=["project"], condition=Q(role="PI"), name="accounts_membership_one_pi"),
            models.CheckConstraint(condition=Q(role__in=Role.values), name="accounts_membership_role_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user} · {self.project.code} · {self.get_role_display()}"
