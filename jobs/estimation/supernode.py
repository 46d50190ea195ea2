"""Rules of machines whose network narrows between groups of nodes, and totals of a whole machine.

The new Sunway joins 256 nodes in a supernode without blocking and its supernodes by 3 up-links for 16 ports (Ma et al.,
BaGuaLu, PPoPP 2022): groups that exchange everything with everyone, such as experts, should stay inside one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jobs.estimation.accelerator import PRECISIONS, Accelerator
from jobs.estimation.accelerator_catalog import find_accelerator
from jobs.estimation.hardware import Machine
from jobs.estimation.validation import InvalidInput

_MAX_RATIO_TERM: Final = 64


def find_crossings(machine: Machine, *, span: ArrayLike, devices: ArrayLike) -> NDArray[np.bool_]:
    """Whether groups of `span` neighbouring devices, out of `devices` in all, reach over the edge of a supernode.

    Groups are laid one after another from the first device, so they also straddle an edge where the supernode isn't a
    multiple of the span. `span` is the distance from a group's first to its last device, both counted: for experts,
    tensor x expert ranks.
    """
    spans, totals = np.broadcast_arrays(np.asarray(span, dtype=np.int64), np.asarray(devices, dtype=np.int64))
    size = machine.supernode_size
    if size is None:
        return np.zeros(spans.shape, dtype=np.bool_)
    crossings: NDArray[np.bool_] = (totals > size) & (size % np.maximum(spans, 1) != 0)
    return crossings


def share_leaving_in_rings(stride: ArrayLike, size: ArrayLike) -> NDArray[np.float64]:
    """Share of a ring's sends that cross the edge of a supernode of `size`, its ranks `stride` devices apart.

    Neighbours hardly feel the narrow links; ranks of data parallelism that lie a supernode apart feel them in full.
    """
    share: NDArray[np.float64] = np.minimum(1.0, np.asarray(stride, dtype=np.float64) / np.maximum(size, 1.0))
    return share


def share_leaving_in_exchanges(span: ArrayLike, size: ArrayLike) -> NDArray[np.float64]:
    """Share of the all-to-all traffic of groups over `span` devices that leaves the busiest supernode of `size`.

    That one sets the pace. Whole supernodes send 1 - size / span of their traffic out; where the edges cut groups in
    halves, 1 - size / (2 span); and of groups smaller than a supernode only the two at its edges send half of theirs:
    span / (2 size) of all.
    """
    spans, sizes = np.maximum(np.asarray(span, dtype=np.float64), 1.0), np.maximum(size, 1.0)
    wide = np.where(spans % sizes == 0, 1 - sizes / spans, 1 - sizes / (2 * spans))
    share: NDArray[np.float64] = np.where(spans < sizes, spans / (2 * sizes), wide)
    return share


def narrow(leaving: ArrayLike, oversubscription: ArrayLike) -> NDArray[np.float64]:
    """Slowdown where the share `leaving` of all traffic must pass up-links that carry 1 / `oversubscription` of it."""
    slowdown: NDArray[np.float64] = np.maximum(1.0, np.asarray(leaving) * oversubscription)
    return slowdown


def describe_ratio(factor: float) -> str:
    """An over-subscription as network engineers write it: 5.333 is "16:3"."""
    for denominator in range(1, _MAX_RATIO_TERM + 1):
        numerator = round(factor * denominator)
        if abs(numerator / denominator - factor) < 1e-6 * factor:
            return f"{numerator}:{denominator}"
    return f"{factor:.2f}:1"


@dataclass(frozen=True, kw_only=True)
class SupernodeWarning:
    """Experts that exchange tokens across supernodes."""

    expert_span: int
    """Devices over which one group of experts is spread."""
    supernode_devices: int
    ratio: str
    slowdown: float
    """Time of their all-to-all, relative to a group within a supernode."""


def warn_of_wide_experts(
    machine: Machine, *, expert_parallel: int, tensor_parallel: int = 1, devices: int
) -> SupernodeWarning | None:
    """The warning for a plan whose expert groups leave a supernode; None if they don't, or nothing narrows there."""
    span = expert_parallel * tensor_parallel
    size = machine.supernode_size
    if size is None or expert_parallel <= 1 or machine.oversubscription_factor <= 1.0:
        return None
    if not find_crossings(machine, span=span, devices=devices):
        return None
    return SupernodeWarning(
        expert_span=span,
        supernode_devices=size,
        ratio=describe_ratio(machine.oversubscription_factor),
        slowdown=float(narrow(share_leaving_in_exchanges(span, size), machine.oversubscription_factor)),
    )


def check_one_accelerator(names: Iterable[object], *, field_name: str = "machine.accelerator") -> Accelerator:
    """Return the one accelerator that all `names` mean.

    Raises:
        InvalidInput: for an unknown name, none at all, or a mixture: the fast devices would wait for the slow, and
            communication libraries (NCCL, HCCL, RCCL) don't talk to each other.
    """
    found = {(item := find_accelerator(name, field_name=field_name)).code: item for name in names}
    if len(found) != 1:
        raise InvalidInput(field_name, ", ".join(found) or None, "exactly one type of accelerator in a job")
    return next(iter(found.values()))


@dataclass(frozen=True, kw_only=True)
class MachineTotals:
    """What all devices of a job or machine have together."""

    devices: int
    nodes: int
    supernodes: int | None
    cores: int | None
    memory_bytes: int
    peak_flop_per_s: dict[str, float]


def total_machine(machine: Machine, devices: int) -> MachineTotals:
    """Totals over `devices`; supernodes and cores are None where the catalogue doesn't count them."""
    accelerator = machine.accelerator
    size = machine.supernode_size
    return MachineTotals(
        devices=devices,
        nodes=-(-devices // machine.node_size),
        supernodes=None if size is None else -(-devices // size),
        cores=None if accelerator.cores is None else devices * accelerator.cores,
        memory_bytes=devices * accelerator.memory_bytes,
        peak_flop_per_s={
            name: devices * accelerator.peak_flop_per_s[name]
            for name in PRECISIONS
            if name in accelerator.peak_flop_per_s
        },
    )
