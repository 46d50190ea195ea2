"""Time of collectives over the links of a node, a scale-up domain and the network."""

from collections.abc import Callable

import numpy as np

from jobs.estimation.columns import Columns
from jobs.estimation.elementwise import ONE, is_any, maximum, minimum, where
from jobs.estimation.plan import Floats
from jobs.estimation.supernode import narrow, share_leaving_in_exchanges, share_leaving_in_rings

ShareLeaving = Callable[[Floats, Floats], Floats]


def link_rates(columns: Columns) -> tuple[Floats, Floats]:
    """Bytes/s that large collectives reach on a device's (fast link, network card)."""
    machine = columns.machine
    family = columns.family
    return machine.intra_rate * family.intra_link_fraction, machine.inter_rate * family.inter_link_fraction


def _narrowing(columns: Columns, *, share_leaving: ShareLeaving, distance: Floats, span: Floats) -> Floats:
    """How much slower groups of `span` devices are that send `share_leaving(distance, size)` out of a supernode."""
    size = columns.machine.supernode
    if not is_any(size):
        return ONE
    narrowed = narrow(share_leaving(distance, size), columns.machine.oversubscription)
    return where((size > 0) & (span > size), narrowed, 1.0)


def collective_seconds(columns: Columns, *, sent_bytes: Floats, ranks: Floats, stride: Floats, calls: Floats) -> Floats:
    """A ring or hierarchical collective that sends `sent_bytes` from every rank in `calls` calls.

    `ranks` is the size of the group, `stride` the distance of its neighbours: 1 for tensor ranks, tensor x context for
    data ranks. NCCL-tests PERFORMANCE.md: (n - 1)/n M bytes for gather or scatter, twice that for all-reduce. Where the
    group leaves the domain of the fast links, it moves M/g over each of g network cards and the rest within, at the
    same time; real groups use g ** nic_sharing cards (arXiv 2104.04473, table 2 shows ZeRO-3 at one card's rate).
    Latency: a call costs one latency within the domain and one a doubling of the domains outside.
    """
    intra, inter = link_rates(columns)
    domain = columns.machine.scale_up
    within = minimum(maximum(domain // stride, 1.0), ranks)
    groups = ranks / within
    cards = minimum(within, columns.machine.node) ** columns.framework.nic_sharing
    crosses = groups > 1
    slower = _narrowing(columns, share_leaving=share_leaving_in_rings, distance=stride, span=ranks * stride)
    outside = where(crosses, sent_bytes * slower / (inter * cards), 0.0)
    inside = where(within > 1, sent_bytes / intra, 0.0)
    everything = columns.everything
    latency = where(within > 1, everything.collective_latency_us, 0.0)
    latency = latency + where(crosses, everything.network_latency_us * np.log2(maximum(groups, 1.0)), 0.0)
    return where(ranks > 1, maximum(outside, inside) + 1e-6 * calls * latency, 0.0)


def exchange_seconds(columns: Columns, *, sent_bytes: Floats, ranks: Floats, calls: Floats) -> Floats:
    """An all-to-all in which every rank sends `sent_bytes` to others, over `ranks` neighbouring ranks.

    The share that leaves the domain of the fast links goes over the rank's own network card.
    """
    intra, inter = link_rates(columns)
    within = minimum(maximum(columns.machine.scale_up, 1.0), ranks)
    outside = 1 - within / ranks
    everything = columns.everything
    latency = everything.collective_latency_us + where(
        outside > 0, everything.network_latency_us * np.log2(maximum(ranks / within, 1.0)), 0.0
    )
    span = ranks * columns.plans.tp
    slower = _narrowing(columns, share_leaving=share_leaving_in_exchanges, distance=span, span=span)
    moving = sent_bytes * ((1 - outside) / intra + outside * slower / inter)
    return where(ranks > 1, moving + 1e-6 * calls * latency, 0.0)
