"""The ledger never overdraws, and explains every second."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from accounts.models import Allocation, LedgerEntry, LedgerKind, Project, ResourceClass
from accounts.services import ledger
from tests.factories import HOUR_S, NOW, make_allocation, make_project, make_resource_class

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return make_project()


@pytest.fixture
def resource_class() -> ResourceClass:
    return make_resource_class()


def reserve(project: Project, resource_class: ResourceClass, amount_s: int, reference: str = "job-1") -> int:
    return ledger.reserve(
        project_id=project.pk,
        resource_class_id=resource_class.pk,
        reference=reference,
        amount_s=amount_s,
        at=NOW,
    )


def sums(allocation: Allocation) -> tuple[int, int, int]:
    allocation.refresh_from_db()
    return allocation.granted_s, allocation.reserved_s, allocation.used_s


def test_a_grant_is_available_at_once(project: Project, resource_class: ResourceClass) -> None:
    allocation = make_allocation(project, resource_class, hours=2)
    assert sums(allocation) == (2 * HOUR_S, 0, 0)
    assert ledger.find_mismatches() == []


def test_a_hold_is_taken_from_what_is_available(project: Project, resource_class: ResourceClass) -> None:
    allocation = make_allocation(project, resource_class, hours=2)
    assert reserve(project, resource_class, HOUR_S) == HOUR_S
    assert sums(allocation) == (2 * HOUR_S, HOUR_S, 0)


def test_a_hold_beyond_what_is_available_is_refused_and_holds_nothing(
    project: Project, resource_class: ResourceClass
) -> None:
    allocation = make_allocation(project, resource_class, hours=1)
    with pytest.raises(ledger.InsufficientAllocation) as caught:
        reserve(project, resource_class, HOUR_S + 1)
    assert (caught.value.requested_s, caught.value.available_s) == (HOUR_S + 1, HOUR_S)
    assert sums(allocation) == (HOUR_S, 0, 0)


def test_the_earliest_expiry_is_spent_first_and_a_hold_may_span_allocations(
    project: Project, resource_class: ResourceClass
) -> None:
    late = make_allocation(project, resource_class, hours=1, end_at=NOW + timedelta(days=20))
    early = make_allocation(project, resource_class, hours=1, end_at=NOW + timedelta(days=10))
    reserve(project, resource_class, HOUR_S + 60)
    assert (sums(early)[1], sums(late)[1]) == (HOUR_S, 60)


@pytest.mark.parametrize(
    ("start_days", "end_days"), [(-20, -1), (1, 20)], ids=["expired allocation", "allocation that has not begun"]
)
def test_only_a_current_allocation_can_be_spent(
    project: Project, resource_class: ResourceClass, start_days: int, end_days: int
) -> None:
    make_allocation(
        project, resource_class, start_at=NOW + timedelta(days=start_days), end_at=NOW + timedelta(days=end_days)
    )
    with pytest.raises(ledger.InsufficientAllocation):
        reserve(project, resource_class, 1)


def test_another_projects_allocation_can_not_be_spent(project: Project, resource_class: ResourceClass) -> None:
    make_allocation(make_project(), resource_class)
    with pytest.raises(ledger.InsufficientAllocation):
        reserve(project, resource_class, 1)


def test_reserving_twice_with_one_reference_holds_once(project: Project, resource_class: ResourceClass) -> None:
    allocation = make_allocation(project, resource_class)
    reserve(project, resource_class, HOUR_S)
    assert reserve(project, resource_class, HOUR_S) == HOUR_S
    assert sums(allocation)[1] == HOUR_S
    with pytest.raises(ledger.ReferenceConflict):
        reserve(project, resource_class, HOUR_S + 1)


def test_settling_charges_what_was_used_and_gives_the_rest_back(
    project: Project, resource_class: ResourceClass
) -> None:
    allocation = make_allocation(project, resource_class, hours=2)
    reserve(project, resource_class, HOUR_S)
    assert ledger.settle(reference="job-1", amount_s=600, at=NOW) == ledger.Settlement(charged_s=600, shortfall_s=0)
    assert sums(allocation) == (2 * HOUR_S, 0, 600)


def test_settling_twice_charges_once(project: Project, resource_class: ResourceClass) -> None:
    allocation = make_allocation(project, resource_class)
    reserve(project, resource_class, HOUR_S)
    first = ledger.settle(reference="job-1", amount_s=600, at=NOW)
    assert ledger.settle(reference="job-1", amount_s=600, at=NOW) == first
    assert sums(allocation)[1:] == (0, 600)


def test_a_hold_that_expired_meanwhile_is_still_settled_against_its_allocation(
    project: Project, resource_class: ResourceClass
) -> None:
    allocation = make_allocation(project, resource_class, hours=1, end_at=NOW + timedelta(hours=1))
    reserve(project, resource_class, HOUR_S)
    later = NOW + timedelta(days=2)
    assert ledger.expire(allocation_id=allocation.pk, at=later) == 0
    assert ledger.settle(reference="job-1", amount_s=900, at=later).charged_s == 900
    # What came back left at once, by an entry of its own.
    assert sums(allocation) == (900, 0, 900)
    assert ledger.expire(allocation_id=allocation.pk, at=later) == 0
    assert sums(allocation) == (900, 0, 900)
    assert ledger.find_mismatches() == []


def test_use_beyond_the_hold_is_charged_to_what_the_project_has_left(
    project: Project, resource_class: ResourceClass
) -> None:
    first = make_allocation(project, resource_class, hours=1, end_at=NOW + timedelta(days=1))
    second = make_allocation(project, resource_class, hours=1, end_at=NOW + timedelta(days=2))
    reserve(project, resource_class, HOUR_S)
    assert ledger.settle(reference="job-1", amount_s=HOUR_S + 5, at=NOW).shortfall_s == 0
    assert (sums(first)[2], sums(second)[2]) == (HOUR_S, 5)


def test_use_that_nobody_can_cover_is_reported_and_never_overdraws(
    project: Project, resource_class: ResourceClass
) -> None:
    allocation = make_allocation(project, resource_class, hours=1)
    reserve(project, resource_class, HOUR_S)
    assert ledger.settle(reference="job-1", amount_s=HOUR_S + 5, at=NOW) == ledger.Settlement(
        charged_s=HOUR_S, shortfall_s=5
    )
    assert sums(allocation) == (HOUR_S, 0, HOUR_S)


def test_settling_without_a_hold_is_refused() -> None:
    with pytest.raises(ledger.UnknownReservation):
        ledger.settle(reference="nothing", amount_s=1, at=NOW)


def test_a_release_gives_the_whole_hold_back_once(project: Project, resource_class: ResourceClass) -> None:
    allocation = make_allocation(project, resource_class)
    reserve(project, resource_class, HOUR_S)
    assert ledger.release(reference="job-1", at=NOW) == HOUR_S
    assert ledger.release(reference="job-1", at=NOW) == 0
    assert sums(allocation)[1] == 0
    with pytest.raises(ledger.ReferenceConflict):
        ledger.settle(reference="job-1", amount_s=1, at=NOW)


def test_a_refund_gives_back_at_most_what_was_charged(project: Project, resource_class: ResourceClass) -> None:
    allocation = make_allocation(project, resource_class)
    reserve(project, resource_class, HOUR_S)
    ledger.settle(reference="job-1", amount_s=1000, at=NOW)

    def refund(number: int, amount_s: int) -> int:
        return ledger.refund(
            reference="job-1", refund_reference=f"job-1/{number}", amount_s=amount_s, at=NOW, actor=None, reason="node"
        )

    assert refund(1, 400) == 400
    assert refund(1, 400) == 400  # repeated: no second effect
    with pytest.raises(ledger.InvalidAmount):
        refund(2, 601)
    assert refund(3, 600) == 600
    assert sums(allocation)[2] == 0
    assert ledger.find_mismatches() == []


def test_a_grant_can_not_be_lowered_below_what_is_used_and_held(
    project: Project, resource_class: ResourceClass
) -> None:
    allocation = make_allocation(project, resource_class, hours=2)
    reserve(project, resource_class, HOUR_S)
    with pytest.raises(ledger.InsufficientAllocation):
        ledger.adjust(allocation_id=allocation.pk, delta_s=-HOUR_S - 1, reference="a1", at=NOW, actor=None, reason="")
    ledger.adjust(allocation_id=allocation.pk, delta_s=-HOUR_S, reference="a1", at=NOW, actor=None, reason="")
    assert sums(allocation) == (HOUR_S, HOUR_S, 0)


@pytest.mark.parametrize("amount", [0, -1, 1.5, True, 10**16, "60"])
def test_amounts_that_are_no_whole_number_above_zero_are_refused(
    project: Project, resource_class: ResourceClass, amount: int
) -> None:
    make_allocation(project, resource_class)
    with pytest.raises(ledger.InvalidAmount):
        reserve(project, resource_class, amount)


def test_a_period_that_ends_before_it_starts_is_refused(project: Project, resource_class: ResourceClass) -> None:
    with pytest.raises(ledger.LedgerError):
        make_allocation(project, resource_class, start_at=NOW, end_at=NOW)
    assert not Allocation.objects.exists()


@pytest.mark.parametrize("column", ["granted_s", "reserved_s", "used_s"])
def test_the_database_refuses_an_overdrawn_balance_whoever_writes_it(
    project: Project, resource_class: ResourceClass, column: str
) -> None:
    allocation = make_allocation(project, resource_class, hours=1)
    reserve(project, resource_class, 60)
    value = 0 if column == "granted_s" else 2 * HOUR_S
    with pytest.raises(IntegrityError), transaction.atomic():
        Allocation.objects.filter(pk=allocation.pk).update(**{column: value})


@pytest.mark.parametrize(
    "statement", ["UPDATE accounts_ledgerentry SET used_delta_s = 0", "DELETE FROM accounts_ledgerentry"]
)
def test_the_database_refuses_to_change_the_ledger(
    project: Project, resource_class: ResourceClass, statement: str
) -> None:
    make_allocation(project, resource_class)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert LedgerEntry.objects.filter(kind=LedgerKind.GRANT).count() == 1


def test_a_cache_that_differs_from_the_ledger_is_found(project: Project, resource_class: ResourceClass) -> None:
    allocation = make_allocation(project, resource_class)
    Allocation.objects.filter(pk=allocation.pk).update(used_s=7)
    assert ledger.find_mismatches() == [
        ledger.Mismatch(allocation=str(allocation.uuid), field="used_s", cached_s=7, ledger_s=0)
    ]


@pytest.mark.parametrize(
    ("weight", "expected"), [(Decimal(1), 7200), (Decimal("0.5"), 3600), (Decimal("0.333"), 2398), (Decimal(0), 0)]
)
def test_billed_seconds_follow_the_weight_and_round_up(weight: Decimal, expected: int) -> None:
    assert ledger.billed_seconds(devices=2, elapsed_s=3600, weight=weight) == expected
