"""The audit log: what writes it, who finds what in it, and that nobody rewrites it."""

import csv
import io
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.test import Client
from django.urls import reverse

from accounts.models import ActSource, AuditEvent, Membership, Notification, Project, Role, User
from accounts.services import audit
from accounts.services.acts import Act
from accounts.services.audit_search import AuditFilter, differences, read_page
from tests.factories import NOW, make_institution, make_project, make_user
from tests.security.role_world import World, make_world


@pytest.fixture
def world(db: None) -> World:
    return make_world()


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def record(actor: User | None = None, action: str = "thing.change", **fields: Any) -> AuditEvent:
    at = fields.pop("at", NOW)
    act = Act(actor=actor, at=at, source=ActSource.PAGE, ip_address="192.0.2.7")
    return audit.record(act, action, **{"target_kind": action.partition(".")[0], "target": "x", **fields})


@pytest.mark.django_db
@pytest.mark.parametrize(
    "statement", ["UPDATE accounts_auditevent SET reason = 'other'", "DELETE FROM accounts_auditevent"]
)
def test_the_database_refuses_to_rewrite_the_log(statement: str) -> None:
    record(reason="as it was")
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert AuditEvent.objects.get().reason == "as it was"


@pytest.mark.django_db
def test_the_back_office_writes_what_was_before_and_after() -> None:
    root = make_user("root", is_staff=True, is_superuser=True)
    client = signed_in(root)
    added = client.post(reverse("admin:accounts_institution_add"), {"code": "uni", "name": "Uni", "name_zh": ""})
    assert added.status_code == 302
    pk = str(make_institution("gone").pk)
    row = AuditEvent.objects.get(action="institution.add")
    assert (row.actor, row.source, row.ip_address, row.target) == (root, ActSource.ADMIN, "127.0.0.1", "uni")
    project = make_project("nlp")
    form = {"code": "nlp", "title": "Another", "institution": project.institution_id, "state": "ACTIVE"}
    inline = {"memberships-TOTAL_FORMS": "1", "memberships-INITIAL_FORMS": "0"}
    member = {"memberships-0-user": make_user("lin").pk, "memberships-0-role": "MEMBER"}
    answer = client.post(reverse("admin:accounts_project_change", args=[project.pk]), {**form, **inline, **member})
    assert answer.status_code == 302, answer.context["errors"]
    row = AuditEvent.objects.get(action="project.change")
    assert (row.before, row.after, row.project) == ({"title": "Project nlp"}, {"title": "Another"}, "nlp")
    row = AuditEvent.objects.get(action="membership.add")
    assert (row.project, row.after["user"], row.after["role"]) == ("nlp", "lin", "MEMBER")
    client.post(reverse("admin:accounts_institution_delete", args=[pk]), {"post": "yes"})
    assert AuditEvent.objects.get(action="institution.delete").before["code"] == "gone"
    selected = {"action": "delete_selected", "_selected_action": [row.pk for row in [make_institution("two")]]}
    client.post(reverse("admin:accounts_institution_changelist"), {**selected, "post": "yes"})
    assert AuditEvent.objects.filter(action="institution.delete", target="two").exists()


@pytest.mark.django_db
def test_a_password_that_is_set_for_somebody_is_written_down_without_it() -> None:
    other = make_user("lin")
    client = signed_in(make_user("root", is_staff=True, is_superuser=True))
    form = {"password1": "a new and long one", "password2": "a new and long one", "usable_password": "true"}
    assert client.post(f"/admin/accounts/user/{other.pk}/password/", form).status_code == 302
    row = AuditEvent.objects.get(action="user.set_password")
    assert (row.target, row.before, row.after) == ("lin", {}, {})


