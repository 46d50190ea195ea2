"""What runs: jobs, their estimates, segments, events and usage."""

import uuid
from decimal import Decimal

from django.conf import settings
from django.contrib.postgres.indexes import GinIndex, OpClass
from django.db import models
from django.db.models import Q
from django.db.models.functions import Upper
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from accounts.models import Cluster, JobKind, Partition, Project
from jobs.querysets import JobQuerySet
from jobs.states import IN_SCHEDULER, TERMINAL, HoldReason, JobState

_TERMINAL_VALUES = sorted(state.value for state in TERMINAL)
JOB_STATE_CHOICES = [(state.value, state.value) for state in JobState]


class EntryKind(models.TextChoices):
    """What the batch script runs."""

    SCRIPT = "script", _("own script")
    COMMAND = "command", _("command")


class Launcher(models.TextChoices):
    """How a command is started on the nodes."""

    NONE = "none", _("as it is")
    TORCHRUN = "torchrun", _("torchrun")


class Job(models.Model):
    """A training job: what was asked, where it stands, and what it cost.

    `state` is written by `jobs.services.lifecycle` alone. There is deliberately no scheduler id here: one job may
    become several scheduler jobs (`JobSegment`), and such ids are re-used after a crash.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="jobs", verbose_name=_("user")
    )
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="jobs", verbose_name=_("project"))
    partition = models.ForeignKey(Partition, on_delete=models.PROTECT, related_name="jobs", verbose_name=_("partition"))
    name = models.CharField(_("name"), max_length=128)
    cloned_from = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="clones")

    # What to run.
    entry_kind = models.CharField(_("entry"), max_length=8, choices=EntryKind.choices)
    script = models.TextField(_("script"), blank=True)
    command = models.JSONField(_("command"), default=list, blank=True)
    launcher = models.CharField(_("launcher"), max_length=8, choices=Launcher.choices, default=Launcher.NONE)
    environment = models.JSONField(_("environment"), default=dict, blank=True)
    workload = models.JSONField(_("workload"), null=True, blank=True)
    plan = models.JSONField(_("plan"), null=True, blank=True)
    is_estimate_overridden = models.BooleanField(
        default=False, help_text=_("Run even if the estimate says that it doesn't fit.")
    )
    rendered_script = models.TextField(blank=True, editable=False)

    # With what.
    nodes = models.PositiveIntegerField(_("nodes"))
    devices_per_node = models.PositiveIntegerField(_("accelerators per node"))
    time_limit_minutes = models.PositiveIntegerField(_("time limit (minutes)"))
    checkpoint_lead_s = models.PositiveIntegerField(
        _("signal before the end (s)"),
        default=0,
        help_text=_("SIGUSR1 is sent this long before the time limit, so that a checkpoint can be written; 0: never."),
    )
    segment_time_limit_minutes = models.PositiveIntegerField(
        _("time limit of a segment (minutes)"),
        null=True,
        editable=False,
        help_text=_("Set for a job that is longer than the scheduler lets one be: it runs as a chain of segments."),
    )
    segment_number = models.PositiveIntegerField(default=1, editable=False)
    segment_started_at = models.DateTimeField(null=True, editable=False)
    elapsed_before_s = models.BigIntegerField(
        default=0, editable=False, help_text=_("What the segments before the current one ran, by accounting.")
    )
    reserved_s = models.BigIntegerField(_("reserved (accelerator-seconds)"), editable=False)
    billing_weight = models.DecimalField(
        max_digits=8,
        decimal_places=3,
        editable=False,
        help_text=_("The resource class's weight at submission: a later price doesn't change this job's."),
    )
    charged_s = models.BigIntegerField(_("charged (accelerator-seconds)"), null=True, editable=False)
    is_preemptible = models.BooleanField(
        _("preemptible"),
        default=False,
        help_text=_("Runs at a discount on accelerators that their owners may take back at any time."),
    )
    preemptible_weight = models.DecimalField(
        max_digits=4,
        decimal_places=3,
        default=Decimal(1),
        editable=False,
        help_text=_("The discount at submission, which is part of the billing weight already; 1: none."),
    )
    is_overrun = models.BooleanField(
        default=False,
        editable=False,
        help_text=_("Holds and pays nothing: it was admitted when the project's allocation was used up."),
    )

    # Where it stands.
    state = models.CharField(_("state"), max_length=16, choices=JOB_STATE_CHOICES, default=JobState.SUBMITTED.value)
    state_reason = models.CharField(max_length=64, blank=True, editable=False)
    state_detail = models.JSONField(default=dict, blank=True, editable=False)
    exit_code = models.IntegerField(null=True, editable=False)
    exit_signal = models.PositiveSmallIntegerField(null=True, editable=False)
    cancel_requested_at = models.DateTimeField(null=True, editable=False)
    cancel_requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, editable=False, on_delete=models.PROTECT, related_name="+"
    )
    approved_at = models.DateTimeField(null=True, editable=False)
    approved_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, editable=False, on_delete=models.PROTECT, related_name="+"
    )
    expected_start_at = models.DateTimeField(null=True, editable=False)
    missing_since_at = models.DateTimeField(null=True, editable=False)
    lease_token = models.UUIDField(null=True, editable=False)
    lease_expires_at = models.DateTimeField(null=True, editable=False)
    dispatch_attempts = models.PositiveIntegerField(default=0, editable=False)

    # A repeated request finds the job that the first one made.
    submission_key = models.CharField(max_length=255, null=True, editable=False)  # noqa: DJ001 (NULL: no key, not unique)
    submission_fingerprint = models.CharField(max_length=64, blank=True, editable=False)

    submitted_at = models.DateTimeField(_("submitted at"), editable=False)
    queued_at = models.DateTimeField(null=True, editable=False)
    started_at = models.DateTimeField(null=True, editable=False)
    ended_at = models.DateTimeField(null=True, editable=False)
    settled_at = models.DateTimeField(null=True, editable=False)

    objects = JobQuerySet.as_manager()

    class Meta:
        verbose_name = _("job")
        verbose_name_plural = _("jobs")
        indexes = [
            models.Index(fields=["-submitted_at", "-id"], name="jobs_job_newest"),
            models.Index(fields=["user", "-submitted_at", "-id"], name="jobs_job_of_user"),
            models.Index(fields=["project", "-submitted_at", "-id"], name="jobs_job_of_project"),
            # The workers' queries touch unfinished jobs only, however many have ended.
            models.Index(
                fields=["state", "queued_at"], name="jobs_job_unfinished", condition=~Q(state__in=_TERMINAL_VALUES)
            ),
            models.Index(
                fields=["partition"],
                name="jobs_job_unsettled",
                condition=Q(state__in=_TERMINAL_VALUES, settled_at__isnull=True),
            ),
            models.Index(fields=["ended_at"], name="jobs_job_ended", condition=Q(settled_at__isnull=False)),
            # Upper, since that is what `icontains` compares.
            GinIndex(OpClass(Upper("name"), name="gin_trgm_ops"), name="jobs_job_name_search"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=[s.value for s in JobState]), name="jobs_job_state_known"),
            models.CheckConstraint(
                condition=Q(nodes__gte=1, devices_per_node__gte=1, time_limit_minutes__gte=1, reserved_s__gte=0),
                name="jobs_job_sizes_positive",
            ),
            models.CheckConstraint(
                condition=Q(state=JobState.DISPATCHING.value, lease_token__isnull=False)
                | (~Q(state=JobState.DISPATCHING.value) & Q(lease_token__isnull=True)),
                name="jobs_job_lease_only_while_dispatching",
            ),
            models.CheckConstraint(
                condition=Q(preemptible_weight__gt=0, preemptible_weight__lte=1), name="jobs_job_discount_is_one"
            ),
            models.CheckConstraint(
                condition=Q(is_overrun=False) | Q(is_preemptible=True, reserved_s=0),
                name="jobs_job_overrun_holds_nothing",
            ),
            models.UniqueConstraint(fields=["user", "submission_key"], name="jobs_job_submission_once"),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("job-detail", args=[self.pk])

    @property
    def devices(self) -> int:
        """Accelerators in all."""
        return self.nodes * self.devices_per_node

    @property
    def kind(self) -> JobKind:
        """What it is to policy."""
        return JobKind.SCRIPT if self.workload is None else JobKind.TRAINING

    @property
    def is_held_for_approval(self) -> bool:
        return self.state == JobState.HELD and self.state_reason == HoldReason.APPROVAL

    @property
    def is_chain(self) -> bool:
        """Is it run as several scheduler jobs, each resumed from the checkpoint of the one before?"""
        return self.segment_time_limit_minutes is not None

    @property
    def reference(self) -> str:
        """What the ledger knows the job by."""
        return str(self.pk)

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL

    @property
    def is_in_scheduler(self) -> bool:
        return self.state in IN_SCHEDULER

    @property
    def is_live(self) -> bool:
        """May its page still change? Until it is charged, an ended job's page does."""
        return not self.is_terminal or self.settled_at is None


