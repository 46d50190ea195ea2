"""Taking jobs in: the same door for the page and the API."""

import hashlib
import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from accounts import access
from accounts.models import Allocation, Partition, Project, User
from accounts.services import ledger
from jobs.estimation import Estimate as EngineEstimate
from jobs.models import EntryKind, EventKind, Job, JobEvent, Launcher
from jobs.services import estimates, launching, lending
from jobs.services.limits import broken_limits, limit_problem
from jobs.services.problems import FieldProblem, IdempotencyConflict, InvalidRequest, RefusedRequest
from jobs.services.wording import duration_in_words, hours, invalid_value
from jobs.spec import MAX_TIME_LIMIT_MINUTES, InvalidSpec
from jobs.states import JobState

_TIME_LIMIT_MARGIN = 1.2
"""A time limit made from an estimate is this much above its 90th percentile."""

_SHORTEST_TIME_LIMIT_MINUTES = 5

MAX_SEGMENTS = 100
"""A chain is planned with at most so many segments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionRequest:
    """What a person asks for, in names and plain values; nothing is looked up or checked yet."""

    project: str
    cluster: str
    partition: str
    name: str
    nodes: int
    devices_per_node: int
    entry_kind: str
    script: str = ""
    command: tuple[str, ...] = ()
    launcher: str = "none"
    environment: Mapping[str, str] = field(default_factory=dict)
    time_limit_minutes: int | None = None
    checkpoint_lead_s: int = 0
    workload: Mapping[str, Any] | None = None
    plan: Mapping[str, Any] | None = None
    override_estimate: bool = False
    is_preemptible: bool = False
    cloned_from: uuid.UUID | None = None

    @property
    def fingerprint(self) -> str:
        """Equal for equal requests."""
        canonical = json.dumps(asdict(self), sort_keys=True, default=str)
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request that is found good, with all that follows from it. `job` is not saved."""

    job: Job
    estimate: EngineEstimate | None
    available_s: int
    script: str
    warnings: tuple[Any, ...]


def submit_job(*, user: User, request: SubmissionRequest, at: datetime, key: str | None = None) -> tuple[Job, bool]:
    """Store a job as SUBMITTED and return it with True; nothing is reserved or sent to a cluster yet.

    `key` makes a repeated request harmless: the job of the first one comes back, with False.

    Raises:
        InvalidRequest: with every field that isn't allowed.
        RefusedRequest: policy or quota says no.
        IdempotencyConflict: the key was used for a different request.
    """
    if key is not None:
        earlier = _earlier_job(user, request, key)
        if earlier is not None:
            return earlier, False
    prepared = prepare_job(user=user, request=request, at=at)
    job = prepared.job
    job.submission_key, job.submission_fingerprint = key, request.fingerprint
    try:
        with transaction.atomic():
            # One submission per person at a time, so that the limit on queued jobs is exact.
            User.objects.select_for_update(no_key=True).get(pk=user.pk)
            # The same request may have come twice at once: the second waited here, and must not meet a limit.
            twin = _earlier_job(user, request, key) if key is not None else None
            if twin is not None:
                return twin, False
            _refuse_if_over_limits(job, at)
            job.save(force_insert=True)
            JobEvent.objects.create(job=job, at=at, kind=EventKind.TRANSITION, to_state=JobState.SUBMITTED, actor=user)
    except IntegrityError:
        winner = _earlier_job(user, request, key) if key is not None else None
        if winner is None:
            raise
        return winner, False
    return job, True


