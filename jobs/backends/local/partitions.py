"""Partitions as settings describe them: virtual nodes with counted accelerators."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from jobs.backends.base import NodeInfo, NodeState
from jobs.spec import MAX_DEVICES_PER_NODE, MAX_TIME_LIMIT_MINUTES, JobSpec

MAX_VIRTUAL_NODES: Final = 1024
_LABEL: Final = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """`nodes` virtual nodes of `devices_per_node` accelerators.

    `jobs_per_node` bounds how many jobs share a node. It matters for jobs without accelerators, which nothing
    else would count; the default is one job for each accelerator, at least one.
    """

    name: str
    is_up: bool = True
    nodes: int = 1
    devices_per_node: int = 0
    gres_name: str = "gpu"
    gres_type: str = ""
    max_time_limit_minutes: int = 7 * 24 * 60
    jobs_per_node: int = 1

    def node_name(self, index: int) -> str:
        """The name of virtual node `index`, counted from 0, such as gpu-a800-01."""
        return f"{self.name}-{index + 1:0{max(2, len(str(self.nodes)))}d}"

    def to_options(self) -> dict[str, Any]:
        """The entry of PARTITIONS that reads as this partition."""
        options = asdict(self)
        del options["name"]
        options["state"] = "up" if options.pop("is_up") else "down"
        return options


_KEYS: Final = tuple(sorted({field.name for field in fields(Partition)} - {"name", "is_up"} | {"state"}))


def read_partitions(options: Mapping[str, Any]) -> dict[str, Partition]:
    """The PARTITIONS option, checked.

    Raises:
        ValueError: naming the option, the value given and what is allowed.
    """
    given = options.get("PARTITIONS")
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"PARTITIONS: {given!r} is not allowed; allowed: a mapping of at least one name to its sizes")
    return {name: _read_partition(name, entry) for name, entry in given.items()}


def _read_partition(name: object, entry: object) -> Partition:
    if not isinstance(name, str) or not _LABEL.match(name):
        raise ValueError(f"PARTITIONS: the name {name!r} is not allowed; allowed: letters, digits and '_.-'")
    where = f"PARTITIONS[{name!r}]"
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: {entry!r} is not allowed; allowed: a mapping with the keys {', '.join(_KEYS)}")
    # Upper case is accepted as well: the options around it are written so.
    values = {str(key).lower(): value for key, value in entry.items()}
    unknown = sorted(set(values) - set(_KEYS))
    if unknown:
        raise ValueError(f"{where}: {unknown[0]!r} is not a key; allowed: {', '.join(_KEYS)}")
    state = values.get("state", "up")
    if state not in ("up", "down"):
        raise ValueError(f"{where}['state']: {state!r} is not allowed; allowed: 'up' or 'down'")
    devices_per_node = _whole_number(values, "devices_per_node", 0, low=0, high=MAX_DEVICES_PER_NODE, where=where)
    return Partition(
        name=name,
        is_up=state == "up",
        nodes=_whole_number(values, "nodes", 1, low=1, high=MAX_VIRTUAL_NODES, where=where),
        devices_per_node=devices_per_node,
        gres_name=_label(values, "gres_name", "gpu", where=where),
        gres_type=_label(values, "gres_type", "", where=where),
        max_time_limit_minutes=_whole_number(
            values, "max_time_limit_minutes", 7 * 24 * 60, low=1, high=MAX_TIME_LIMIT_MINUTES, where=where
        ),
        jobs_per_node=_whole_number(values, "jobs_per_node", max(1, devices_per_node), low=1, high=1024, where=where),
    )


def describe_nodes(partitions: Mapping[str, Partition], in_use: Mapping[str, int]) -> tuple[NodeInfo, ...]:
    """All virtual nodes; `in_use` has the accelerators that jobs hold, by name of the node."""
    found = []
    for partition in partitions.values():
        for index in range(partition.nodes):
            name = partition.node_name(index)
            used = min(in_use.get(name, 0), partition.devices_per_node)
            busy = NodeState.ALLOCATED if used == partition.devices_per_node else NodeState.MIXED
            found.append(
                NodeInfo(
                    name=name,
                    partitions=(partition.name,),
                    state=busy if used else NodeState.IDLE,
                    devices=partition.devices_per_node,
                    devices_in_use=used,
                )
            )
    return tuple(found)


def _whole_number(values: Mapping[str, Any], key: str, default: int, *, low: int, high: int, where: str) -> int:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{where}[{key!r}]: {value!r} is not allowed; allowed: a whole number from {low} to {high}")
    return value


def _label(values: Mapping[str, Any], key: str, default: str, *, where: str) -> str:
    value = values.get(key, default)
    if not isinstance(value, str) or (value != default and not _LABEL.match(value)):
        raise ValueError(f"{where}[{key!r}]: {value!r} is not allowed; allowed: letters, digits and '_.-'")
    return value


def find_refusal(spec: JobSpec, partitions: Mapping[str, Partition]) -> str | None:
    """Why `spec` can never run here, in Slurm's words with the figures added; None if it can."""
    partition = partitions.get(spec.partition)
    if partition is None:
        return f"invalid partition specified: {spec.partition}; there are: {', '.join(sorted(partitions))}"
    if not partition.is_up:
        return f"Required partition not available (inactive or drain): {partition.name}"
    if spec.time_limit_minutes > partition.max_time_limit_minutes:
        return (
            f"Requested time limit is invalid (missing or exceeds some limit): {spec.time_limit_minutes} minutes "
            f"asked, {partition.max_time_limit_minutes} allowed in {partition.name}"
        )
    if spec.memory_bytes_per_node is not None and spec.memory_bytes_per_node < 1:
        return f"Memory specification can not be satisfied: {spec.memory_bytes_per_node} bytes per node asked"
    if spec.devices_per_node and (
        spec.gres_name != partition.gres_name or (spec.gres_type and spec.gres_type != partition.gres_type)
    ):
        asked, there = f"{spec.gres_name}:{spec.gres_type}", f"{partition.gres_name}:{partition.gres_type}"
        return (
            f"Invalid generic resource (gres) specification: {asked.rstrip(':')} asked, "
            f"{partition.name} has {there.rstrip(':')}"
        )
    if not has_room_for(partition, nodes=spec.nodes, devices_per_node=spec.devices_per_node):
        return (
            f"Requested node configuration is not available: {spec.nodes} nodes with {spec.devices_per_node} devices "
            f"each asked, {partition.name} has {partition.nodes} with {partition.devices_per_node} each"
        )
    return None


def has_room_for(partition: Partition, *, nodes: int, devices_per_node: int) -> bool:
    """Whether a job of this size fits into the empty partition."""
    return nodes <= partition.nodes and devices_per_node <= partition.devices_per_node
