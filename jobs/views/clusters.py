"""Clusters and their partitions, as the schedulers said last: all of them beside each other, and each on its page."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, cast

from django.contrib.auth.decorators import login_required
from django.core.paginator import Page, Paginator
from django.db.models import Count, F, Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.http import conditional_page, require_safe

from accounts.access import may_see_cluster_setup, sees_all, slurm_accounts_of, usable_partitions
from accounts.models import Cluster, Node, NodeState, Partition, Qos, Reservation, User
from jobs.presentation import SIZE_LABELS
from jobs.services.association_setup import is_managed
from jobs.services.estimates import accelerator_title
from jobs.services.waiting import WINDOWS_DAYS, Wait, best_known_waits, waits_of

NODES_PER_PAGE: Final = 50

_NODE_ORDERS: Final[Mapping[str, tuple[Any, ...]]] = {
    "name": ("name",),
    "state": ("state", "name"),
    "free": (F("devices_in_use").asc(), "name"),
    "since": (F("since_at").desc(nulls_last=True), "name"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRow:
    """A partition with what is worth knowing before choosing it."""

    partition: Partition
    accelerator: str
    waits: list[Wait] = field(default_factory=list)
    maintenance: Reservation | None = None
    """The one that is on or comes next."""

    @property
    def used_permille(self) -> int:
        return self._permille(self.partition.devices_in_use)

    @property
    def out_permille(self) -> int:
        return self._permille(self.partition.devices_out_of_service)

    @property
    def known_waits(self) -> list[Wait]:
        return [wait for wait in self.waits if wait.is_known]

    def _permille(self, devices: int) -> int:
        return min(round(1000 * devices / self.partition.devices), 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationRow:
    """A reservation as the reader may see it; for whom it is in names, is for staff and for those themselves."""

    reservation: Reservation
    is_on: bool
    is_for_reader: bool
    holders: list[str]


_ROW_ORDERS: Final[Mapping[str, Callable[[PartitionRow], Any]]] = {
    "name": lambda row: str(row.partition).casefold(),
    "free": lambda row: -row.partition.devices_free,
    "jobs": lambda row: row.partition.jobs_pending,
    "wait": lambda row: min((wait.median_s or 0 for wait in row.known_waits), default=float("inf")),
}


def list_clusters(partitions: QuerySet[Partition]) -> list[tuple[Cluster, list[tuple[Partition, str]]]]:
    """Clusters by title, each with its partitions and the name of their accelerator. One query."""
    found: dict[int, tuple[Cluster, list[tuple[Partition, str]]]] = {}
    for partition in partitions.order_by("cluster__title", "cluster_id", "name"):
        _cluster, items = found.setdefault(partition.cluster_id, (partition.cluster, []))
        items.append((partition, accelerator_title(partition.accelerator)))
    return list(found.values())


@login_required
@require_safe
def cluster_list(request: HttpRequest) -> HttpResponse:
    """The page of all clusters."""
    context = _list_context(request)
    may_manage = may_see_cluster_setup(request.user)
    context["managed"] = [one for one, *_ in context["clusters"] if may_manage and is_managed(one.code)]
    return render(request, "jobs/clusters.html", context)


@login_required
@require_safe
@conditional_page
def cluster_list_live(request: HttpRequest) -> HttpResponse:
    """What of the page changes."""
    return render(request, "jobs/_clusters.html", _list_context(request))


@login_required
@require_safe
def partition_page(request: HttpRequest, cluster: str, name: str) -> HttpResponse:
    """The page of one partition."""
    return render(request, "jobs/partition.html", _partition_context(request, cluster, name))


@login_required
@require_safe
@conditional_page
def partition_live(request: HttpRequest, cluster: str, name: str) -> HttpResponse:
    """What of the page changes."""
    return render(request, "jobs/_partition.html", _partition_context(request, cluster, name))


def _list_context(request: HttpRequest) -> dict[str, Any]:
    sort = _read_choice(request, "sort", _ROW_ORDERS)
    now = timezone.now()
    coming = Prefetch("reservations", Reservation.objects.filter(end_at__gt=now).order_by("start_at", "name"))
    clusters = []
    for cluster, items in list_clusters(usable_partitions(request.user).prefetch_related(coming)):
        rows = [_make_row(partition, accelerator) for partition, accelerator in items]
        clusters.append((cluster, sorted(rows, key=_ROW_ORDERS[sort])))
    return {"clusters": clusters, "sort": sort}


def _make_row(partition: Partition, accelerator: str) -> PartitionRow:
    maintenances = (item for item in partition.reservations.all() if item.is_maintenance)
    return PartitionRow(
        partition=partition,
        accelerator=accelerator,
        waits=best_known_waits(partition),
        maintenance=next(maintenances, None),
    )


def _partition_context(request: HttpRequest, cluster: str, name: str) -> dict[str, Any]:
    user = cast(User, request.user)
    now = timezone.now()
    partition = get_object_or_404(usable_partitions(user), cluster__code=cluster, name=name)
    counts = dict(partition.node_set.order_by().values_list("state").annotate(Count("pk")))
    sort = _read_choice(request, "sort", _NODE_ORDERS)
    # Without a choice, what is broken: the others are many and alike.
    shown = _read_choice(request, "nodes", ("out", "all"))
    reservations = Reservation.objects.filter(partition=partition, end_at__gt=now).order_by("start_at", "name")
    return {
        "partition": partition,
        "row": PartitionRow(partition=partition, accelerator=accelerator_title(partition.accelerator)),
        "node_counts": [(label, counts[state]) for state, label in NodeState.choices if state in counts],
        "nodes_total": sum(counts.values()),
        "page_obj": _list_nodes(request, partition, sort=sort, shown=shown),
        "sort": sort,
        "shown": shown,
        "reservations": _describe_reservations(reservations, user, now),
        "waits": _waits_by_size(partition),
        "days": WINDOWS_DAYS,
        "levels": Qos.objects.filter(cluster=partition.cluster).order_by("-priority", "name"),
        "sees_who": sees_all(user),
    }


def _list_nodes(request: HttpRequest, partition: Partition, *, sort: str, shown: str) -> Page[Node]:
    nodes: QuerySet[Node] = Node.objects.filter(partition=partition)
    if shown == "out":
        nodes = Node.objects.out_of_service().filter(partition=partition)
    return Paginator(nodes.order_by(*_NODE_ORDERS[sort]), NODES_PER_PAGE).get_page(request.GET.get("page"))


def _describe_reservations(reservations: Iterable[Reservation], user: User, now: datetime) -> list[ReservationRow]:
    rows = list(reservations)
    own = set(slurm_accounts_of(user)) if rows else set()
    return [
        ReservationRow(
            reservation=row,
            is_on=row.is_on(now),
            is_for_reader=bool(own & set(row.accounts)) or (user.unix_username or None) in row.users,
            holders=[*row.accounts, *row.users] if sees_all(user) else [],
        )
        for row in rows
    ]


def _waits_by_size(partition: Partition) -> list[tuple[str, list[Wait]]]:
    """For each size of job its label and its wait over each period."""
    periods = [waits_of(partition, days=days) for days in WINDOWS_DAYS]
    return [(str(SIZE_LABELS[waits[0].size]), list(waits)) for waits in zip(*periods, strict=True)]


def _read_choice(request: HttpRequest, name: str, allowed: Iterable[str]) -> str:
    """A query parameter; the first that is allowed for any other value."""
    choices = list(allowed)
    value = request.GET.get(name, "")
    return value if value in choices else choices[0]
