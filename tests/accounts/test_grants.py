"""Shares of institutions, caps of members, transfers, reversals: what the ledger allows and refuses."""

from datetime import timedelta

import pytest

from accounts.models import (
    ActSource,
    Allocation,
    Appointment,
    AuditEvent,
    InstitutionShare,
    LedgerEntry,
    MemberCap,
    Membership,
    Notification,
    Office,
    Project,
    ResourceClass,
    User,
)
from accounts.services import expiry, ledger
from accounts.services.acts import Act
from tests.factories import HOUR_S, NOW, make_allocation, make_project, make_resource_class, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return make_project(members=(make_user("member"),))


@pytest.fixture
def resource_class() -> ResourceClass:
    return make_resource_class()


def act(actor: User | None = None) -> Act:
    return Act(actor=actor, at=NOW, source=ActSource.PAGE)


def make_share(project: Project, resource_class: ResourceClass, hours: int, overcommit: str = "1") -> InstitutionShare:
    return InstitutionShare.objects.create(
        institution=project.institution,
        resource_class=resource_class,
        amount_s=hours * HOUR_S,
        overcommit=overcommit,
        start_at=NOW - timedelta(days=100),
        end_at=NOW + timedelta(days=400),
    )


def transfer(source: Allocation, to: Project, amount_s: int, actor: User | None = None) -> Allocation:
    return ledger.transfer(
        from_allocation_id=source.pk,
        to_project_id=to.pk,
        amount_s=amount_s,
        reference="move-1",
        act=act(actor),
        reason="a new run",
    )


def granted(*allocations: Allocation) -> list[int]:
    for allocation in allocations:
        allocation.refresh_from_db()
    return [allocation.granted_s for allocation in allocations]


def test_grants_stay_within_the_institutions_share_times_its_overcommit(
    project: Project, resource_class: ResourceClass
) -> None:
    make_share(project, resource_class, hours=10, overcommit="1.5")
    first = make_allocation(project, resource_class, hours=10)
    make_allocation(make_project(institution=project.institution), resource_class, hours=5)
    with pytest.raises(ledger.InstitutionShareExceeded) as caught:
        ledger.adjust(allocation_id=first.pk, delta_s=1, reference="a", at=NOW, actor=None, reason="")
    assert (caught.value.requested_s, caught.value.granted_s, caught.value.limit_s) == (1, 15 * HOUR_S, 15 * HOUR_S)
    make_allocation(make_project(), resource_class, hours=100)