class CalibrationVersion(models.Model):
    """What finished jobs taught about the engine's estimates, at one time; at most one version is in use.

    Only which one is in use ever changes: estimates point at the version that corrected them. A version corrects the
    engine that it was learnt for and no other; a new engine needs a new one.
    """

    created_at = models.DateTimeField(_("created at"))
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("created by"),
        help_text=_("Empty: by the daily task or the command line."),
    )
    is_active = models.BooleanField(_("in use"), default=False)
    activated_at = models.DateTimeField(_("in use since"), null=True)
    activated_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+", verbose_name=_("put in use by")
    )
    engine_version = models.CharField(_("engine"), max_length=32)
    method_version = models.PositiveIntegerField(_("method"))
    jobs_used = models.PositiveIntegerField(_("jobs used"))
    factors = models.JSONField(_("factors"))
    evidence = models.JSONField(_("evidence"), default=dict)
    note = models.CharField(_("note"), max_length=200, blank=True)

    class Meta:
        verbose_name = _("calibration version")
        verbose_name_plural = _("calibration versions")
        constraints = [
            models.UniqueConstraint(
                fields=["is_active"], condition=Q(is_active=True), name="jobs_calibrationversion_one_active"
            )
        ]

    def __str__(self) -> str:
        return f"{self.pk} ({self.engine_version})"


