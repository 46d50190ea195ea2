"""What schedulers say they have, kept for pages: partitions, nodes, reservations, service levels.

The number of queries doesn't grow with the cluster, and rows that say the same as before are not written again.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db import DatabaseError, models, transaction
from django.db.models import F
from django.db.models.functions import Least

from accounts.models import Cluster, Node, Partition, Qos, Reservation
from jobs.backends.base import Inventory, NodeInfo, NodeState, PartitionInfo, QosInfo

logger = logging.getLogger(__name__)

OUT_OF_SERVICE: Final = frozenset({NodeState.DRAINING, NodeState.DRAINED, NodeState.MAINTENANCE, NodeState.DOWN})
"""States in which a node takes no new job."""

_ROWS_PER_STATEMENT: Final = 5000
_PARTITION_FIELDS: Final = (
    *("is_up", "nodes", "devices_per_node", "gres_name", "gres_type", "max_time_limit_minutes"),
    *("default_time_limit_minutes", "devices_in_use", "jobs_pending", "jobs_running", "synced_at"),
    *("nodes_idle", "nodes_out_of_service", "devices_out_of_service"),
)
_NODE_FIELDS: Final = ("state", "devices", "devices_in_use", "reason", "reason_by", "since_at")
_RESERVATION_FIELDS: Final = ("start_at", "end_at", "nodes", "users", "accounts", "is_maintenance")
_QOS_FIELDS: Final = (
    *("priority", "preempts", "max_time_limit_minutes", "max_devices_per_job", "max_devices_per_user"),
    *("max_devices_of_group", "max_running_jobs_per_user", "max_jobs_per_user"),
)


@dataclass(frozen=True, slots=True)
class _NodeCounts:
    idle: int = 0
    out_of_service: int = 0
    devices_out_of_service: int = 0


def store_inventory(
    cluster: Cluster, partitions: Sequence[PartitionInfo], inventory: Inventory | None, *, at: datetime
) -> int:
    """Write what a cluster's scheduler said. Returns how many partitions were updated.

    Partitions that an administrator has not added are left out; without an inventory, nodes are not known.
    """
    nodes = _group_by_partition(inventory.nodes if inventory else ())
    known = {row.name: row for row in Partition.objects.filter(cluster=cluster)}
    rows = [_fill(known[info.name], info, _count(nodes[info.name]), at) for info in partitions if info.name in known]
    updated = _update_partitions(rows)
    names = {info.name for info in partitions}
    gone = [row.pk for name, row in known.items() if name not in names]
    if gone:
        Partition.objects.filter(pk__in=gone).update(is_up=False, synced_at=at)
    if inventory is not None:
        _store_parts(cluster, known, nodes, inventory)
    return updated


def _store_parts(
    cluster: Cluster, known: Mapping[str, Partition], nodes: Mapping[str, list[NodeInfo]], inventory: Inventory
) -> None:
    try:
        with transaction.atomic():
            _replace(
                Node.objects.filter(partition__cluster=cluster),
                [_make_node(row, info) for name, row in known.items() for info in nodes[name]],
                owner="partition_id",
                fields=_NODE_FIELDS,
            )
            _replace(
                Reservation.objects.filter(partition__cluster=cluster),
                _make_reservations(known, nodes, inventory),
                owner="partition_id",
                fields=_RESERVATION_FIELDS,
            )
            if inventory.qos is not None:
                rows = [_make_qos(cluster, info) for info in inventory.qos]
                _replace(Qos.objects.filter(cluster=cluster), rows, owner="cluster_id", fields=_QOS_FIELDS)
    except DatabaseError:
        # Something impossible in one scheduler's answer: other clusters must not wait for it.
        logger.exception("the inventory of cluster %s could not be written", cluster.code)


def _group_by_partition(nodes: Iterable[NodeInfo]) -> defaultdict[str, list[NodeInfo]]:
    groups: defaultdict[str, list[NodeInfo]] = defaultdict(list)
    for node in nodes:
        for name in node.partitions:
            groups[name].append(node)
    return groups


def _count(nodes: Sequence[NodeInfo]) -> _NodeCounts:
    out = [node for node in nodes if node.state in OUT_OF_SERVICE]
    return _NodeCounts(
        idle=sum(node.state is NodeState.IDLE for node in nodes),
        out_of_service=len(out),
        devices_out_of_service=sum(node.devices - node.devices_in_use for node in out),
    )


def _fill(row: Partition, info: PartitionInfo, counts: _NodeCounts, at: datetime) -> Partition:
    row.is_up = info.is_up
    row.nodes = info.nodes
    row.devices_per_node = info.devices_per_node
    row.gres_name = info.gres_name
    row.gres_type = info.gres_type
    row.max_time_limit_minutes = info.max_time_limit_minutes
    # Not the value just read: an administrator may be changing it.
    row.default_time_limit_minutes = Least(F("default_time_limit_minutes"), info.max_time_limit_minutes)
    row.devices_in_use = info.devices_in_use
    row.jobs_pending = info.jobs_pending
    row.jobs_running = info.jobs_running
    row.nodes_idle = counts.idle
    row.nodes_out_of_service = counts.out_of_service
    row.devices_out_of_service = counts.devices_out_of_service
    row.synced_at = at
    return row


def _update_partitions(rows: list[Partition]) -> int:
    """All in one statement; if the database refuses that, one by one, so that one bad partition keeps back no other."""
    if _try_to_update(rows, level=logging.INFO):
        return len(rows)
    return sum(_try_to_update([row], level=logging.ERROR) for row in rows)


def _try_to_update(rows: list[Partition], *, level: int) -> bool:
    try:
        with transaction.atomic():
            Partition.objects.bulk_update(rows, _PARTITION_FIELDS)
    except DatabaseError as error:
        # A partition without nodes, say.
        logger.log(level, "partitions %s could not be written: %s", ", ".join(row.name for row in rows), error)
        return False
    return True


def _make_node(partition: Partition, info: NodeInfo) -> Node:
    return Node(
        partition=partition,
        name=info.name,
        state=info.state.value,
        devices=info.devices,
        devices_in_use=info.devices_in_use,
        reason=info.reason[:500],
        reason_by=info.reason_by[:64],
        since_at=info.since,
    )


def _make_reservations(
    known: Mapping[str, Partition], nodes: Mapping[str, list[NodeInfo]], inventory: Inventory
) -> list[Reservation]:
    """A row for each partition that has nodes in a reservation, or that it names."""
    partitions_of = {node.name: node.partitions for node in inventory.nodes}
    rows = []
    for info in inventory.reservations:
        shares: Counter[str] = Counter(name for node in info.nodes for name in partitions_of.get(node, ()))
        if info.partition:
            shares = Counter({info.partition: shares[info.partition]})
        rows += [
            Reservation(
                partition=known[name],
                name=info.name,
                start_at=info.start_at,
                end_at=info.end_at,
                nodes=count,
                users=list(info.users),
                accounts=list(info.accounts),
                is_maintenance=info.is_maintenance,
            )
            for name, count in shares.items()
            if name in known
        ]
    return rows


def _make_qos(cluster: Cluster, info: QosInfo) -> Qos:
    values: dict[str, Any] = {name: getattr(info, name) for name in _QOS_FIELDS}
    return Qos(cluster=cluster, name=info.name, **{**values, "preempts": list(info.preempts)})


def _replace(
    present: "models.QuerySet[Any]", rows: Sequence[models.Model], *, owner: str, fields: tuple[str, ...]
) -> None:
    """Make the table's rows the given ones: what differs is written, what is gone is deleted. At most three queries."""
    existing = {(row[1], row[2]): (row[0], row[3:]) for row in present.values_list("pk", owner, "name", *fields)}
    wanted = {(getattr(row, owner), row.name): row for row in rows}  # type: ignore[attr-defined]
    changed = [
        row
        for key, row in wanted.items()
        if key not in existing or existing[key][1] != tuple(getattr(row, name) for name in fields)
    ]
    if changed:
        present.model._default_manager.bulk_create(
            changed,
            update_conflicts=True,
            unique_fields=[owner.removesuffix("_id"), "name"],
            update_fields=fields,
            batch_size=_ROWS_PER_STATEMENT,
        )
    gone = [pk for key, (pk, _) in existing.items() if key not in wanted]
    if gone:
        present.model._default_manager.filter(pk__in=gone).delete()
