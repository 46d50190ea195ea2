"""Reports over 1,000,000 usage records, from sums of days, beside the same sums from the raw records."""

import time
from datetime import timedelta

from django.core.cache import cache
from django.db import connection
from django.db.models import F, Sum
from django.test import Client
from django.utils import timezone

from accounts.models import Appointment, Institution, Membership, Office, Partition, Role, User
from accounts.models.identity import Project
from jobs.models import Job, JobSegment, UsageDay, UsageRecord
from jobs.services.usage_days import find_day_differences, rebuild_usage_days, refresh_usage_days
from jobs.services.usage_reports import GROUPS, ReportQuery, report_usage
from tests.benchmarks.measure import describe_load, latency_row, measure_alternately, print_table, read_size
from tests.benchmarks.population import BenchmarkCentre, analyze, copy_rows
from tests.factories import make_partition, make_project, make_user

_DAYS = 365
_PROJECTS, _MEMBERS, _PARTITIONS, _INSTITUTIONS = 200, 2, 4, 40
_TRIGGERS = ("jobs_job", "jobs_usagerecord")


def run() -> None:
    records, rounds = read_size("RECORDS", 1_000_000, low=1000), read_size("ROUNDS", 7)
    start = time.perf_counter()
    users = _populate(records)
    print(f"\n{UsageRecord.objects.count()} usage records of {_PROJECTS} projects: {time.perf_counter() - start:.0f} s")
    start = time.perf_counter()
    days = rebuild_usage_days()
    analyze()
    print(f"{days} days summed from nothing: {time.perf_counter() - start:.1f} s, {UsageDay.objects.count()} rows")
    _measure_refresh()
    start = time.perf_counter()
    print(f"verify: {len(find_day_differences())} differences, {time.perf_counter() - start:.1f} s")
    _measure_reports(users, rounds)
    _measure_pages(users, rounds)


def _measure_refresh() -> None:
    UsageRecord.objects.filter(pk=UsageRecord.objects.order_by("-ended_at").values("pk")[:1]).update(elapsed_s=3601)
    start = time.perf_counter()
    days = refresh_usage_days()
    print(f"{days} day summed again after one late row: {(time.perf_counter() - start) * 1000:.0f} ms")


def _raw(group_by: str) -> object:
    """The raw aggregate that a report by project or the like would need every time."""
    columns = {
        "institution": "segment__job__project__institution__code",
        "project": "segment__job__project__code",
        "user": "segment__job__user__username",
        "partition": "segment__job__partition__name",
        "field": "segment__job__project__field_of_science",
        "model_family": "segment__job__workload__model__preset",
        "end_state": "segment__job__state",
    }
    first = timezone.now() - timedelta(days=_DAYS)
    rows = UsageRecord.objects.filter(ended_at__gte=first).values(columns.get(group_by, "ended_at__date"))
    return list(
        rows.annotate(
            used=Sum(F("devices") * F("elapsed_s")), charged=Sum("charged_s"), held=Sum("segment__job__reserved_s")
        ).order_by()
    )


def _measure_reports(users: dict[str, User], rounds: int) -> None:
    today = timezone.now().date()
    rows = []
    for group_by in GROUPS:
        query = ReportQuery(group_by=group_by, first_day=today - timedelta(days=_DAYS), last_day=today)
        month = ReportQuery(group_by=group_by, first_day=today - timedelta(days=29), last_day=today)
        calls = {
            "raw": lambda group_by=group_by: _raw(group_by),
            "year": lambda query=query: report_usage(users["administrator"], query),
            "month": lambda month=month: report_usage(users["administrator"], month),
        }
        taken = measure_alternately(calls, rounds=min(rounds, 3))
        rows.append(latency_row(f"{group_by}, raw sum of a year", taken["raw"], taken["raw"]))
        rows.append(latency_row(f"{group_by}, report of a year", taken["year"], taken["raw"]))
        rows.append(latency_row(f"{group_by}, report of 30 days", taken["month"], taken["raw"]))
    print_table(f"reports: data, as an administrator ({describe_load()})", ["", "p50 ms", "p95 ms", "× raw"], rows)


