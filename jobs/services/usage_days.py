"""Sums of use per day, kept equal to the raw sum: whatever is written marks its days, and those are summed again.

The triggers of migration 0007 write the marks in the transaction that changes a fact. A refresh removes marks first
and sums then, in a later statement of READ COMMITTED: whatever belongs to a removed mark is committed by then and is
seen; what is committed afterwards has marks of its own. There is no watermark that a late row could slip under.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from django.db import connection, transaction

from jobs.models import UsageDay, UsageDayToRefresh
from jobs.models.usage_days import MODEL_FAMILY_LENGTH
from jobs.states import TERMINAL

DAYS_AT_ONCE: Final = 31

KEYS: Final = ("day", "project_id", "user_id", "partition_id", "model_family", "end_state")
SUMS: Final = (
    *("jobs", "records", "used_s", "charged_s", "shortfall_s", "reserved_s", "idle_s", "wait_s", "waited_jobs"),
    *("time_bias_e6", "time_error_e6", "time_jobs", "memory_bias_e6", "memory_error_e6", "memory_jobs"),
)

# What is a day, of whom, of which model. A preset's or a config's name begins with its family: qwen2.5-7b, qwen3_moe.
_KEYS_SQL: Final = f"""
    d.day, j.project_id, j.user_id, j.partition_id,
    CASE WHEN j.workload -> 'model' IS NULL THEN ''
         ELSE left(COALESCE(substring(lower(COALESCE(j.workload -> 'model' ->> 'preset',
              j.workload -> 'model' -> 'config' ->> 'model_type')) FROM '^(t5|[a-z]+)'), 'other'),
              {MODEL_FAMILY_LENGTH})
    END AS model_family,
    CASE WHEN j.state = ANY(%(terminal)s) THEN j.state ELSE '' END AS end_state
"""

_WITHIN: Final = "{0} >= d.day::timestamp AT TIME ZONE 'UTC' AND {0} < (d.day + 1)::timestamp AT TIME ZONE 'UTC'"

# Logarithms are rounded to whole millionths for each job, so that sums don't depend on their order.
_RAW_SQL: Final = f"""
WITH d AS (SELECT unnest(%(days)s::date[]) AS day), facts AS (
    SELECT {_KEYS_SQL}, 0 AS jobs, 1 AS records, r.devices::bigint * r.elapsed_s AS used_s, r.charged_s, r.shortfall_s,
        0::bigint AS reserved_s, 0::bigint AS idle_s, 0::bigint AS wait_s, 0 AS waited_jobs,
        0::bigint AS time_e6, 0 AS time_jobs, 0::bigint AS memory_e6, 0 AS memory_jobs
    FROM d JOIN jobs_usagerecord r ON {_WITHIN.format("r.ended_at")}
    JOIN jobs_jobsegment s ON s.id = r.segment_id JOIN jobs_job j ON j.id = s.job_id
    UNION ALL
    SELECT {_KEYS_SQL}, 1, 0, 0, 0, 0,
        CASE WHEN j.started_at IS NULL THEN 0 ELSE j.reserved_s END,
        CASE WHEN j.started_at IS NULL THEN 0 ELSE GREATEST(j.reserved_s - COALESCE(j.charged_s, 0), 0) END,
        COALESCE(GREATEST(floor(extract(epoch FROM j.started_at - j.queued_at))::bigint, 0), 0),
        (j.started_at IS NOT NULL AND j.queued_at IS NOT NULL)::int,
        COALESCE(round(ln(u.elapsed_s / e.duration_s) * 1e6)::bigint, 0), (u.elapsed_s IS NOT NULL)::int,
        COALESCE(round(ln(m.memory_bytes::float8 / e.memory_bytes) * 1e6)::bigint, 0), (m.job_id IS NOT NULL)::int
    FROM d JOIN jobs_job j ON {_WITHIN.format("j.ended_at")} AND j.settled_at IS NOT NULL
    LEFT JOIN LATERAL (
        SELECT duration_s, memory_bytes FROM jobs_estimate WHERE job_id = j.id ORDER BY id DESC LIMIT 1
    ) e ON true
    LEFT JOIN LATERAL (
        SELECT sum(one.elapsed_s)::float8 AS elapsed_s FROM jobs_usagerecord one
        JOIN jobs_jobsegment part ON part.id = one.segment_id WHERE part.job_id = j.id
        HAVING sum(one.elapsed_s) > 0
    ) u ON j.state = 'COMPLETED' AND e.duration_s > 0
    LEFT JOIN jobs_measurement m ON m.job_id = j.id AND m.memory_bytes > 0 AND e.memory_bytes > 0
)
SELECT {", ".join(KEYS)}, sum(jobs), sum(records), sum(used_s), sum(charged_s), sum(shortfall_s), sum(reserved_s),
    sum(idle_s), sum(wait_s), sum(waited_jobs), sum(time_e6), sum(abs(time_e6)), sum(time_jobs),
    sum(memory_e6), sum(abs(memory_e6)), sum(memory_jobs)