def prepare_job(*, user: User, request: SubmissionRequest, at: datetime, with_estimate: bool = False) -> Prepared:
    """Check a request through and through, without writing anything.

    The estimate is made if `with_estimate`, or if the time limit has to come from it.

    Raises:
        InvalidRequest: with every field that isn't allowed.
        RefusedRequest: policy or quota says no.
    """
    project, partition = _resolve(user, request)
    job = Job(
        user=user,
        project=project,
        partition=partition,
        name=request.name,
        entry_kind=request.entry_kind,
        script=request.script if request.entry_kind == EntryKind.SCRIPT else "",
        command=list(request.command) if request.entry_kind == EntryKind.COMMAND else [],
        launcher=request.launcher,
        environment=dict(request.environment),
        is_estimate_overridden=request.override_estimate,
        nodes=request.nodes,
        devices_per_node=request.devices_per_node,
        time_limit_minutes=request.time_limit_minutes or partition.default_time_limit_minutes,
        checkpoint_lead_s=request.checkpoint_lead_s,
        billing_weight=partition.resource_class.billing_weight,
        state=JobState.SUBMITTED,
        submitted_at=at,
    )
    if request.cloned_from is not None:
        job.cloned_from = Job.objects.readable_by(user).filter(pk=request.cloned_from).first()
    problems = find_size_problems(
        partition,
        nodes=request.nodes,
        devices_per_node=request.devices_per_node,
        time_limit_minutes=request.time_limit_minutes,
        checkpoint_lead_s=request.checkpoint_lead_s,
    )
    problems += _option_problems(request, partition)
    if request.is_preemptible:
        problems += lending.make_preemptible(job)
    estimate = None
    if request.workload is not None and not problems:
        try:
            estimate = _attach_workload(
                job,
                request.workload,
                request.plan,
                wants_estimate=with_estimate or request.time_limit_minutes is None,
            )
        except estimates.EstimateInvalid as error:
            problems.append(error.problem)
    elif request.plan is not None and request.workload is None:
        problems.append(
            FieldProblem(field="plan", code="invalid", message=_("A plan needs a workload."), allowed=_("no plan"))
        )
    if problems:
        raise InvalidRequest(problems)
    if request.time_limit_minutes is None and estimate is not None:
        job.time_limit_minutes = _time_limit_from(estimate, partition, checkpoint_lead_s=request.checkpoint_lead_s)
    if job.time_limit_minutes > partition.max_time_limit_minutes:
        job.segment_time_limit_minutes = partition.max_time_limit_minutes
    elif job.is_preemptible:
        job.segment_time_limit_minutes = job.time_limit_minutes
    try:
        rendered = launching.render_first(job)
    except InvalidSpec as error:
        raise InvalidRequest([invalid_value(field=error.field, value=error.value, allowed=error.allowed)]) from error
    job.reserved_s = ledger.billed_seconds(
        devices=job.devices,
        elapsed_s=job.time_limit_minutes * 60,
        weight=job.billing_weight,
    )
    share_problem = lending.find_share_problem(job)
    if share_problem is not None:
        raise RefusedRequest([share_problem])
    available_s = _available_or_refuse(job, at)
    return Prepared(
        job=job, estimate=estimate, available_s=available_s, script=rendered.script, warnings=rendered.warnings
    )


def preview_job(*, user: User, request: SubmissionRequest, at: datetime) -> Prepared:
    """What `submit_job` would take in, with its estimate; limits of policy are checked, too. Writes nothing.

    Raises:
        InvalidRequest: with every field that isn't allowed.
        RefusedRequest: policy or quota says no.
    """
    prepared = prepare_job(user=user, request=request, at=at, with_estimate=True)
    _refuse_if_over_limits(prepared.job, at)
    return prepared


def clone_request(job: Job) -> SubmissionRequest:
    """The request that would make the same job again."""
    return SubmissionRequest(
        project=job.project.code,
        cluster=job.partition.cluster.code,
        partition=job.partition.name,
        name=job.name,
        nodes=job.nodes,
        devices_per_node=job.devices_per_node,
        entry_kind=job.entry_kind,
        script=job.script,
        command=tuple(job.command),
        launcher=job.launcher,
        environment=job.environment,
        time_limit_minutes=job.time_limit_minutes,
        checkpoint_lead_s=job.checkpoint_lead_s,
        workload=job.workload,
        plan=None,
        override_estimate=job.is_estimate_overridden,
        is_preemptible=job.is_preemptible,
        cloned_from=job.pk,
    )


