"""Many submitters race for a project's last hours, and end or give back what they got: overdrafts must be 0."""

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from django.db import IntegrityError, connection
from django.utils import timezone

from accounts.models import Allocation
from accounts.services import ledger
from tests.benchmarks.measure import print_table, read_size
from tests.factories import make_allocation, make_project, make_resource_class

_HOUR_S = 3600
_COUNTED = ("got hours", "refused", "settled", "released", "overdrafts", "mismatches")


def run() -> None:
    rounds, clients = read_size("ROUNDS", 30), read_size("CLIENTS", 50)
    seed = read_size("SEED", random.SystemRandom().randrange(1, 10**6))
    totals: Counter[str] = Counter()
    with ThreadPoolExecutor(clients) as pool:
        for number in range(rounds):
            totals += _race(pool, seed=f"{seed}-{number}", clients=clients)
        last = threading.Barrier(clients)
        list(pool.map(_close_connection, [last] * clients))
    totals["mismatches"] += len(ledger.find_mismatches())
    print_table(
        f"race: {rounds} rounds of {clients} submitters (SEED={seed})",
        ["", "count"],
        [[name, str(totals[name])] for name in _COUNTED],
    )
    assert totals["got hours"], "nobody got anything: nothing was raced for"
    assert totals["refused"], "everybody got what they asked for: nothing was raced for"
    assert not totals["overdrafts"], totals
    assert not totals["mismatches"], totals


def _race(pool: ThreadPoolExecutor, *, seed: str, clients: int) -> Counter[str]:
    """One project with a few hours left in one to three allocations, and everybody at once.

    What the callers were told is summed up on its own, and compared with the allocations' rows at the end.
    """
    chance = random.Random(seed)
    project, resource_class = make_project(), make_resource_class()
    now = timezone.now()
    rows = [
        make_allocation(project, resource_class, hours=chance.randint(1, clients), end_at=now + timedelta(days=days))
        for days in range(1, chance.randint(1, 3) + 1)
    ]
    barrier = threading.Barrier(clients)

    def submit(number: int) -> Counter[str]:
        own = random.Random(f"{seed}-{number}")
        told: Counter[str] = Counter()
        barrier.wait()
        for turn in range(3):
            try:
                _live_once(f"{seed}-{number}-{turn}", own, told, project.pk, resource_class.pk)
            except ledger.InsufficientAllocation:
                told["refused"] += 1
            except IntegrityError:  # the CHECK constraint of the table: the last line of defence
                told["overdrafts"] += 1
        return told

    totals: Counter[str] = Counter()
    for told in pool.map(submit, range(clients)):
        totals.update(told)
    rows = list(Allocation.objects.filter(pk__in=[row.pk for row in rows]))
    totals["overdrafts"] += sum(row.available_s < 0 for row in rows)
    totals["mismatches"] += sum(row.reserved_s for row in rows) != totals.pop("reserved_s", 0)
    totals["mismatches"] += sum(row.used_s for row in rows) != totals.pop("used_s", 0)
    return totals


def _live_once(reference: str, own: random.Random, told: Counter[str], project_id: int, resource_class_id: int) -> None:
    """Reserve; then keep it, give it back, or settle it for less or more than was held; some things twice."""
    amount_s = own.randint(1, 4 * _HOUR_S)
    for _ in range(own.choice((1, 1, 2))):
        held_s = ledger.reserve(
            project_id=project_id,
            resource_class_id=resource_class_id,
            reference=reference,
            amount_s=amount_s,
            at=timezone.now(),
        )
    told["got hours"] += 1
    told["reserved_s"] += held_s
    end, times = own.random(), own.choice((1, 1, 2))
    if end < 0.3:
        released = [ledger.release(reference=reference, at=timezone.now()) for _ in range(times)]
        told["reserved_s"] -= sum(released)
        told["released"] += 1
    elif end < 0.8:
        used_s = own.randint(0, amount_s + _HOUR_S)
        settlements = [ledger.settle(reference=reference, amount_s=used_s, at=timezone.now()) for _ in range(times)]
        told["reserved_s"] -= held_s
        told["used_s"] += settlements[0].charged_s
        told["mismatches"] += settlements[0] != settlements[-1]
        told["settled"] += 1


def _close_connection(barrier: threading.Barrier) -> None:
    barrier.wait()  # so that each thread of the pool gets one
    connection.close()
