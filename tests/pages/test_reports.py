"""Reports and statements: who sees what, what they add up to, and their files."""

import csv
import io
import zipfile
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import Appointment, LedgerEntry, Office, User
from accounts.services import ledger
from jobs.models import Job, UsageDay
from jobs.services.report_exports import defuse
from jobs.services.usage_days import refresh_usage_days
from tests.factories import NOW, make_partition, make_project, make_user
from tests.jobs.conftest import Centre
from tests.jobs.test_usage_days import add_usage, make_ended_job
from tests.pages.conftest import SignIn

YEAR = "from=2026-01-01&to=2026-12-31"


@pytest.fixture
def used(centre: Centre, teammate: User, stranger: User) -> Centre:
    """16 hours of the owner, 16 of a team-mate that failed, and 16 of a stranger elsewhere."""
    place = {"user": centre.user, "project": centre.project, "partition": centre.partition}
    elsewhere = {**place, "user": stranger, "project": stranger.memberships.get().project}
    add_usage(make_ended_job(place, workload={"model": {"preset": "qwen2.5-7b"}}))
    add_usage(make_ended_job({**place, "user": teammate}, state="FAILED", hours_ago=30), hours_ago=30)
    add_usage(make_ended_job(elsewhere))
    refresh_usage_days()
    return centre


def names(client: Client, group_by: str = "user") -> dict[str, float]:
    """Hours charged by group, as the page has them."""
    report = client.get(f"/reports/?{YEAR}&group_by={group_by}").context["report"]
    return {row.key: row.figures.charged_s / 3600 for row in report.rows}


def test_each_person_sees_the_use_that_is_theirs_to_see(
    used: Centre, sign_in: SignIn, lead: User, teammate: User, stranger: User
) -> None:
    manager, auditor, admin = make_user("manager"), make_user("auditor"), make_user("admin", is_staff=True)
    Appointment.objects.create(user=manager, office=Office.INSTITUTION_MANAGER, institution=used.project.institution)
    Appointment.objects.create(user=auditor, office=Office.AUDITOR)
    all_of_it = {"lin": 16, "zhao": 16, "sun": 16}
    assert names(sign_in(used.user)) == {"lin": 16}
    assert names(sign_in(teammate)) == {"zhao": 16}
    assert names(sign_in(stranger)) == {"sun": 16}
    assert names(sign_in(lead)) == {"lin": 16, "zhao": 16}
    assert names(sign_in(manager)) == {"lin": 16, "zhao": 16}
    assert names(sign_in(auditor)) == all_of_it
    assert names(sign_in(admin)) == all_of_it


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        ("project", {"nlp": 32}),
        ("partition", {"dummy/a800": 32}),
        ("end_state", {"COMPLETED": 16, "FAILED": 16}),
        ("model_family", {"qwen": 16, "": 16}),
        ("field", {"": 32}),
        ("day", {"2026-05-31": 16, "2026-06-01": 16}),
        ("week", {"2026-05-25": 16, "2026-06-01": 16}),
        ("month", {"2026-05-01": 16, "2026-06-01": 16}),
    ],
)
def test_use_is_grouped_by_what_is_asked(
    used: Centre, sign_in: SignIn, lead: User, group_by: str, expected: dict[str, float]
) -> None:
    client = sign_in(lead)
    assert names(client, group_by) == expected
    report = client.get(f"/reports/?{YEAR}&group_by={group_by}").context["report"]
    assert report.total.charged_s == 32 * 3600
    assert report.total.wasted_s == (16 + 8 + 8) * 3600, "what failed, and what was held and not used"
    assert report.total.mean_wait_s == 3600


def test_filters_narrow_and_can_be_combined(used: Centre, sign_in: SignIn, lead: User) -> None:
    client = sign_in(lead)
    for filters, jobs in (
        ("end_state=FAILED", 1),
        ("user=lin", 1),
        ("user=lin&end_state=FAILED", 0),
        ("partition=dummy/a800&project=nlp", 2),
        ("model_family=qwen", 1),
    ):
        assert client.get(f"/reports/?{YEAR}&{filters}").context["report"].total.jobs == jobs, filters