def _earlier_job(user: User, request: SubmissionRequest, key: str) -> Job | None:
    earlier: Job | None = Job.objects.with_names().filter(user=user, submission_key=key).first()
    if earlier is not None and earlier.submission_fingerprint != request.fingerprint:
        raise IdempotencyConflict(key)
    return earlier


def find_project(user: User, code: str) -> Project:
    """The project of that code, if the person may submit in it.

    Raises:
        InvalidRequest: naming `project` and those that are theirs.
    """
    projects = access.submittable_projects(user)
    project: Project | None = projects.filter(code=code).select_related("institution").first()
    if project is not None:
        return project
    allowed = ", ".join(projects.order_by("code").values_list("code", flat=True)[:20])
    message = _("You can't submit in project “%(value)s”; your projects: %(allowed)s.") % {
        "value": code,
        "allowed": allowed or _("none yet"),
    }
    raise InvalidRequest([FieldProblem(field="project", code="unknown", message=message, value=code, allowed=allowed)])


def find_partition(user: User, cluster: str, name: str) -> Partition:
    """The partition of that name, if the person may submit to it.

    Raises:
        InvalidRequest: naming `partition` and those that there are.
    """
    partitions = access.usable_partitions(user)
    partition: Partition | None = partitions.filter(cluster__code=cluster, name=name).first()
    if partition is not None:
        return partition
    given = f"{cluster}/{name}"
    names = partitions.order_by("cluster__code", "name").values_list("cluster__code", "name")[:50]
    allowed = ", ".join(f"{code}/{one}" for code, one in names)
    message = _("There is no partition “%(value)s”; there are: %(allowed)s.") % {"value": given, "allowed": allowed}
    raise InvalidRequest(
        [FieldProblem(field="partition", code="unknown", message=message, value=given, allowed=allowed)]
    )


def _resolve(user: User, request: SubmissionRequest) -> tuple[Project, Partition]:
    problems: list[FieldProblem] = []
    project = partition = None
    try:
        project = find_project(user, request.project)
    except InvalidRequest as error:
        problems += error.problems
    try:
        partition = find_partition(user, request.cluster, request.partition)
    except InvalidRequest as error:
        problems += error.problems
    if project is None or partition is None:
        raise InvalidRequest(problems)
    return project, partition


def longest_time_limit_minutes(partition: Partition, *, checkpoint_lead_s: int) -> int:
    """How long a job may be: longer than the partition's limit if it writes a checkpoint on the signal before it."""
    segments = MAX_SEGMENTS if checkpoint_lead_s > 0 else 1
    return min(segments * partition.max_time_limit_minutes, MAX_TIME_LIMIT_MINUTES)


def find_size_problems(
    partition: Partition,
    *,
    nodes: int,
    devices_per_node: int,
    time_limit_minutes: int | None = None,
    checkpoint_lead_s: int = 0,
) -> list[FieldProblem]:
    """What of a size the partition doesn't have."""
    problems = []
    longest = longest_time_limit_minutes(partition, checkpoint_lead_s=checkpoint_lead_s)
    bounds = [
        ("nodes", nodes, partition.nodes),
        ("devices_per_node", devices_per_node, partition.devices_per_node),
        ("time_limit_minutes", time_limit_minutes, longest),
    ]
    for name, value, high in bounds:
        if value is not None and not 1 <= value <= high:
            message = _("%(value)s is not allowed on partition %(partition)s; allowed: 1 to %(high)s.") % {
                "value": value,
                "partition": partition.name,
                "high": high,
            }
            if name == "time_limit_minutes" and value > high == partition.max_time_limit_minutes:
                message += " " + _("With a signal before the end it can be longer, as a chain of segments.")
            problems.append(
                FieldProblem(field=name, code="out_of_range", message=message, value=value, allowed=f"1–{high}")
            )
    return problems


