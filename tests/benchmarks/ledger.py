"""Reservations per second of many connections, beside bare SELECT … FOR UPDATE, UPDATE and INSERT."""

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from accounts.models import Allocation, LedgerEntry
from accounts.services import ledger
from tests.benchmarks.measure import latency_row, measure_alternately, print_table, read_size
from tests.benchmarks.population import analyze, copy_rows
from tests.factories import make_allocation, make_project, make_resource_class

_BARE_TABLE = "benchmark_balance"
_BARE_LINES = "benchmark_line"
_ROUNDS = 3


def run() -> None:
    clients, seconds = read_size("CLIENTS", 50), read_size("DURATION_S", 4)
    resource_class = make_resource_class()
    end_at = timezone.now() + timedelta(days=300)
    allocations = [make_allocation(make_project(), resource_class, hours=10**8, end_at=end_at) for _ in range(clients)]
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE {_BARE_TABLE} AS SELECT id, reserved_s FROM accounts_allocation;"  # noqa: S608
            f"ALTER TABLE {_BARE_TABLE} ADD PRIMARY KEY (id);"
            f"CREATE TABLE {_BARE_LINES} (id bigserial PRIMARY KEY, row_id bigint, reference text, amount_s bigint)"
        )
    try:
        _compare_throughput(allocations, seconds=seconds)
        _compare_history(allocations[:2], entries=read_size("ENTRIES", 100_000))
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE {_BARE_TABLE}, {_BARE_LINES}")
    mismatches = ledger.find_mismatches()
    print(f"mismatches: {len(mismatches)}")
    assert not mismatches, mismatches


def _compare_throughput(allocations: list[Allocation], *, seconds: int) -> None:
    hot = [allocations[0]] * len(allocations)
    subjects: dict[str, tuple[Callable[[Allocation], None], list[Allocation]]] = {
        "bare row, one": (_lock_bare_row, hot),
        "ledger.reserve, one allocation": (_reserve, hot),
        f"bare rows, {len(allocations)}": (_lock_bare_row, allocations),
        f"ledger.reserve, {len(allocations)} allocations": (_reserve, allocations),
    }
    found: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(_ROUNDS):
        for name, (act, targets) in subjects.items():
            found[name] += _hammer(act, targets, seconds=seconds / _ROUNDS)
    names = list(found)
    rows = [
        latency_row(
            name,
            found[name],
            found[bare],
            f"{len(found[name]) / seconds:.0f}",
            f"{len(found[name]) / len(found[bare]):.2f}",
        )
        for bare, act in (names[:2], names[2:])
        for name in (bare, act)
    ]
    print_table(
        f"ledger: {len(allocations)} connections for {seconds} s each",
        ["", "p50 ms", "p95 ms", "× bare", "per second", "throughput × bare"],
        rows,
    )


def _compare_history(allocations: list[Allocation], *, entries: int) -> None:
    """One connection; the second allocation has a long history, which must not matter."""
    young, old = allocations
    grant = LedgerEntry.objects.get(allocation=old, kind="GRANT")
    copy_rows(
        LedgerEntry,
        entries,
        where={"id": grant.pk},
        changes={
            "kind": "'RESERVE'",
            "reference": "gen_random_uuid()",
            "granted_delta_s": "0",
            "reserved_delta_s": "1",
        },
    )
    # Copied past the ledger's service, so that its cached balance is moved by hand.
    Allocation.objects.filter(pk=old.pk).update(reserved_s=F("reserved_s") + entries)
    analyze()
    found = measure_alternately(
        {
            "bare row": lambda: _lock_bare_row(young),
            "ledger.reserve, hardly any entries": lambda: _reserve(young),
            f"ledger.reserve, {entries} entries": lambda: _reserve(old),
        },
        rounds=200,
    )
    print_table(
        "ledger: one connection, by the length of an allocation's history",
        ["", "p50 ms", "p95 ms", "× bare"],
        [latency_row(name, values, found["bare row"]) for name, values in found.items()],
    )


def _reserve(allocation: Allocation) -> None:
    ledger.reserve(
        project_id=allocation.project_id,
        resource_class_id=allocation.resource_class_id,
        reference=str(uuid.uuid4()),
        amount_s=3600,
        at=timezone.now(),
    )


def _lock_bare_row(allocation: Allocation) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SELECT reserved_s FROM {_BARE_TABLE} WHERE id = %s FOR UPDATE", [allocation.pk])  # noqa: S608
        (reserved_s,) = cursor.fetchone()
        cursor.execute(
            f"UPDATE {_BARE_TABLE} SET reserved_s = %s WHERE id = %s",  # noqa: S608
            [reserved_s + 3600, allocation.pk],
        )
        cursor.execute(
            f"INSERT INTO {_BARE_LINES} (row_id, reference, amount_s) VALUES (%s, %s, %s)",  # noqa: S608
            [allocation.pk, str(uuid.uuid4()), 3600],
        )


def _hammer(act: Callable[[Allocation], None], targets: list[Allocation], *, seconds: float) -> list[float]:
    """One thread and connection for each target, all at once; returns the seconds that each call took."""
    barrier = threading.Barrier(len(targets))

    def client(target: Allocation) -> list[float]:
        taken = []
        connection.ensure_connection()
        barrier.wait()
        end = time.perf_counter() + seconds
        try:
            while (start := time.perf_counter()) < end:
                act(target)
                taken.append(time.perf_counter() - start)
        finally:
            connection.close()
        return taken

    with ThreadPoolExecutor(len(targets)) as pool:
        return [second for taken in pool.map(client, targets) for second in taken]