FROM facts GROUP BY {", ".join(KEYS)}
"""  # noqa: S608 (no input)

_INSERT_SQL: Final = f"INSERT INTO jobs_usageday ({', '.join((*KEYS, *SUMS))}) {_RAW_SQL}"

_DAYS_SQL: Final = """
SELECT (ended_at AT TIME ZONE 'UTC')::date FROM jobs_usagerecord
UNION SELECT (ended_at AT TIME ZONE 'UTC')::date FROM jobs_job WHERE settled_at IS NOT NULL AND ended_at IS NOT NULL
UNION SELECT day FROM jobs_usageday ORDER BY 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayDifference:
    """A sum that is not what the raw records say."""

    key: tuple[Any, ...]
    field: str
    summed: int
    raw: int


def refresh_usage_days() -> int:
    """Sum the days that have changed. Returns how many that were; any number of callers may race."""
    done = 0
    while days := _refresh_some():
        done += days
    return done


def rebuild_usage_days() -> int:
    """Sum every day again. Returns how many there are."""
    UsageDayToRefresh.objects.bulk_create([UsageDayToRefresh(day=day) for day in _all_days()], batch_size=5000)
    return refresh_usage_days()


def find_day_differences() -> list[DayDifference]:
    """Sums that differ from the raw records, in a batch of days at a time. Empty: they are exact.

    Days that are still marked have changed since and differ rightly: refresh first.
    """
    days = _all_days()
    found: list[DayDifference] = []
    for first in range(0, len(days), DAYS_AT_ONCE):
        found += _compare(days[first : first + DAYS_AT_ONCE])
    return found


@transaction.atomic
def _refresh_some() -> int:
    with connection.cursor() as cursor:
        # Those who refresh take turns; those who read or settle never wait.
        cursor.execute("LOCK TABLE jobs_usageday IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute(
            "DELETE FROM jobs_usagedaytorefresh WHERE day IN "
            "(SELECT DISTINCT day FROM jobs_usagedaytorefresh ORDER BY day LIMIT %s) RETURNING day",
            [DAYS_AT_ONCE],
        )
        days = sorted({row[0] for row in cursor.fetchall()})
        if days:
            cursor.execute("DELETE FROM jobs_usageday WHERE day = ANY(%s)", [days])
            cursor.execute(_INSERT_SQL, _parameters(days))
    return len(days)


def _all_days() -> list[date]:
    with connection.cursor() as cursor:
        cursor.execute(_DAYS_SQL)
        return [row[0] for row in cursor.fetchall()]


@transaction.atomic
def _compare(days: Sequence[date]) -> list[DayDifference]:
    with connection.cursor() as cursor:
        cursor.execute(_RAW_SQL, _parameters(days))
        raw = {row[: len(KEYS)]: [int(value) for value in row[len(KEYS) :]] for row in cursor.fetchall()}
    rows = UsageDay.objects.filter(day__in=days).values_list(*KEYS, *SUMS)
    summed = {row[: len(KEYS)]: list(row[len(KEYS) :]) for row in rows}
    nothing = [0] * len(SUMS)
    return [
        DayDifference(key=key, field=field, summed=ours, raw=theirs)
        for key in sorted(raw.keys() | summed.keys())
        for field, ours, theirs in zip(SUMS, summed.get(key, nothing), raw.get(key, nothing), strict=True)
        if ours != theirs
    ]


def _parameters(days: Sequence[date]) -> dict[str, Any]:
    return {"days": list(days), "terminal": sorted(TERMINAL)}