def _option_problems(request: SubmissionRequest, partition: Partition) -> list[FieldProblem]:
    problems = []
    for name, chosen, choices in (
        ("entry.kind", request.entry_kind, EntryKind.values),
        ("launcher", request.launcher, Launcher.values),
    ):
        if chosen not in choices:
            problems.append(invalid_value(field=name, value=chosen, allowed=", ".join(choices)))
    longest_minutes = partition.max_time_limit_minutes
    limit_s = min(request.time_limit_minutes or longest_minutes, longest_minutes) * 60
    if not 0 <= request.checkpoint_lead_s < limit_s:
        problems.append(
            invalid_value(
                field="checkpoint_lead_s",
                value=request.checkpoint_lead_s,
                allowed=_("0 to less than the time limit in seconds (%(seconds)s)") % {"seconds": limit_s},
            )
        )
    return problems


def _attach_workload(
    job: Job, workload_data: Mapping[str, Any], plan: Mapping[str, Any] | None, *, wants_estimate: bool
) -> EngineEstimate | None:
    """Put the checked workload and plan on the job."""
    workload = estimates.parse_workload(workload_data)
    job.workload = workload.to_dict()
    if not wants_estimate and plan is None:
        return None
    estimate = estimates.estimate_workload(
        workload, estimates.machine_for(job.partition), devices=job.devices, plan=plan
    )
    job.plan = estimate.plan.to_dict()
    return estimate


def suggest_time_limit_minutes(estimate: EngineEstimate) -> int:
    """A time limit that the run will most likely keep; it may be above the partition's."""
    return max(math.ceil(estimate.duration_p90_s * _TIME_LIMIT_MARGIN / 60), _SHORTEST_TIME_LIMIT_MINUTES)


def _time_limit_from(estimate: EngineEstimate, partition: Partition, *, checkpoint_lead_s: int) -> int:
    minutes = suggest_time_limit_minutes(estimate)
    longest = longest_time_limit_minutes(partition, checkpoint_lead_s=checkpoint_lead_s)
    if minutes > longest:
        message = _(
            "With its margin the run needs a time limit of %(needed)s; partition %(partition)s allows %(allowed)s. "
            "Use more accelerators or fewer tokens, or let it be signalled before the end: a run that writes a "
            "checkpoint then is continued in another segment."
        ) % {
            "needed": duration_in_words(minutes * 60),
            "partition": partition.name,
            "allowed": duration_in_words(longest * 60),
        }
        raise InvalidRequest(
            [
                FieldProblem(
                    field="time_limit_minutes",
                    code="out_of_range",
                    message=message,
                    value=minutes,
                    allowed=f"1–{longest}",
                )
            ]
        )
    return minutes


def _available_or_refuse(job: Job, at: datetime) -> int:
    """A first look at the balance; the hold itself is made under lock when the job is admitted."""
    active = Allocation.objects.for_project(job.project_id, job.partition.resource_class_id).active(at)
    available_s = active.total_available_s()
    names = {"project": job.project.code, "resource": job.partition.resource_class.code}
    if available_s < job.reserved_s and not lending.may_overrun(job, at=at):
        figures = {"needed": hours(job.reserved_s), "available": hours(available_s), **names}
        if not active.exists():
            code, message = "no_allocation", _("Project %(project)s has no current allocation of %(resource)s.") % names
        else:
            code, message = (
                "insufficient_allocation",
                _(
                    "This job needs %(needed)s accelerator-hours of %(resource)s; project %(project)s has "
                    "%(available)s left. Shorten the time limit, use fewer accelerators, or ask for more."
                )
                % figures,
            )
        raise RefusedRequest(
            [
                FieldProblem(
                    field="project",
                    code=code,
                    message=message,
                    value=hours(job.reserved_s),
                    allowed=hours(available_s),
                    parameters={"needed_s": job.reserved_s, "available_s": available_s},
                )
            ]
        )
    return available_s


def _refuse_if_over_limits(job: Job, at: datetime) -> None:
    hard = [violation for violation in broken_limits(job, at=at) if violation.is_hard]
    if hard:
        raise RefusedRequest([limit_problem(violation) for violation in hard])
