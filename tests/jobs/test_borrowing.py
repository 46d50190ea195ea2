"""Who starts and who makes room on a partition with shares: by examples, and by what always holds."""

from dataclasses import replace
from datetime import timedelta
from itertools import count
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.services.borrowing import Decision, Demand, Share, Use, WaitReason, decide, largest_possible
from tests.factories import NOW

TWO = {"a": Share(nominal=8), "b": Share(nominal=8)}


def demand(number: int, share: str, devices: int, kind: str = "firm", **fields: object) -> Demand:
    """A job by its number: `kind` is firm or soft; a later number started later."""
    started = {"started_at": NOW + timedelta(minutes=number)} | fields
    return Demand(job=UUID(int=number), share=share, devices=devices, is_preemptible=kind == "soft", **started)  # type: ignore[arg-type]


def numbers(jobs: tuple[UUID, ...]) -> list[int]:
    return [job.int for job in jobs]


def test_a_borrower_runs_beyond_its_nominal_share_while_the_owner_is_idle() -> None:
    decision = decide(TWO, [], [demand(1, "a", 16, "soft")])
    assert numbers(decision.start) == [1]


def test_a_firm_job_never_has_more_than_the_nominal_share() -> None:
    decision = decide(TWO, [demand(1, "a", 8)], [demand(2, "a", 1)])
    assert (decision.start, decision.preempt) == ((), ())
    assert decision.waits == {UUID(int=2): WaitReason.SHARE_IN_USE}


def test_the_owner_gets_its_share_back_from_the_youngest_borrower_alone() -> None:
    running = [demand(1, "a", 8), demand(2, "a", 4, "soft"), demand(3, "a", 4, "soft")]
    decision = decide(TWO, running, [demand(4, "b", 4)])
    assert (numbers(decision.preempt), decision.start) == ([3], ())
    assert decision.waits == {UUID(int=4): WaitReason.RECLAIMING}


def test_nobody_is_taken_back_whose_end_was_not_needed_after_all() -> None:
    # The youngest alone is too small, and with the next one it isn't needed any more.
    running = [demand(1, "a", 8), demand(2, "a", 6, "soft"), demand(3, "a", 2, "soft")]
    assert numbers(decide(TWO, running, [demand(4, "b", 6)]).preempt) == [2]


def test_nobody_else_is_taken_back_while_a_borrower_is_already_leaving() -> None:
    running = [demand(1, "a", 8), demand(2, "a", 4, "soft"), demand(3, "a", 4, "soft", leaves=True)]
    decision = decide(TWO, running, [demand(4, "b", 4)])
    assert (decision.start, decision.preempt) == ((), ())


def test_what_is_being_made_room_is_not_given_to_another_borrower() -> None:
    running = [demand(1, "a", 12, "soft", leaves=True)]
    decision = decide(TWO, running, [demand(2, "b", 8), demand(3, "a", 4, "soft"), demand(4, "a", 8, "soft")])
    assert numbers(decision.start) == [3]
    assert decision.waits[UUID(int=4)] is WaitReason.NOTHING_IDLE
    after = decide(TWO, [], [demand(2, "b", 8), demand(3, "a", 4, "soft"), demand(4, "a", 8, "soft")])
    assert numbers(after.start) == [2, 3]


def test_a_preemptible_job_within_its_own_share_is_not_taken_by_another() -> None:
    running = [demand(1, "a", 8, "soft"), demand(2, "b", 8)]
    decision = decide(TWO, running, [demand(3, "b", 4)])
    assert decision.preempt == ()


def test_a_share_takes_its_own_preemptible_jobs_back_for_its_firm_ones() -> None:
    decision = decide(TWO, [demand(1, "a", 8, "soft"), demand(2, "b", 8, "soft")], [demand(3, "a", 8)])
    assert numbers(decision.preempt) == [1]


def test_a_job_that_pays_nothing_goes_before_one_that_pays() -> None:
    running = [demand(1, "a", 8), demand(2, "a", 4, "soft", is_overrun=True), demand(3, "a", 4, "soft")]
    assert numbers(decide(TWO, running, [demand(4, "b", 4)]).preempt) == [2]
    waiting = [demand(5, "a", 16, "soft", is_overrun=True), demand(6, "a", 16, "soft")]
    assert numbers(decide(TWO, [], waiting).start) == [6]


def test_the_borrowing_limit_holds_and_is_named() -> None:
    shares = {"a": Share(nominal=8, borrowing_limit=4), "b": Share(nominal=8)}
    decision = decide(shares, [demand(1, "a", 8)], [demand(2, "a", 8, "soft"), demand(3, "a", 4, "soft")])
    assert numbers(decision.start) == [3]
    assert decision.waits == {UUID(int=2): WaitReason.BORROWING_LIMIT}


def test_the_lending_limit_keeps_a_part_of_a_share_for_its_owner_at_any_time() -> None:
    shares = {"a": Share(nominal=8), "b": Share(nominal=8, lending_limit=2)}
    decision = decide(shares, [demand(1, "a", 8)], [demand(2, "a", 4, "soft"), demand(3, "a", 2, "soft")])
    assert numbers(decision.start) == [3]
    running = [demand(1, "a", 8), demand(3, "a", 2, "soft")]
    assert numbers(decide(shares, running, [demand(4, "b", 6)]).start) == [4]


