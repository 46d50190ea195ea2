"""What a run would take and cost, before anybody submits it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from accounts.models import Allocation, Partition, Project, User
from accounts.services import ledger
from jobs.estimation import Estimate as EngineEstimate
from jobs.services import estimates
from jobs.services.problems import InvalidRequest
from jobs.services.submission import find_partition, find_project, find_size_problems, suggest_time_limit_minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteRequest:
    """A run on so many accelerators of a partition; the project only matters for what it has left."""

    cluster: str
    partition: str
    nodes: int
    devices_per_node: int
    workload: Mapping[str, Any]
    plan: Mapping[str, Any] | None = None
    project: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """An estimate and its effect on the quota.

    `reserved_s` is what a job with the suggested time limit, cut to the partition's, would hold.
    `available_s` is None without a project.
    """

    partition: Partition
    project: Project | None
    estimate: EngineEstimate
    suggested_time_limit_minutes: int
    is_within_partition_limit: bool
    reserved_s: int
    available_s: int | None

    @property
    def is_covered(self) -> bool | None:
        """Does the project have enough left? None without a project."""
        return None if self.available_s is None else self.reserved_s <= self.available_s

    @property
    def share_of_available(self) -> float | None:
        """How much of what is left the hold would take, from 0; None without a project, or if nothing is left."""
        return self.reserved_s / self.available_s if self.available_s else None


def quote_run(*, user: User, request: QuoteRequest, at: datetime) -> Quote:
    """Estimate a run and price it. Writes nothing.

    Raises:
        InvalidRequest: with the fields that aren't allowed.
    """
    project = None if request.project is None else find_project(user, request.project)
    partition = find_partition(user, request.cluster, request.partition)
    problems = find_size_problems(partition, nodes=request.nodes, devices_per_node=request.devices_per_node)
    if problems:
        raise InvalidRequest(problems)
    devices = request.nodes * request.devices_per_node
    try:
        estimate = estimates.estimate_workload(
            estimates.parse_workload(request.workload),
            estimates.machine_for(partition),
            devices=devices,
            plan=request.plan,
        )
    except estimates.EstimateInvalid as error:
        raise InvalidRequest([error.problem]) from error
    suggested = suggest_time_limit_minutes(estimate)
    minutes = min(suggested, partition.max_time_limit_minutes)
    reserved_s = ledger.billed_seconds(
        devices=devices, elapsed_s=minutes * 60, weight=partition.resource_class.billing_weight
    )
    available_s = None
    if project is not None:
        active = Allocation.objects.for_project(project.pk, partition.resource_class_id).active(at)
        available_s = active.total_available_s()
    return Quote(
        partition=partition,
        project=project,
        estimate=estimate,
        suggested_time_limit_minutes=suggested,
        is_within_partition_limit=suggested <= partition.max_time_limit_minutes,
        reserved_s=reserved_s,
        available_s=available_s,
    )
