"""What people ask of the centre (a project, hours, another PI, an end), and each step until it is decided."""

import uuid
from typing import Final

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from accounts.models.allocations import Allocation
from accounts.models.identity import Institution, Project, validate_code
from accounts.models.resources import ResourceClass
from accounts.querysets import RequestQuerySet

MAX_REQUEST_S: Final = 10**9 * 3600
"""No line of a request may ask for more: a billion accelerator-hours."""


class RequestKind(models.TextChoices):
    """What is asked for."""

    NEW_PROJECT = "NEW_PROJECT", _("new project")
    RENEWAL = "RENEWAL", _("renewal")
    SUPPLEMENT = "SUPPLEMENT", _("supplement")
    CHANGE_OF_PI = "CHANGE_OF_PI", _("change of PI")
    END_OF_PROJECT = "END_OF_PROJECT", _("end of project")


HOURS_KINDS: Final = (RequestKind.NEW_PROJECT, RequestKind.RENEWAL, RequestKind.SUPPLEMENT)
"""Kinds that ask for accelerator-hours for a period."""


class RequestState(models.TextChoices):
    """Where a request stands. It is the reviewers' turn in SUBMITTED, the requester's in ASKED_BACK."""

    SUBMITTED = "SUBMITTED", _("waits for a decision")
    ASKED_BACK = "ASKED_BACK", _("asked back")
    APPROVED = "APPROVED", _("approved")
    REJECTED = "REJECTED", _("rejected")
    WITHDRAWN = "WITHDRAWN", _("withdrawn")


OPEN_STATES: Final = (RequestState.SUBMITTED, RequestState.ASKED_BACK)
DECIDED_STATES: Final = (RequestState.APPROVED, RequestState.REJECTED)