def test_a_large_firm_job_is_not_starved_by_smaller_ones_behind_it() -> None:
    decision = decide(TWO, [demand(1, "a", 4)], [demand(2, "a", 8), demand(3, "a", 2), demand(4, "b", 2)])
    assert numbers(decision.start) == [4]


@pytest.mark.parametrize(
    ("share", "is_preemptible", "most"),
    [
        (Share(nominal=8), False, 8),
        (Share(nominal=8), True, 14),
        (Share(nominal=8, borrowing_limit=2), True, 10),
        (Share(nominal=8, lending_limit=0), True, 14),
    ],
)
def test_the_largest_job_that_a_share_can_ever_start(share: Share, is_preemptible: bool, most: int) -> None:
    shares = {"a": share, "b": Share(nominal=8, lending_limit=6)}
    assert largest_possible(shares, "a", is_preemptible=is_preemptible) == most
    start = [demand(1, "a", most, "soft" if is_preemptible else "firm")]
    assert decide(shares, [], start).start
    assert not decide(shares, [], [replace(start[0], devices=most + 1)]).start


@st.composite
def situations(draw: st.DrawFn) -> tuple[dict[str, Share], list[Demand], list[Demand]]:
    """Shares, what runs on them as it came to run by the rules, and what waits."""
    limit = st.none() | st.integers(0, 16)
    names = draw(st.sampled_from(["ab", "abc", "abcd"]))
    shares = {
        name: Share(nominal=draw(st.integers(0, 16)), borrowing_limit=draw(limit), lending_limit=draw(limit))
        for name in names
    }
    ids = count(1)

    def jobs(most: int) -> list[Demand]:
        return [
            demand(
                next(ids),
                draw(st.sampled_from(names)),
                draw(st.integers(1, 16)),
                draw(st.sampled_from(["firm", "soft"])),
            )
            for _ in range(draw(st.integers(0, most)))
        ]

    running: list[Demand] = []
    for job in jobs(16):
        if Use.of(shares, running).allows(job):
            running.append(job)
    running = [replace(job, leaves=job.is_preemptible and draw(st.booleans())) for job in running]
    return shares, running, jobs(8)


def check_limits(shares: dict[str, Share], jobs: list[Demand]) -> None:
    use = Use.of(shares, jobs)
    beyond = 0
    for name, share in shares.items():
        assert use.firm[name] <= share.nominal
        if share.borrowing_limit is not None:
            assert use.total[name] <= share.nominal + share.borrowing_limit
        beyond += max(use.total[name] - share.guaranteed, 0)
    assert beyond <= sum(share.lends for share in shares.values())
    assert sum(use.total.values()) <= sum(share.nominal for share in shares.values())


def later(running: list[Demand], waiting: list[Demand], decision: Decision) -> list[Demand]:
    """What runs when those that leave have left and those that wait for them have started."""
    reclaiming = [job for job in waiting if decision.waits.get(job.job) is WaitReason.RECLAIMING]
    started = [job for job in waiting if job.job in decision.start]
    return [job for job in running if not job.leaves and job.job not in decision.preempt] + started + reclaiming


@given(situations())
def test_whatever_is_decided_the_limits_hold_now_and_when_room_is_made(
    situation: tuple[dict[str, Share], list[Demand], list[Demand]],
) -> None:
    shares, running, waiting = situation
    decision = decide(shares, running, waiting)
    check_limits(shares, running + [job for job in waiting if job.job in decision.start])
    check_limits(shares, later(running, waiting, decision))
    assert {*decision.start, *decision.waits} == {job.job for job in waiting}


@given(situations())
def test_nobody_is_taken_back_without_need_nor_anybody_within_its_own_share(
    situation: tuple[dict[str, Share], list[Demand], list[Demand]],
) -> None:
    shares, running, waiting = situation
    for job in waiting:
        decision = decide(shares, running, [job])
        victims = [one for one in running if one.job in decision.preempt]
        assert all(one.is_preemptible and not one.leaves for one in victims)
        if not victims:
            continue
        assert not job.is_preemptible
        stay = [one for one in running if not one.leaves and one not in victims]
        assert Use.of(shares, stay).allows(job)
        for one in victims:
            assert not Use.of(shares, [*stay, one]).allows(job), "it could have stayed"
            # Whoever is taken back was borrowing; the job's own share may take from itself.
            assert one.share == job.share or Use.of(shares, [*stay, one]).borrows(one.share)


@given(situations())
def test_an_owner_always_gets_what_is_its_own(
    situation: tuple[dict[str, Share], list[Demand], list[Demand]],
) -> None:
    shares, running, waiting = situation
    for job in waiting:
        firm = Use.of(shares, [one for one in running if not one.leaves]).firm[job.share]
        if not job.is_preemptible and firm + job.devices <= shares[job.share].nominal:
            assert decide(shares, running, [job]).waits.get(job.job) in (None, WaitReason.RECLAIMING)
