"""Pages of requests and messages."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import (
    ActSource,
    Allocation,
    AllocationRequest,
    Appointment,
    Notification,
    Office,
    Project,
    RequestKind,
    User,
    Verification,
)
from accounts.services import estimate_snapshots, ledger, requests
from accounts.services.acts import Act
from accounts.services.notifications import notify
from accounts.services.request_rules import Draft
from tests.factories import HOUR_S, NOW, make_institution, make_resource_class, make_user
from tests.jobs.conftest import Centre
from tests.pages.conftest import SignIn, filled_model_form

YEAR = timedelta(days=365)


@pytest.fixture
def reviewer(centre: Centre) -> User:
    user = make_user("rev")
    Appointment.objects.create(user=user, office=Office.REVIEWER)
    return user


@pytest.fixture
def auditor(centre: Centre) -> User:
    user = make_user("aud")
    Appointment.objects.create(user=user, office=Office.AUDITOR)
    return user


def ask(centre: Centre, lead: User, kind: RequestKind = RequestKind.SUPPLEMENT, **fields: Any) -> AllocationRequest:
    common: dict[str, Any] = {"kind": kind, "project": centre.project, "justification": "to train <b>a model</b>"}
    if kind == RequestKind.SUPPLEMENT:
        hours = {centre.partition.resource_class: 100 * HOUR_S}
        common |= {"amounts": hours, "start_at": NOW, "end_at": NOW + YEAR}
    return requests.submit(Act(actor=lead, at=NOW, source=ActSource.PAGE), Draft(**(common | fields)))


def url(name: str, found: AllocationRequest) -> str:
    return reverse(f"request-{name}", args=[found.uuid])


def hours_field(centre: Centre) -> str:
    return f"hours_{centre.partition.resource_class.code}"


def form_of_project(centre: Centre, **changes: str) -> dict[str, str]:
    return {
        "project_code": "vision",
        "project_title": "Vision",
        "institution": centre.project.institution.code,
        hours_field(centre): "12,000.5",
        "start_on": "2026-06-01",
        "end_on": "2027-05-31",
        "justification": "one run",
    } | changes


def decision(centre: Centre, **changes: str) -> dict[str, str]:
    return {
        hours_field(centre): "60",
        "start_on": "2026-06-01",
        "end_on": "2026-12-31",
        "reason": "well argued",
    } | changes


# Asking


def test_anybody_asks_for_a_project_and_a_reviewer_grants_it(
    centre: Centre, sign_in: SignIn, stranger: User, reviewer: User
) -> None:
    client = sign_in(stranger)
    assert "New project" in client.get(reverse("request-choose")).content.decode()
    answer = client.post(reverse("request-new", args=["new-project"]), form_of_project(centre))
    asked = AllocationRequest.objects.get()
    assert answer["Location"] == asked.get_absolute_url()
    assert asked.lines.get().amount_s == 12_000 * HOUR_S + 1800
    assert "Vision" in client.get(asked.get_absolute_url()).content.decode()
    page = sign_in(reviewer).get("/requests/").content.decode()
    assert "Vision" in page
    assert "12,000.50" in page
    sign_in(reviewer).post(url("approve", asked), decision(centre))
    allocation = Allocation.objects.get(project=Project.objects.get(code="vision"))
    assert allocation.granted_s == 60 * HOUR_S
    assert allocation.end_at.date().isoformat() == "2027-01-01", "the last day is the whole day"
    page = client.get(asked.get_absolute_url()).content.decode()
    assert "well argued" in page
    assert "2026-06-01 to 2026-12-31" in page


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("0", "allowed: above zero"),
        ("-5", "allowed: above zero"),
        ("1e30", "at most 1,000,000,000"),
        ("0.00001", "in whole seconds"),
        ("NaN", "in whole seconds"),
        ("many", "in whole seconds"),
        ("", "Give an amount above zero"),
    ],
)
def test_hours_that_are_none_are_refused_beside_their_field(
    centre: Centre, owner: Client, value: str, words: str
) -> None:
    answer = owner.post(
        reverse("request-new", args=["new-project"]), form_of_project(centre, **{hours_field(centre): value})
    )
    assert answer.status_code == 200
    (message,) = answer.context["form"].errors[hours_field(centre)]
    assert words in message
    assert value in message
    assert not AllocationRequest.objects.exists()


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        ("2026-06-02", "2026-06-01", "The period ends (2026-06-01) before it starts (2026-06-02)."),
        ("2020-06-02", "2020-07-01", "The period is over"),
        ("2026-06-01", "2099-06-01", "too long"),
        ("2026-06-01", "9999-12-31", "not a date"),
        ("2026-06-01", "soon", "not a date"),
        ("2026-06-01", "", "Say from when to when"),
        ("0001-01-01", "2026-07-01", "too long"),
    ],
)
def test_a_period_that_makes_no_sense_is_refused(
    centre: Centre, owner: Client, start: str, end: str, words: str
) -> None:
    answer = owner.post(
        reverse("request-new", args=["new-project"]), form_of_project(centre, start_on=start, end_on=end)
    )
    assert words in str(answer.context["form"].errors["end_on"])
    assert not AllocationRequest.objects.exists()


@pytest.mark.parametrize("kind", ["new-project", "renewal", "supplement", "change-of-pi", "end-of-project"])
def test_each_kind_has_its_form_and_says_so_to_who_leads_nothing(
    centre: Centre, sign_in: SignIn, lead: User, stranger: User, kind: str
) -> None:
    path = reverse("request-new", args=[kind])
    assert "Justification" in sign_in(lead).get(path).content.decode()
    page = sign_in(stranger).get(path).content.decode()
    assert ("You lead no active project" in page) is (kind != "new-project")
    assert sign_in(lead).get("/requests/new/nothing").status_code == 404


def test_a_nul_in_a_choice_is_no_choice(centre: Centre, sign_in: SignIn, lead: User) -> None:
    client = sign_in(lead)
    for kind, name in (("new-project", "institution"), ("supplement", "project"), ("change-of-pi", "new_pi")):
        form = form_of_project(centre, project="nlp") | {name: "a\x00b"}
        answer = client.post(reverse("request-new", args=[kind]), form)
        assert name in answer.context["form"].errors
    assert client.get("/requests/?q=%00&kind=%00").status_code == 200


def test_an_end_is_asked_for_by_the_lead_and_confirmed_by_the_reviewer(
    centre: Centre, sign_in: SignIn, lead: User, reviewer: User
) -> None:
    form = {"project": "nlp", "justification": "done"}
    sign_in(lead).post(reverse("request-new", args=["end-of-project"]), form)
    asked = AllocationRequest.objects.get()
    data = {"reason": "bye", "takes_rest": "on"}
    first = sign_in(reviewer).post(url("approve", asked), data)
    assert "End this project?" in first.content.decode()
    centre.project.refresh_from_db()
    assert centre.project.state == "ACTIVE"
    values = dict(first.context["values"]) | {"confirmed": "yes"}
    sign_in(reviewer).post(url("approve", asked), values)
    centre.project.refresh_from_db()
    centre.allocation.refresh_from_db()
    assert (centre.project.state, centre.allocation.available_s) == ("CLOSED", 0)


def test_a_new_pi_is_chosen_among_the_members(centre: Centre, sign_in: SignIn, lead: User, stranger: User) -> None:
    path = reverse("request-new", args=["change-of-pi"])
    client = sign_in(lead)
    refused = client.post(path, {"project": "nlp", "justification": "x", "new_pi": stranger.username})
    assert "new_pi" in refused.context["form"].errors
    client.post(path, {"project": "nlp", "justification": "x", "new_pi": "lin"})
    assert AllocationRequest.objects.get().new_pi == centre.user


# The estimate that goes with it


def test_the_estimate_of_a_job_is_attached_and_its_hours_are_filled_in(
    centre: Centre, owner: Client, sign_in: SignIn, lead: User
) -> None:
    job = centre.submit(workload={"model": {"preset": "llama-2-7b"}, "tokens": 10**9})
    centre.tick()
    page = owner.get(job.get_absolute_url())
    query = page.context["hours_url"].partition("?")[2]
    client = sign_in(lead)
    assert query.replace("&", "&amp;") in client.get(page.context["hours_url"]).content.decode()
    form = client.get(f"{reverse('request-new', args=['supplement'])}?{query}").context["form"]
    snapshot = form.snapshot
    assert (snapshot["job"], snapshot["tokens"], snapshot["devices"]) == (str(job.pk), 10**9, job.devices)
    data = {name: form[name].value() for name in form.fields if form[name].value() is not None}
    client.post(reverse("request-new", args=["supplement"]), data | {"justification": "this run"})
    asked = AllocationRequest.objects.get()
    assert asked.estimate == snapshot
    assert asked.lines.get().amount_s == snapshot["amount_s"]
    assert "Llama" in client.get(asked.get_absolute_url()).content.decode()


def test_the_panel_of_a_new_job_leads_to_a_request(centre: Centre, owner: Client) -> None:
    page = owner.post("/jobs/new/estimate", filled_model_form(centre)).content.decode()
    assert "Ask for these hours" in page
    assert "/requests/new?project=nlp&amp;estimate=" in page


def test_an_estimate_that_is_not_the_portals_own_is_refused(centre: Centre, owner: Client) -> None:
    token = estimate_snapshots.sign({"amount_s": 1})
    form = form_of_project(centre, estimate=token[:-2] + "xx")
    answer = owner.post(reverse("request-new", args=["new-project"]), form)
    assert "can&#x27;t be read" in answer.content.decode()
    page = owner.get(reverse("request-new", args=["new-project"]) + "?estimate=nonsense&project=%00&hours=x")
    assert page.status_code == 200
    assert page.context["form"].snapshot is None


# Who sees and does what


def test_a_request_is_for_those_concerned(
    centre: Centre, sign_in: SignIn, lead: User, teammate: User, stranger: User, reviewer: User, auditor: User
) -> None:
    asked = ask(centre, lead)
    people = (lead, teammate, stranger, reviewer, auditor)
    seen = {user.username: sign_in(user).get(asked.get_absolute_url()).status_code for user in people}
    assert seen == {"chen": 200, "zhao": 404, "sun": 404, "rev": 200, "aud": 200}
    assert Client().get(asked.get_absolute_url()).status_code == 302
    forms = {
        user.username: "decision" in sign_in(user).get(asked.get_absolute_url()).context
        for user in (lead, reviewer, auditor)
    }
    assert forms == {"chen": False, "rev": True, "aud": False}


@pytest.mark.parametrize("step", ["approve", "reject", "ask-back", "answer", "withdraw"])
def test_steps_are_not_for_who_only_looks_on(
    centre: Centre, sign_in: SignIn, lead: User, teammate: User, stranger: User, auditor: User, step: str
) -> None:
    asked = ask(centre, lead)
    data = decision(centre) | {"words": "x", "confirmed": "yes"}
    codes = {
        user.username: sign_in(user).post(url(step, asked), data).status_code for user in (teammate, stranger, auditor)
    }
    assert codes == {"zhao": 404, "sun": 404, "aud": 302}
    assert Client().post(url(step, asked), data).status_code == 302
    assert sign_in(lead).get(url(step, asked)).status_code == 405
    asked.refresh_from_db()
    assert asked.state == "SUBMITTED"
    assert asked.events.count() == 1


def test_a_reviewer_who_asked_is_told_that_another_decides(centre: Centre, sign_in: SignIn, reviewer: User) -> None:
    sign_in(reviewer).post(reverse("request-new", args=["new-project"]), form_of_project(centre))
    asked = AllocationRequest.objects.get()
    page = sign_in(reviewer).get(asked.get_absolute_url())
    assert "another reviewer decides" in page.content.decode()
    assert "decision" not in page.context
    answer = sign_in(reviewer).post(url("approve", asked), decision(centre), follow=True)
    assert "nobody decides on their own request" in answer.content.decode()


def test_who_decides_too_late_is_told_by_whom_and_when(
    centre: Centre, sign_in: SignIn, lead: User, reviewer: User
) -> None:
    asked = ask(centre, lead)
    sign_in(reviewer).post(url("approve", asked), decision(centre))
    other = make_user("admin", is_staff=True)
    answer = sign_in(other).post(url("approve", asked), decision(centre), follow=True)
    assert "rev has approved this request already (2026-06-01 08:00 UTC)" in answer.content.decode()
    assert Allocation.objects.count() == 2


def test_a_rejection_is_asked_for_twice(centre: Centre, sign_in: SignIn, lead: User, reviewer: User) -> None:
    asked = ask(centre, lead)
    client = sign_in(reviewer)
    assert "Reject this request?" in client.post(url("reject", asked), {"reason": "no & never"}).content.decode()
    asked.refresh_from_db()
    assert asked.state == "SUBMITTED"
    client.post(url("reject", asked), {"reason": "no & never", "confirmed": "yes"})
    asked.refresh_from_db()
    assert (asked.state, asked.decision_reason) == ("REJECTED", "no & never")


def test_a_decision_with_a_mistake_shows_it_and_keeps_the_rest(
    centre: Centre, sign_in: SignIn, lead: User, reviewer: User
) -> None:
    asked = ask(centre, lead)
    answer = sign_in(reviewer).post(url("approve", asked), decision(centre, end_on="2026-01-01"))
    assert answer.status_code == 422
    page = answer.content.decode()
    assert "The period ends (2026-01-01) before it starts (2026-06-01)." in page
    assert "well argued" in page
    assert not asked.lines.filter(granted_s__isnull=False).exists()


def test_question_and_answer_go_to_and_fro(centre: Centre, sign_in: SignIn, lead: User, reviewer: User) -> None:
    asked = ask(centre, lead)
    sign_in(reviewer).post(url("ask-back", asked), {"words": "Which data?"})
    page = sign_in(lead).get(asked.get_absolute_url()).content.decode()
    assert "Which data?" in page
    sign_in(lead).post(url("answer", asked), {"words": "<script>"})
    page = sign_in(reviewer).get(asked.get_absolute_url()).content.decode()
    assert "&lt;script&gt;" in page
    assert "to train &lt;b&gt;a model&lt;/b&gt;" in page


def test_the_history_stands_beside_the_decision(centre: Centre, sign_in: SignIn, lead: User, reviewer: User) -> None:
    ledger.reserve(
        project_id=centre.project.pk,
        resource_class_id=centre.partition.resource_class_id,
        reference="old",
        amount_s=90 * HOUR_S,
        at=NOW - timedelta(days=3),
    )
    ledger.settle(reference="old", amount_s=80 * HOUR_S, at=NOW - timedelta(days=2))
    page = sign_in(reviewer).get(ask(centre, lead).get_absolute_url())
    history = page.context["history"]
    assert (history.granted_s, history.used_s, history.recent_s) == (1000 * HOUR_S, 80 * HOUR_S, 80 * HOUR_S)


# The list


def test_the_list_can_be_narrowed_and_sorted(centre: Centre, sign_in: SignIn, lead: User, reviewer: User) -> None:
    first = ask(centre, lead)
    second = ask(centre, lead, RequestKind.END_OF_PROJECT)
    requests.withdraw(Act(actor=lead, at=NOW, source=ActSource.PAGE), second.uuid)

    def shown(user: User, query: str) -> list[str]:
        return [found.kind for found in sign_in(user).get(f"/requests/{query}").context["page_obj"]]

    assert shown(reviewer, "") == ["SUPPLEMENT"], "what is to decide"
    assert shown(reviewer, "?scope=") == ["END_OF_PROJECT", "SUPPLEMENT"]
    assert shown(lead, "?sort=oldest") == ["SUPPLEMENT", "END_OF_PROJECT"]
    assert shown(lead, "?state=open") == shown(lead, "?kind=SUPPLEMENT") == [first.kind]
    assert shown(lead, "?q=nothing&sort=evil&page=x&state=y") == []
    assert "Nothing matches" in sign_in(lead).get("/requests/?q=nothing").content.decode()
    assert "No requests yet" in sign_in(centre.user).get("/requests/").content.decode()


def test_pages_ask_the_database_as_often_however_much_there_is(
    centre: Centre, sign_in: SignIn, lead: User, reviewer: User, django_assert_max_num_queries: Any
) -> None:
    asked = ask(centre, lead)
    for number in range(12):
        sender = make_user(f"s{number}")
        requests.submit(
            Act(actor=sender, at=NOW, source=ActSource.PAGE),
            Draft(
                kind=RequestKind.NEW_PROJECT,
                institution=make_institution(),
                project_code=f"p{number}",
                project_title="P",
                justification="x",
                amounts={make_resource_class(): HOUR_S, centre.partition.resource_class: HOUR_S},
                start_at=NOW,
                end_at=NOW + YEAR,
            ),
        )
        requests.ask_back(Act(actor=reviewer, at=NOW, source=ActSource.PAGE), asked.uuid, "why?")
        requests.answer(Act(actor=lead, at=NOW, source=ActSource.PAGE), asked.uuid, "so")
    client = sign_in(reviewer)
    limits = {"/requests/": 10, asked.get_absolute_url(): 14, "/requests/new": 6, "/notifications/": 6}
    for path, limit in limits.items():
        with django_assert_max_num_queries(limit):
            assert client.get(path).status_code == 200
    client = sign_in(lead)
    with django_assert_max_num_queries(9):
        assert client.get("/requests/new/supplement").status_code == 200


# Messages


def test_messages_are_ones_own_counted_and_read(centre: Centre, owner: Client, sign_in: SignIn, stranger: User) -> None:
    assert "No messages yet" in owner.get("/notifications/").content.decode()
    figures = {"project": "nlp", "granted_s": 3600, "resource_class": "cpu", "end_at": NOW.isoformat()}
    for _number in range(3):
        notify([centre.user], "starter.granted", at=NOW, figures=figures, path="/projects/nlp/")
    page = owner.get("/notifications/").content.decode()
    assert "3 unread messages" in page
    assert "You can start: 1 accelerator-hours" in page
    first, second, _third = Notification.objects.order_by("pk")
    assert sign_in(stranger).post(reverse("notification-read", args=[first.pk])).status_code == 404
    assert owner.post(reverse("notification-read", args=[first.pk]))["Location"] == "/projects/nlp/"
    stay = owner.post(reverse("notification-read", args=[second.pk]), {"stay": "1"})
    assert stay["Location"] == "/notifications/"
    assert len(owner.get("/notifications/?show=unread").context["rows"]) == 1
    owner.post(reverse("notification-read-all"))
    assert "Nothing unread" in owner.get("/notifications/?show=unread").content.decode()
    assert owner.get(reverse("notification-read-all")).status_code == 405


def test_a_message_leads_nowhere_outside(centre: Centre, owner: Client) -> None:
    notify([centre.user], "starter.granted", at=NOW, path="//evil.example.org/")
    row = Notification.objects.get()
    assert owner.post(reverse("notification-read", args=[row.pk]))["Location"] == "/notifications/"


# Verifying researchers


def test_a_manager_verifies_researchers_of_their_institution_only(
    centre: Centre, sign_in: SignIn, stranger: User, owner: Client
) -> None:
    manager = make_user("man")
    mine, other = make_institution("mine"), make_institution("other")
    Appointment.objects.create(user=manager, office=Office.INSTITUTION_MANAGER, institution=mine)
    path = reverse("researcher-verify")
    assert owner.get(path).status_code == 404
    client = sign_in(manager)
    refused = client.post(path, {"person": "sun", "institution": other.code})
    assert "institution" in refused.context["form"].errors
    assert "There is no account" in client.post(path, {"person": "nobody", "institution": "mine"}).content.decode()
    client.post(path, {"person": "SUN@example.org", "institution": "mine"})
    assert Verification.objects.get().user == stranger
    assert "sun" in client.get(path).content.decode()