def test_a_period_without_use_says_what_to_do(owner: Client) -> None:
    answer = owner.get("/reports/?from=2020-01-01&to=2020-01-02")
    assert "No use in this period" in answer.content.decode()


def test_the_period_is_the_readers_last_30_days(used: Centre, sign_in: SignIn) -> None:
    used.backend.advance(13 * 3600)  # 21:00 UTC is the next day in China
    used.user.time_zone = "Asia/Shanghai"
    used.user.save()
    form = sign_in(used.user).get("/reports/").context["form"]
    assert (form.data["from"], form.data["to"]) == ("2026-05-04", "2026-06-02")


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        ("from=2026-06-02&to=2026-06-01", "to", "before the first"),
        ("from=1990-06-02&to=2026-06-01", "to", "3660 days at most"),
        ("from=yesterday", "from", "valid date"),
        ("group_by=colour", "group_by", "colour"),
        ("project=%00", "project", ""),
        ("to=2026-02-30", "to", "valid date"),
    ],
)
def test_what_makes_no_sense_is_said_beside_its_field(owner: Client, query: str, field: str, words: str) -> None:
    answer = owner.get(f"/reports/?{query}")
    assert answer.status_code == 422
    assert words in str(answer.context["form"].errors[field])
    assert owner.get(f"/reports/export?{query}").status_code == 422


def test_an_unknown_format_is_refused_by_name(owner: Client) -> None:
    answer = owner.get("/reports/export?format=pdf")
    assert answer.status_code == 422
    assert "“pdf” is no format; allowed: csv, xlsx" in answer.content.decode()


def test_the_csv_opens_in_excel_with_chinese_and_computes_nothing(used: Centre, sign_in: SignIn) -> None:
    evil = make_project("evil", pi=used.user, title='=HYPERLINK("http://x","算力")')
    add_usage(make_ended_job({"user": used.user, "project": evil, "partition": used.partition}))
    refresh_usage_days()
    client = sign_in(used.user)
    answer = client.get(f"/reports/export?{YEAR}&group_by=project")
    body = answer.getvalue()
    assert body.startswith(b"\xef\xbb\xbf")
    assert 'filename="usage-project-2026-01-01-2026-12-31.csv"' in answer["Content-Disposition"]
    rows = list(csv.reader(io.StringIO(body.decode("utf-8-sig"))))
    assert {row[1][:4] for row in rows[1:]} == {"'=HY", "Proj"}
    assert {row[4] for row in rows[1:]} == {"16.0"}
    assert all(len(row) == len(rows[0]) for row in rows)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1"])
def test_what_a_spreadsheet_would_compute_is_text(text: str) -> None:
    assert defuse(text) == f"'{text}"
    assert defuse(f"a{text}") == f"a{text}"


def test_the_excel_file_has_text_and_numbers_and_no_formula(used: Centre, sign_in: SignIn) -> None:
    evil = make_project("evil", pi=used.user, title="=1+1")
    add_usage(make_ended_job({"user": used.user, "project": evil, "partition": used.partition}))
    refresh_usage_days()
    answer = sign_in(used.user).get(f"/reports/export?{YEAR}&group_by=project&format=xlsx")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as book:
        sheet = book.read("xl/worksheets/sheet1.xml").decode()
    assert "<f>" not in sheet
    assert "=1+1" in sheet
    assert "<v>16</v>" in sheet


def test_a_report_costs_as_much_for_many_groups(
    used: Centre, sign_in: SignIn, lead: User, django_assert_max_num_queries: Any
) -> None:
    place = {"project": used.project, "partition": used.partition}
    for number in range(60):
        make_ended_job({**place, "user": make_user(f"person{number}")})
    refresh_usage_days()
    client = sign_in(lead)
    with django_assert_max_num_queries(10):
        answer = client.get(f"/reports/?{YEAR}&group_by=user&sort=name&page=2")
    assert len(answer.context["rows"]) == 12


# Statements


@pytest.fixture
def month(centre: Centre) -> Centre:
    """A month with a grant, two charged jobs, a refund and an adjustment."""
    for number in range(2):
        centre.submit(name=f"job{number}")
        centre.tick()
        centre.tick(600)
        centre.tick(3600)
    job = Job.objects.order_by("submitted_at").first()
    assert job is not None
    ledger.refund(
        reference=job.reference, refund_reference=f"{job.reference}/1", amount_s=3600, at=centre.now(), actor=None,
        reason="node",
    )  # fmt: skip
    ledger.adjust(
        allocation_id=centre.allocation.pk, delta_s=-7200, reference="a", at=centre.now(), actor=None, reason=""
    )
    return centre


