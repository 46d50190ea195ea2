"""Estimates as earlier versions of the portal stored them."""

import dataclasses
from typing import Any

from jobs.estimation import Estimate as EngineEstimate
from jobs.estimation import ParallelPlan
from jobs.models import Estimate, Job

FIRST_ENGINE = "2026.11.1"
_LATER_PLAN_FIELDS = ("recomputed_layers", "zero_group", "pipeline_schedule", "offload")
_LATER_STEP_PARTS = ("expert_parallel", "offload", "step_overhead")


def store_as_by_the_first_engine(job: Job) -> dict[str, Any]:
    """Make a job's estimate and plan what engine 2026.11.1 would have stored: return the estimate."""
    stored = job.estimates.get()
    later = {
        field.name
        for field in dataclasses.fields(EngineEstimate)
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    }
    assert "rests_on" in later
    result = {name: value for name, value in stored.result.items() if name not in later and name != "calibration"}
    result["engine_version"] = FIRST_ENGINE
    result["plan"] = {name: value for name, value in result["plan"].items() if name not in _LATER_PLAN_FIELDS}
    assert set(result["plan"]) < {field.name for field in dataclasses.fields(ParallelPlan)}
    result["step_parts_s"] = {
        name: value for name, value in result["step_parts_s"].items() if name not in _LATER_STEP_PARTS
    }
    Estimate.objects.filter(pk=stored.pk).update(result=result, engine_version=FIRST_ENGINE, calibration=None)
    Job.objects.filter(pk=job.pk).update(plan=result["plan"])
    return result