def test_a_member_takes_no_more_than_their_cap(project: Project, resource_class: ResourceClass) -> None:
    make_allocation(project, resource_class, hours=10)
    member = User.objects.get(username="member")
    MemberCap.objects.create(membership=Membership.objects.get(user=member), cap_s=2 * HOUR_S)
    call = {"project_id": project.pk, "resource_class_id": resource_class.pk, "at": NOW, "person_id": member.pk}
    ledger.reserve(reference="job-1", amount_s=HOUR_S, **call)
    ledger.settle(reference="job-1", amount_s=HOUR_S // 2, at=NOW)
    with pytest.raises(ledger.MemberCapExceeded) as caught:
        ledger.reserve(reference="job-2", amount_s=2 * HOUR_S, **call)
    assert (caught.value.taken_s, caught.value.cap_s, caught.value.available_s) == (
        HOUR_S // 2,
        2 * HOUR_S,
        HOUR_S * 3 // 2,
    )
    ledger.reserve(reference="job-3", amount_s=HOUR_S * 3 // 2, **call)
    ledger.reserve(reference="job-4", amount_s=5 * HOUR_S, **{**call, "person_id": make_user().pk})


def test_a_transfer_moves_hours_for_the_same_period_and_sums_to_zero(
    project: Project, resource_class: ResourceClass
) -> None:
    source, other = make_allocation(project, resource_class, hours=10), make_project(institution=project.institution)
    manager = make_user()
    Appointment.objects.create(user=manager, office=Office.INSTITUTION_MANAGER, institution=project.institution)
    target = transfer(source, other, 3 * HOUR_S, manager)
    assert transfer(source, other, 3 * HOUR_S, manager).pk == target.pk
    assert granted(source, target) == [7 * HOUR_S, 3 * HOUR_S]
    assert (target.project_id, target.start_at, target.end_at) == (other.pk, source.start_at, source.end_at)
    assert sum(entry.granted_delta_s for entry in LedgerEntry.objects.filter(kind="TRANSFER")) == 0
    line = AuditEvent.objects.get(action="allocation.transfer")
    assert (line.actor, line.after["to"]) == (manager, other.code)


def test_a_transfer_is_refused_across_institutions_beyond_what_is_left_and_to_strangers(
    project: Project, resource_class: ResourceClass
) -> None:
    source, other = make_allocation(project, resource_class, hours=1), make_project(institution=project.institution)
    with pytest.raises(ledger.LedgerError, match="same institution"):
        transfer(source, make_project(), 1)
    with pytest.raises(ledger.LedgerError, match="does not manage"):
        transfer(source, other, 1, make_user())
    with pytest.raises(ledger.InsufficientAllocation):
        transfer(source, other, HOUR_S + 1)
    with pytest.raises(ledger.InvalidAmount):
        transfer(source, other, 0)
    assert granted(source) == [HOUR_S]
    assert not other.allocations.exists()


def test_reversing_a_transfer_undoes_both_sides_once(project: Project, resource_class: ResourceClass) -> None:
    source, other = make_allocation(project, resource_class, hours=10), make_project(institution=project.institution)
    target = transfer(source, other, HOUR_S)
    entry = LedgerEntry.objects.filter(kind="TRANSFER").first()
    assert entry is not None
    for _ in range(2):
        undone = ledger.reverse(entry_id=entry.pk, act=act(), reason="wrong project")
        assert {line.undoes.kind for line in undone if line.undoes} == {"TRANSFER"}
    assert granted(source, target) == [10 * HOUR_S, 0]
    assert ledger.find_mismatches() == []
    with pytest.raises(ledger.LedgerError, match="not undone"):
        ledger.reverse(entry_id=undone[0].pk, act=act(), reason="")


def test_a_reversed_refund_can_be_refunded_again(project: Project, resource_class: ResourceClass) -> None:
    make_allocation(project, resource_class, hours=10)
    ledger.reserve(project_id=project.pk, resource_class_id=resource_class.pk, reference="job", amount_s=600, at=NOW)
    ledger.settle(reference="job", amount_s=600, at=NOW)
    call = {"reference": "job", "amount_s": 600, "at": NOW, "actor": None, "reason": ""}
    ledger.refund(refund_reference="job/1", **call)
    ledger.reverse(entry_id=LedgerEntry.objects.get(kind="REFUND").pk, act=act(), reason="it did run")
    assert ledger.refund(refund_reference="job/2", **call) == 600
    with pytest.raises(ledger.InvalidAmount):
        ledger.refund(refund_reference="job/3", **call)


def test_a_grant_that_is_spent_is_not_reversed(project: Project, resource_class: ResourceClass) -> None:
    make_allocation(project, resource_class, hours=1)
    ledger.reserve(project_id=project.pk, resource_class_id=resource_class.pk, reference="job", amount_s=1, at=NOW)
    with pytest.raises(ledger.InsufficientAllocation):
        ledger.reverse(entry_id=LedgerEntry.objects.get(kind="GRANT").pk, act=act(), reason="")


def test_what_is_left_of_ended_allocations_expires_and_a_hold_stays(
    project: Project, resource_class: ResourceClass
) -> None:
    allocation = make_allocation(project, resource_class, hours=2, end_at=NOW + timedelta(days=1))
    ledger.reserve(project_id=project.pk, resource_class_id=resource_class.pk, reference="job", amount_s=HOUR_S, at=NOW)
    later = NOW + timedelta(days=1)
    assert [expiry.expire_allocations(at=later) for _ in range(2)] == [1, 0]
    assert granted(allocation) == [HOUR_S]
    assert ledger.release(reference="job", at=later) == HOUR_S
    assert granted(allocation) == [0]


def test_leaders_are_told_of_expiry_at_30_7_and_1_days_once_each(resource_class: ResourceClass) -> None:
    pi = make_user()
    project = make_project(pi=pi, members=(make_user(),))
    make_allocation(project, resource_class, end_at=NOW + timedelta(days=40))
    for day in (0, 10, 11, 33, 34, 39, 39.5, 40):
        expiry.announce_expiry(at=NOW + timedelta(days=day))
    told = Notification.objects.order_by("at")
    assert [row.user for row in told] == [pi] * 3
    assert [(row.at - NOW).days for row in told] == [10, 33, 39]
