"""Which calibration is in use: what finished jobs taught (`services.recalibration`), applied to every estimate."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts.models import User
from jobs.estimation import ENGINE_VERSION, Estimate, Machine, Workload
from jobs.estimation.calibrated_estimate import CalibratedEstimate
from jobs.estimation.calibration import METHOD_VERSION, Calibration, CalibrationFactors, RunKind
from jobs.models import CalibrationVersion

logger = logging.getLogger(__name__)


class UnknownVersion(LookupError):
    """There is no such calibration version; `known` lists the newest of those there are."""

    def __init__(self, given: int, known: list[int]) -> None:
        self.given = given
        self.known = known
        super().__init__(f"there is no calibration version {given}; the newest: {', '.join(map(str, known)) or 'none'}")


class OtherEngine(ValueError):
    """The version was learnt for another engine: its factors would correct errors that this one doesn't make."""

    def __init__(self, version: CalibrationVersion) -> None:
        self.version = version
        super().__init__(
            f"calibration version {version.pk} was learnt for engine {version.engine_version}, method "
            f"{version.method_version}; this is engine {ENGINE_VERSION}, method {METHOD_VERSION}"
        )


@dataclass(frozen=True, slots=True)
class ActiveCalibration:
    """The calibration in use."""

    version: int
    calibration: Calibration

    def look_up(self, workload: Workload, machine: Machine, *, devices: int) -> CalibrationFactors:
        """Its factors for a run."""
        return self.calibration.lookup_kind(kind_of(workload, machine, devices=devices))


def active_calibration() -> ActiveCalibration | None:
    """The version in use, if it is one of this engine. Costs one small query; what it holds is kept in memory."""
    in_use = CalibrationVersion.objects.filter(
        is_active=True, engine_version=ENGINE_VERSION, method_version=METHOD_VERSION
    )
    version = in_use.values_list("pk", flat=True).first()
    return None if version is None else _load(version)


@lru_cache(maxsize=4)
def _load(version: int) -> ActiveCalibration:
    # Versions are immutable, so that one read is enough for the life of the process.
    factors = CalibrationVersion.objects.values_list("factors", flat=True).get(pk=version)
    return ActiveCalibration(version, Calibration.from_dict(factors))


def kind_of(workload: Workload, machine: Machine, *, devices: int) -> RunKind:
    """Where a run sits in the hierarchy that calibration learns by."""
    return RunKind(
        accelerator=machine.accelerator.code,
        accelerator_family=machine.accelerator.family,
        framework=workload.framework,
        task=workload.task,
        parameters=workload.architecture.parameters,
        devices=devices,
    )


def version_of(estimate: Estimate) -> int | None:
    """The calibration version that corrected an estimate; None for the engine's own."""
    return estimate.calibration["version"] if isinstance(estimate, CalibratedEstimate) else None


@transaction.atomic
def activate_version(version: int, *, at: datetime, by: User | None = None) -> CalibrationVersion:
    """Use this version from now on, instead of any other. Estimates that were stored stay as they are.

    Raises:
        UnknownVersion: there is none of that number.
        OtherEngine: it was learnt for another engine.
    """
    # All of those that may change are locked, so that two activations at once follow each other.
    rows = {row.pk: row for row in CalibrationVersion.objects.select_for_update().defer("factors").order_by("pk")}
    chosen = rows.get(version)
    if chosen is None:
        raise UnknownVersion(version, sorted(rows, reverse=True)[:10])
    if (chosen.engine_version, chosen.method_version) != (ENGINE_VERSION, METHOD_VERSION):
        raise OtherEngine(chosen)
    if not chosen.is_active:
        CalibrationVersion.objects.filter(is_active=True).update(is_active=False)
        CalibrationVersion.objects.filter(pk=version).update(is_active=True, activated_at=at, activated_by=by)
        logger.info("calibration version %d is in use", version)
    chosen.refresh_from_db()
    return chosen


def deactivate(*, by: User | None = None) -> int | None:
    """Use none: estimates are the engine's own. Returns the version that was in use.

    Until somebody activates a version again, newly learnt ones are not put in use either.
    """
    with transaction.atomic():
        version = CalibrationVersion.objects.select_for_update().filter(is_active=True).first()
        if version is None:
            return None
        CalibrationVersion.objects.filter(pk=version.pk).update(is_active=False)
    logger.info("no calibration is in use; it was version %d (by %s)", version.pk, by)
    return int(version.pk)


def describe_calibration(calibration: Mapping[str, Any]) -> str:
    """What finished jobs of this centre an estimate rests on, as a sentence.

    `calibration` is what a `CalibratedEstimate` (or its stored result) holds under that name.
    """
    level = calibration["level"]
    count = calibration["jobs_at_level"].get(level, 0)
    if level == "none":
        return _("No finished job of this centre has corrected it.")
    names = {
        "shape": ngettext(
            "Rests on %(count)d finished job here of this size, accelerator and framework.",
            "Rests on %(count)d finished jobs here of this size, accelerator and framework.",
            count,
        ),
        "stack": ngettext(
            "Rests on %(count)d finished job here on this accelerator and framework, of another size.",
            "Rests on %(count)d finished jobs here on this accelerator and framework, of other sizes.",
            count,
        ),
        "accelerator": ngettext(
            "Rests on %(count)d finished job here on this accelerator, with another framework.",
            "Rests on %(count)d finished jobs here on this accelerator, with other frameworks.",
            count,
        ),
        "family": ngettext(
            "Rests on %(count)d finished job here on a like accelerator.",
            "Rests on %(count)d finished jobs here on like accelerators.",
            count,
        ),
        "centre": ngettext(
            "Rests a little on %(count)d finished job here on another accelerator.",
            "Rests a little on %(count)d finished jobs here on other accelerators.",
            count,
        ),
    }
    figures = {
        "step": f"{100 * (calibration['step_time_factor'] - 1):+.0f}",
        "memory": f"{100 * (calibration['memory_factor'] - 1):+.0f}",
    }
    # xgettext:no-python-format
    effect = _("Step time {step} %, memory {memory} %.").format(**figures)
    return f"{names[level] % {'count': count}} {effect}"
