"""What runs: jobs, their estimates, segments, events and usage."""

from jobs.models.jobs import (
    JOB_STATE_CHOICES,
    CalibrationVersion,
    EntryKind,
    Estimate,
    EventKind,
    Job,
    JobEvent,
    JobSegment,
    Launcher,
    Measurement,
    UsageRecord,
)
from jobs.models.usage_days import UsageDay, UsageDayToRefresh

__all__ = [
    "JOB_STATE_CHOICES",
    "CalibrationVersion",
    "EntryKind",
    "Estimate",
    "EventKind",
    "Job",
    "JobEvent",
    "JobSegment",
    "Launcher",
    "Measurement",
    "UsageDay",
    "UsageDayToRefresh",
    "UsageRecord",
]
