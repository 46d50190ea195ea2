"""Requests through the API: who may what, and what bad bodies are told."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.throttling import SimpleRateThrottle

from accounts.models import Allocation, AllocationRequest, Appointment, Office, User
from tests.api.conftest import ApiClient, Site
from tests.factories import HOUR_S, make_institution, make_user

Check = Callable[..., dict[str, Any]]


@pytest.fixture
def reviewer(site: Site) -> User:
    user = make_user("rev")
    Appointment.objects.create(user=user, office=Office.REVIEWER)
    return user


def day(days: float) -> str:
    return (timezone.now() + timedelta(days=days)).isoformat()


def body(site: Site, **fields: Any) -> dict[str, Any]:
    common = {
        "kind": "SUPPLEMENT",
        "project": "nlp",
        "justification": "one run",
        "amounts": {site.partition.resource_class.code: 100 * HOUR_S},
        "start_at": day(0),
        "end_at": day(300),
    }
    return {name: value for name, value in (common | fields).items() if value is not None}


def decision(site: Site, **fields: Any) -> dict[str, Any]:
    amounts = {site.partition.resource_class.code: 60 * HOUR_S}
    common = {"reason": "well argued", "amounts": amounts, "start_at": day(0), "end_at": day(90)}
    return common | fields


def ask(site: Site, **fields: Any) -> str:
    answer = site.api(site.pi).post("requests", body(site, **fields))
    assert answer.status_code == 201, answer.content
    return str(answer.json()["uuid"])


def test_from_the_request_to_the_hours(site: Site, reviewer: User) -> None:
    estimate = {"model": "llama-2-7b", "tokens": 10**9, "devices": 8, "amount_s": 100 * HOUR_S}
    answer = site.api(site.pi).post("requests", body(site, estimate=estimate))
    made = answer.json()
    assert answer["Location"].endswith(f"/api/v1/requests/{made['uuid']}")
    assert (made["state"], made["requester"], made["project"]) == ("SUBMITTED", "chen", "nlp")
    assert made["estimate"] == estimate | {"source": "API"}
    client = site.api(reviewer)
    assert client.post(f"requests/{made['uuid']}/ask-back", {"words": "why?"}).json()["state"] == "ASKED_BACK"
    assert site.api(site.pi).post(f"requests/{made['uuid']}/answer", {"words": "so"}).json()["state"] == "SUBMITTED"
    decided = client.post(f"requests/{made['uuid']}/approve", decision(site)).json()
    assert (decided["state"], decided["decided_by"], decided["decision_reason"]) == ("APPROVED", "rev", "well argued")
    (line,) = decided["lines"]
    allocation = Allocation.objects.get(uuid=line["allocation"])
    assert line["granted_s"] == allocation.granted_s == 60 * HOUR_S
    assert [event["step"] for event in decided["events"]] == ["SUBMIT", "ASK_BACK", "ANSWER", "APPROVE"]


def test_a_new_project_is_made_with_its_requester_as_pi(site: Site, reviewer: User) -> None:
    new = body(
        site,
        kind="NEW_PROJECT",
        project=None,
        institution=make_institution("pku").code,
        project_code="vision",
        project_title="Vision",
    )
    made = site.api(site.stranger).post("requests", new).json()
    site.api(reviewer).post(f"requests/{made['uuid']}/approve", decision(site))
    projects = site.api(site.stranger).get("projects").json()["results"]
    assert [(one["code"], one["role"]) for one in projects] == [("vision", "PI")]


def test_requests_are_listed_for_those_concerned_and_can_be_narrowed(site: Site, reviewer: User) -> None:
    first = ask(site)
    ask(site, kind="END_OF_PROJECT", amounts=None, start_at=None, end_at=None)
    site.api(reviewer).post(f"requests/{first}/reject", {"reason": "no"})

    def kinds(user: User, query: str = "") -> list[str]:
        return [row["kind"] for row in site.api(user).get(f"requests{query}").json()["results"]]

    assert kinds(site.pi) == kinds(reviewer) == kinds(site.staff) == ["END_OF_PROJECT", "SUPPLEMENT"]
    assert kinds(site.teammate) == kinds(site.stranger) == []
    assert kinds(reviewer, "?open=true") == kinds(reviewer, "?kind=END_OF_PROJECT") == ["END_OF_PROJECT"]
    assert kinds(reviewer, "?state=REJECTED") == ["SUPPLEMENT"]
    assert kinds(reviewer, "?mine=true") == kinds(reviewer, "?project=none") == []
    page = site.api(site.pi).get("requests?limit=1").json()
    assert page["has_more"]


@pytest.mark.parametrize(
    ("step", "data"),
    [("approve", None), ("reject", {"reason": "no"}), ("ask-back", {"words": "why?"})],
)
def test_only_reviewers_decide_and_not_on_their_own(
    site: Site, reviewer: User, step: str, data: Any, assert_problem: Check
) -> None:
    uuid = ask(site)
    data = data or decision(site)
    assert_problem(site.api(site.pi).post(f"requests/{uuid}/{step}", data), 403, "forbidden")
    assert_problem(site.api(site.teammate).post(f"requests/{uuid}/{step}", data), 404, "not-found")
    assert_problem(site.api(site.stranger).post(f"requests/{uuid}/{step}", data), 404, "not-found")
    assert_problem(site.api().post(f"requests/{uuid}/{step}", data), 401, "unauthenticated")
    own = site.api(site.staff).post(
        "requests", body(site, kind="END_OF_PROJECT", amounts=None, start_at=None, end_at=None)
    )
    assert_problem(site.api(site.staff).post(f"requests/{own.json()['uuid']}/{step}", data), 403, "forbidden")


def test_a_decision_on_a_decided_request_says_who_was_first(site: Site, reviewer: User, assert_problem: Check) -> None:
    uuid = ask(site)
    assert site.api(reviewer).post(f"requests/{uuid}/approve", decision(site)).status_code == 200
    for client, step, data in (
        (site.api(site.staff), "approve", decision(site)),
        (site.api(site.staff), "reject", {"reason": "no"}),
        (site.api(site.pi), "withdraw", {}),
    ):
        problem = assert_problem(client.post(f"requests/{uuid}/{step}", data), 409, "already-decided")
        assert "rev has approved this request already" in problem["detail"]
    assert Allocation.objects.count() == 2


@pytest.mark.parametrize("amount", [0, -1, 1.5, "100", True, 10**18, None])
def test_an_amount_that_is_none_is_named(site: Site, amount: Any, assert_problem: Check) -> None:
    code = site.partition.resource_class.code
    answer = site.api(site.pi).post("requests", body(site, amounts={code: amount}))
    assert_problem(answer, 400, "invalid-request", name=f"amounts.{code}")
    assert not AllocationRequest.objects.exists()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"kind": "GIFT"}, "kind"),
        ({"project": "none"}, "project"),
        ({"project": None}, "project"),
        ({"amounts": {"none": 1}}, "amounts.none"),
        ({"amounts": {}}, "amounts"),
        ({"amounts": None}, "amounts"),
        ({"end_at": "2020-01-01T00:00:00Z"}, "end_at"),
        ({"end_at": "9999-12-31T23:59:59Z"}, "end_at"),
        ({"start_at": None}, "start_at"),
        ({"start_at": "tomorrow"}, "start_at"),
        ({"justification": " "}, "justification"),
        ({"new_pi": "lin"}, "new_pi"),
        ({"estimate": {"gift": 1}}, "estimate.gift"),
        ({"hours": 5}, "hours"),
        ({"kind": "NEW_PROJECT"}, "project"),
        ({"kind": "CHANGE_OF_PI", "new_pi": "zhao", "amounts": None, "start_at": None, "end_at": None}, "new_pi"),
        ({"kind": "RENEWAL"}, "start_at"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(
    site: Site, fields: dict[str, Any], name: str, assert_problem: Check
) -> None:
    assert_problem(site.api(site.pi).post("requests", body(site, **fields)), 400, "invalid-request", name=name)
    assert not AllocationRequest.objects.exists()


def test_what_is_wrong_with_a_decision_is_named(site: Site, reviewer: User, assert_problem: Check) -> None:
    uuid = ask(site)
    client = site.api(reviewer)
    code = site.partition.resource_class.code
    for fields, name in (
        ({"amounts": {code: 0}}, "amounts"),
        ({"amounts": {code: -1}}, f"amounts.{code}"),
        ({"amounts": {}}, f"amounts.{code}"),
        ({"amounts": {code: 1, "other": 1}}, "amounts.other"),
        ({"end_at": day(-9)}, "end_at"),
        ({"reason": ""}, "reason"),
        ({"takes_rest": "yes"}, "takes_rest"),
    ):
        answer = client.post(f"requests/{uuid}/approve", decision(site, **fields))  # type: ignore[arg-type]
        assert_problem(answer, 400, "invalid-request", name=name)
    assert Allocation.objects.count() == 1


def test_requests_are_throttled_by_person(site: Site, monkeypatch: pytest.MonkeyPatch, assert_problem: Check) -> None:
    monkeypatch.setattr(SimpleRateThrottle, "THROTTLE_RATES", {"requests": "2/min"})
    client = site.api(site.pi)
    for _number in range(2):
        client.post("requests", {})
    assert_problem(client.post("requests", {}), 429, "too-many-requests")
    assert client.get("requests").status_code == 200


def test_a_list_costs_few_queries_however_long(site: Site, reviewer: User, django_assert_max_num_queries: Any) -> None:
    for number in range(6):
        new = body(
            site,
            kind="NEW_PROJECT",
            project=None,
            institution=site.project.institution.code,
            project_code=f"p{number}",
            project_title="P",
        )
        assert site.api(make_user()).post("requests", new).status_code == 201
    client: ApiClient = site.api(reviewer)
    with django_assert_max_num_queries(6):
        assert len(client.get("requests").json()["results"]) == 6
