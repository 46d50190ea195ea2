"""What the scheduler has, as the portal keeps it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from accounts.models import Node, Partition, Qos, Reservation
from accounts.models import NodeState as StoredNodeState
from jobs.backends.base import Inventory, NodeInfo, NodeState, QosInfo, ReservationInfo, SchedulerUnavailable
from jobs.services.clusters import sync_inventory
from jobs.services.inventory import OUT_OF_SERVICE, store_inventory
from tests.factories import NOW, make_partition
from tests.jobs.conftest import Centre


def sync(centre: Centre) -> None:
    sync_inventory(at=centre.now())
    centre.partition.refresh_from_db()


def reservation(name: str = "maintenance", **changes: Any) -> ReservationInfo:
    return ReservationInfo(
        **{
            "name": name,
            "start_at": NOW,
            "end_at": NOW + timedelta(hours=2),
            "nodes": ("a800-01", "a800-02"),
            "is_maintenance": True,
            **changes,
        }
    )


def test_states_are_the_backends_and_the_same_ones_are_out_of_service(centre: Centre) -> None:
    assert set(StoredNodeState.values) == {state.value for state in NodeState}
    for state in NodeState:
        Node.objects.create(partition=centre.partition, name=state, state=state.value, devices=8, devices_in_use=0)
    assert set(Node.objects.out_of_service().values_list("name", flat=True)) == {
        state.value for state in OUT_OF_SERVICE
    }


def test_every_node_is_kept_with_what_jobs_hold_of_it(centre: Centre) -> None:
    centre.submit(devices_per_node=3)
    centre.tick()
    centre.tick(1)
    sync(centre)
    nodes = list(Node.objects.order_by("name").values_list("name", "state", "devices", "devices_in_use"))
    assert nodes[0] == ("a800-01", "mixed", 8, 3)
    assert nodes[1:] == [(f"a800-{number:02d}", "idle", 8, 0) for number in range(2, 9)]
    assert (centre.partition.nodes_idle, centre.partition.nodes_out_of_service) == (7, 0)
    assert (centre.partition.devices_in_use, centre.partition.devices_free) == (3, 61)


def test_what_is_out_of_service_is_not_free(centre: Centre) -> None:
    centre.backend.set_node_state("a800-03", NodeState.DRAINED, reason="disk", by="root")
    centre.backend.set_node_state("a800-04", NodeState.DOWN, reason="fan", by="slurm")
    sync(centre)
    assert (centre.partition.nodes_out_of_service, centre.partition.nodes_idle) == (2, 6)
    assert (centre.partition.devices, centre.partition.devices_free) == (64, 48)
    node = Node.objects.get(name="a800-03")
    assert (node.state, node.reason, node.reason_by, node.since_at) == ("drained", "disk", "root", centre.now())
    assert set(Node.objects.out_of_service().values_list("name", flat=True)) == {"a800-03", "a800-04"}
    centre.backend.set_node_state("a800-03", None)
    sync(centre)
    node.refresh_from_db()
    assert (node.state, node.reason, node.since_at) == ("idle", "", None)


def test_nodes_that_are_gone_are_removed(centre: Centre) -> None:
    sync(centre)
    inventory = centre.backend.inventory()
    fewer = replace(inventory, nodes=inventory.nodes[:2])
    store_inventory(centre.cluster, centre.backend.partitions(), fewer, at=centre.now())
    assert list(Node.objects.order_by("name").values_list("name", flat=True)) == ["a800-01", "a800-02"]


def test_a_partition_that_is_gone_has_no_nodes_and_is_down(centre: Centre) -> None:
    old = make_partition("old", resource_class=centre.partition.resource_class)
    Node.objects.create(partition=old, name="old-01", state="idle", devices=8, devices_in_use=0)
    sync(centre)
    assert not Node.objects.filter(partition=old).exists()
    assert not Partition.objects.get(name="old").is_up


def test_a_node_in_two_partitions_counts_in_both(centre: Centre) -> None:
    other = make_partition("all", resource_class=centre.partition.resource_class)
    (info,) = (one for one in centre.backend.partitions() if one.name == "a800")
    node = NodeInfo(name="n1", partitions=("a800", "all"), state=NodeState.DOWN, devices=8, devices_in_use=0)
    inventory = Inventory(nodes=(node,), reservations=(reservation(nodes=("n1",)),))
    store_inventory(centre.cluster, [info, replace(info, name="all")], inventory, at=centre.now())
    for partition in (centre.partition, other):
        partition.refresh_from_db()
        assert partition.nodes_out_of_service == 1
        assert partition.node_set.get().name == "n1"
        assert partition.reservations.get().nodes == 1


def test_reservations_are_kept_for_the_partitions_that_they_touch(centre: Centre) -> None:
    centre.backend.set_reservations(
        reservation(), reservation("course", nodes=("a800-01",), accounts=("nlp",), is_maintenance=False)
    )
    sync(centre)
    found = {row.name: row for row in Reservation.objects.all()}
    assert (found["maintenance"].nodes, found["maintenance"].is_maintenance) == (2, True)
    assert (found["course"].nodes, found["course"].accounts, found["course"].users) == (1, ["nlp"], [])
    assert found["course"].partition == centre.partition
    assert found["course"].is_on(NOW)
    assert not found["course"].is_on(NOW - timedelta(seconds=1))
    assert not found["course"].is_on(NOW + timedelta(hours=2))
    centre.backend.set_reservations()
    sync(centre)
    assert not Reservation.objects.exists()


def test_service_levels_are_kept_and_stay_while_accounting_is_away(centre: Centre) -> None:
    centre.backend.set_qos(QosInfo(name="high", priority=9, preempts=("low",), max_devices_per_user=8))
    sync(centre)
    level = Qos.objects.get()
    assert (level.name, level.priority, level.preempts, level.max_devices_per_user) == ("high", 9, ["low"], 8)
    assert level.max_time_limit_minutes is None
    centre.backend.set_qos(is_known=False)
    sync(centre)
    assert Qos.objects.count() == 1
    centre.backend.set_qos()
    sync(centre)
    assert not Qos.objects.exists()


def test_a_cluster_whose_inventory_does_not_answer_keeps_what_was_known(centre: Centre) -> None:
    sync(centre)
    centre.backend.fail_next("inventory", SchedulerUnavailable("timed out"))
    sync(centre)
    assert Node.objects.count() == 8
    assert centre.cluster.consecutive_failures == 1


def test_an_impossible_node_keeps_back_no_other_cluster(centre: Centre) -> None:
    inventory = centre.backend.inventory()
    broken = replace(inventory, nodes=(replace(inventory.nodes[0], reason="\0"),))
    assert store_inventory(centre.cluster, centre.backend.partitions(), broken, at=centre.now()) == 1
    assert not Node.objects.exists()


def test_the_default_time_limit_is_cut_to_the_longest_and_otherwise_left(centre: Centre) -> None:
    assert centre.partition.default_time_limit_minutes == 60
    (info,) = (one for one in centre.backend.partitions() if one.name == "a800")
    for longest, wanted in ((600, 60), (30, 30)):
        store_inventory(centre.cluster, [replace(info, max_time_limit_minutes=longest)], None, at=centre.now())
        centre.partition.refresh_from_db()
        assert centre.partition.default_time_limit_minutes == wanted


@pytest.mark.parametrize("count", [1, 500])
def test_queries_don_t_grow_with_the_cluster_and_the_same_is_not_written_again(
    centre: Centre, count: int, django_assert_num_queries: Any
) -> None:
    names = [f"n{number}" for number in range(count)]
    (info,) = (one for one in centre.backend.partitions() if one.name == "a800")
    nodes = tuple(
        NodeInfo(name=name, partitions=("a800",), state=NodeState.IDLE, devices=8, devices_in_use=0) for name in names
    )
    inventory = Inventory(
        nodes=nodes,
        reservations=tuple(reservation(name, nodes=(name,)) for name in names),
        qos=tuple(QosInfo(name=name, priority=1) for name in names),
    )
    cluster = centre.cluster
    # The partitions are read and written, each kind of part as well; two savepoints make four queries.
    with django_assert_num_queries(4 + 2 * 4):
        store_inventory(cluster, [info], inventory, at=centre.now())
    with django_assert_num_queries(4 + 2 + 3):
        store_inventory(cluster, [info], inventory, at=centre.now())
    assert Node.objects.count() == count
