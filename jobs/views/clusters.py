"""Clusters and their partitions, as the schedulers said last."""

from django.contrib.auth.decorators import login_required
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import conditional_page, require_safe

from accounts.access import may_manage_clusters, usable_partitions
from accounts.models import Cluster, Partition
from jobs.services.association_setup import is_managed
from jobs.services.estimates import accelerator_title


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
    clusters = list_clusters(usable_partitions(request.user))
    may_manage = may_manage_clusters(request.user)
    managed = [cluster for cluster, _partitions in clusters if may_manage and is_managed(cluster.code)]
    return render(request, "jobs/clusters.html", {"clusters": clusters, "managed": managed})


@login_required
@require_safe
@conditional_page
def cluster_list_live(request: HttpRequest) -> HttpResponse:
    """What of the page changes."""
    return render(request, "jobs/_clusters.html", {"clusters": list_clusters(usable_partitions(request.user))})
