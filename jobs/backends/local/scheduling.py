"""Who starts when: first in, first out with conservative backfill, over one partition. Pure.

Every waiting job gets a reservation, in the order of submission; a later job may start before an earlier one
only where it disturbs no reservation made before it (Mu'alem & Feitelson 2001, "conservative backfilling").
Nodes are taken by lowest number. That makes the plan stable: planned again at a later moment, with jobs that
run exactly as long as their limit, each job keeps its start and its nodes.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

OVERDUE_S: Final = 1.0
"""A job that should have ended already is expected to end this much later than now."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What a partition has to give."""

    nodes: int
    devices_per_node: int
    jobs_per_node: int


@dataclass(frozen=True, slots=True)
class Placement:
    """One node of a job's, with the indices of the accelerators given to it there."""

    node: int
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJob:
    """A job that holds its placements until `ends_at` at the latest (seconds since the epoch)."""

    placements: tuple[Placement, ...]
    ends_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingJob:
    """A job that asks for `nodes` different nodes with `devices_per_node` free accelerators each."""

    job_id: int
    nodes: int
    devices_per_node: int
    time_limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """When a job is expected to start. `placements` are given only to a job that may start at once."""

    job_id: int
    starts_at: float
    nodes: tuple[int, ...]
    placements: tuple[Placement, ...] = ()


def plan_queue(
    pool: Pool, *, running: Iterable[RunningJob], waiting: Sequence[WaitingJob], now: float
) -> list[Reservation]:
    """A reservation for each waiting job that the pool can hold, in the order given.

    Jobs larger than the pool get none and hold up nobody. Those with `starts_at == now` have placements and
    may start now.
    """
    profile = _Profile(pool, now=now)
    used: list[set[int]] = [set() for _ in range(pool.nodes)]
    for job in running:
        for placement in job.placements:
            # A partition made smaller in the settings while jobs ran: what is no longer there, isn't counted.
            if placement.node < pool.nodes:
                used[placement.node].update(placement.devices)
                here = sum(device < pool.devices_per_node for device in placement.devices)
                # Only a job past its end: one that is near it must not push back what was promised to others.
                end = job.ends_at if job.ends_at > now else now + OVERDUE_S
                profile.occupy((placement.node,), here, start=now, end=end)
    reservations = []
    for asked in waiting:
        if asked.nodes > pool.nodes or asked.devices_per_node > pool.devices_per_node:
            continue
        starts_at, nodes = profile.find_earliest(asked)
        profile.occupy(nodes, asked.devices_per_node, start=starts_at, end=starts_at + asked.time_limit_s)
        placements: tuple[Placement, ...] = ()
        if starts_at == now:
            placements = tuple(Placement(node, _take_devices(used[node], asked.devices_per_node)) for node in nodes)
        reservations.append(Reservation(job_id=asked.job_id, starts_at=starts_at, nodes=nodes, placements=placements))
    return reservations


def count_free_devices(pool: Pool, running: Iterable[RunningJob]) -> int:
    """Accelerators that no running job holds, on all nodes together."""
    used = sum(
        device < pool.devices_per_node
        for job in running
        for placement in job.placements
        if placement.node < pool.nodes
        for device in placement.devices
    )
    return pool.nodes * pool.devices_per_node - used


def _take_devices(used: set[int], count: int) -> tuple[int, ...]:
    taken: list[int] = []
    index = 0
    while len(taken) < count:
        if index not in used:
            taken.append(index)
        index += 1
    used.update(taken)
    return tuple(taken)


class _Profile:
    """Free devices and job slots of each node, as a step function of time."""

    def __init__(self, pool: Pool, *, now: float) -> None:
        self._times = [now]
        self._devices = [[pool.devices_per_node] * pool.nodes]
        self._slots = [[pool.jobs_per_node] * pool.nodes]

    def find_earliest(self, asked: WaitingJob) -> tuple[float, tuple[int, ...]]:
        """The first moment from which enough nodes are free for the whole time limit, and the lowest such nodes."""
        candidates = range(len(self._devices[0]))
        for first, start in enumerate(self._times):
            free: Sequence[int] = candidates
            end = start + asked.time_limit_s
            for step in range(first, len(self._times)):
                if self._times[step] >= end:
                    break
                devices, slots = self._devices[step], self._slots[step]
                free = [node for node in free if devices[node] >= asked.devices_per_node and slots[node] >= 1]
                if len(free) < asked.nodes:
                    break
            if len(free) >= asked.nodes:
                return start, tuple(free[: asked.nodes])
        # After the last step everything is free, and the caller has checked that the pool is large enough.
        raise AssertionError("a job that fits the empty pool found no place")

    def occupy(self, nodes: Iterable[int], devices: int, *, start: float, end: float) -> None:
        """Take `devices` and one job slot of each of `nodes` from `start` until `end`."""
        first, last = self._cut(start), self._cut(end)
        for node in nodes:
            for step in range(first, last):
                self._devices[step][node] -= devices
                self._slots[step][node] -= 1

    def _cut(self, at: float) -> int:
        """The index of the step that begins at `at`, made if there is none."""
        if not math.isfinite(at):
            raise ValueError(f"at: {at!r} is not a moment")
        index = bisect_left(self._times, at)
        if index == len(self._times) or self._times[index] != at:
            self._times.insert(index, at)
            self._devices.insert(index, list(self._devices[index - 1]))
            self._slots.insert(index, list(self._slots[index - 1]))
        return index
