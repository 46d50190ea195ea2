"""From SUBMITTED to QUEUED: the full estimate, policy, and the hold on the quota."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from accounts import access
from accounts.models import Project, User
from accounts.services import ledger
from accounts.services.policies import AT_SUBMISSION, Violation
from jobs.estimation import ENGINE_VERSION
from jobs.estimation import Estimate as EngineEstimate
from jobs.models import Estimate, Job
from jobs.services import estimates, fair_share, launching, lending
from jobs.services.approval import ask_for_approval
from jobs.services.calibration import version_of
from jobs.services.lifecycle import StaleJob, change_hold, transition
from jobs.services.limits import broken_limits, limit_problem
from jobs.spec import InvalidSpec
from jobs.states import HoldReason, JobState

logger = logging.getLogger(__name__)

_TRIED_OF_EACH_SHARE = 20


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str
    detail: dict[str, Any]


def admit_submitted_jobs(*, at: datetime, limit: int = 50) -> int:
    """Estimate and admit the oldest submitted jobs. Returns how many moved on."""
    return _each(Job.objects.submitted().with_names().iterator(chunk_size=50), at, limit=limit)


def release_held_jobs(*, at: datetime, limit: int = 200) -> int:
    """Let held jobs go on in order of fair share, as far as limits allow now. Returns how many moved on.

    Of each person in each project on each partition only the oldest few are tried: theirs must not keep those of
    others from being looked at.
    """
    held = Job.objects.held().oldest_of_each_share(_TRIED_OF_EACH_SHARE)
    return _each(_in_batches(fair_share.order(held, at=at)), at, limit=limit)


def _in_batches(ids: Sequence[UUID]) -> Iterator[Job]:
    """The jobs in that order, read as they are needed: most ticks end long before the last."""
    for start in range(0, len(ids), 50):
        batch = ids[start : start + 50]
        found = Job.objects.with_names().in_bulk(batch)
        yield from (found[pk] for pk in batch if pk in found)


def admit_job(job: Job, *, at: datetime) -> JobState:
    """Decide on one job: QUEUED with its hold, HELD with the reason, or REJECTED with the reason.

    The estimate is computed outside any transaction; it, the decision and the hold are stored in one.

    Raises:
        StaleJob: another worker was first.
    """
    try:
        estimate = _estimate(job)
        job.rendered_script = launching.render_first(job).script
    except estimates.EstimateInvalid as error:
        problem = error.problem
        return _reject(job, _Refusal("invalid", {"field": problem.field, "allowed": problem.allowed}), at)
    except InvalidSpec as error:
        return _reject(job, _Refusal("invalid", {"field": error.field, "allowed": error.allowed}), at)
    with transaction.atomic():
        # Admissions of one project and of one person follow each other, so that limits hold exactly.
        Project.objects.select_for_update(no_key=True).get(pk=job.project_id)
        User.objects.select_for_update(no_key=True).get(pk=job.user_id)
        refusal = _find_lost_right(job)
        if refusal is not None:
            return _reject(job, refusal, at)
        if estimate is not None:
            _store(job, estimate, at)
        return _decide(job, estimate, at)


def _each(jobs: Iterable[Job], at: datetime, *, limit: int) -> int:
    """Admit jobs until `limit` have moved on. Jobs that don't move are passed over, however many there are."""
    moved = 0
    for job in jobs:
        if moved >= limit:
            break
        before = job.state
        try:
            moved += admit_job(job, at=at) != before
        except StaleJob:
            logger.debug("job %s was admitted by another worker", job.pk)
        except Exception:
            # One broken job must not keep the others waiting; it is tried again with the next tick.
            logger.exception("job %s could not be admitted", job.pk)
    return moved


def _estimate(job: Job) -> EngineEstimate | None:
    if job.workload is None:
        return None
    estimate = estimates.estimate_workload(
        estimates.parse_workload(job.workload),
        estimates.machine_for(job.partition),
        devices=job.devices,
        plan=job.plan,
    )
    job.plan = estimate.plan.to_dict()
    return estimate


