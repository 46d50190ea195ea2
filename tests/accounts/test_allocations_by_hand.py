"""Grants in the back-office: what the ledger refuses is an error of the form, and nothing is written."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import Allocation, AuditEvent, InstitutionShare, LedgerEntry, Project
from accounts.services import ledger
from tests.factories import make_allocation, make_project, make_resource_class, make_user

pytestmark = pytest.mark.django_db
ADD = reverse("admin:accounts_allocation_add")


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(make_user("root", is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def project() -> Project:
    return make_project("nlp")


def filled(project: Project, hours: str, **fields: Any) -> dict[str, Any]:
    return {
        "project": project.pk,
        "resource_class": (fields.pop("resource_class", None) or make_resource_class()).pk,
        "start_at_0": "2026-06-01", "start_at_1": "00:00:00", "end_at_0": "2027-06-01", "end_at_1": "00:00:00",
        "hours": hours,
        "reason": "a first grant",
        **fields,
    }  # fmt: skip


def test_a_grant_is_an_entry_and_a_line_in_the_audit_log(client: Client, project: Project) -> None:
    assert client.post(ADD, filled(project, "100")).status_code == 302
    entry = LedgerEntry.objects.get()
    assert (entry.kind, entry.granted_delta_s, entry.actor.username) == ("GRANT", 360_000, "root")
    row = AuditEvent.objects.get(action="allocation.add")
    assert (row.project, row.reason, row.after["granted_s"]) == ("nlp", "a first grant", 360_000)


def test_more_than_the_institutions_share_is_refused_with_its_figures(client: Client, project: Project) -> None:
    npu = make_resource_class("ascend910b")
    body = filled(project, "100", resource_class=npu)
    share = InstitutionShare(institution=project.institution, resource_class=npu, amount_s=50 * 3600)
    share.start_at, share.end_at = "2026-01-01T00:00Z", "2028-01-01T00:00Z"
    share.save()
    page = client.post(ADD, body)
    assert page.status_code == 200
    assert "share of this period is 50.00 hours: 0.00 are granted, and 100.00 more" in page.content.decode()
    assert not Allocation.objects.exists()
    assert not AuditEvent.objects.exists()
    assert client.post(ADD, {**body, "hours": "50"}).status_code == 302


@pytest.mark.parametrize(("hours", "words"), [("-2000", "can be taken away"), ("0", "above zero"), ("x", "number")])
def test_what_can_not_be_is_said_at_the_field(client: Client, project: Project, hours: str, words: str) -> None:
    allocation = make_allocation(project, make_resource_class(), hours=1000)
    url = reverse("admin:accounts_allocation_change", args=[allocation.pk])
    page = client.post(url, {"hours": hours, "reason": "less"})
    assert page.status_code == 200
    assert words in page.content.decode()
    allocation.refresh_from_db()
    assert allocation.granted_s == 1000 * 3600


def test_who_comes_second_is_told_why_nothing_was_written(
    client: Client, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocation = make_allocation(project, make_resource_class(), hours=10)
    url = reverse("admin:accounts_allocation_change", args=[allocation.pk])
    adjust, calls = ledger.adjust, []

    def slow(**arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:  # the form was checked; meanwhile a job holds all there is
            raise ledger.InsufficientAllocation(requested_s=3600, available_s=0)
        adjust(**arguments)

    monkeypatch.setattr(ledger, "adjust", slow)
    page = client.post(url, {"hours": "-1", "reason": "less"}, follow=True)
    assert page.status_code == 200
    assert "3600 accelerator-seconds requested, 0 available" in page.content.decode()
    assert not AuditEvent.objects.exists()
