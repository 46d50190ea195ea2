"""Racing for the last hours, on real PostgreSQL connections."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection

from accounts.models import Allocation
from accounts.services import ledger
from tests.factories import NOW, make_allocation, make_project, make_resource_class

pytestmark = pytest.mark.django_db(transaction=True)

CLIENTS = 12


def race(calls: list[Callable[[], object]]) -> list[object]:
    """Run all calls at once, each on its own connection; returns results or the exceptions raised."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return call()
        except ledger.LedgerError as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_exactly_those_that_fit_get_the_last_hours() -> None:
    project, resource_class = make_project(), make_resource_class()
    allocation = make_allocation(project, resource_class, hours=7)

    def reserve(number: int) -> Callable[[], int]:
        return lambda: ledger.reserve(
            project_id=project.pk,
            resource_class_id=resource_class.pk,
            reference=f"job-{number}",
            amount_s=3600,
            at=NOW,
        )

    results = race([reserve(number) for number in range(CLIENTS)])
    assert results.count(3600) == 7
    assert sum(isinstance(result, ledger.InsufficientAllocation) for result in results) == CLIENTS - 7
    allocation.refresh_from_db()
    assert allocation.available_s == 0
    assert ledger.find_mismatches() == []


def test_one_reference_reserved_by_many_at_once_is_held_once() -> None:
    project, resource_class = make_project(), make_resource_class()
    allocation = make_allocation(project, resource_class, hours=7)
    call = lambda: ledger.reserve(  # noqa: E731
        project_id=project.pk, resource_class_id=resource_class.pk, reference="job", amount_s=3600, at=NOW
    )
    assert race([call] * CLIENTS) == [3600] * CLIENTS
    allocation.refresh_from_db()
    assert allocation.reserved_s == 3600


def test_one_hold_settled_and_released_by_many_at_once_ends_once() -> None:
    project, resource_class = make_project(), make_resource_class()
    allocation = make_allocation(project, resource_class, hours=7)
    ledger.reserve(project_id=project.pk, resource_class_id=resource_class.pk, reference="job", amount_s=3600, at=NOW)
    race(
        [lambda: ledger.settle(reference="job", amount_s=100, at=NOW)] * (CLIENTS // 2)
        + [lambda: ledger.release(reference="job", at=NOW)] * (CLIENTS // 2)
    )
    allocation.refresh_from_db()
    assert allocation.reserved_s == 0
    assert allocation.used_s in {0, 100}
    assert ledger.find_mismatches() == []


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_everything_never_overdraws_and_always_adds_up(seed: int) -> None:
    """Several allocations with different expiry, so that holds and settlements lock more than one row."""
    chance = random.Random(seed)
    project, resource_class = make_project(), make_resource_class()
    rows = [
        make_allocation(project, resource_class, hours=1, end_at=NOW + timedelta(days=chance.randint(1, 9)))
        for _ in range(3)
    ]

    def client(number: int) -> Callable[[], object]:
        moves = random.Random(seed * 100 + number)

        def live() -> None:
            for turn in range(8):
                reference = f"{number}-{turn}"
                try:
                    ledger.reserve(
                        project_id=project.pk,
                        resource_class_id=resource_class.pk,
                        reference=reference,
                        amount_s=moves.randint(1, 2500),
                        at=NOW,
                    )
                except ledger.InsufficientAllocation:
                    continue
                if moves.random() < 0.5:
                    ledger.release(reference=reference, at=NOW)
                elif moves.random() < 0.8:
                    ledger.settle(reference=reference, amount_s=moves.randint(0, 3000), at=NOW)

        return live

    race([client(number) for number in range(8)])
    assert ledger.find_mismatches() == []
    for row in Allocation.objects.filter(pk__in=[row.pk for row in rows]):
        assert 0 <= row.used_s + row.reserved_s <= row.granted_s