class Measurement(models.Model):
    """What a job that ended measured of itself; read once, since files on a cluster don't stay.

    `step_s` is the median time of an optimizer step, `memory_bytes` the peak of the fullest accelerator. `refusal` is
    a code that says why the job teaches nothing; then both may be empty.
    """

    job = models.OneToOneField(Job, on_delete=models.CASCADE, related_name="measurement")
    step_s = models.FloatField(null=True)
    steps = models.PositiveBigIntegerField(default=0)
    memory_bytes = models.PositiveBigIntegerField(null=True)
    refusal = models.CharField(max_length=32, blank=True)
    measured_at = models.DateTimeField()

    class Meta:
        verbose_name = _("measurement")
        verbose_name_plural = _("measurements")
        constraints = [
            models.CheckConstraint(
                condition=~Q(refusal="") | Q(step_s__gt=0), name="jobs_measurement_usable_has_step_time"
            )
        ]

    def __str__(self) -> str:
        return f"{self.job_id} {self.refusal or self.step_s}"


class Estimate(models.Model):
    """What the engine said a job needs when it was admitted. Immutable: a new engine makes a new row.

    `calibration` is the version that corrected it; without one, it is the engine's own.
    """

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="estimates")
    calibration = models.ForeignKey(
        CalibrationVersion, null=True, on_delete=models.PROTECT, related_name="estimates", verbose_name=_("calibration")
    )
    inputs = models.JSONField()
    result = models.JSONField()
    fits = models.BooleanField()
    memory_bytes = models.BigIntegerField()
    step_s = models.FloatField()
    duration_s = models.FloatField()
    engine_version = models.CharField(max_length=32)
    created_at = models.DateTimeField()

    class Meta:
        verbose_name = _("estimate")
        verbose_name_plural = _("estimates")

    def __str__(self) -> str:
        return f"{self.job_id} {self.engine_version}"


