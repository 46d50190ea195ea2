"""Shares of partitions, applied: what a preemptible job costs, which jobs may start, and making room for owners.

What is decided is in `jobs.services.borrowing`; here it is read from and written to the database.
"""

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final
from uuid import UUID

from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils.translation import gettext as _

from accounts.models import Allocation, Cohort, Partition, Project
from jobs.backends.base import SchedulerBackend
from jobs.models import EventKind, Job, JobEvent, JobSegment
from jobs.querysets import JobQuerySet
from jobs.services import borrowing
from jobs.services.borrowing import Decision, Demand, Share
from jobs.services.launching import CHECKPOINT_SIGNAL
from jobs.services.problems import FieldProblem
from jobs.states import OCCUPYING, JobState

logger = logging.getLogger(__name__)

REST: Final = "rest"
"""The share of all projects that have none, nor has their institution: what is left of the partition."""

_WEIGHT_STEP: Final = Decimal("0.001")
_HOLDING: Final = OCCUPYING | {JobState.LOST}
"""States in which a job may have accelerators: of one that is lost nobody knows."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Which queued jobs may be handed over: all on partitions without shares, and those that were decided on."""

    partitions: frozenset[int] = frozenset()
    jobs: frozenset[UUID] = frozenset()

    def let_through(self, due: JobQuerySet) -> JobQuerySet:
        """Of the jobs that are due, those that may start. One that was claimed before goes on in any case."""
        if not self.partitions:
            return due
        return due.filter(~Q(state=JobState.QUEUED, partition__in=self.partitions) | Q(pk__in=self.jobs))


def cohort_of(partition: Partition) -> Cohort | None:
    """The shares of a partition, if they are in force."""
    return Cohort.objects.filter(partition=partition, is_enabled=True).first()


def make_preemptible(job: Job) -> list[FieldProblem]:
    """Give an unsaved job the discount of its partition; what is wrong if the partition has none to give."""
    cohort = cohort_of(job.partition)
    if cohort is None:
        message = _("Partition %(partition)s lends no idle accelerators; there are no preemptible jobs on it.") % {
            "partition": job.partition.name
        }
        return [
            FieldProblem(field="is_preemptible", code="not_here", message=message, value=True, allowed=_("not set"))
        ]
    job.is_preemptible = True
    job.preemptible_weight = cohort.preemptible_weight
    job.billing_weight = discounted_weight(job.billing_weight, cohort.preemptible_weight)
    return []


def discounted_weight(weight: Decimal, discount: Decimal) -> Decimal:
    """The billing weight of preemptible use: rounded up to the three places that a job's weight has."""
    return (weight * discount).quantize(_WEIGHT_STEP, rounding=ROUND_CEILING)


def find_share_problem(job: Job) -> FieldProblem | None:
    """What is wrong with a job that could not start even if nobody else had anything; None if it could."""
    cohort = cohort_of(job.partition)
    if cohort is None:
        return None
    shares = _shares_of(cohort)
    share = _share_name(shares, job.project_id, job.project.institution_id)
    most = borrowing.largest_possible(shares, share, is_preemptible=job.is_preemptible)
    if job.devices <= most:
        return None
    figures = {"value": job.devices, "most": most, "partition": job.partition.name}
    if job.is_preemptible:
        message = _(
            "The project's share of %(partition)s and what it may borrow are %(most)s accelerators; this job wants"
            " %(value)s."
        )
    else:
        message = _(
            "The project's share of %(partition)s is %(most)s accelerators; this job wants %(value)s. A preemptible job"
            " may use more, as long as others leave it idle."
        )
    return FieldProblem(
        field="devices_per_node",
        code="share",
        message=message % figures,
        value=job.devices,
        allowed=str(most),
        parameters={"allowed": most, "value": job.devices},
    )


def may_overrun(job: Job, *, at: datetime) -> bool:
    """May the job run though its project's allocation is used up? One without any allocation may not."""
    if not job.is_preemptible:
        return False
    cohort = cohort_of(job.partition)
    if cohort is None or not cohort.may_overrun:
        return False
    allocations = Allocation.objects.for_project(job.project_id, job.partition.resource_class_id)
    return bool(allocations.active(at).exists())


def open_gate(cluster_code: str, *, at: datetime) -> Gate:
    """Decide for a cluster's partitions with shares who starts and who makes room, and write the latter down.

    In the caller's transaction, in which those that may start are claimed: the cohorts stay locked until then, so that
    two workers never give the same accelerators away twice.
    """
    cohorts = Cohort.objects.filter(partition__cluster__code=cluster_code, is_enabled=True).order_by("pk")
    locked = list(cohorts.select_for_update(of=("self",)).select_related("partition"))
    if not locked:
        return Gate()
    start: set[UUID] = set()
    for cohort in locked:
        decision = _decide(cohort, at)
        start.update(decision.start)
        _ask_back(decision.preempt, at)
        _write_reasons(decision)
    return Gate(frozenset(cohort.partition_id for cohort in locked), frozenset(start))


