"""Requests: who asks, who decides, what is refused, and that a decision is made once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from accounts import access
from accounts.models import (
    ActSource,
    Allocation,
    AllocationRequest,
    Appointment,
    AuditEvent,
    Institution,
    LedgerEntry,
    Membership,
    Notification,
    Office,
    Project,
    RequestEvent,
    RequestKind,
    RequestState,
    ResourceClass,
    Role,
    User,
)
from accounts.services import ledger, requests
from accounts.services.acts import Act
from accounts.services.request_rules import (
    MAX_OPEN_REQUESTS,
    Draft,
    GrantRefused,
    InvalidAllocationRequest,
    RequestClosed,
    RequestForbidden,
    hours_to_seconds,
)
from accounts.services.requests import Decision
from tests.factories import (
    HOUR_S,
    NOW,
    make_allocation,
    make_institution,
    make_project,
    make_resource_class,
    make_user,
)

YEAR = timedelta(days=365)


@dataclass
class Board:
    """A project with its PI and a member; a stranger; two reviewers and an auditor."""

    pi: User
    member: User
    stranger: User
    reviewer: User
    other_reviewer: User
    auditor: User
    manager: User
    institution: Institution
    project: Project
    gpu: ResourceClass

    def act(self, person: User, at: datetime = NOW) -> Act:
        return Act(actor=person, at=at, source=ActSource.PAGE, ip_address="192.0.2.7")

    def draft(self, kind: RequestKind = RequestKind.SUPPLEMENT, **fields: Any) -> Draft:
        common: dict[str, Any] = {"kind": kind, "justification": "to train a model"}
        if kind == RequestKind.NEW_PROJECT:
            common |= {"institution": self.institution, "project_code": "vision", "project_title": "Vision"}
        else:
            common["project"] = self.project
        if kind in (RequestKind.NEW_PROJECT, RequestKind.RENEWAL, RequestKind.SUPPLEMENT):
            common |= {"amounts": {self.gpu: 100 * HOUR_S}, "start_at": NOW, "end_at": NOW + YEAR}
        return Draft(**(common | fields))

    def submit(self, person: User | None = None, **fields: Any) -> AllocationRequest:
        return requests.submit(self.act(person or self.pi), self.draft(**fields))

    def decision(self, hours: float = 100, **fields: Any) -> Decision:
        common = {"amounts": {self.gpu.code: round(hours * HOUR_S)}, "start_at": NOW, "end_at": NOW + YEAR}
        return Decision(**({"reason": "well argued"} | common | fields))


def make_board() -> Board:
    pi, member = make_user("chen"), make_user("lin")
    institution = make_institution("pku")
    reviewer, other, auditor, manager = (make_user(name) for name in ("rev", "rev2", "aud", "man"))
    for person in (reviewer, other):
        Appointment.objects.create(user=person, office=Office.REVIEWER)
    Appointment.objects.create(user=auditor, office=Office.AUDITOR)
    Appointment.objects.create(user=manager, office=Office.INSTITUTION_MANAGER, institution=institution)
    return Board(
        pi=pi,
        member=member,
        stranger=make_user("zhao"),
        reviewer=reviewer,
        other_reviewer=other,
        auditor=auditor,
        manager=manager,
        institution=institution,
        project=make_project("nlp", pi=pi, members=(member,), institution=institution),
        gpu=make_resource_class("a800"),
    )


@pytest.fixture
def board(db: None) -> Board:
    return make_board()


def fields_of(error: pytest.ExceptionInfo[InvalidAllocationRequest]) -> dict[str, str]:
    return {problem.field: problem.code for problem in error.value.problems}


# From the request to the hours


def test_a_new_project_gets_its_pi_and_its_hours(board: Board) -> None:
    asked = board.submit(board.stranger, kind=RequestKind.NEW_PROJECT)
    decided = requests.approve(board.act(board.reviewer), asked.uuid, board.decision(60))
    project = Project.objects.get(code="vision")
    assert (decided.state, decided.project) == (RequestState.APPROVED, project)
    assert (project.title, project.institution) == ("Vision", board.institution)
    assert Membership.objects.get(project=project).role == Role.PI
    assert Membership.objects.get(project=project).user == board.stranger
    allocation = Allocation.objects.get(project=project)
    assert (allocation.granted_s, allocation.end_at) == (60 * HOUR_S, NOW + YEAR)
    line = decided.lines.get()
    assert (line.amount_s, line.granted_s, line.allocation) == (100 * HOUR_S, 60 * HOUR_S, allocation)
    assert LedgerEntry.objects.get(allocation=allocation).reason == "well argued"
    assert ledger.find_mismatches() == []


def test_a_supplement_adds_to_what_there_is_and_a_refused_line_gets_nothing(board: Board) -> None:
    npu = make_resource_class("npu")
    make_allocation(board.project, board.gpu)
    asked = board.submit(amounts={board.gpu: HOUR_S, npu: HOUR_S})
    requests.approve(board.act(board.reviewer), asked.uuid, board.decision(amounts={"a800": 2 * HOUR_S, "npu": 0}))
    assert [row.granted_s for row in Allocation.objects.order_by("pk")] == [1000 * HOUR_S, 2 * HOUR_S]
    assert [line.granted_s for line in asked.lines.order_by("pk")] == [2 * HOUR_S, 0]


def test_the_pi_changes_and_the_old_one_stays_as_a_manager(board: Board) -> None:
    asked = board.submit(kind=RequestKind.CHANGE_OF_PI, new_pi=board.member)
    requests.approve(board.act(board.reviewer), asked.uuid, Decision(reason="moves abroad"))
    roles = dict(board.project.memberships.values_list("user__username", "role"))
    assert roles == {"lin": Role.PI, "chen": Role.MANAGER}


@pytest.mark.parametrize("takes_rest", [False, True])
def test_a_project_ends_and_its_rest_stays_or_is_taken(board: Board, takes_rest: bool) -> None:
    allocation = make_allocation(board.project, board.gpu, hours=10)
    ledger.reserve(
        project_id=board.project.pk, resource_class_id=board.gpu.pk, reference="job", amount_s=HOUR_S, at=NOW
    )
    asked = board.submit(kind=RequestKind.END_OF_PROJECT)
    requests.approve(board.act(board.reviewer), asked.uuid, Decision(reason="done", takes_rest=takes_rest))
    board.project.refresh_from_db()
    allocation.refresh_from_db()
    assert board.project.state == "CLOSED"
    assert (allocation.available_s, allocation.reserved_s) == (0 if takes_rest else 9 * HOUR_S, HOUR_S)
    assert ledger.find_mismatches() == []


def test_a_question_and_its_answer_change_whose_turn_it_is(board: Board) -> None:
    asked = board.submit()
    requests.ask_back(board.act(board.reviewer), asked.uuid, "Which data?")
    with pytest.raises(RequestClosed, match="waits for the requester"):
        requests.ask_back(board.act(board.other_reviewer), asked.uuid, "And which code?")
    requests.answer(board.act(board.pi), asked.uuid, "The open ones.")
    with pytest.raises(RequestClosed, match="nothing was asked back"):
        requests.answer(board.act(board.pi), asked.uuid, "Once more.")
    requests.reject(board.act(board.reviewer), asked.uuid, "Too vague.")
    assert list(asked.events.order_by("pk").values_list("step", "words")) == [
        ("SUBMIT", ""),
        ("ASK_BACK", "Which data?"),
        ("ANSWER", "The open ones."),
        ("REJECT", "Too vague."),
    ]
    asked.refresh_from_db()
    assert (asked.state, asked.decided_by, asked.decision_reason) == ("REJECTED", board.reviewer, "Too vague.")


def test_each_step_is_in_the_audit_log_and_both_sides_are_told(board: Board) -> None:
    asked = board.submit()
    assert set(Notification.objects.values_list("user__username", "kind")) == {
        ("rev", "request.submit"),
        ("rev2", "request.submit"),
    }
    Notification.objects.all().delete()
    requests.approve(board.act(board.reviewer), asked.uuid, board.decision(60))
    assert set(Notification.objects.values_list("user__username", "kind")) == {
        ("chen", "request.granted"),
        ("rev2", "request.granted"),
    }
    lines = AuditEvent.objects.order_by("pk")
    assert [line.action for line in lines] == ["request.submit", "request.approve"]
    last = lines[1]
    assert (last.actor, last.ip_address, last.project, last.institution) == (board.reviewer, "192.0.2.7", "nlp", "pku")
    assert (last.before, last.after["granted"]) == ({"state": "SUBMITTED"}, {"a800": 60 * HOUR_S})
    assert last.reason == "well argued"


# Who may what


def test_who_sees_a_request(board: Board) -> None:
    board.submit()
    seen = {
        person.username: access.visible_requests(person).count()
        for person in (board.pi, board.member, board.stranger, board.reviewer, board.auditor, board.manager)
    }
    assert seen == {"chen": 1, "lin": 0, "zhao": 0, "rev": 1, "aud": 1, "man": 1}


@pytest.mark.parametrize("name", ["member", "stranger", "auditor", "reviewer"])
def test_only_those_who_lead_a_project_ask_for_it(board: Board, name: str) -> None:
    with pytest.raises(RequestForbidden):
        board.submit(getattr(board, name))
    assert not AllocationRequest.objects.exists()


def test_the_manager_of_its_institution_asks_for_a_project_too(board: Board) -> None:
    assert board.submit(board.manager).requester == board.manager


@pytest.mark.parametrize("name", ["pi", "member", "stranger", "auditor", "manager"])
def test_only_reviewers_decide(board: Board, name: str) -> None:
    asked = board.submit()
    act = board.act(getattr(board, name))
    steps: list[Callable[[], object]] = [
        lambda: requests.approve(act, asked.uuid, board.decision()),
        lambda: requests.reject(act, asked.uuid, "no"),
        lambda: requests.ask_back(act, asked.uuid, "why?"),
    ]
    for step in steps:
        with pytest.raises(RequestForbidden):
            step()
    assert not Allocation.objects.exists()


def test_nobody_decides_on_what_is_their_own(board: Board) -> None:
    own = board.submit(board.reviewer, kind=RequestKind.NEW_PROJECT)
    with pytest.raises(RequestForbidden):
        requests.approve(board.act(board.reviewer), own.uuid, board.decision())
    Membership.objects.create(project=board.project, user=board.reviewer, role=Role.MANAGER)
    for_own_project = board.submit()
    with pytest.raises(RequestForbidden):
        requests.reject(board.act(board.reviewer), for_own_project.uuid, "no")
    with pytest.raises(IntegrityError), transaction.atomic():
        AllocationRequest.objects.filter(pk=own.pk).update(state="REJECTED", decided_by=board.reviewer, decided_at=NOW)


@pytest.mark.parametrize("name", ["member", "stranger", "reviewer", "auditor"])
def test_only_who_asked_and_who_leads_withdraw(board: Board, name: str) -> None:
    asked = board.submit()
    with pytest.raises(RequestForbidden):
        requests.withdraw(board.act(getattr(board, name)), asked.uuid)
    requests.withdraw(board.act(board.pi), asked.uuid)
    with pytest.raises(RequestClosed, match="withdrawn"):
        requests.approve(board.act(board.reviewer), asked.uuid, board.decision())


# Bad input


@pytest.mark.parametrize("amount", [0, -3600, 10**18, 1.5, True, "100"])
def test_an_amount_that_is_none_is_refused_in_request_and_decision(board: Board, amount: Any) -> None:
    with pytest.raises(InvalidAllocationRequest) as refused:
        board.submit(amounts={board.gpu: amount})
    assert fields_of(refused) == {"amounts.a800": "invalid_amount"}
    assert str(amount) in str(refused.value)
    asked = board.submit()
    with pytest.raises(InvalidAllocationRequest) as refused:
        requests.approve(board.act(board.reviewer), asked.uuid, board.decision(amounts={"a800": amount}))
    assert set(fields_of(refused)) <= {"amounts.a800", "amounts"}
    assert not Allocation.objects.exists()


@pytest.mark.parametrize("hours", ["0.0001", "NaN", "Infinity", "1e30"])
def test_hours_finer_than_a_second_or_beyond_all_are_no_amount(hours: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (the value itself is all it says)
        hours_to_seconds(Decimal(hours))
    assert hours_to_seconds(Decimal("0.5")) == 1800
    assert hours_to_seconds(Decimal("0.027778")) == 100


@pytest.mark.parametrize(
    ("start", "end", "field", "code"),
    [
        (NOW, NOW, "end_at", "before_start"),
        (NOW, NOW - YEAR, "end_at", "before_start"),
        (NOW - 2 * YEAR, NOW - YEAR, "end_at", "in_past"),
        (NOW, NOW + 9 * YEAR, "end_at", "too_long"),
        (None, NOW, "start_at", "required"),
        (NOW, None, "end_at", "required"),
    ],
)
def test_a_period_that_makes_no_sense_is_refused_in_request_and_decision(
    board: Board, start: Any, end: Any, field: str, code: str
) -> None:
    with pytest.raises(InvalidAllocationRequest) as refused:
        board.submit(start_at=start, end_at=end)
    assert fields_of(refused) == {field: code}
    asked = board.submit()
    with pytest.raises(InvalidAllocationRequest) as refused:
        requests.approve(board.act(board.reviewer), asked.uuid, board.decision(start_at=start, end_at=end))
    assert fields_of(refused) == {field: code}


def test_a_renewal_may_not_overlap_what_there_is_neither_asked_nor_granted(board: Board) -> None:
    there = make_allocation(board.project, board.gpu)
    with pytest.raises(InvalidAllocationRequest) as refused:
        board.submit(kind=RequestKind.RENEWAL)
    assert fields_of(refused) == {"start_at": "overlaps"}
    asked = board.submit(kind=RequestKind.RENEWAL, start_at=there.end_at, end_at=there.end_at + YEAR)
    with pytest.raises(InvalidAllocationRequest) as refused:
        requests.approve(board.act(board.reviewer), asked.uuid, board.decision())
    assert fields_of(refused) == {"start_at": "overlaps"}
    fitting = board.decision(start_at=there.end_at, end_at=there.end_at + YEAR)
    requests.approve(board.act(board.reviewer), asked.uuid, fitting)


def test_a_decision_names_all_lines_and_no_other(board: Board) -> None:
    asked = board.submit()
    with pytest.raises(InvalidAllocationRequest) as refused:
        requests.approve(board.act(board.reviewer), asked.uuid, board.decision(amounts={"h100": 1}))
    assert fields_of(refused) == {"amounts.h100": "not_asked", "amounts.a800": "required"}
    with pytest.raises(InvalidAllocationRequest) as refused:
        requests.approve(board.act(board.reviewer), asked.uuid, board.decision(0))
    assert fields_of(refused) == {"amounts": "required"}
    with pytest.raises(InvalidAllocationRequest) as refused:
        requests.approve(board.act(board.reviewer), asked.uuid, board.decision(reason=" "))
    assert fields_of(refused) == {"reason": "required"}


@pytest.mark.parametrize(
    ("code", "why"), [("nlp", "taken"), ("Vision 2", "invalid"), ("starter-7", "reserved"), ("", "invalid")]
)
def test_a_project_code_must_be_free_and_well_formed(board: Board, code: str, why: str) -> None:
    with pytest.raises(InvalidAllocationRequest) as refused:
        board.submit(kind=RequestKind.NEW_PROJECT, project_code=code)
    assert fields_of(refused) == {"project_code": why}


def test_a_code_that_is_taken_meanwhile_is_told_at_the_decision(board: Board) -> None:
    asked = board.submit(kind=RequestKind.NEW_PROJECT)
    make_project("vision")
    with pytest.raises(InvalidAllocationRequest) as refused:
        requests.approve(board.act(board.reviewer), asked.uuid, board.decision())
    assert fields_of(refused) == {"project_code": "taken"}


def test_who_is_no_member_cannot_become_pi(board: Board) -> None:
    for person in (board.stranger, board.pi, None):
        with pytest.raises(InvalidAllocationRequest) as refused:
            board.submit(kind=RequestKind.CHANGE_OF_PI, new_pi=person)
        assert fields_of(refused) == {"new_pi": "not_eligible"}


def test_the_same_is_asked_once_at_a_time_and_not_without_end(board: Board) -> None:
    board.submit()
    with pytest.raises(InvalidAllocationRequest) as refused:
        board.submit()
    assert fields_of(refused) == {"project": "already_open"}
    for number in range(MAX_OPEN_REQUESTS):
        board.submit(board.stranger, kind=RequestKind.NEW_PROJECT, project_code=f"p{number}")
    with pytest.raises(InvalidAllocationRequest) as refused:
        board.submit(board.stranger, kind=RequestKind.NEW_PROJECT)
    assert fields_of(refused) == {"kind": "too_many_open"}


def test_what_the_ledger_refuses_is_told_and_nothing_is_half_done(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = board.submit(board.stranger, kind=RequestKind.NEW_PROJECT)

    def refuse(**_fields: Any) -> None:
        raise ledger.LedgerError("the institution's share is used up")

    monkeypatch.setattr(ledger, "grant", refuse)
    with pytest.raises(GrantRefused, match=r"100.00 h: the institution's share is used up"):
        requests.approve(board.act(board.reviewer), asked.uuid, board.decision())
    asked.refresh_from_db()
    assert asked.state == RequestState.SUBMITTED
    assert not Project.objects.filter(code="vision").exists()


def test_a_decided_request_says_who_decided_and_when(board: Board) -> None:
    asked = board.submit()
    requests.approve(board.act(board.reviewer), asked.uuid, board.decision())
    for step in (
        lambda: requests.approve(board.act(board.other_reviewer), asked.uuid, board.decision()),
        lambda: requests.reject(board.act(board.other_reviewer), asked.uuid, "no"),
        lambda: requests.withdraw(board.act(board.pi), asked.uuid),
    ):
        with pytest.raises(RequestClosed, match=r"rev has approved this request already \(2026-06-01 08:00 UTC\)"):
            step()
    assert Allocation.objects.count() == 1


def test_the_database_refuses_to_change_a_step(board: Board) -> None:
    board.submit()
    for change in (lambda: RequestEvent.objects.update(words="x"), lambda: RequestEvent.objects.all().delete()):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            change()


# At the same moment


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("second", ["approve", "reject", "withdraw"])
def test_of_two_who_decide_at_the_same_moment_one_comes_too_late(second: str) -> None:
    board = make_board()
    for _round in range(5):
        asked = board.submit()
        others: dict[str, Callable[[], object]] = {
            "approve": partial(requests.approve, board.act(board.other_reviewer), asked.uuid, board.decision()),
            "reject": partial(requests.reject, board.act(board.other_reviewer), asked.uuid, "no"),
            "withdraw": partial(requests.withdraw, board.act(board.pi), asked.uuid),
        }
        first = partial(requests.approve, board.act(board.reviewer), asked.uuid, board.decision())
        results = race([first, others[second]])
        assert sum(isinstance(result, RequestClosed) for result in results) == 1
        asked.refresh_from_db()
        assert asked.events.count() == 2
        granted = Allocation.objects.filter(request_line__request=asked).count()
        assert granted == (1 if asked.state == RequestState.APPROVED else 0)
    assert ledger.find_mismatches() == []


@pytest.mark.django_db(transaction=True)
def test_a_form_sent_twice_at_the_same_moment_makes_one_request() -> None:
    board = make_board()
    results = race([lambda: board.submit(board.stranger, kind=RequestKind.NEW_PROJECT)] * 4)
    assert sum(isinstance(result, InvalidAllocationRequest) for result in results) == 3
    assert AllocationRequest.objects.count() == 1


def race(calls: list[Callable[[], object]]) -> list[object]:
    """Run all calls at once, each on its own connection; returns results or the errors raised."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return call()
        except (RequestClosed, InvalidAllocationRequest) as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
