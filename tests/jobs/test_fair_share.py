"""The order in which waiting jobs go on."""

import time
from datetime import timedelta
from uuid import UUID

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import Membership
from jobs.models import Job
from jobs.services import dispatch, fair_share
from jobs.services.fair_ranking import Ledgered, Waiting, rank
from jobs.states import JobState
from tests.factories import make_allocation, make_policy, make_project, make_user
from tests.job_factories import make_job
from tests.jobs.conftest import Centre

HORIZON_S = 7 * 86_400.0


def _waiting(*rows: tuple[int, int, float, float]) -> Waiting:
    """Rows of project, person, submitted (s) and cost (s)."""
    return Waiting(
        ids=[UUID(int=number) for number in range(len(rows))],
        project=[(row[0], 1) for row in rows],
        person=[(row[0], 1, row[1]) for row in rows],
        submitted_s=np.array([row[2] for row in rows]),
        cost_s=np.array([row[3] for row in rows]),
    )


def _used(granted: dict[int, float], **by_person: float) -> Ledgered:
    """`p1_u2=5.0`: person 2 used 5 seconds in project 1."""
    persons = {}
    projects: dict[tuple[int, int], float] = {}
    for name, amount in by_person.items():
        project, user = (int(part[1:]) for part in name.split("_"))
        persons[(project, 1, user)] = amount
        projects[(project, 1)] = projects.get((project, 1), 0.0) + amount
    return Ledgered(
        by_project=projects, by_person=persons, granted={(project, 1): value for project, value in granted.items()}
    )


def test_who_used_less_goes_first() -> None:
    waiting = _waiting((1, 1, 0, 10), (2, 2, 60, 10))
    ranking = rank(waiting, _used({1: 1, 2: 1}, p1_u1=1000.0, p2_u2=10.0), horizon_s=HORIZON_S)
    assert ranking.order.tolist() == [1, 0]


def test_equal_use_counts_less_for_a_larger_share() -> None:
    waiting = _waiting((1, 1, 0, 10), (2, 2, 60, 10))
    ranking = rank(waiting, _used({1: 1, 2: 9}, p1_u1=500.0, p2_u2=500.0), horizon_s=HORIZON_S)
    assert ranking.order.tolist() == [1, 0]
    assert ranking.project_share.tolist() == pytest.approx([0.1, 0.9])


def test_within_a_project_who_used_less_goes_first() -> None:
    waiting = _waiting((1, 1, 0, 10), (1, 2, 60, 10))
    ranking = rank(waiting, _used({1: 1}, p1_u1=1000.0), horizon_s=HORIZON_S)
    assert ranking.order.tolist() == [1, 0]


def test_of_many_jobs_of_one_person_only_the_first_is_before_those_of_others() -> None:
    rows = [(1, 1, 0.0, 10.0)] * 100 + [(2, 2, 600.0, 10.0)]
    ranking = rank(_waiting(*rows), _used({1: 1, 2: 1}), horizon_s=HORIZON_S)
    assert ranking.order.tolist().index(100) <= 2


def test_nobody_is_overtaken_by_who_came_more_than_a_horizon_later() -> None:
    random = np.random.default_rng(7)
    rows = [
        (int(random.integers(5)), int(random.integers(20)), float(random.uniform(0, 3 * HORIZON_S)), 10.0)
        for _ in range(300)
    ]
    used = _used({0: 1, 1: 5}, p0_u1=1e6, p1_u2=5.0, p3_u3=1e9)
    ranking = rank(_waiting(*rows), used, horizon_s=HORIZON_S)
    assert ((ranking.factor >= 0) & (ranking.factor <= 1)).all()
    submitted = np.array([row[2] for row in rows])[ranking.order]
    latest_before = np.maximum.accumulate(submitted)
    assert (latest_before - submitted <= HORIZON_S).all()


def test_with_a_horizon_of_nothing_it_is_first_come_first_served() -> None:
    waiting = _waiting((1, 1, 0, 10), (2, 2, 60, 10))
    ranking = rank(waiting, _used({1: 1, 2: 1}, p1_u1=1000.0), horizon_s=0)
    assert ranking.order.tolist() == [0, 1]


def test_held_jobs_are_released_in_that_order(centre: Centre) -> None:
    make_policy(project=centre.project, max_running_jobs=1)
    other = make_user("wu")
    Membership.objects.create(project=centre.project, user=other)
    first = centre.submit()
    centre.tick()
    flood = [centre.submit() for _ in range(3)]
    centre.backend.advance(60)
    late = make_job(other, centre.project, centre.partition, at=centre.now())
    centre.admit()
    assert fair_share.place_of(Job.objects.with_names().get(pk=late.pk), at=centre.now()).position == 1  # type: ignore[union-attr]
    for _ in range(3):
        centre.tick(3600)
        first.refresh_from_db()
        if first.is_terminal:
            break
    centre.tick(1)
    late.refresh_from_db()
    assert late.state != JobState.HELD
    assert {Job.objects.get(pk=job.pk).state for job in flood} == {JobState.HELD}


def test_dispatch_claims_in_that_order(centre: Centre) -> None:
    other = make_user("wu")
    project = make_project("vision", members=(other,))
    make_allocation(project, centre.partition.resource_class)
    for _ in range(5):
        centre.submit()
    late = make_job(other, project, centre.partition, at=centre.now() + timedelta(minutes=1))
    centre.admit()
    claims = dispatch.claim_due_jobs(at=centre.now(), lease_s=60, limit=2, cluster_code="dummy")
    assert late.pk in {claim.job.pk for claim in claims}


def test_a_job_that_waits_for_approval_or_runs_has_no_place(centre: Centre) -> None:
    make_policy(approval_above_s=0)
    job = centre.submit()
    centre.admit()
    assert fair_share.place_of(Job.objects.with_names().get(pk=job.pk), at=centre.now()) is None


def test_ten_thousand_held_jobs_cost_as_many_queries_as_ten(centre: Centre) -> None:
    template = centre.submit()
    people = [make_user() for _ in range(20)]

    def hold(count: int) -> None:
        Job.objects.bulk_create(
            Job(
                user=people[number % 20],
                project=centre.project,
                partition=centre.partition,
                name="held",
                entry_kind="script",
                nodes=1,
                devices_per_node=8,
                time_limit_minutes=60,
                reserved_s=1,
                billing_weight=1,
                state=JobState.HELD,
                state_reason="limit",
                submitted_at=template.submitted_at + timedelta(seconds=number),
            )
            for number in range(count)
        )

    hold(10)
    with CaptureQueriesContext(connection) as few:
        fair_share.order(Job.objects.held(), at=centre.now())
    hold(9_990)
    with CaptureQueriesContext(connection) as many:
        started = time.perf_counter()
        ordered = fair_share.order(Job.objects.held(), at=centre.now())
        elapsed_s = time.perf_counter() - started
    print(f"ordering {len(ordered)} held jobs: {1000 * elapsed_s:.0f} ms, {len(many)} queries")
    assert len(ordered) == 10_000
    assert len(many) == len(few) == 4
