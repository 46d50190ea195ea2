"""Properties of the plan: nothing is given twice, and nobody overtakes at another's cost."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.backends.local.scheduling import (
    Placement,
    Pool,
    Reservation,
    RunningJob,
    WaitingJob,
    count_free_devices,
    plan_queue,
)

pools = st.builds(
    Pool,
    nodes=st.integers(1, 4),
    devices_per_node=st.integers(0, 6),
    jobs_per_node=st.integers(1, 6),
)
queues = st.lists(
    st.tuples(st.integers(1, 5), st.integers(0, 7), st.integers(1, 12)).map(
        lambda sizes: {"nodes": sizes[0], "devices_per_node": sizes[1], "time_limit_s": float(sizes[2])}
    ),
    max_size=12,
).map(lambda sizes: [WaitingJob(job_id=number, **size) for number, size in enumerate(sizes)])


def fits(pool: Pool, job: WaitingJob) -> bool:
    return job.nodes <= pool.nodes and job.devices_per_node <= pool.devices_per_node


def assert_never_oversubscribed(pool: Pool, held: list[tuple[float, float, tuple[int, ...], int]]) -> None:
    """`held`: start, end, nodes, devices on each."""
    for moment in {start for start, *_ in held}:
        now = [(nodes, devices) for start, end, nodes, devices in held if start <= moment < end]
        for node in range(pool.nodes):
            here = [devices for nodes, devices in now if node in nodes]
            assert sum(here) <= pool.devices_per_node
            assert len(here) <= pool.jobs_per_node


@given(pool=pools, queue=queues)
def test_reservations_never_oversubscribe_a_node(pool: Pool, queue: list[WaitingJob]) -> None:
    plan = plan_queue(pool, running=[], waiting=queue, now=0.0)
    jobs = {job.job_id: job for job in queue}
    assert [item.job_id for item in plan] == [job.job_id for job in queue if fits(pool, job)]
    held = []
    for item in plan:
        job = jobs[item.job_id]
        assert len(set(item.nodes)) == job.nodes
        held.append((item.starts_at, item.starts_at + job.time_limit_s, item.nodes, job.devices_per_node))
    assert_never_oversubscribed(pool, held)


@given(pool=pools, queue=queues)
def test_devices_given_now_are_given_once_and_exist(pool: Pool, queue: list[WaitingJob]) -> None:
    jobs = {job.job_id: job for job in queue}
    given_out: set[tuple[int, int]] = set()
    for item in plan_queue(pool, running=[], waiting=queue, now=0.0):
        assert bool(item.placements) == (item.starts_at == 0.0)
        for placement in item.placements:
            assert len(placement.devices) == jobs[item.job_id].devices_per_node
            for device in placement.devices:
                assert 0 <= device < pool.devices_per_node
                assert (placement.node, device) not in given_out
                given_out.add((placement.node, device))


@given(pool=pools, queue=queues, length=st.integers(0, 12))
def test_later_jobs_never_change_the_start_of_earlier_ones(pool: Pool, queue: list[WaitingJob], length: int) -> None:
    whole = plan_queue(pool, running=[], waiting=queue, now=0.0)
    alone = plan_queue(pool, running=[], waiting=queue[:length], now=0.0)
    assert whole[: len(alone)] == alone


@given(pool=pools, queue=queues, ends_early=st.lists(st.floats(0.1, 1.0), min_size=12, max_size=12))
@example(  # a running job close to its time limit once pushed the promise back
    pool=Pool(nodes=3, devices_per_node=0, jobs_per_node=1),
    queue=[
        *(WaitingJob(job_id=number, nodes=1, devices_per_node=0, time_limit_s=1.0) for number in range(3)),
        WaitingJob(job_id=3, nodes=3, devices_per_node=0, time_limit_s=1.0),
    ],
    ends_early=[1.0, 0.5, 0.75, *[1.0] * 9],
)
def test_the_head_of_the_queue_starts_no_later_than_it_was_promised(
    pool: Pool, queue: list[WaitingJob], ends_early: list[float]
) -> None:
    """Whatever ends early, and whoever is let past meanwhile."""
    runs_s = {job.job_id: job.time_limit_s * part for job, part in zip(queue, ends_early, strict=False)}
    promised: dict[int, float] = {}
    for waiting, plan, _ in simulate(pool, queue, runs_s):
        if waiting and plan:
            head = plan[0]
            assert head.starts_at <= promised.setdefault(head.job_id, head.starts_at)


@given(pool=pools, queue=queues)
def test_with_jobs_that_run_to_their_limit_every_job_starts_exactly_as_predicted(
    pool: Pool, queue: list[WaitingJob]
) -> None:
    predicted = {
        item.job_id: (item.starts_at, item.nodes) for item in plan_queue(pool, running=[], waiting=queue, now=0.0)
    }
    held = []
    jobs = {job.job_id: job for job in queue}
    for _, plan, now in simulate(pool, queue, {job.job_id: job.time_limit_s for job in queue}):
        for item in plan:
            if item.placements:
                assert (now, item.nodes) == predicted.pop(item.job_id)
                job = jobs[item.job_id]
                held.append((now, now + job.time_limit_s, item.nodes, job.devices_per_node))
    assert predicted == {}
    assert_never_oversubscribed(pool, held)


def simulate(
    pool: Pool, queue: list[WaitingJob], runs_s: dict[int, float]
) -> list[tuple[list[WaitingJob], list[Reservation], float]]:
    """Plan, start what may start, go on to the next end; until everything that fits has run."""
    now, steps = 0.0, []
    waiting = [job for job in queue if fits(pool, job)]
    running: dict[int, tuple[RunningJob, float]] = {}
    while True:
        plan = plan_queue(pool, running=[job for job, _ in running.values()], waiting=waiting, now=now)
        steps.append((list(waiting), plan, now))
        limits = {job.job_id: job.time_limit_s for job in waiting}
        for item in plan:
            if item.placements:
                job = RunningJob(placements=item.placements, ends_at=now + limits[item.job_id])
                running[item.job_id] = (job, now + runs_s[item.job_id])
        waiting = [job for job in waiting if job.job_id not in running]
        if not running:
            assert waiting == []
            return steps
        now = min(end for _, end in running.values())
        running = {job_id: (job, end) for job_id, (job, end) in running.items() if end > now}


def waiting_job(job_id: int, *, nodes: int = 1, devices: int, limit_s: float) -> WaitingJob:
    return WaitingJob(job_id=job_id, nodes=nodes, devices_per_node=devices, time_limit_s=limit_s)


def starts(plan: list[Reservation]) -> dict[int, float]:
    return {item.job_id: item.starts_at for item in plan}


def test_a_short_job_is_let_past_a_large_one_that_waits() -> None:
    running = [RunningJob(placements=(Placement(0, (0, 1, 2, 3)),), ends_at=100.0)]
    queue = [waiting_job(1, devices=8, limit_s=50), waiting_job(2, devices=4, limit_s=100)]
    assert starts(plan_queue(Pool(1, 8, 8), running=running, waiting=queue, now=0.0)) == {1: 100.0, 2: 0.0}


def test_a_job_that_would_delay_the_large_one_waits_behind_it() -> None:
    running = [RunningJob(placements=(Placement(0, (0, 1, 2, 3)),), ends_at=100.0)]
    queue = [waiting_job(1, devices=8, limit_s=50), waiting_job(2, devices=4, limit_s=101)]
    assert starts(plan_queue(Pool(1, 8, 8), running=running, waiting=queue, now=0.0)) == {1: 100.0, 2: 150.0}


def test_devices_in_use_are_left_alone() -> None:
    running = [RunningJob(placements=(Placement(0, (1, 3)),), ends_at=100.0)]
    (item,) = plan_queue(Pool(1, 8, 8), running=running, waiting=[waiting_job(1, devices=3, limit_s=1)], now=0.0)
    assert item.placements == (Placement(0, (0, 2, 4)),)


def test_a_job_without_devices_takes_a_place_on_its_node() -> None:
    queue = [waiting_job(number, devices=0, limit_s=10) for number in range(3)]
    assert starts(plan_queue(Pool(1, 0, 2), running=[], waiting=queue, now=0.0)) == {0: 0.0, 1: 0.0, 2: 10.0}


def test_a_job_over_its_limit_is_expected_to_end_soon() -> None:
    running = [RunningJob(placements=(Placement(0, (0,)),), ends_at=1.0)]
    (item,) = plan_queue(Pool(1, 1, 1), running=running, waiting=[waiting_job(1, devices=1, limit_s=1)], now=50.0)
    assert 50.0 < item.starts_at <= 52.0
    assert item.placements == ()


def test_what_a_smaller_partition_no_longer_has_is_not_counted() -> None:
    running = [RunningJob(placements=(Placement(0, (1, 6)), Placement(3, (0,))), ends_at=100.0)]
    (item,) = plan_queue(Pool(1, 4, 4), running=running, waiting=[waiting_job(1, devices=3, limit_s=1)], now=0.0)
    assert item.placements == (Placement(0, (0, 2, 3)),)


def test_free_devices_are_those_that_exist_and_nobody_holds() -> None:
    running = [RunningJob(placements=(Placement(0, (1, 6)), Placement(3, (0,))), ends_at=100.0)]
    assert count_free_devices(Pool(2, 4, 4), running) == 7


@pytest.mark.parametrize(("nodes", "devices"), [(3, 1), (1, 9)])
def test_a_job_larger_than_the_pool_holds_up_nobody(nodes: int, devices: int) -> None:
    queue = [waiting_job(1, nodes=nodes, devices=devices, limit_s=1), waiting_job(2, devices=8, limit_s=1)]
    assert starts(plan_queue(Pool(2, 8, 8), running=[], waiting=queue, now=0.0)) == {2: 0.0}