class AllocationRequest(models.Model):
    """One request. `project` is the one it is about; for a new one it is set when it is made, on approval.

    `estimate` is a snapshot of what the planner said ("why 12,000 hours: this run"): a copy, since accounts doesn't
    know jobs and the reason must not change when the job does. `granted_start_at` and `granted_end_at` are the
    reviewer's period.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    kind = models.CharField(_("kind"), max_length=16, choices=RequestKind.choices)
    state = models.CharField(
        _("state"), max_length=10, choices=RequestState.choices, default=RequestState.SUBMITTED, editable=False
    )
    requester = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="requests", verbose_name=_("requester")
    )
    project = models.ForeignKey(
        Project, null=True, on_delete=models.PROTECT, related_name="requests", verbose_name=_("project")
    )
    institution = models.ForeignKey(
        Institution,
        on_delete=models.PROTECT,
        related_name="requests",
        verbose_name=_("institution"),
        help_text=_("Of the project."),
    )
    project_code = models.CharField(_("project code"), max_length=32, validators=[validate_code])
    project_title = models.CharField(_("project title"), max_length=200)
    field_of_science = models.CharField(_("field of science"), max_length=100, blank=True)
    new_pi = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("new principal investigator"),
    )
    start_at = models.DateTimeField(_("start"), null=True)
    end_at = models.DateTimeField(_("end"), null=True)
    justification = models.TextField(_("justification"), max_length=8000)
    estimate = models.JSONField(_("estimate"), null=True)
    submitted_at = models.DateTimeField(_("submitted at"))
    decided_at = models.DateTimeField(_("decided at"), null=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+", verbose_name=_("decided by")
    )
    decision_reason = models.CharField(_("reason of the decision"), max_length=500, blank=True)
    granted_start_at = models.DateTimeField(_("granted from"), null=True)
    granted_end_at = models.DateTimeField(_("granted until"), null=True)

    objects = RequestQuerySet.as_manager()

    class Meta:
        verbose_name = _("request")
        verbose_name_plural = _("requests")
        indexes = [
            models.Index(fields=["-submitted_at", "-id"], name="accounts_request_latest"),
            models.Index(fields=["requester", "-submitted_at"], name="accounts_request_own"),
            models.Index(
                fields=["submitted_at"],
                condition=Q(state__in=("SUBMITTED", "ASKED_BACK")),
                name="accounts_request_open",
            ),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=RequestKind.values), name="accounts_request_kind_known"),
            models.CheckConstraint(condition=Q(state__in=RequestState.values), name="accounts_request_state_known"),
            # What is decided says by whom and when, and nobody decides on their own.
            models.CheckConstraint(
                condition=Q(state__in=("APPROVED", "REJECTED"), decided_at__isnull=False, decided_by__isnull=False)
                | Q(
                    state__in=("SUBMITTED", "ASKED_BACK", "WITHDRAWN"), decided_at__isnull=True, decided_by__isnull=True
                ),
                name="accounts_request_decision_named",
            ),
            models.CheckConstraint(
                condition=Q(decided_by__isnull=True) | ~Q(decided_by=F("requester")),
                name="accounts_request_not_by_oneself",
            ),
            models.CheckConstraint(
                condition=~Q(kind="NEW_PROJECT") & Q(project__isnull=False)
                | Q(kind="NEW_PROJECT", state="APPROVED", project__isnull=False)
                | Q(kind="NEW_PROJECT", project__isnull=True) & ~Q(state="APPROVED"),
                name="accounts_request_project_fits",
            ),
            models.CheckConstraint(
                condition=Q(kind="CHANGE_OF_PI", new_pi__isnull=False)
                | ~Q(kind="CHANGE_OF_PI") & Q(new_pi__isnull=True),
                name="accounts_request_pi_fits",
            ),
            models.CheckConstraint(
                condition=Q(kind__in=("NEW_PROJECT", "RENEWAL", "SUPPLEMENT"), end_at__gt=F("start_at"))
                & Q(start_at__isnull=False, end_at__isnull=False)
                | Q(kind__in=("CHANGE_OF_PI", "END_OF_PROJECT"), start_at__isnull=True, end_at__isnull=True),
                name="accounts_request_period_fits",
            ),
            models.CheckConstraint(
                condition=Q(granted_start_at__isnull=True, granted_end_at__isnull=True)
                | Q(state="APPROVED", granted_end_at__gt=F("granted_start_at"), granted_start_at__isnull=False),
                name="accounts_request_granted_period",
            ),
            # A form sent twice makes one request.
            models.UniqueConstraint(
                fields=["project", "kind"],
                condition=Q(state__in=("SUBMITTED", "ASKED_BACK")),
                name="accounts_request_one_open_per_kind",
            ),
            models.UniqueConstraint(
                fields=["project_code"],
                condition=Q(kind="NEW_PROJECT", state__in=("SUBMITTED", "ASKED_BACK")),
                name="accounts_request_code_once",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.project_code} · {self.get_kind_display()}"

    def get_absolute_url(self) -> str:
        return reverse("request-detail", args=[self.uuid])

    @property
    def is_open(self) -> bool:
        """Is it still to be decided?"""
        return self.state in OPEN_STATES

    @property
    def asks_for_hours(self) -> bool:
        return self.kind in HOURS_KINDS


class RequestLine(models.Model):
    """Hours of one resource class that a request asks for, and what came of it."""

    request = models.ForeignKey(AllocationRequest, on_delete=models.PROTECT, related_name="lines")
    resource_class = models.ForeignKey(
        ResourceClass, on_delete=models.PROTECT, related_name="+", verbose_name=_("resource class")
    )
    amount_s = models.BigIntegerField(_("asked for (accelerator-seconds)"))
    granted_s = models.BigIntegerField(_("granted (accelerator-seconds)"), null=True)
    allocation = models.OneToOneField(
        Allocation, null=True, on_delete=models.PROTECT, related_name="request_line", verbose_name=_("allocation")
    )

    class Meta:
        verbose_name = _("line of a request")
        verbose_name_plural = _("lines of requests")
        constraints = [
            models.UniqueConstraint(fields=["request", "resource_class"], name="accounts_requestline_once"),
            models.CheckConstraint(
                condition=Q(amount_s__gt=0, amount_s__lte=MAX_REQUEST_S), name="accounts_requestline_amount"
            ),
            models.CheckConstraint(
                condition=Q(granted_s__isnull=True)
                | Q(granted_s=0, allocation__isnull=True)
                | Q(granted_s__gt=0, granted_s__lte=MAX_REQUEST_S, allocation__isnull=False),
                name="accounts_requestline_granted",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.resource_class_id}: {self.amount_s}"


class RequestStep(models.TextChoices):
    """What happened to a request."""

    SUBMIT = "SUBMIT", _("submitted")
    ASK_BACK = "ASK_BACK", _("asked back")
    ANSWER = "ANSWER", _("answered")
    APPROVE = "APPROVE", _("approved")
    REJECT = "REJECT", _("rejected")
    WITHDRAW = "WITHDRAW", _("withdrawn")


class RequestEvent(models.Model):
    """One step of a request, with who, when and words: never edited, never deleted (a trigger refuses both)."""

    request = models.ForeignKey(AllocationRequest, on_delete=models.PROTECT, related_name="events")
    step = models.CharField(_("step"), max_length=8, choices=RequestStep.choices)
    at = models.DateTimeField(_("at"))
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+", verbose_name=_("by")
    )
    words = models.TextField(_("words"), max_length=4000, blank=True)

    class Meta:
        verbose_name = _("step of a request")
        verbose_name_plural = _("steps of requests")
        indexes = [models.Index(fields=["request", "id"], name="accounts_requestevent_order")]
        constraints = [
            models.CheckConstraint(condition=Q(step__in=RequestStep.values), name="accounts_requestevent_step_known"),
            models.UniqueConstraint(
                fields=["request"],
                condition=Q(step__in=("APPROVE", "REJECT", "WITHDRAW")),
                name="accounts_requestevent_ended_once",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.step} {self.at}"
