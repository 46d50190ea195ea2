"""Pages of projects: balances, members, who used what, and the ledger."""

from datetime import timedelta

from django.test import Client
from django.urls import reverse

from accounts.models import Membership, Project, User
from accounts.services import ledger
from jobs.models import Job
from tests.factories import HOUR_S, NOW, make_allocation, make_project, make_user
from tests.jobs.conftest import Centre, native_id
from tests.pages.conftest import SignIn

HTMX = {"HX-Request": "true"}


def ledger_of(client: Client, query: str = "") -> list[tuple[str, str, float]]:
    """Kind, name of the linked job, hours available after, of each row."""
    rows = client.get(f"/projects/nlp/ledger{query}").context["rows"]
    return [(row.entry.kind, row.job.name if row.job else "", row.available_after_s / HOUR_S) for row in rows]


def run_one_job(centre: Centre, name: str = "job") -> Job:
    """A job of 8 accelerators that used half of its hour."""
    job = centre.submit(name=name, time_limit_minutes=60)
    centre.tick()
    centre.backend.set_outcome(native_id(job), elapsed_s=1800)
    centre.tick()
    centre.tick(1800)
    while Job.objects.get(pk=job.pk).is_live:
        centre.reconcile()
    return job


def test_the_list_has_own_projects_with_people_and_hours(centre: Centre, owner: Client, teammate: User) -> None:
    make_project("hidden", title="Hidden title")
    page = owner.get("/projects/").content.decode()
    assert "Project nlp" in page
    assert "3 members" in page
    assert "led by chen" in page
    assert "1,000.00" in page
    assert "Hidden title" not in page


def test_somebody_in_no_project_is_told_so(centre: Centre, sign_in: SignIn) -> None:
    assert "No projects yet" in sign_in(make_user()).get("/projects/").content.decode()


def test_a_project_shows_members_by_role_and_ended_allocations(centre: Centre, owner: Client, teammate: User) -> None:
    make_allocation(
        centre.project,
        centre.partition.resource_class,
        hours=321,
        start_at=NOW - timedelta(days=9),
        end_at=NOW - timedelta(days=2),
    )
    answer = owner.get("/projects/nlp/")
    page = answer.content.decode()
    assert [member.user.username for member in answer.context["members"]] == ["chen", "lin", "zhao"]
    assert "your role: member" in page
    assert "1 ended allocation" in page
    assert "321.00" in page
    assert reverse("project-ledger", args=["nlp"]) in page
    Project.objects.update(state="CLOSED")
    closed = owner.get("/projects/nlp/").content.decode()
    assert "This project is closed" in closed
    assert "?project=nlp" in closed.replace("&amp;", "?"), "its jobs can still be looked at"


def test_the_ledger_explains_every_hour_with_a_running_balance(centre: Centre, owner: Client) -> None:
    run_one_job(centre, "half-an-hour")
    assert ledger_of(owner) == [
        ("SETTLE", "half-an-hour", 996.0),
        ("RESERVE", "half-an-hour", 992.0),
        ("GRANT", "", 1000.0),
    ]
    page = owner.get("/projects/nlp/ledger").content.decode()
    assert "+8.00" in page
    assert "-8.00" in page
    assert "+4.00" in page


def test_the_balance_runs_on_over_pages(centre: Centre, owner: Client) -> None:
    for number in range(60):
        ledger.reserve(
            project_id=centre.project.pk,
            resource_class_id=centre.partition.resource_class_id,
            reference=f"job-{number}",
            amount_s=HOUR_S,
            at=NOW,
        )
    seen, query = [], ""
    while True:
        context = owner.get(f"/projects/nlp/ledger{query}").context
        seen += [row.available_after_s // HOUR_S for row in context["rows"]]
        if context["older_before"] is None:
            break
        query = f"?before={context['older_before']}"
    assert seen == [*range(940, 1000), 1000]
    assert owner.get("/projects/nlp/ledger?before=nonsense").status_code == 200
    assert owner.get("/projects/nlp/ledger?before=0").status_code == 200


def test_a_member_sees_that_others_used_hours_but_not_for_what(
    centre: Centre, sign_in: SignIn, teammate: User, lead: User
) -> None:
    run_one_job(centre, "secret-name")
    page = sign_in(teammate).get("/projects/nlp/ledger").content.decode()
    assert "secret-name" not in page
    assert "a job of another member" in page
    assert "secret-name" in sign_in(lead).get("/projects/nlp/ledger").content.decode()


def test_a_refund_is_linked_to_its_job(centre: Centre, owner: Client, lead: User) -> None:
    job = run_one_job(centre, "unlucky")
    ledger.refund(
        reference=job.reference,
        refund_reference=f"{job.reference}/1",
        amount_s=HOUR_S,
        at=NOW,
        actor=lead,
        reason="node failure",
    )
    assert ledger_of(owner)[0] == ("REFUND", "unlucky", 997.0)
    assert "node failure" in owner.get("/projects/nlp/ledger").content.decode()


def test_the_ledger_is_a_part_for_htmx_and_a_page_for_others(owner: Client) -> None:
    assert "<html" not in owner.get("/projects/nlp/ledger", headers=HTMX).content.decode()
    assert "<html" in owner.get("/projects/nlp/ledger").content.decode()


def test_use_by_member_is_whole_for_the_lead_and_ones_own_for_members(
    centre: Centre, owner: Client, sign_in: SignIn, teammate: User, lead: User
) -> None:
    run_one_job(centre)
    centre.user = teammate
    centre.submit(time_limit_minutes=60)
    centre.admit()

    def usage(client: Client) -> dict[str, tuple[float, float]]:
        rows = client.get("/projects/nlp/usage").context["rows"]
        return {
            row["user__username"]: ((row["charged_s"] or 0) / HOUR_S, (row["held_s"] or 0) / HOUR_S) for row in rows
        }

    assert usage(sign_in(lead)) == {"lin": (4.0, 0.0), "zhao": (0.0, 8.0)}
    assert usage(owner) == {"lin": (4.0, 0.0)}
    assert "your own use" in owner.get("/projects/nlp/usage").content.decode()


def test_staff_sees_all_without_being_a_member(centre: Centre, sign_in: SignIn) -> None:
    client = sign_in(make_user(is_staff=True))
    assert client.get("/projects/nlp/").status_code == 200
    assert "your role" not in client.get("/projects/nlp/").content.decode()
    assert len(ledger_of(client)) == 1


def test_leading_another_project_opens_nothing_here(centre: Centre, sign_in: SignIn, stranger: User) -> None:
    Membership.objects.filter(user=stranger).update(role="PI")
    assert sign_in(stranger).get("/projects/nlp/ledger").status_code == 404
