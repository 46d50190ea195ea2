"""Learning from finished jobs: what each measured of itself, beside what the engine alone estimates for it."""

import logging
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
from django.db.models import Max, Q, QuerySet

from accounts.models import User
from jobs.backends.base import SchedulerUnavailable
from jobs.estimation import ENGINE_VERSION
from jobs.estimation.calibration import METHOD_VERSION, Calibration
from jobs.estimation.calibration_fit import CalibrationFit, FinishedJob, learn
from jobs.models import CalibrationVersion, Estimate, Job, Measurement, UsageRecord
from jobs.services.calibration import activate_version, kind_of
from jobs.services.estimates import EstimateInvalid, estimate_uncalibrated, machine_for, parse_workload
from jobs.services.output import read_metrics
from jobs.states import JobState

logger = logging.getLogger(__name__)

MEASURED_STATES: Final = (JobState.COMPLETED, JobState.TIMEOUT)
"""Ends of jobs that trained as they should: one that failed may have been slow because it failed."""

MAX_MEASURED_AT_ONCE: Final = 500
MAX_LEARNT_FROM: Final = 3000
_MAX_METRICS_READS: Final = 8
"""Pieces of 1 MiB: some 100,000 points."""

LEAST_POINTS: Final = 3
LEAST_STEPS: Final = 10
"""A shorter run is mostly start-up: compilation, allocation, cold caches."""
_SAME_WORKLOAD: Final = 1.25
"""Reported throughput x step time may differ from the workload's tokens a step by this factor."""

# Why a job teaches nothing.
NO_METRICS: Final = "no_metrics"
TOO_FEW_STEPS: Final = "too_few_steps"
OTHER_WORKLOAD: Final = "other_workload"
NOT_ESTIMABLE: Final = "not_estimable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibration:
    """What a round found. `version` is the new version, if what was learnt is new; `calibration` is what was learnt."""

    calibration: Calibration
    version: CalibrationVersion | None
    measured: int
    used: int
    refused: dict[str, int]
    outliers: tuple[str, ...]
    is_activated: bool


def recalibrate(*, at: datetime, by: User | None = None, note: str = "", dry_run: bool = False) -> Recalibration:
    """Measure jobs that ended since, learn from all, and store a new version if it differs from the newest.

    The new version is put in use if the newest one was in use, or if it is the first: a version that a person chose,
    or their choice of none, stays. With `dry_run` nothing is written.
    """
    fresh = []
    for measurement in measure_finished_jobs(at=at):
        fresh.append(measurement)
        if not dry_run:
            # Each at once, so that a round that is cut off was not for nothing; another may measure the same jobs.
            Measurement.objects.bulk_create([measurement], ignore_conflicts=True)
    known = _usable_measurements().exclude(job__in=[one.job_id for one in fresh])[:MAX_LEARNT_FROM]
    measurements = [*(one for one in fresh if not one.refusal), *known]
    jobs, used, refused = _compare(measurements)
    fit = learn(jobs)
    outliers = tuple(str(used[row].job_id) for row in fit.outliers())
    refused.update(one.refusal for one in fresh if one.refusal)
    version, is_activated = None, False
    if not dry_run:
        evidence = _summarise(fit, used, outliers, refused)
        version, is_activated = _store(fit.calibration, evidence, at=at, by=by, note=note)
    return Recalibration(
        calibration=fit.calibration,
        version=version,
        measured=len(fresh),
        used=len(jobs) - len(outliers),
        refused=dict(refused),
        outliers=outliers,
        is_activated=is_activated,
    )


