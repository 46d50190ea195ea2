"""Nodes, reservations and service levels (QOS) of a Slurm, by its commands or by slurmrestd: three questions each.

https://slurm.schedmd.com/sinfo.html, https://slurm.schedmd.com/reservations.html, https://slurm.schedmd.com/qos.html
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from jobs.backends.base import Inventory, NodeInfo, NodeState, QosInfo, ReservationInfo, SchedulerUnavailable
from jobs.backends.slurm.text import (
    count_devices,
    expand_hosts,
    read_duration_s,
    read_gres,
    read_time,
    read_tres,
)

Ask = Callable[[list[str]], str]
"""Runs a command and returns what it printed. Raises SchedulerUnavailable."""

Get = Callable[[str, str], dict[str, Any]]
"""Gets a path of a part ("slurm", "slurmdb") of slurmrestd's interface. Raises SchedulerUnavailable."""

# The reason goes last: it may hold anything, also characters that sinfo counts otherwise than Python.
_NODE_COLUMNS: Final = {
    "NodeList": 100,
    "Partition": 100,
    "StateComplete": 120,
    "Gres": 300,
    "GresUsed": 500,
    "CPUsState": 40,
    "Timestamp": 20,
    "User": 64,
    "Reason": 1000,
}
_CPUS: Final = re.compile(r"\A(\d+)/\d+/\d+/(\d+)\Z")
_PAIR: Final = re.compile(r"(\w+)=(\S*)")
_QOS_FIELDS: Final = (
    *("Name", "Priority", "Preempt", "MaxWall", "MaxTRES", "MaxTRESPerUser", "GrpTRES"),
    *("MaxJobsPerUser", "MaxSubmitJobsPerUser"),
)
_DRAINED_FLAGS: Final = frozenset({"drain", "drained", "draining", "fail", "invalid_reg", "reboot_issued", "reboot"})
_DOWN_WORDS: Final = frozenset({"down", "error", "unknown", "future", "not_responding"})
_BUSY_WORDS: Final = {"allocated": NodeState.ALLOCATED, "mixed": NodeState.MIXED}

logger = logging.getLogger(__name__)


def ask_commands(ask: Ask) -> Inventory:
    """The inventory by sinfo, scontrol and sacctmgr, with times as seconds (SLURM_TIME_FORMAT=%s).

    Raises SchedulerUnavailable.
    """
    columns = ",".join(f"{name}:{width}" for name, width in _NODE_COLUMNS.items())
    nodes = ask(["sinfo", "--noheader", "--all", "--Node", f"--Format={columns}"])
    reservations = ask(["scontrol", "--oneliner", "--all", "show", "reservations"])
    try:
        return Inventory(
            nodes=_read_node_lines(nodes.splitlines()),
            reservations=_read_reservation_lines(reservations.splitlines()),
            qos=_unless_away(lambda: _read_qos_lines(ask(_qos_command()).splitlines())),
        )
    except ValueError as error:
        raise SchedulerUnavailable(f"Slurm's inventory can't be read: {error}") from error