class JobSegment(models.Model):
    """One scheduler job of a job. Written before the scheduler is called: `key` finds it again after a crash."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="segments")
    number = models.PositiveIntegerField()
    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="+")
    key = models.CharField(max_length=64, unique=True)
    native_id = models.CharField(_("scheduler's job id"), max_length=64, blank=True)
    first_attempt_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True)
    resubmissions = models.PositiveSmallIntegerField(
        default=0, help_text=_("How often the scheduler had forgotten it and was given it again.")
    )
    time_limit_minutes = models.PositiveIntegerField(_("time limit (minutes)"), null=True)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    end_state = models.CharField(_("end"), max_length=16, blank=True, choices=JOB_STATE_CHOICES)
    exit_code = models.IntegerField(null=True)
    exit_signal = models.PositiveSmallIntegerField(null=True)
    last_step = models.BigIntegerField(
        null=True, help_text=_("The highest step that the job's metrics had reached when it ended.")
    )
    nodes = models.JSONField(default=list)
    preempt_requested_at = models.DateTimeField(
        null=True, help_text=_("When the portal decided to give its accelerators back to their owner.")
    )
    preempt_signalled_at = models.DateTimeField(
        null=True, help_text=_("When it was told to write a checkpoint; its time of grace runs from here.")
    )
    accounted_at = models.DateTimeField(
        null=True, help_text=_("When its usage was recorded. Until then it is asked about.")
    )

    class Meta:
        verbose_name = _("segment")
        verbose_name_plural = _("segments")
        indexes = [
            # What the workers ask the scheduler about, however many segments there have been.
            models.Index(
                fields=["cluster", "ended_at"], name="jobs_segment_open", condition=Q(accounted_at__isnull=True)
            )
        ]
        constraints = [models.UniqueConstraint(fields=["job", "number"], name="jobs_segment_once")]

    def __str__(self) -> str:
        return self.key


class EventKind(models.TextChoices):
    """What happened."""

    TRANSITION = "transition", _("state")
    CANCEL_REQUESTED = "cancel_requested", _("cancel requested")
    DISPATCH_DELAYED = "dispatch_delayed", _("dispatch delayed")
    SEGMENT_ENDED = "segment_ended", _("segment ended")
    APPROVED = "approved", _("approved")
    TIME_LIMIT_CHANGED = "time_limit_changed", _("time limit changed")
    PREEMPT_REQUESTED = "preempt_requested", _("preemption requested")
    SETTLED = "settled", _("settled")


class JobEvent(models.Model):
    """The timeline of a job: append-only. `reason` and `detail` are codes and figures; words are made when shown."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    kind = models.CharField(max_length=20, choices=EventKind.choices)
    from_state = models.CharField(max_length=16, blank=True)
    to_state = models.CharField(max_length=16, blank=True)
    reason = models.CharField(max_length=64, blank=True)
    detail = models.JSONField(default=dict)
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        indexes = [models.Index(fields=["job", "id"], name="jobs_event_timeline")]

    def __str__(self) -> str:
        return f"{self.kind} {self.to_state}".strip()


class UsageRecord(models.Model):
    """What the scheduler's accounting says a segment used, and what it cost.

    The job is billed once, at its end. What it used beyond its hold and nobody could cover is the last segment's
    shortfall.
    """

    segment = models.OneToOneField(JobSegment, on_delete=models.CASCADE, related_name="usage")
    devices = models.PositiveIntegerField()
    elapsed_s = models.PositiveIntegerField()
    charged_s = models.BigIntegerField()
    shortfall_s = models.BigIntegerField(
        default=0, help_text=_("Used beyond the hold, and not covered by any allocation.")
    )
    max_rss_bytes = models.BigIntegerField(null=True)
    cpu_s = models.FloatField(null=True)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField()
    recorded_at = models.DateTimeField()

    class Meta:
        verbose_name = _("usage record")
        verbose_name_plural = _("usage records")
        # Fair share asks for what was used lately, however long the centre has been running.
        indexes = [models.Index(fields=["ended_at"], name="jobs_usage_recent")]
        constraints = [
            models.CheckConstraint(condition=Q(charged_s__gte=0, shortfall_s__gte=0), name="jobs_usage_not_negative")
        ]

    def __str__(self) -> str:
        return f"{self.segment_id}: {self.charged_s}"
