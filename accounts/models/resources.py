"""What can be granted and used: clusters, their partitions, and the classes that allocations are made in."""

from decimal import Decimal

from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from accounts.models.identity import choose_by_language, validate_code
from accounts.querysets import ClusterQuerySet, PartitionQuerySet

validate_label = RegexValidator(
    r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z", _("Use letters, digits and “_.-”, starting with a letter or digit.")
)


class ResourceClass(models.Model):
    """A kind of accelerator that hours are granted in (`a800`, `ascend910b`, `cpu`).

    `billing_weight` is how many accelerator-seconds of an allocation one accelerator-second costs.
    """

    code = models.CharField(_("code"), max_length=32, unique=True, validators=[validate_code])
    title = models.CharField(_("title"), max_length=100)
    title_zh = models.CharField(_("Chinese title"), max_length=100, blank=True)
    billing_weight = models.DecimalField(
        _("billing weight"),
        max_digits=8,
        decimal_places=3,
        default=Decimal(1),
        validators=[MinValueValidator(Decimal(0))],
    )
    refunds_node_failures = models.BooleanField(
        _("refund node failures"),
        default=False,
        help_text=_("What a job used in the run that a node's failure ended is given back by itself."),
    )

    class Meta:
        verbose_name = _("resource class")
        verbose_name_plural = _("resource classes")
        constraints = [
            models.CheckConstraint(condition=Q(billing_weight__gte=0), name="accounts_resourceclass_weight_positive")
        ]

    def __str__(self) -> str:
        return choose_by_language(self.title, self.title_zh)


class Cluster(models.Model):
    """A machine with a scheduler. `code` is also the alias in settings.SCHEDULERS.

    The lower fields are the circuit breaker: while the scheduler doesn't answer, nobody asks before `retry_at`.
    """

    code = models.CharField(_("code"), max_length=32, unique=True, validators=[validate_code])
    title = models.CharField(_("title"), max_length=100)
    title_zh = models.CharField(_("Chinese title"), max_length=100, blank=True)
    is_enabled = models.BooleanField(_("accepts jobs"), default=True)
    consecutive_failures = models.PositiveIntegerField(default=0, editable=False)
    unavailable_since_at = models.DateTimeField(null=True, editable=False)
    retry_at = models.DateTimeField(null=True, editable=False)
    last_error = models.CharField(max_length=500, blank=True, editable=False)
    last_polled_at = models.DateTimeField(null=True, editable=False)

    objects = ClusterQuerySet.as_manager()

    class Meta:
        verbose_name = _("cluster")
        verbose_name_plural = _("clusters")

    def __str__(self) -> str:
        return choose_by_language(self.title, self.title_zh)

    @property
    def is_available(self) -> bool:
        """Did the scheduler answer when last asked?"""
        return self.unavailable_since_at is None


class Partition(models.Model):
    """A set of alike nodes of a cluster.

    What it has is kept here by an administrator or by inventory; what is in use is synced from the scheduler.
    """

    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="partitions", verbose_name=_("cluster"))
    name = models.CharField(_("name"), max_length=64, validators=[validate_label])
    title = models.CharField(_("title"), max_length=100, blank=True)
    title_zh = models.CharField(_("Chinese title"), max_length=100, blank=True)
    resource_class = models.ForeignKey(
        ResourceClass, on_delete=models.PROTECT, related_name="partitions", verbose_name=_("resource class")
    )
    accelerator = models.CharField(
        _("accelerator"),
        max_length=64,
        validators=[validate_label],
        help_text=_("Its code in the estimator's catalogue, such as a800-80g."),
    )
    is_simulated = models.BooleanField(
        _("simulated"), default=False, help_text=_("Cards are only counted; none exists on this machine.")
    )
    nodes = models.PositiveIntegerField(_("nodes"))
    devices_per_node = models.PositiveIntegerField(_("accelerators per node"))
    gres_name = models.CharField(_("GRES name"), max_length=64, default="gpu", validators=[validate_label])
    gres_type = models.CharField(_("GRES type"), max_length=64, blank=True, validators=[validate_label])
    max_time_limit_minutes = models.PositiveIntegerField(_("longest time limit (minutes)"))
    default_time_limit_minutes = models.PositiveIntegerField(_("default time limit (minutes)"), default=60)
    storage_bytes_per_s = models.PositiveBigIntegerField(_("storage bandwidth (byte/s)"), null=True, blank=True)
    measured_peak_flop_per_s = models.PositiveBigIntegerField(
        _("measured peak (FLOP/s per accelerator)"),
        null=True,
        blank=True,
        help_text=_("Overrides the catalogue's peak in estimates."),
    )
    # As the scheduler said last.
    is_up = models.BooleanField(_("up"), default=True)
    devices_in_use = models.PositiveIntegerField(default=0, editable=False)
    nodes_idle = models.PositiveIntegerField(default=0, editable=False)
    nodes_out_of_service = models.PositiveIntegerField(default=0, editable=False)
    devices_out_of_service = models.PositiveIntegerField(
        default=0, editable=False, help_text=_("Not in use, on nodes that take no new job.")
    )
    jobs_pending = models.PositiveIntegerField(default=0, editable=False)
    jobs_running = models.PositiveIntegerField(default=0, editable=False)
    synced_at = models.DateTimeField(null=True, editable=False)
    # As the portal's own jobs waited lately; see jobs.services.waiting.
    typical_wait = models.JSONField(default=dict, editable=False)
    waits_measured_at = models.DateTimeField(null=True, editable=False)

    objects = PartitionQuerySet.as_manager()

    class Meta:
        verbose_name = _("partition")
        verbose_name_plural = _("partitions")
        constraints = [
            models.UniqueConstraint(fields=["cluster", "name"], name="accounts_partition_once"),
            models.CheckConstraint(
                condition=Q(default_time_limit_minutes__lte=F("max_time_limit_minutes")),
                name="accounts_partition_default_time_limit_within_max",
            ),
            models.CheckConstraint(
                condition=Q(nodes__gte=1, devices_per_node__gte=1, default_time_limit_minutes__gte=1),
                name="accounts_partition_sizes_positive",
            ),
        ]

    def __str__(self) -> str:
        return choose_by_language(self.title, self.title_zh) or self.name

    def get_absolute_url(self) -> str:
        return reverse("partition-detail", args=[self.cluster.code, self.name])

    @property
    def devices(self) -> int:
        """Accelerators in all."""
        return self.nodes * self.devices_per_node

    @property
    def devices_free(self) -> int:
        """Accelerators that were neither in use nor out of service when last synced."""
        return max(self.devices - self.devices_in_use - self.devices_out_of_service, 0)