def test_members_come_change_and_go_with_a_line_and_a_message(world: World) -> None:
    client = signed_in(world.people["pi"])
    answer = client.post(
        reverse("project-member-add", args=["nlp"]), {"person": "NEWCOMER@example.org", "role": "MEMBER"}
    )
    assert answer.status_code == 302
    member = Membership.objects.get(user=world.newcomer)
    role = reverse("project-member-role", args=["nlp", world.newcomer.pk])
    client.post(role, {"role": "MANAGER"})
    client.post(role, {"role": "MANAGER"})  # once more changes nothing
    client.post(reverse("project-member-remove", args=["nlp", world.newcomer.pk]))
    assert not Membership.objects.filter(pk=member.pk).exists()
    rows = AuditEvent.objects.filter(target="newcomer").order_by("pk")
    assert [(row.action, row.before, row.after) for row in rows] == [
        ("member.add", {}, {"role": "MEMBER"}),
        ("member.change", {"role": "MEMBER"}, {"role": "MANAGER"}),
        ("member.remove", {"role": "MANAGER"}, {}),
    ]
    kinds = Notification.objects.filter(user=world.newcomer).order_by("pk").values_list("kind", flat=True)
    assert list(kinds) == ["member.added", "member.changed", "member.removed"]


def test_nobody_gives_or_takes_the_pis_role_by_a_form(world: World) -> None:
    client = signed_in(world.people["manager"])
    pi = world.people["pi"]
    client.post(reverse("project-member-remove", args=["nlp", pi.pk]))
    client.post(reverse("project-member-role", args=["nlp", pi.pk]), {"role": "MEMBER"})
    client.post(reverse("project-member-role", args=["nlp", world.people["member"].pk]), {"role": "PI"})
    assert Membership.objects.get(project=world.project, role=Role.PI).user == pi
    assert not AuditEvent.objects.filter(target_kind="member").exists()


def test_unknown_and_closed_people_are_told_of_in_the_same_words(world: World) -> None:
    User.objects.filter(pk=world.newcomer.pk).update(is_active=False)
    client = signed_in(world.people["pi"])
    pages = [
        client.post(reverse("project-member-add", args=["nlp"]), {"person": person, "role": "MEMBER"})
        for person in ("newcomer", "nobody-at-all")
    ]
    errors = [page.context["form"].errors["person"] for page in pages]
    assert [page.status_code for page in pages] == [422, 422]
    assert errors[0] == errors[1]


def test_a_manager_who_removes_themselves_goes_back_to_the_project(world: World) -> None:
    manager = world.people["manager"]
    answer = signed_in(manager).post(reverse("project-member-remove", args=["nlp", manager.pk]))
    assert answer["Location"] == reverse("project-detail", args=["nlp"])


def test_offices_are_given_once_and_ended_with_a_line_each(world: World) -> None:
    client = signed_in(world.people["administrator"])
    form = {"person": "newcomer", "office": "INSTITUTION_MANAGER", "institution": "ours"}
    appoint = reverse("appointment-appoint")
    assert client.post(appoint, {**form, "institution": ""}).status_code == 422
    assert client.post(appoint, {**form, "office": "AUDITOR"}).status_code == 422
    assert client.post(appoint, form).status_code == 302
    assert client.post(appoint, form).context["form"].errors["person"]
    held = world.newcomer.appointments.get()
    client.post(reverse("appointment-end", args=[held.pk]))
    client.post(reverse("appointment-end", args=[held.pk]))
    rows = AuditEvent.objects.filter(target="newcomer").order_by("pk").values_list("action", "institution")
    assert list(rows) == [("appointment.make", "ours"), ("appointment.end", "ours")]


def test_ending_anothers_job_is_an_act_and_ending_ones_own_is_not(world: World) -> None:
    url = reverse("job-cancel", args=[world.job.pk])
    signed_in(world.people["pi"]).post(url)
    row = AuditEvent.objects.get(target_kind="job")
    assert (row.action, row.project, row.before["owner"]) == ("job.cancel", "nlp", "the-owner")
    signed_in(world.people["owner"]).post(url)
    assert AuditEvent.objects.filter(target_kind="job").count() == 1


