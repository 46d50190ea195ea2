"""Verified researchers and their starter allocation: once per person, ever."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.contrib.messages.storage.fallback import FallbackStorage
from django.db import IntegrityError, connection, transaction
from django.test import Client, RequestFactory

from accounts.adapter import AccountAdapter
from accounts.models import (
    ActSource,
    Allocation,
    Appointment,
    AuditEvent,
    Institution,
    InstitutionDomain,
    Notification,
    Office,
    Project,
    Role,
    StarterGrant,
    StarterPolicy,
    User,
    Verification,
)
from accounts.services import ledger, starter
from accounts.services.acts import Act
from accounts.services.request_rules import GrantRefused, RequestForbidden
from tests.factories import HOUR_S, NOW, make_institution, make_project, make_resource_class, make_user


@dataclass
class Door:
    """An institution with its manager, and a person who wants in."""

    person: User
    manager: User
    staff: User
    institution: Institution

    def act(self, actor: User | None) -> Act:
        return Act(actor=actor, at=NOW, source=ActSource.PAGE)


def make_door() -> Door:
    institution = make_institution("pku")
    manager = make_user("man")
    Appointment.objects.create(user=manager, office=Office.INSTITUTION_MANAGER, institution=institution)
    return Door(make_user("zhao"), manager, make_user("admin", is_staff=True), institution)


def make_starter_policy(**fields: Any) -> StarterPolicy:
    common: dict[str, Any] = {"is_enabled": True, "amount_s": 50 * HOUR_S, "validity_days": 30}
    return StarterPolicy.objects.create(resource_class=make_resource_class("cpu"), **(common | fields))


@pytest.fixture
def door(db: None) -> Door:
    return make_door()


def test_a_verified_researcher_can_start_that_day(door: Door) -> None:
    make_starter_policy()
    grant = starter.verify(door.act(door.manager), door.person, door.institution)
    assert grant is not None
    project = grant.allocation.project
    assert (project.institution, project.memberships.get().user) == (door.institution, door.person)
    assert project.memberships.get().role == Role.PI
    assert (grant.allocation.granted_s, grant.allocation.end_at) == (50 * HOUR_S, NOW + timedelta(days=30))
    assert [line.action for line in AuditEvent.objects.order_by("pk")] == ["researcher.verify", "starter.grant"]
    assert Notification.objects.get().user == door.person
    assert ledger.find_mismatches() == []


def test_it_is_given_once_ever_even_when_it_has_expired(door: Door) -> None:
    make_starter_policy()
    first = starter.verify(door.act(door.manager), door.person, door.institution)
    assert first is not None
    ledger.expire(allocation_id=first.allocation_id, at=NOW + timedelta(days=31))
    Verification.objects.all().delete()
    assert starter.verify(door.act(door.staff), door.person, door.institution) is None
    assert Project.objects.count() == Allocation.objects.count() == 1


def test_a_policy_that_comes_later_can_be_given_later(door: Door) -> None:
    assert starter.verify(door.act(door.manager), door.person, door.institution) is None
    assert not Project.objects.exists()
    make_starter_policy(institution=make_institution("public"))
    grant = starter.verify(door.act(door.manager), door.person, door.institution)
    assert grant is not None
    assert grant.allocation.project.institution.code == "public"
    assert AuditEvent.objects.filter(action="researcher.verify").count() == 1


def test_only_who_speaks_for_the_institution_verifies_and_nobody_oneself(door: Door) -> None:
    other = make_institution()
    for actor, institution in ((door.manager, other), (door.person, door.institution), (None, door.institution)):
        with pytest.raises(RequestForbidden):
            starter.verify(door.act(actor), door.person, institution)
    with pytest.raises(RequestForbidden):
        starter.verify(door.act(door.manager), door.manager, door.institution)
    assert not Verification.objects.exists()


def test_a_closed_account_is_not_verified(door: Door) -> None:
    User.objects.filter(pk=door.person.pk).update(is_active=False)
    with pytest.raises(RequestForbidden):
        starter.verify(door.act(door.staff), door.person, door.institution)


def test_what_the_ledger_refuses_leaves_nothing(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    make_starter_policy()

    def refuse(**_fields: Any) -> None:
        raise ledger.LedgerError("no share")

    monkeypatch.setattr(ledger, "grant", refuse)
    with pytest.raises(GrantRefused, match="no share"):
        starter.verify(door.act(door.staff), door.person, door.institution)
    assert not Project.objects.exists()
    assert not Verification.objects.exists()


@pytest.mark.parametrize(
    ("email", "is_verified"),
    [
        ("zhao@cs.pku.edu.cn", True),
        ("Zhao@CS.PKU.EDU.CN", True),
        ("zhao@alumni.cs.pku.edu.cn", False),
        ("zhao@evilcs.pku.edu.cn", False),
        ("zhao", False),
    ],
)
def test_a_confirmed_address_of_an_institution_is_enough(door: Door, email: str, is_verified: bool) -> None:
    make_starter_policy()
    InstitutionDomain.objects.create(domain="cs.pku.edu.cn", institution=door.institution)
    address = EmailAddress.objects.create(user=door.person, email=email, verified=False)
    AccountAdapter().confirm_email(make_request(door.person), address)
    assert Verification.objects.filter(user=door.person, verified_by=None).exists() is is_verified
    assert StarterGrant.objects.exists() is is_verified


def test_an_address_that_is_confirmed_stays_so_when_no_allocation_can_be_given(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_starter_policy()
    InstitutionDomain.objects.create(domain="pku.edu.cn", institution=door.institution)

    def refuse(**_fields: Any) -> None:
        raise ledger.LedgerError("no share")

    monkeypatch.setattr(ledger, "grant", refuse)
    address = EmailAddress.objects.create(user=door.person, email="zhao@pku.edu.cn", verified=False)
    assert AccountAdapter().confirm_email(make_request(door.person), address)
    assert EmailAddress.objects.get().verified


def test_a_starter_project_finds_another_code_if_its_own_is_taken(door: Door) -> None:
    make_starter_policy()
    make_project(f"starter-{door.person.pk}")
    grant = starter.verify(door.act(door.staff), door.person, door.institution)
    assert grant is not None
    assert grant.allocation.project.code == f"starter-{door.person.pk}-2"


def test_one_policy_is_in_force_at_most(door: Door) -> None:
    policy = make_starter_policy()
    with pytest.raises(IntegrityError), transaction.atomic():
        StarterPolicy.objects.create(is_enabled=True, resource_class=policy.resource_class, amount_s=1, validity_days=1)
    with pytest.raises(IntegrityError), transaction.atomic():
        StarterPolicy.objects.create(resource_class=policy.resource_class, amount_s=0, validity_days=1)


@pytest.mark.django_db(transaction=True)
def test_two_who_verify_at_the_same_moment_give_one_allocation() -> None:
    door = make_door()
    make_starter_policy()
    barrier = threading.Barrier(4)

    def verify(actor: User) -> StarterGrant | None:
        barrier.wait()
        try:
            return starter.verify(door.act(actor), door.person, door.institution)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(verify, [door.manager, door.staff] * 2))
    assert sum(result is not None for result in results) == 1
    assert Allocation.objects.count() == 1


def make_request(user: User) -> Any:
    request = RequestFactory().get("/")
    request.user = user
    request.session = {}  # type: ignore[assignment]
    request._messages = FallbackStorage(request)  # type: ignore[attr-defined]
    return request


def test_an_administrator_sets_the_policy_in_hours(door: Door) -> None:
    User.objects.filter(pk=door.staff.pk).update(is_superuser=True)
    client = Client()
    client.force_login(door.staff)
    path = "/admin/accounts/starterpolicy/add/"
    form = {
        "is_enabled": "on",
        "resource_class": make_resource_class("cpu").pk,
        "validity_days": "90",
        "institution": "",
    }
    assert client.post(path, form | {"hours": "0"}).status_code == 200
    assert not StarterPolicy.objects.exists()
    assert client.post(path, form | {"hours": "12.5"}).status_code == 302
    assert StarterPolicy.objects.get().amount_s == 45_000
    assert "Another policy is in force" in client.post(path, form | {"hours": "1"}).content.decode()
