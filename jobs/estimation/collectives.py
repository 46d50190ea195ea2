"""Time of collectives over the links of a node, a scale-up domain and the network."""

import numpy as np

from jobs.estimation.columns import Columns
from jobs.estimation.elementwise import ONE, is_any, maximum, minimum, where
from jobs.estimation.plan import Floats


def link_rates(columns: Columns) -> tuple[Floats, Floats]:
    """Bytes/s that large collectives reach on a device's (fast link, network card)."""
    machine = columns.machine
    family = columns.family
    return machine.intra_rate * family.intra_link_fraction, machine.inter_rate * family.inter_link_fraction


def _narrowing(columns: Columns, *, leaving: Floats, span: Floats) -> Floats:
    """How much slower groups of `span` devices are that send the share `leaving` of their traffic out of a supernode.

    The new Sunway joins its supernodes by 3 up-links for 16 ports (BaGuaLu, doi 10.1145/3503221.3508417).
    """
    size = columns.machine.supernode
    if not is_any(size):
        return ONE
    narrow = maximum(leaving * columns.machine.oversubscription, 1.0)
    return where((size > 0) & (span > size), narrow, 1.0)


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
    # Neighbours of a ring hardly feel a narrow network; ranks that lie a supernode apart feel it in full.
    leaving = minimum(stride / maximum(columns.machine.supernode, 1.0), 1.0)
    narrow = _narrowing(columns, leaving=leaving, span=ranks * stride)
    outside = where(crosses, sent_bytes * narrow / (inter * cards), 0.0)
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
    narrow = _narrowing(columns, leaving=1 - columns.machine.supernode / maximum(span, 1.0), span=span)
    moving = sent_bytes * ((1 - outside) / intra + outside * narrow / inter)
    return where(ranks > 1, moving + 1e-6 * calls * latency, 0.0)