def measure_finished_jobs(*, at: datetime, limit: int = MAX_MEASURED_AT_ONCE) -> Iterator[Measurement]:
    """Read the metrics of jobs that ended well and were not measured yet, oldest first. Writes nothing.

    A cluster that doesn't answer is left for another time.
    """
    jobs = (
        Job.objects.filter(
            Q(partition__cluster__retry_at__isnull=True) | Q(partition__cluster__retry_at__lte=at),
            state__in=MEASURED_STATES,
            settled_at__isnull=False,
            workload__isnull=False,
            plan__isnull=False,
            partition__is_simulated=False,
            measurement__isnull=True,
        )
        .select_related("partition__cluster")
        .order_by("settled_at", "pk")
    )
    silent: set[int] = set()
    for job in jobs[:limit]:
        cluster = job.partition.cluster_id
        if cluster in silent:
            continue
        try:
            points = _read_points(job)
        except SchedulerUnavailable:
            silent.add(cluster)
            logger.warning("cluster %s doesn't answer; its jobs are measured later", job.partition.cluster.code)
            continue
        yield measure_job(job, points, at=at)


def measure_job(job: Job, points: Sequence[dict[str, float]], *, at: datetime) -> Measurement:
    """What the points of a job's metrics say: an unsaved measurement, or why there is none.

    The step time is the median of `step_time_s`, or follows from `tokens_per_s`; the first point holds the start-up
    and is left out. Peak memory is the highest `peak_memory_bytes` of a card; on a CPU core the accounting's.
    """
    measurement = Measurement(job=job, measured_at=at, memory_bytes=_find_peak_memory(job, points))
    measurement.refusal = _measure_steps(measurement, job, points[1:]) or ""
    return measurement


def _measure_steps(measurement: Measurement, job: Job, points: Sequence[dict[str, float]]) -> str | None:
    """Fill in the step time, or say why there is none."""
    try:
        tokens_per_step = parse_workload(job.workload or {}).tokens_per_step
    except EstimateInvalid:
        return NOT_ESTIMABLE
    times, rates = ([p[name] for p in points if p.get(name, 0) > 0] for name in ("step_time_s", "tokens_per_s"))
    if not times and not rates:
        return NO_METRICS
    numbers = [point["step"] for point in points]
    measurement.steps = max(0, min(int(max(numbers) - min(numbers)), 2**62))
    if max(len(times), len(rates)) < LEAST_POINTS or measurement.steps < LEAST_STEPS:
        return TOO_FEW_STEPS
    if len(times) < LEAST_POINTS:
        measurement.step_s = tokens_per_step / statistics.median(rates)
        return None
    measurement.step_s = statistics.median(times)
    if len(rates) >= LEAST_POINTS:
        # Some report micro-steps, or train another batch than they said: that is not the step that was estimated.
        ratio = measurement.step_s * statistics.median(rates) / tokens_per_step
        if not 1 / _SAME_WORKLOAD <= ratio <= _SAME_WORKLOAD:
            return OTHER_WORKLOAD
    return None


def _find_peak_memory(job: Job, points: Sequence[dict[str, float]]) -> int | None:
    peaks = [point["peak_memory_bytes"] for point in points if point.get("peak_memory_bytes", 0) >= 1]
    if peaks:
        return int(min(max(peaks), 2**62))
    if job.partition.accelerator != "host-cpu" or job.devices != 1:
        return None  # accounting knows the host's memory only
    resident = UsageRecord.objects.filter(segment__job=job, max_rss_bytes__gt=0).aggregate(peak=Max("max_rss_bytes"))
    peak: int | None = resident["peak"]
    return peak


def _read_points(job: Job) -> list[dict[str, float]]:
    points: list[dict[str, float]] = []
    offset = 0
    for _ in range(_MAX_METRICS_READS):
        read = read_metrics(job, offset)
        points += read.points
        if read.is_end or read.next_offset == offset:
            break
        offset = read.next_offset
    return points


def _usable_measurements() -> QuerySet[Measurement]:
    return (
        Measurement.objects.filter(refusal="", job__partition__is_simulated=False)
        .select_related("job__partition")
        .order_by("-job__ended_at", "-pk")
    )


def _ended_at(measurement: Measurement) -> datetime:
    return measurement.job.ended_at or measurement.measured_at


