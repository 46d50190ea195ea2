"""Parts of a project's page that know jobs: who used how much, and the ledger with its links."""

import uuid
from dataclasses import dataclass
from typing import cast

from django.contrib.auth.decorators import login_required
from django.db.models import Count, F, Q, QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from accounts import access
from accounts.models import LedgerEntry, User
from jobs.models import Job
from jobs.states import TERMINAL

LEDGER_PAGE_SIZE = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One entry, what was available after it, and the job it concerns, if the reader may see that."""

    entry: LedgerEntry
    available_after_s: int
    job: Job | None

    @property
    def available_delta_s(self) -> int:
        return self.entry.granted_delta_s - self.entry.reserved_delta_s - self.entry.used_delta_s


@login_required
@require_safe
def project_usage(request: HttpRequest, code: str) -> HttpResponse:
    """Use by member: of everybody for those who lead the project, else one's own."""
    user = cast(User, request.user)
    project = get_object_or_404(access.visible_projects(user), code=code)
    sees_all = access.sees_whole_use(user, project)
    jobs = Job.objects.filter(project=project)
    rows = (
        (jobs if sees_all else jobs.visible_to(user))
        .values("user_id", "user__username", "user__first_name", "user__last_name", "partition__resource_class__title")
        .annotate(
            jobs=Count("pk"),
            unfinished=Count("pk", filter=~Q(state__in=TERMINAL)),
            charged_s=Sum("charged_s"),
            held_s=Sum("reserved_s", filter=Q(settled_at__isnull=True, queued_at__isnull=False)),
        )
        .order_by(F("charged_s").desc(nulls_last=True), "user__username")[:200]
    )
    total_s = sum(row["charged_s"] or 0 for row in rows)
    context = {
        "project": project,
        "rows": [{**row, "share": (row["charged_s"] or 0) / total_s if total_s else 0} for row in rows],
        "sees_all": sees_all,
    }
    return render(request, "jobs/_project_usage.html", context)


@login_required
@require_safe
def project_ledger(request: HttpRequest, code: str) -> HttpResponse:
    """The ledger of a project, newest first: as a part of its page, or as a page of its own."""
    user = cast(User, request.user)
    project = get_object_or_404(access.visible_projects(user), code=code)
    allocations = access.visible_allocations(user).filter(project=project)
    before = _read_id(request.GET.get("before", ""))
    entries = LedgerEntry.objects.filter(allocation__in=allocations.values("pk"))
    newer = entries.filter(pk__gte=before) if before is not None else entries.none()
    if before is not None:
        entries = entries.filter(pk__lt=before)
    page = list(entries.select_related("allocation__resource_class", "actor").order_by("-pk")[: LEDGER_PAGE_SIZE + 1])
    shown = page[:LEDGER_PAGE_SIZE]
    is_part = request.headers.get("HX-Request") == "true"
    context = {
        "project": project,
        "rows": _with_balances(shown, _sums(newer) if before is not None else {}, _jobs_of(shown, user)),
        "older_before": shown[-1].pk if len(page) > LEDGER_PAGE_SIZE else None,
        "is_first": before is None,
        "is_part": is_part,
    }
    return render(request, "jobs/_project_ledger.html" if is_part else "jobs/project_ledger.html", context)


def _sums(entries: QuerySet[LedgerEntry]) -> dict[int, int]:
    """What entries changed of what is available, by allocation."""
    rows = entries.values("allocation_id").annotate(
        delta=Sum(F("granted_delta_s") - F("reserved_delta_s") - F("used_delta_s"))
    )
    return {row["allocation_id"]: int(row["delta"]) for row in rows.order_by()}


def _with_balances(entries: list[LedgerEntry], newer: dict[int, int], jobs: dict[str, Job]) -> list[LedgerRow]:
    """Backwards from the cached balance: what newer entries changed is taken off."""
    after = {entry.allocation_id: entry.allocation.available_s for entry in entries}
    for allocation_id, delta in newer.items():
        if allocation_id in after:
            after[allocation_id] -= delta
    rows = []
    for entry in entries:
        job = jobs.get(entry.reference.partition("/")[0])
        row = LedgerRow(entry=entry, available_after_s=after[entry.allocation_id], job=job)
        after[entry.allocation_id] -= row.available_delta_s
        rows.append(row)
    return rows


def _jobs_of(entries: list[LedgerEntry], user: User) -> dict[str, Job]:
    """The visible jobs that entries refer to, by reference. A refund's is "<job>/<n>"."""
    ids = set()
    for entry in entries:
        try:
            ids.add(uuid.UUID(entry.reference.partition("/")[0]))
        except ValueError:
            continue  # a reference of another kind
    jobs = Job.objects.visible_to(user).filter(pk__in=ids).only("pk", "name") if ids else []
    return {str(job.pk): job for job in jobs}


def _read_id(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
