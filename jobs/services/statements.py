"""A month of a project, from the ledger: what there was, what came, what went, and what is left.

A month is one of the centre's time zone, for every reader alike: it is a document, not a view.
"""

import re
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final

from django.db import connection
from django.db.models import Count, F, QuerySet, Sum
from django.utils import timezone

from accounts.models import LedgerEntry, LedgerKind, Project, ResourceClass

_MONTH: Final = re.compile(r"\A(\d{4})-(0[1-9]|1[0-2])\Z", re.ASCII)

# A refund's reference is "<job>/<n>". What is no job's reference stays without person and partition.
_USE_SQL: Final = """
SELECT a.resource_class_id, j.user_id, u.username, trim(concat(u.first_name, ' ', u.last_name)), c.code, p.name,
    count(DISTINCT j.id), sum(e.used_delta_s)
FROM accounts_ledgerentry e
JOIN accounts_allocation a ON a.id = e.allocation_id
LEFT JOIN jobs_job j ON j.id = CASE
    WHEN split_part(e.reference, '/', 1) ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
    THEN split_part(e.reference, '/', 1)::uuid END
LEFT JOIN accounts_user u ON u.id = j.user_id
LEFT JOIN accounts_partition p ON p.id = j.partition_id
LEFT JOIN accounts_cluster c ON c.id = p.cluster_id
WHERE a.project_id = %s AND e.at >= %s AND e.at < %s AND e.used_delta_s <> 0
GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 8 DESC, 3, 5, 6
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """What entries of one kind changed of what a project has, over the month (accelerator-seconds)."""

    kind: str
    entries: int
    amount_s: int

    @property
    def label(self) -> str:
        return str(LedgerKind(self.kind).label)


@dataclass(frozen=True, slots=True, kw_only=True)
class UseLine:
    """What a person's jobs on one partition were charged in the month, less refunds. Without names: no job's."""

    username: str
    name: str
    partition: str
    jobs: int
    charged_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassStatement:
    """The month in one resource class. `opening_s` plus all movements is `closing_s`; of that, `held_s` is reserved."""

    resource_class: ResourceClass
    opening_s: int
    movements: list[Movement] = field(default_factory=list)
    use: list[UseLine] = field(default_factory=list)
    held_s: int

    @property
    def closing_s(self) -> int:
        return self.opening_s + sum(one.amount_s for one in self.movements)

    @property
    def used_s(self) -> int:
        return sum(one.charged_s for one in self.use)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A project's month."""

    project: Project
    month: date
    start_at: datetime
    end_at: datetime
    is_complete: bool
    classes: list[ClassStatement]


def parse_month(text: str) -> date | None:
    """The first day of a month such as 2026-05; None if it is none."""
    match = _MONTH.match(text)
    return date(int(match[1]), int(match[2]), 1) if match and 2000 <= int(match[1]) < 9999 else None


def make_statement(project: Project, month: date, *, at: datetime) -> Statement | None:
    """The statement of a month, so far if it is not over; None of a month that is still to come. Four queries."""
    start_at, end_at = _start_of(month), _start_of(_next(month))
    if start_at > at:
        return None
    entries = LedgerEntry.objects.filter(allocation__project=project)
    opening = _sums(entries.filter(at__lt=start_at))
    within = entries.filter(at__gte=start_at, at__lt=end_at)
    movements: dict[int, list[Movement]] = {}
    held = {class_id: sums[1] for class_id, sums in opening.items()}
    rows = within.values("allocation__resource_class_id", "kind").annotate(
        amount=Sum(F("granted_delta_s") - F("used_delta_s")), reserved=Sum("reserved_delta_s"), number=Count("pk")
    )
    for row in rows.order_by("kind"):
        class_id = row["allocation__resource_class_id"]
        held[class_id] = held.get(class_id, 0) + row["reserved"]
        if row["amount"]:
            one = Movement(kind=row["kind"], entries=row["number"], amount_s=row["amount"])
            movements.setdefault(class_id, []).append(one)
    use = _read_use(project.pk, start_at, end_at)
    wanted = {class_id for class_id, sums in opening.items() if any(sums)} | movements.keys() | use.keys()
    return Statement(
        project=project,
        month=month,
        start_at=start_at,
        end_at=end_at,
        is_complete=end_at <= at,
        classes=[
            ClassStatement(
                resource_class=one,
                opening_s=opening.get(one.pk, (0, 0))[0],
                movements=_in_order(movements.get(one.pk, [])),
                use=use.get(one.pk, []),
                held_s=held.get(one.pk, 0),
            )
            for one in ResourceClass.objects.filter(pk__in=wanted).order_by("code")
        ],
    )


def months_of(project: Project, *, at: datetime) -> list[date]:
    """The months from the project's first ledger entry to the present one, newest first. One query."""
    first = LedgerEntry.objects.filter(allocation__project=project).order_by("at").values_list("at", flat=True).first()
    if first is None:
        return []
    zone = timezone.get_default_timezone()
    month, last = first.astimezone(zone).date().replace(day=1), at.astimezone(zone).date()
    months = []
    while month <= last:
        months.append(month)
        month = _next(month)
    return months[::-1]


def _read_use(project_id: int, start_at: datetime, end_at: datetime) -> dict[int, list[UseLine]]:
    found: dict[int, list[UseLine]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_USE_SQL, [project_id, start_at, end_at])
        for class_id, _user_id, username, name, cluster, partition, jobs, charged_s in cursor.fetchall():
            line = UseLine(
                username=username or "",
                name=name or username or "",
                partition=f"{cluster}/{partition}" if partition else "",
                jobs=jobs,
                charged_s=int(charged_s),
            )
            found.setdefault(class_id, []).append(line)
    return found


def _sums(entries: QuerySet[LedgerEntry]) -> dict[int, tuple[int, int]]:
    """What is left (granted less used) and what is held of it, by resource class."""
    rows = entries.values("allocation__resource_class_id").annotate(
        left=Sum(F("granted_delta_s") - F("used_delta_s")), held=Sum("reserved_delta_s")
    )
    return {row["allocation__resource_class_id"]: (int(row["left"]), int(row["held"])) for row in rows.order_by()}


def _in_order(movements: list[Movement]) -> list[Movement]:
    order = [LedgerKind.GRANT, LedgerKind.ADJUST, LedgerKind.TRANSFER, LedgerKind.SETTLE, LedgerKind.REFUND]
    rank = {kind.value: number for number, kind in enumerate(order)}
    return sorted(movements, key=lambda one: (rank.get(one.kind, len(rank)), one.kind))


def _next(month: date) -> date:
    return month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)


def _start_of(month: date) -> datetime:
    return datetime(month.year, month.month, 1, tzinfo=timezone.get_default_timezone())