def _compare(measurements: Sequence[Measurement]) -> tuple[list[FinishedJob], list[Measurement], Counter[str]]:
    """Measured beside estimated by the engine alone; also which measurements those are, and how many are none."""
    stored = _stored_estimates([one.job_id for one in measurements])
    newest = max(map(_ended_at, measurements), default=None)
    jobs, used, refused = [], [], Counter[str]()
    for one in measurements:
        age = timedelta() if newest is None else newest - _ended_at(one)
        try:
            jobs.append(_compare_one(one, stored.get(one.job_id), age=age))
        except EstimateInvalid as error:
            refused[NOT_ESTIMABLE] += 1
            logger.info("job %s teaches nothing: %s", one.job_id, error)
        else:
            used.append(one)
    return jobs, used, refused


def _stored_estimates(jobs: Sequence[Any]) -> dict[Any, tuple[float, float]]:
    """Step time and memory that this engine alone estimated when the jobs were admitted."""
    rows = Estimate.objects.filter(job__in=jobs, engine_version=ENGINE_VERSION, calibration__isnull=True)
    values = rows.order_by("created_at", "pk").values_list("job_id", "step_s", "memory_bytes")
    return {job: (step_s, memory_bytes) for job, step_s, memory_bytes in values}


def _compare_one(one: Measurement, stored: tuple[float, float] | None, *, age: timedelta) -> FinishedJob:
    job = one.job
    workload, machine = parse_workload(job.workload or {}), machine_for(job.partition)
    if stored is None:
        estimate = estimate_uncalibrated(workload, machine, devices=job.devices, plan=job.plan)
        stored = estimate.step_s, estimate.memory_bytes
    memory = one.memory_bytes
    if memory is not None and memory > machine.accelerator.memory_bytes:
        memory = None  # more than the card has: another unit, or the host's
    return FinishedJob(
        kind=kind_of(workload, machine, devices=job.devices),
        step_s=one.step_s,
        estimated_step_s=stored[0],
        memory_bytes=memory,
        estimated_memory_bytes=stored[1],
        age_days=age / timedelta(days=1),
    )


def _summarise(
    fit: CalibrationFit, used: Sequence[Measurement], outliers: Sequence[str], refused: Counter[str]
) -> dict[str, Any]:
    """What a version rests on, for people to read."""
    counted = Counter(kind.stack for kind in fit.calibration.kinds())
    stacks = []
    for accelerator, framework in sorted(counted):
        kinds = [kind for kind in fit.calibration.kinds() if kind.stack == (accelerator, framework)]
        factors = [fit.calibration.lookup_kind(kind) for kind in kinds]
        stacks.append(
            {
                "accelerator": accelerator,
                "framework": framework,
                "jobs": factors[0].jobs_at_level["stack"],
                "step_time_factor": [round(pick(item.step_time_factor for item in factors), 4) for pick in (min, max)],
                "memory_factor": [round(pick(item.memory_factor for item in factors), 4) for pick in (min, max)],
            }
        )
    return {
        "stacks": stacks,
        "outliers": list(outliers[:50]),
        "refused": dict(refused),
        "newest_ended_at": max((_ended_at(one).isoformat() for one in used), default=None),
    }


@transaction.atomic
def _store(
    calibration: Calibration, evidence: dict[str, Any], *, at: datetime, by: User | None, note: str
) -> tuple[CalibrationVersion | None, bool]:
    """The new version, and whether it is in use now; None if the newest says the same or nothing was ever learnt."""
    newest = CalibrationVersion.objects.select_for_update().order_by("-pk").first()
    if newest is None and not calibration.jobs:
        return None, False
    same_engine = newest is not None and (newest.engine_version, newest.method_version) == (
        ENGINE_VERSION,
        METHOD_VERSION,
    )
    if newest is not None and same_engine and Calibration.from_dict(newest.factors) == calibration:
        return None, False
    version = CalibrationVersion.objects.create(
        created_at=at,
        created_by=by,
        engine_version=ENGINE_VERSION,
        method_version=METHOD_VERSION,
        jobs_used=calibration.jobs,
        factors=calibration.to_dict(),
        evidence=evidence,
        note=note,
    )
    is_activated = newest is None or newest.is_active
    if is_activated:
        version = activate_version(version.pk, at=at, by=by)
    return version, is_activated