def _measure_pages(users: dict[str, User], rounds: int) -> None:
    today = timezone.now().date()
    year = f"from={today - timedelta(days=_DAYS)}&to={today}"
    calls = {}
    for name, user in users.items():
        client = Client(SERVER_NAME="127.0.0.1")
        client.force_login(user)
        for path in ("/", "/reports/", f"/reports/?{year}", f"/reports/?{year}&group_by=user"):
            calls[f"{name}, {path.replace(year, 'year')}"] = lambda client=client, path=path: _get(client, path)
    taken = measure_alternately(calls, rounds=rounds, before=cache.clear)
    baseline = next(iter(taken.values()))
    rows = [latency_row(name, values, baseline) for name, values in taken.items()]
    print_table(f"reports: whole pages ({describe_load()})", ["", "p50 ms", "p95 ms", "× first"], rows)


def _get(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code)


def _populate(records: int) -> dict[str, User]:
    centre = BenchmarkCentre()
    template = centre.make_template()
    institutions = [Institution.objects.create(code=f"i{number}", name=f"i{number}") for number in range(_INSTITUTIONS)]
    partitions: list[Partition] = [
        centre.partition,
        *(make_partition(f"p{n}", resource_class=centre.partition.resource_class) for n in range(1, _PARTITIONS)),
    ]
    projects: list[Project] = []
    people: list[User] = []
    for number in range(_PROJECTS):
        fields = {"institution": institutions[number % _INSTITUTIONS], "field_of_science": f"field {number % 12}"}
        project = make_project(f"p{number}", **fields)
        projects.append(project)
        for member in range(_MEMBERS):
            person = make_user(f"u{number}-{member}")
            Membership.objects.create(project=project, user=person, role=Role.MEMBER if member else Role.PI)
            people.append(person)
    with connection.cursor() as cursor:
        for table in _TRIGGERS:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    _copy(template, records, projects, people, partitions)
    with connection.cursor() as cursor:
        for table in _TRIGGERS:
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
    analyze()
    manager = make_user("manager")
    Appointment.objects.create(user=manager, office=Office.INSTITUTION_MANAGER, institution=institutions[0])
    return {
        "administrator": make_user("admin", is_staff=True),
        "institution manager": manager,
        "PI": people[0],
        "member": people[1],
    }


def _copy(
    template: Job, records: int, projects: list[Project], people: list[User], partitions: list[Partition]
) -> None:
    """Jobs with one segment and one usage record each, all ended, over a year."""

    def pick(rows: list[object], index: str) -> str:
        return f"(ARRAY[{', '.join(str(row.pk) for row in rows)}])[1 + {index}]"  # type: ignore[attr-defined]

    ended_at = f"now() - (n::float8 * {_DAYS} / {records}) * interval '1 day'"
    person = f"mod(n::bigint * 7919, {_PROJECTS * _MEMBERS})::int"
    copy_rows(
        Job,
        records,
        where={"id": template.pk},
        changes={
            "id": "md5('bench' || n)::uuid",
            "user_id": pick(people, person),
            "project_id": pick(projects, f"({person}) / {_MEMBERS}"),
            "partition_id": pick(partitions, f"mod({person}, {_PARTITIONS})"),
            "name": "'copy-' || n",
            "state": "CASE mod(n, 20) "
            "WHEN 0 THEN 'TIMEOUT' WHEN 1 THEN 'CANCELLED' WHEN 2 THEN 'FAILED' WHEN 3 THEN 'FAILED' "
            "ELSE 'COMPLETED' END",
            "workload": "jsonb_build_object('model', jsonb_build_object('preset', "
            f"(ARRAY['llama-2-7b','qwen2.5-7b','gpt3-13b','glm-4-9b'])[1 + mod({person} / 4, 4)]))",
            "queued_at": f"{ended_at} - interval '2 hours'",
            "started_at": f"{ended_at} - interval '1 hour'",
            "ended_at": ended_at,
            "settled_at": ended_at,
            "charged_s": "28800",
            "lease_token": "NULL",
        },
    )
    segment, usage = JobSegment._meta.db_table, UsageRecord._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {segment} (job_id, number, cluster_id, key, native_id, first_attempt_at, resubmissions, "  # noqa: S608
            "end_state, nodes, started_at, ended_at, accounted_at) SELECT id, 1, %s, id || '-1', '', submitted_at, 0, "
            "state, '[]', started_at, ended_at, ended_at FROM jobs_job WHERE name LIKE 'copy-%%'",
            [template.partition.cluster_id],
        )
        cursor.execute(
            f"INSERT INTO {usage} (segment_id, devices, elapsed_s, charged_s, shortfall_s, started_at, ended_at, "  # noqa: S608
            "recorded_at) SELECT id, 8, 3600, 28800, 0, started_at, ended_at, ended_at "
            f"FROM {segment} WHERE ended_at IS NOT NULL"
        )
