"""What clusters are made of, as their schedulers said last. Never edited by hand."""

from datetime import datetime

from django.db import models
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from accounts.models.resources import Cluster, Partition
from accounts.querysets import NodeQuerySet


class NodeState(models.TextChoices):
    """The states of `jobs.backends.base.NodeState`, in words."""

    IDLE = "idle", pgettext_lazy("node state", "Idle")
    MIXED = "mixed", pgettext_lazy("node state", "Partly in use")
    ALLOCATED = "allocated", pgettext_lazy("node state", "In use")
    DRAINING = "draining", pgettext_lazy("node state", "Draining")
    DRAINED = "drained", pgettext_lazy("node state", "Drained")
    MAINTENANCE = "maintenance", pgettext_lazy("node state", "Maintenance")
    DOWN = "down", pgettext_lazy("node state", "Down")


class Node(models.Model):
    """A node in a partition; one that is in two partitions has two rows.

    `reason`, `reason_by` and `since_at` are those of a node out of service.
    """

    partition = models.ForeignKey(Partition, on_delete=models.CASCADE, related_name="node_set")
    name = models.CharField(_("name"), max_length=255)
    state = models.CharField(_("state"), max_length=16, choices=NodeState.choices)
    devices = models.PositiveIntegerField(_("accelerators"))
    devices_in_use = models.PositiveIntegerField(_("accelerators in use"))
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    reason_by = models.CharField(_("by"), max_length=64, blank=True)
    since_at = models.DateTimeField(_("since"), null=True)

    objects = NodeQuerySet.as_manager()

    class Meta:
        verbose_name = _("node")
        verbose_name_plural = _("nodes")
        constraints = [models.UniqueConstraint(fields=["partition", "name"], name="accounts_node_once")]

    def __str__(self) -> str:
        return self.name


class Reservation(models.Model):
    """Nodes of a partition that are kept for some, or for maintenance; one over two partitions has two rows."""

    partition = models.ForeignKey(Partition, on_delete=models.CASCADE, related_name="reservations")
    name = models.CharField(_("name"), max_length=255)
    start_at = models.DateTimeField(_("start"))
    end_at = models.DateTimeField(_("end"))
    nodes = models.PositiveIntegerField(_("nodes"), help_text=_("Of this partition."))
    users = models.JSONField(_("users"), default=list)
    accounts = models.JSONField(_("Slurm accounts"), default=list)
    is_maintenance = models.BooleanField(_("maintenance"), default=False)

    class Meta:
        verbose_name = _("reservation")
        verbose_name_plural = _("reservations")
        constraints = [models.UniqueConstraint(fields=["partition", "name"], name="accounts_reservation_once")]

    def __str__(self) -> str:
        return self.name

    def is_on(self, at: datetime) -> bool:
        """Has it begun, and not ended?"""
        return self.start_at <= at < self.end_at


class Qos(models.Model):
    """A service level of a cluster. An empty limit is none; accelerators of all kinds are counted together."""

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="qos_set")
    name = models.CharField(_("name"), max_length=255)
    priority = models.BigIntegerField(_("priority"))
    preempts = models.JSONField(_("preempts"), default=list)
    max_time_limit_minutes = models.PositiveIntegerField(_("time limit (minutes)"), null=True)
    max_devices_per_job = models.PositiveIntegerField(_("accelerators per job"), null=True)
    max_devices_per_user = models.PositiveIntegerField(_("accelerators per person"), null=True)
    max_devices_of_group = models.PositiveIntegerField(_("accelerators of all jobs"), null=True)
    max_running_jobs_per_user = models.PositiveIntegerField(_("running jobs per person"), null=True)
    max_jobs_per_user = models.PositiveIntegerField(_("jobs per person"), null=True)

    class Meta:
        verbose_name = _("QOS")
        verbose_name_plural = _("QOS")
        constraints = [models.UniqueConstraint(fields=["cluster", "name"], name="accounts_qos_once")]

    def __str__(self) -> str:
        return self.name