def get_from_rest(get: Get) -> Inventory:
    """The inventory by slurmrestd. Raises SchedulerUnavailable."""
    nodes, reservations = get("slurm", "nodes"), get("slurm", "reservations")
    try:
        return Inventory(
            nodes=tuple(_read_node(item) for item in _list(nodes, "nodes")),
            reservations=tuple(_read_reservation(item) for item in _list(reservations, "reservations")),
            qos=_unless_away(lambda: tuple(_read_qos(item) for item in _list(get("slurmdb", "qos"), "qos", "QOS"))),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SchedulerUnavailable(f"slurmrestd's inventory can't be read: {error!r}") from error


def read_node_state(words: Iterable[str]) -> NodeState:
    """One state for Slurm's state and its flags, such as idle and drain; unknown words are left out."""
    lowered = {word.lower().strip("*~#!%$@^-") for word in words}
    if any(word.endswith("*") for word in words) or lowered & _DOWN_WORDS:
        return NodeState.DOWN
    busy = next((state for word, state in _BUSY_WORDS.items() if word in lowered), None)
    if lowered & _DRAINED_FLAGS:
        return NodeState.DRAINING if busy or "completing" in lowered else NodeState.DRAINED
    if lowered & {"maint", "maintenance"}:
        return NodeState.MAINTENANCE
    return busy or NodeState.IDLE


def _unless_away(read: Callable[[], tuple[QosInfo, ...]]) -> tuple[QosInfo, ...] | None:
    """The service levels are accounting's: while it is away, or can't be understood, the rest is still known."""
    try:
        return read()
    except (SchedulerUnavailable, ValueError, KeyError, TypeError) as error:
        logger.warning("the QOS can't be read now: %s", error)
        return None


# By commands


def _read_node_lines(lines: list[str]) -> tuple[NodeInfo, ...]:
    """A line for each node and partition; a reason with line ends makes further lines, which are none of these."""
    rows: dict[str, dict[str, str]] = {}
    partitions: dict[str, list[str]] = {}
    for line in lines:
        row, start = {}, 0
        for name, width in _NODE_COLUMNS.items():
            row[name] = line[start : start + width].strip()
            start += width
        if _CPUS.match(row["CPUsState"]):
            rows[row["NodeList"]] = row
            partitions.setdefault(row["NodeList"], []).append(row["Partition"].rstrip("*"))
    if lines and not rows:
        raise ValueError(f"{lines[0][:100]!r} is no line of sinfo's")
    return tuple(
        _make_node(
            name=name,
            partitions=partitions[name],
            words=row["StateComplete"].split("+"),
            gres=row["Gres"],
            gres_used=row["GresUsed"],
            cpus=_read_cpus(row["CPUsState"]),
            reason="" if row["Reason"] == "none" else row["Reason"],
            reason_by="" if row["User"] == "Unknown" else row["User"],
            since=read_time(row["Timestamp"]),
        )
        for name, row in rows.items()
    )


def _read_cpus(text: str) -> tuple[int, int]:
    """All and allocated processors of "allocated/idle/other/all"."""
    match = _CPUS.match(text)
    if match is None:
        raise ValueError(f"{text!r} are no counts of processors")
    return int(match[2]), int(match[1])


def _read_reservation_lines(lines: list[str]) -> tuple[ReservationInfo, ...]:
    found = []
    for line in lines:
        if not line.startswith("ReservationName="):
            continue  # "No reservations in the system"
        values: dict[str, str] = {}
        for name, value in _PAIR.findall(line):
            values.setdefault(name, "" if value == "(null)" else value)
        start_at, end_at = read_time(values["StartTime"]), read_time(values["EndTime"])
        if start_at is None or end_at is None:
            raise ValueError(f"the reservation {values['ReservationName']} has no start or end")
        found.append(
            ReservationInfo(
                name=values["ReservationName"],
                start_at=start_at,
                end_at=end_at,
                nodes=expand_hosts(values.get("Nodes", "")),
                partition=values.get("PartitionName", ""),
                users=_split(values.get("Users", "")),
                accounts=_split(values.get("Accounts", "")),
                is_maintenance="MAINT" in _split(values.get("Flags", "")),
            )
        )
    return tuple(found)


def _qos_command() -> list[str]:
    return ["sacctmgr", "--noheader", "--parsable2", "show", "qos", f"format={','.join(_QOS_FIELDS)}"]


def _read_qos_lines(lines: list[str]) -> tuple[QosInfo, ...]:
    found = []
    for line in lines:
        values = line.split("|")
        if len(values) != len(_QOS_FIELDS):
            raise ValueError(f"{line[:100]!r} is no line of {len(_QOS_FIELDS)} fields")
        row = dict(zip(_QOS_FIELDS, values, strict=True))
        wall_s = read_duration_s(row["MaxWall"])
        found.append(
            QosInfo(
                name=row["Name"],
                priority=int(row["Priority"] or 0),
                preempts=_split(row["Preempt"]),
                max_time_limit_minutes=None if wall_s is None else int(wall_s) // 60,
                max_devices_per_job=_read_device_limit(read_tres(row["MaxTRES"])),
                max_devices_per_user=_read_device_limit(read_tres(row["MaxTRESPerUser"])),
                max_devices_of_group=_read_device_limit(read_tres(row["GrpTRES"])),
                max_running_jobs_per_user=_read_count(row["MaxJobsPerUser"]),
                max_jobs_per_user=_read_count(row["MaxSubmitJobsPerUser"]),
            )
        )
    return tuple(found)


def _read_count(text: str) -> int | None:
    return int(text) if text else None


# By slurmrestd


def _read_node(item: Mapping[str, Any]) -> NodeInfo:
    state = item["state"]
    words = [*(state if isinstance(state, list) else [state]), *(item.get("state_flags") or [])]
    return _make_node(
        name=str(item["name"]),
        partitions=[str(name) for name in item.get("partitions") or []],
        words=[str(word) for word in words],
        gres=str(item.get("gres") or ""),
        gres_used=str(item.get("gres_used") or ""),
        cpus=(int(item.get("cpus") or 0), int(item.get("alloc_cpus") or 0)),
        reason=str(item.get("reason") or ""),
        reason_by=str(item.get("reason_set_by_user") or ""),
        since=_read_epoch(item.get("reason_changed_at")),
    )


def _read_reservation(item: Mapping[str, Any]) -> ReservationInfo:
    start_at, end_at = _read_epoch(item["start_time"]), _read_epoch(item["end_time"])
    if start_at is None or end_at is None:
        raise ValueError(f"the reservation {item['name']} has no start or end")
    return ReservationInfo(
        name=str(item["name"]),
        start_at=start_at,
        end_at=end_at,
        nodes=expand_hosts(str(item.get("node_list") or "")),
        partition=str(item.get("partition") or ""),
        users=_split(str(item.get("users") or "")),
        accounts=_split(str(item.get("accounts") or "")),
        is_maintenance="MAINT" in (item.get("flags") or []),
    )


def _read_qos(item: Mapping[str, Any]) -> QosInfo:
    most = item["limits"]["max"]
    return QosInfo(
        name=str(item["name"]),
        priority=_read_number(item.get("priority")) or 0,
        preempts=tuple(str(name) for name in item["preempt"]["list"]),
        max_time_limit_minutes=_read_number(most["wall_clock"]["per"]["job"]),
        max_devices_per_job=_read_device_limit(_join_tres(most["tres"]["per"]["job"])),
        max_devices_per_user=_read_device_limit(_join_tres(most["tres"]["per"]["user"])),
        max_devices_of_group=_read_device_limit(_join_tres(most["tres"]["total"])),
        max_running_jobs_per_user=_read_number(most["jobs"]["active_jobs"]["per"]["user"]),
        max_jobs_per_user=_read_number(most["jobs"]["per"]["user"]),
    )


def _join_tres(entries: list[Mapping[str, Any]]) -> dict[str, int]:
    return {
        f"{entry['type']}/{entry['name']}" if entry.get("name") else str(entry["type"]): int(entry["count"])
        for entry in entries
    }


def _read_number(value: object) -> int | None:
    """A number, or None for none; newer versions of the interface say {"set": true, "number": 4}."""
    if isinstance(value, Mapping):
        value = value.get("number") if value.get("set") and not value.get("infinite") else None
    return None if value is None else int(str(value))


def _read_epoch(value: object) -> datetime | None:
    seconds = _read_number(value)
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _list(answer: Mapping[str, Any], *names: str) -> list[dict[str, Any]]:
    items = next((answer[name] for name in names if name in answer), None)
    if not isinstance(items, list):
        raise SchedulerUnavailable(f"slurmrestd's answer has no list of {names[0]}")
    return items


# By both


def _make_node(
    *,
    name: str,
    partitions: list[str],
    words: list[str],
    gres: str,
    gres_used: str,
    cpus: tuple[int, int],
    reason: str,
    reason_by: str,
    since: datetime | None,
) -> NodeInfo:
    state = read_node_state(words)
    is_out = state in (NodeState.DRAINING, NodeState.DRAINED, NodeState.DOWN)
    has = read_gres(gres)
    devices, in_use = cpus
    if has:
        devices = sum(count for kind, _, count in has if kind == has[0][0])
        in_use = sum(count for kind, _, count in read_gres(gres_used) if kind == has[0][0])
    return NodeInfo(
        name=name,
        partitions=tuple(partitions),
        state=state,
        devices=devices,
        devices_in_use=min(in_use, devices),
        reason=reason if is_out else "",
        reason_by=reason_by if is_out else "",
        since=since if is_out else None,
    )


def _read_device_limit(tres: dict[str, int]) -> int | None:
    return count_devices(tres) if any(name.startswith("gres/") for name in tres) else None


def _split(text: str) -> tuple[str, ...]:
    return tuple(item for item in text.split(",") if item)
