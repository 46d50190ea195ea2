"""The table of transitions."""

import pytest

from jobs.states import IN_SCHEDULER, OCCUPYING, TERMINAL, TRANSITIONS, WAITING, JobState


@pytest.mark.parametrize("state", list(JobState))
def test_every_state_has_its_row(state: JobState) -> None:
    assert state in TRANSITIONS


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_no_path_leaves_an_end(state: JobState) -> None:
    assert TRANSITIONS[state] == frozenset()


@pytest.mark.parametrize("state", sorted(set(JobState) - TERMINAL))
def test_every_other_state_can_reach_an_end(state: JobState) -> None:
    reached, frontier = {state}, [state]
    while frontier:
        for following in TRANSITIONS[frontier.pop()] - reached:
            reached.add(following)
            frontier.append(following)
    assert reached & TERMINAL


@pytest.mark.parametrize("state", sorted(set(JobState) - {JobState.DRAFT}))
def test_every_state_is_reachable_from_a_submission(state: JobState) -> None:
    reached, frontier = {JobState.SUBMITTED}, [JobState.SUBMITTED]
    while frontier:
        for following in TRANSITIONS[frontier.pop()] - reached:
            reached.add(following)
            frontier.append(following)
    assert state in reached


def test_the_groups_do_not_overlap_where_they_must_not() -> None:
    assert not WAITING & OCCUPYING
    assert not (WAITING | OCCUPYING | IN_SCHEDULER) & TERMINAL


def test_nothing_runs_that_was_not_queued_and_dispatched() -> None:
    into_scheduler = {old for old, new in TRANSITIONS.items() if JobState.PENDING in new}
    assert into_scheduler <= IN_SCHEDULER | {JobState.DISPATCHING}
    assert {old for old, new in TRANSITIONS.items() if JobState.DISPATCHING in new} == {JobState.QUEUED}