def test_each_finds_what_concerns_them_and_addresses_are_for_the_centre(world: World) -> None:
    last = max(AuditEvent.objects.values_list("pk", flat=True))
    record(target="centre")
    record(target="ours", project=world.project)
    record(target="theirs", project=Project.objects.get(code="elsewhere"))
    seen = {
        name: [
            row.target
            for row, _changes in signed_in(world.people[name]).get("/audit/").context["rows"]
            if row.pk > last
        ]
        for name in ("administrator", "auditor", "pi", "institution", "foreign", "stranger")
    }
    everything = ["theirs", "ours", "centre"]
    assert seen == {
        **dict.fromkeys(("administrator", "auditor"), everything),
        **{name: ["ours"] for name in ("pi", "institution")},
        **{name: ["theirs"] for name in ("foreign", "stranger")},
    }
    assert "192.0.2.7" in signed_in(world.people["auditor"]).get("/audit/").content.decode()
    assert "192.0.2.7" not in signed_in(world.people["pi"]).get("/audit/").content.decode()
    assert "192.0.2.7" not in b"".join(signed_in(world.people["pi"]).get("/audit/export").streaming_content).decode()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("q=second", {"b"}),
        ("q=100%25", set()),
        ("actor=THE-PI", {"b"}),
        ("action=member", {"a", "b"}),
        ("action=member.add", {"a"}),
        ("target=c", {"c"}),
        ("since=2026-06-02", {"c"}),
        ("until=2026-06-01", {"a", "b"}),
        ("order=oldest", {"a", "b", "c"}),
        ("since=2026-06-02&until=2026-06-01", set()),
        ("after=nonsense&q=%00", set()),
    ],
)
def test_the_log_is_searched_by_each_field(world: World, query: str, found: set[str]) -> None:
    of_the_world = set(AuditEvent.objects.values_list("target", flat=True))
    record(target="a", action="member.add")
    record(world.people["pi"], target="b", action="member.remove", reason="The Second one")
    record(target="c", action="policy.change", at=NOW + timedelta(days=3))
    page = signed_in(world.people["auditor"]).get(f"/audit/?{query}")
    assert page.status_code == 200
    assert {event.target for event, _changes in page.context["rows"]} - of_the_world == found


@pytest.mark.django_db
def test_pages_follow_each_other_without_gap_or_repetition_also_within_one_moment() -> None:
    expected = [record(target=str(number), at=NOW + timedelta(hours=number // 4)).pk for number in range(10)]
    events: Any = AuditFilter().apply(AuditEvent.objects.all())  # type: ignore[arg-type]
    for oldest_first in (False, True):
        seen: list[int] = []
        page = read_page(events, after=None, before=None, size=3, oldest_first=oldest_first)
        pages = [page]
        while page.next:
            page = read_page(events, after=page.next, before=None, size=3, oldest_first=oldest_first)
            pages.append(page)
        for page in pages:
            seen += [event.pk for event in page.events]
        assert seen == (expected if oldest_first else expected[::-1])
        back = read_page(events, after=None, before=pages[2].previous, size=3, oldest_first=oldest_first)
        assert back.events == pages[1].events


def test_the_file_harms_no_spreadsheet(world: World) -> None:
    record(target="=HYPERLINK(1)", reason='a "quoted", reason\nof two lines', after={"x": 1})
    answer = signed_in(world.people["auditor"]).get("/audit/export")
    content = b"".join(answer.streaming_content).decode("utf-8")  # type: ignore[attr-defined]
    assert content.startswith("\ufeff")
    (row,) = (row for row in csv.DictReader(io.StringIO(content[1:])) if "HYPERLINK" in row["target"])
    assert row["target"] == "'=HYPERLINK(1)"
    assert row["reason"] == 'a "quoted", reason\nof two lines'


def test_a_difference_names_what_came_what_went_and_what_changed() -> None:
    found = differences({"a": 1, "b": 2, "c": 3}, {"b": 2, "c": 4, "d": 5})
    assert [(item.name, item.before, item.after) for item in found] == [("a", 1, None), ("c", 3, 4), ("d", None, 5)]


def test_an_auditor_sees_a_job_and_not_what_it_ran(world: World) -> None:
    world.job.script = "#!/bin/bash\necho a-secret\n"
    world.job.environment = {"TOKEN": "a-secret"}
    world.job.save()
    url = world.job.get_absolute_url()
    assert "a-secret" in signed_in(world.people["owner"]).get(url).content.decode()
    page = signed_in(world.people["auditor"]).get(url).content.decode()
    assert "a-secret" not in page
    assert f"clone={world.job.pk}" not in page
    body = signed_in(world.people["auditor"]).get(f"/api/v1/jobs/{world.job.pk}").content.decode()
    assert "a-secret" not in body
    assert signed_in(world.people["auditor"]).get(f"/jobs/new?clone={world.job.pk}").status_code == 404
