"""What no other choice beats in every respect."""

from typing import Final

import numpy as np

from jobs.estimation.plan import Floats, Integers

_BLOCK: Final = 512


def find_front(*costs: Floats) -> Integers:
    """Rows that no other row equals or beats in every cost (all are minimised), ordered by the costs.

    Of rows with equal costs the first is kept. Two costs take one sort; more compare each row with the front so far.
    """
    order = np.lexsort(costs[::-1]).astype(np.int64)
    if not len(order):
        return order
    if len(costs) == 2:
        second = costs[1][order]
        before = np.concatenate(([np.inf], np.minimum.accumulate(second)[:-1]))
        return order[second < before]
    table = np.stack(costs, axis=1)[order]
    front: list[int] = []
    kept = np.empty((0, len(costs)))
    # Sorted by the costs, a row can only be beaten by one before it.
    for start in range(0, len(table), _BLOCK):
        block = table[start : start + _BLOCK]
        rivals = np.concatenate((kept, block))
        is_beaten = np.all(rivals[None, :, :] <= block[:, None, :], axis=2)
        position = len(kept) + np.arange(len(block))
        is_before = np.arange(len(rivals))[None, :] < position[:, None]
        alive = ~np.any(is_beaten & is_before, axis=1)
        front += [start + int(row) for row in np.flatnonzero(alive)]
        kept = np.concatenate((kept, block[alive]))
    return order[np.array(front, dtype=np.int64)]


def thin_out(rows: Integers, *, most: int) -> Integers:
    """At most `most` of the rows, evenly spread, the first and the last among them."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]