def test_a_statement_adds_up_to_the_ledger(month: Centre, sign_in: SignIn, lead: User) -> None:
    statement = sign_in(lead).get("/projects/nlp/statements/2026-06/").context["statement"]
    (one,) = statement.classes
    month.allocation.refresh_from_db()
    assert one.opening_s == 0
    assert one.closing_s == month.allocation.granted_s - month.allocation.used_s
    assert one.used_s == month.allocation.used_s
    assert [line.kind for line in one.movements] == ["GRANT", "ADJUST", "SETTLE", "REFUND"]
    assert [(line.username, line.partition, line.jobs) for line in one.use] == [("lin", "dummy/a800", 2)]


def test_a_months_closing_balance_opens_the_next(month: Centre, sign_in: SignIn, lead: User) -> None:
    month.backend.advance(40 * 86400)
    client = sign_in(lead)
    june = client.get("/projects/nlp/statements/2026-06/").context["statement"]
    july = client.get("/projects/nlp/statements/2026-07/").context["statement"]
    assert june.is_complete
    assert not july.is_complete
    assert july.classes[0].opening_s == june.classes[0].closing_s
    assert len(client.get("/projects/nlp/statements/").context["months"]) == 2


def test_statements_are_for_those_who_answer_for_the_project(
    month: Centre, sign_in: SignIn, lead: User, teammate: User, stranger: User
) -> None:
    manager, auditor, admin = make_user("manager"), make_user("auditor"), make_user("admin", is_staff=True)
    Appointment.objects.create(user=manager, office=Office.INSTITUTION_MANAGER, institution=month.project.institution)
    Appointment.objects.create(user=auditor, office=Office.AUDITOR)
    for url in ("/projects/nlp/statements/", "/projects/nlp/statements/2026-06/"):
        people = (lead, manager, auditor, admin, month.user, teammate, stranger)
        seen = [sign_in(person).get(url).status_code for person in people]
        assert seen == [200, 200, 200, 200, 404, 404, 404]
        assert Client().get(url).status_code == 302


@pytest.mark.parametrize("text", ["2026-07", "2026-13", "2026-6", "0000-01", "9999-12", "2026-06-01", "²026-06"])
def test_a_month_that_is_none_or_to_come_is_not_found(month: Centre, sign_in: SignIn, lead: User, text: str) -> None:
    assert sign_in(lead).get(reverse("project-statement", args=["nlp", text])).status_code == 404


def test_a_statement_costs_as_much_for_many_entries(
    month: Centre, sign_in: SignIn, lead: User, django_assert_max_num_queries: Any
) -> None:
    template = LedgerEntry.objects.filter(kind="GRANT").get()
    for number in range(50):
        template.pk = None
        template.kind, template.reference = "ADJUST", f"x{number}"
        template.save(force_insert=True)
    client = sign_in(lead)
    with django_assert_max_num_queries(11):
        assert client.get("/projects/nlp/statements/2026-06/").status_code == 200


# Forecast on the page


def test_the_project_says_when_it_runs_out_or_why_that_is_unknown(month: Centre, owner: Client) -> None:
    assert "too little use" in owner.get("/projects/nlp/forecast").content.decode()
    for day in range(20):
        reference = f"use{day}"
        at = NOW - timedelta(days=day)
        allocation = month.allocation
        ledger.reserve(
            project_id=month.project.pk, resource_class_id=allocation.resource_class_id, reference=reference,
            amount_s=36000, at=at,
        )  # fmt: skip
        ledger.settle(reference=reference, amount_s=36000, at=at)
    text = owner.get("/projects/nlp/forecast").content.decode()
    assert "As the last 30 days went" in text
    assert "accelerator-hours, typically" in text


def test_unused_days_leave_no_row(centre: Centre) -> None:
    make_partition("other")
    assert refresh_usage_days() == 0
    assert not UsageDay.objects.exists()