def _find_lost_right(job: Job) -> _Refusal | None:
    """A job may have waited for long: it spends only if its owner could still submit it now."""
    owner: User = User.objects.get(pk=job.user_id)
    if access.submittable_projects(owner).filter(pk=job.project_id).exists():
        return None
    is_closed = not Project.objects.active().filter(pk=job.project_id).exists()
    return _Refusal("project_closed" if is_closed else "owner_may_not_submit", {})


def _decide(job: Job, estimate: EngineEstimate | None, at: datetime) -> JobState:
    if estimate is not None and not estimate.fits and not job.is_estimate_overridden:
        figures = {"memory_bytes": estimate.memory_bytes, "capacity_bytes": estimate.memory_capacity_bytes}
        return _reject(job, _Refusal("does_not_fit", figures), at)
    broken = broken_limits(job, at=at)
    hard = [violation for violation in broken if violation.is_hard and violation.limit.field not in AT_SUBMISSION]
    if hard:
        return _reject(job, _Refusal("policy", limit_problem(hard[0]).parameters), at)
    held = _hold(job, [violation for violation in broken if not violation.is_hard], at)
    if held:
        return JobState.HELD
    try:
        transition(job, JobState.QUEUED, at=at, queued_at=at, plan=job.plan, rendered_script=job.rendered_script)
    except ledger.MemberCapExceeded as error:
        cap = {"needed_s": error.requested_s, "taken_s": error.taken_s, "cap_s": error.cap_s}
        return _reject(job, _Refusal("member_cap", cap), at)
    except ledger.InsufficientAllocation as error:
        if lending.may_overrun(job, at=at):
            return _queue_beyond_allocation(job, at)
        figures = {"needed_s": error.requested_s, "available_s": error.available_s}
        return _reject(job, _Refusal("insufficient_allocation", figures), at)
    return JobState.QUEUED


def _hold(job: Job, soft: list[Violation], at: datetime) -> bool:
    """Hold the job for what it would break: for approval first, since nobody should wait for both in turn."""
    approvals = [violation for violation in soft if violation.needs_approval and job.approved_at is None]
    others = [violation for violation in soft if not violation.needs_approval]
    if not approvals and not others:
        return False
    if approvals:
        ask_for_approval(job, approvals, at=at)
        return True
    detail = limit_problem(others[0]).parameters
    if job.state != JobState.HELD:
        transition(job, JobState.HELD, at=at, reason=HoldReason.LIMIT, detail=detail, plan=job.plan)
    elif job.state_reason != HoldReason.LIMIT:
        change_hold(job, HoldReason.LIMIT, at=at, detail=detail)
    return True


def _queue_beyond_allocation(job: Job, at: datetime) -> JobState:
    """What is used beyond the allocation is recorded, but not held or charged: there is nothing to take it from."""
    job.reserved_s = 0
    fields: dict[str, Any] = {"queued_at": at, "plan": job.plan, "rendered_script": job.rendered_script}
    transition(job, JobState.QUEUED, at=at, is_overrun=True, reserved_s=0, **fields)
    return JobState.QUEUED


def _reject(job: Job, refusal: _Refusal, at: datetime) -> JobState:
    transition(job, JobState.REJECTED, at=at, reason=refusal.reason, detail=refusal.detail)
    return JobState.REJECTED


def _store(job: Job, estimate: EngineEstimate, at: datetime) -> None:
    if job.state != JobState.SUBMITTED:
        return  # held before: it has its estimate
    Estimate.objects.create(
        job=job,
        calibration_id=version_of(estimate),
        inputs={
            "workload": job.workload,
            "plan": job.plan,
            "devices": job.devices,
            "accelerator": job.partition.accelerator,
        },
        result=estimate.to_dict(),
        fits=estimate.fits,
        memory_bytes=int(estimate.memory_bytes),
        step_s=estimate.step_s,
        duration_s=estimate.duration_s,
        engine_version=ENGINE_VERSION,
        created_at=at,
    )