def make_room(segment: JobSegment, backend: SchedulerBackend, *, at: datetime) -> None:
    """Tell a segment whose accelerators their owner needs to write a checkpoint, and end it when its grace is over.

    Raises:
        SchedulerUnavailable: it is told again with the next round.
    """
    state = segment.job.state
    if state == JobState.PENDING:
        backend.cancel(segment.native_id, key=segment.key)  # it has nothing to lose
    elif segment.preempt_signalled_at is None:
        if state == JobState.RUNNING:
            backend.signal(segment.native_id, CHECKPOINT_SIGNAL, key=segment.key)
            JobSegment.objects.filter(pk=segment.pk).update(preempt_signalled_at=at)
    elif at >= segment.preempt_signalled_at + timedelta(seconds=_grace_s(segment.job)):
        backend.cancel(segment.native_id, key=segment.key)


def count_preemptions(segments: Iterable[JobSegment]) -> int:
    """How often the accelerators of a job with these segments were taken back."""
    return sum(one.preempt_requested_at is not None and one.end_state == JobState.PREEMPTED for one in segments)


def shares_by_holder(cohort: Cohort) -> dict[str, Share]:
    """What everybody has of a cohort's partition, by the name of the share; the rest comes last."""
    return _shares_of(cohort)


def usage_of(cohort: Cohort) -> borrowing.Use:
    """What each share of a cohort's partition has now, firm and in all."""
    shares = _shares_of(cohort)
    return borrowing.Use.of(shares, _running(cohort, shares))


def share_of(cohort: Cohort, project: Project) -> str:
    """The name of the share that a project's jobs count for."""
    return _share_name(_shares_of(cohort), project.pk, project.institution_id)


def _decide(cohort: Cohort, at: datetime) -> Decision:
    shares = _shares_of(cohort)
    due = Job.objects.due_for_dispatch(at).filter(partition=cohort.partition_id, state=JobState.QUEUED)
    columns = ("pk", "project_id", "project__institution_id", "nodes", "devices_per_node")
    waiting = [
        Demand(
            job=row.pk,
            share=_share_name(shares, row.project_id, row.project__institution_id),
            devices=row.nodes * row.devices_per_node,
            is_preemptible=row.is_preemptible,
            is_overrun=row.is_overrun,
        )
        for row in due.values_list(*columns, "is_preemptible", "is_overrun", named=True)
    ]
    return borrowing.decide(shares, _running(cohort, shares) if waiting else (), waiting)


def _running(cohort: Cohort, shares: dict[str, Share]) -> list[Demand]:
    asked_back = JobSegment.objects.filter(
        job=OuterRef("pk"), number=OuterRef("segment_number"), preempt_requested_at__isnull=False
    )
    jobs = Job.objects.filter(partition=cohort.partition_id, state__in=_HOLDING).annotate(leaves=Exists(asked_back))
    columns: tuple[str, ...] = ("pk", "project_id", "project__institution_id", "nodes", "devices_per_node")
    columns += ("is_preemptible", "is_overrun", "segment_started_at", "cancel_requested_at", "leaves")
    return [
        Demand(
            job=row.pk,
            share=_share_name(shares, row.project_id, row.project__institution_id),
            devices=row.nodes * row.devices_per_node,
            is_preemptible=row.is_preemptible,
            is_overrun=row.is_overrun,
            started_at=row.segment_started_at,
            leaves=row.leaves or row.cancel_requested_at is not None,
        )
        for row in jobs.values_list(*columns, named=True)
    ]


def _shares_of(cohort: Cohort) -> dict[str, Share]:
    shares = {
        f"project {row.project_id}" if row.project_id else f"institution {row.institution_id}": Share(
            nominal=row.nominal, borrowing_limit=row.borrowing_limit, lending_limit=row.lending_limit
        )
        for row in cohort.shares.order_by("pk")
    }
    left = cohort.partition.devices - sum(share.nominal for share in shares.values())
    return {**shares, REST: Share(nominal=max(left, 0))}


def _share_name(shares: Collection[str], project_id: int, institution_id: int) -> str:
    for name in (f"project {project_id}", f"institution {institution_id}"):
        if name in shares:
            return name
    return REST


def _ask_back(jobs: Iterable[UUID], at: datetime) -> None:
    """Write down which jobs are to make room. The cluster is told when it is asked how they stand."""
    # The jobs' rows before their segments', as whoever writes how a segment ended does.
    asked = Job.objects.select_for_update(no_key=True).filter(pk__in=list(jobs), state__in=_HOLDING).order_by("pk")
    chosen = list(asked.values_list("pk", flat=True))
    if not chosen:
        return
    segments: QuerySet[Any] = JobSegment.objects.filter(job__in=chosen, number=F("job__segment_number"))
    segments.filter(preempt_requested_at__isnull=True).update(preempt_requested_at=at)
    JobEvent.objects.bulk_create(JobEvent(job_id=pk, at=at, kind=EventKind.PREEMPT_REQUESTED) for pk in chosen)
    logger.info("%d borrowing jobs make room for owners", len(chosen))


def _write_reasons(decision: Decision) -> None:
    """Say on each waiting job why it waits, where that has changed."""
    for reason in borrowing.WaitReason:
        waiting = [job for job, why in decision.waits.items() if why is reason]
        if waiting:
            changed = Job.objects.filter(pk__in=waiting, state=JobState.QUEUED).exclude(state_reason=reason)
            changed.update(state_reason=reason.value)


def _grace_s(job: Job) -> int:
    return Cohort.objects.filter(partition=job.partition_id).values_list("grace_s", flat=True).first() or 0
