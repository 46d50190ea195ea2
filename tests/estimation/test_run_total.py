"""From a step to a whole run: goodput against simulated and published failures, totals, segments, inverse questions."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.estimation.hardware import Machine
from jobs.estimation.run_total import (
    LOSSES,
    MANUAL_RESTART_S,
    compute_checkpoint_interval,
    compute_goodput,
    compute_required_tokens_per_s,
    compute_run_total,
    compute_time_deviation,
    compute_time_left,
    compute_tokens_for_budget,
    compute_young_interval,
    count_devices_by_rule,
    estimate_by_rule,
    plan_segments,
    review_run,
)
from jobs.estimation.validation import InvalidInput
from jobs.estimation.workload import Workload

HOUR, DAY = 3600.0, 86_400.0
LLAMA3_MTBF_S = 54 * DAY / 419
"""419 unexpected stops in 54 days on 16,384 H100: arXiv 2407.21783, 3.3.4."""


def simulate_runs(*, checkpoints, interval_s, stall_s, write_s, restart_s, mtbf_s, runs, seed):
    """Wall-clock times of `runs` runs of `checkpoints` periods, stop by stop, with no use of the closed form.

    Between two stops (exponential gaps) a run restarts, then works and stalls in turn; a checkpoint is safe
    write_s - stall_s after its stall. What was not safe at the next stop is done again.
    """
    random = np.random.default_rng(seed)
    period, delay = interval_s + stall_s, write_s - stall_s
    clock, safe, starting = np.zeros(runs), np.zeros(runs), np.zeros(runs)
    running = np.ones(runs, dtype=bool)
    while running.any():
        gap = random.exponential(mtbf_s, runs)
        won = np.maximum(np.floor((gap - starting - delay) / period), 0)
        ends = running & (safe + won >= checkpoints)
        clock = np.where(ends, clock + starting + (checkpoints - safe) * period + delay, clock)
        clock = np.where(running & ~ends, clock + gap, clock)
        safe += np.where(running, won, 0)
        running &= ~ends
        starting = np.full(runs, restart_s)
    return clock


CASES = {
    "Llama 3 405B at 1 TB/s": {"write_s": 5.67, "stall_s": 5.67, "restart_s": 600.0, "mtbf_s": LLAMA3_MTBF_S},
    "BLOOM every 3 h": {
        "write_s": 40.0,
        "stall_s": 40.0,
        "restart_s": 600.0,
        "mtbf_s": 168 * HOUR,
        "interval_s": 10760,
    },
    "slow storage": {"write_s": 600.0, "stall_s": 600.0, "restart_s": 1800.0, "mtbf_s": 4 * HOUR},
    "restart as long as the mean time between stops": {
        "write_s": 60.0,
        "stall_s": 60.0,
        "restart_s": 3600.0,
        "mtbf_s": HOUR,
    },
    "asynchronous": {"write_s": 600.0, "stall_s": 3.0, "restart_s": 900.0, "mtbf_s": 2 * HOUR},
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    rates = dict(request.param)
    rates.setdefault(
        "interval_s",
        compute_checkpoint_interval(write_s=rates["write_s"], mtbf_s=rates["mtbf_s"], stall_s=rates["stall_s"]),
    )
    return rates


def test_goodput_is_that_of_simulated_failures_within_one_per_cent(case):
    times = simulate_runs(checkpoints=2000, runs=200, seed=20261124, **case)
    simulated = 2000 * case["interval_s"] / times.mean()
    assert compute_goodput(**case) == pytest.approx(simulated, rel=0.01)


def test_the_spread_of_the_time_is_that_of_simulated_failures(case):
    times = simulate_runs(checkpoints=300, runs=4000, seed=7, **case)
    deviation = compute_time_deviation(
        work_s=300 * case["interval_s"],
        interval_s=case["interval_s"],
        stall_s=case["stall_s"],
        mtbf_s=case["mtbf_s"],
        restart_s=case["restart_s"] + case["write_s"] - case["stall_s"],
    )
    assert deviation == pytest.approx(times.std() / times.mean(), rel=0.08)


def test_lost_work_counts_as_much_as_the_checkpoints_themselves():
    # At the optimum of few failures the stalls and the lost half intervals cost the same: sqrt(C / 2M) each.
    write_s, mtbf_s = 1.0, 1e6
    interval_s = compute_young_interval(write_s=write_s, mtbf_s=mtbf_s)
    share = compute_goodput(write_s=write_s, interval_s=interval_s, mtbf_s=mtbf_s, restart_s=0.0)
    assert 1 - share == pytest.approx(2 * math.sqrt(write_s / (2 * mtbf_s)), rel=0.01)


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8, 1.25, 2.0, 5.0])
def test_no_other_interval_does_better_than_dalys(ratio):
    for write_s, mtbf_s in ((40.0, 3.093 * HOUR), (5.0, 50 * HOUR), (600.0, 8 * HOUR)):
        rest = {"write_s": write_s, "mtbf_s": mtbf_s, "restart_s": 300.0}
        best = compute_checkpoint_interval(write_s=write_s, mtbf_s=mtbf_s)
        assert compute_goodput(interval_s=ratio * best, **rest) < compute_goodput(interval_s=best, **rest)


def test_asynchronous_checkpoints_come_more_often_but_never_overlap():
    synchronous = compute_checkpoint_interval(write_s=600, mtbf_s=4 * HOUR)
    assert compute_checkpoint_interval(write_s=600, stall_s=2, mtbf_s=4 * HOUR) == 600
    assert 60 < compute_checkpoint_interval(write_s=60, stall_s=2, mtbf_s=4 * HOUR) < synchronous


@given(
    write_s=st.floats(0, 1e5),
    interval_s=st.floats(1e-2, 1e6),
    mtbf_s=st.floats(1e-2, 1e10),
    restart_s=st.floats(0, 1e6),
    share=st.floats(0, 1),
)
def test_goodput_is_a_share_for_any_rates_and_falls_with_failures(write_s, interval_s, mtbf_s, restart_s, share):
    rates = {"write_s": write_s, "interval_s": interval_s, "restart_s": restart_s, "stall_s": share * write_s}
    goodput = compute_goodput(mtbf_s=mtbf_s, **rates)
    assert 0.01 <= goodput <= 1
    assert compute_goodput(mtbf_s=2 * mtbf_s, **rates) >= goodput * (1 - 1e-12)
    assert compute_goodput(mtbf_s=mtbf_s, **{**rates, "restart_s": restart_s + 60}) <= goodput * (1 + 1e-12)
    interval = compute_checkpoint_interval(write_s=write_s, mtbf_s=mtbf_s, stall_s=share * write_s)
    assert interval > 0
    assert math.isfinite(interval)
    deviation = compute_time_deviation(
        work_s=1e6, interval_s=interval_s, stall_s=share * write_s, mtbf_s=mtbf_s, restart_s=restart_s
    )
    assert deviation >= 0
    assert math.isfinite(deviation)


# -- published runs (rows of a collection of published failures and goodput; names are sources)


def test_llama_3_stopped_every_three_hours():
    assert pytest.approx(3.09, abs=0.01) == LLAMA3_MTBF_S / HOUR
    machine = Machine.from_catalog("h100-80g")
    assert machine.mtbf_hours_per_device / 16_384 == pytest.approx(LLAMA3_MTBF_S / HOUR, rel=0.01)


@pytest.mark.parametrize(
    ("published", "rates"),
    [
        # Llama 3 405B: more than 90 %; 5.67 TB to storage that sustains 2 TB/s.
        (0.90, {"write_s": 2.84, "mtbf_s": LLAMA3_MTBF_S, "restart_s": 600.0}),
        # BLOOM: 366B tokens in 1,082,990 device-hours are 90 % of the steady rate; a GPU a week, 40 s every 3 h.
        (0.90, {"write_s": 40.0, "interval_s": 3 * HOUR - 40, "mtbf_s": 168 * HOUR, "restart_s": MANUAL_RESTART_S}),
        # OPT-175B: 33 days' work in 56; 90 restarts, by hand at first, 1.6 TB.
        (0.59, {"write_s": 160.0, "mtbf_s": 57 * DAY / 90, "restart_s": MANUAL_RESTART_S}),
        # GLM-65B on 1,536 H800 at the fleet's 8,900 device-hours a stop: snapshots of 0.2 s, restarts of 23 min.
        (0.95, {"write_s": 120.0, "stall_s": 0.2, "mtbf_s": 8900 / 1536 * HOUR, "restart_s": 23 * 60}),
        # A job of 1,000 A100 at the same rate, with automatic restarts.
        (0.589, {"write_s": 60.0, "mtbf_s": 8.9 * HOUR, "restart_s": 23 * 60}),
    ],
    ids=["llama-3", "bloom", "opt", "glm-65b", "ant-1000"],
)
def test_what_runs_reached_is_at_most_what_failures_allow(published, rates):
    # Hangs, evaluations and slow nodes are no failures, so the formula bounds goodput from above (within 3 points).
    interval = compute_checkpoint_interval(
        write_s=rates["write_s"], mtbf_s=rates["mtbf_s"], stall_s=rates.get("stall_s")
    )
    predicted = compute_goodput(**{"interval_s": interval, **rates})
    assert published - 0.03 <= predicted < 1


def test_llama_3_reaches_ninety_per_cent_with_fast_storage_only():
    fast, slow = (
        compute_goodput(
            write_s=write_s,
            interval_s=compute_checkpoint_interval(write_s=write_s, mtbf_s=LLAMA3_MTBF_S),
            mtbf_s=LLAMA3_MTBF_S,
            restart_s=600.0,
        )
        for write_s in (5.67e12 / 2e12, 5.67e12 / 50e9)
    )
    assert 0.90 < fast < 0.95
    assert slow < 0.85


def test_bloom_lost_a_third_of_a_per_cent_to_checkpoints():
    # 40 s every 3 h (bigscience, train/tr11-176B-ml): 0.37 %.
    write_s, period_s = 40.0, 3 * HOUR
    never = compute_goodput(write_s=write_s, interval_s=period_s - write_s, mtbf_s=1e12, restart_s=600.0)
    assert 1 - never == pytest.approx(0.0037, rel=0.01)
    # One GPU a week: half an interval and a restart each time.
    weekly = compute_goodput(write_s=write_s, interval_s=period_s - write_s, mtbf_s=168 * HOUR, restart_s=600.0)
    assert never - weekly == pytest.approx((period_s / 2 + 600) / (168 * HOUR), rel=0.03)


# -- totals


def make_workload(**changes):
    return Workload.from_dict({"model": {"preset": "llama-2-70b"}, "tokens": 1.4e12, "precision": "bf16", **changes})


def make_total(*, machine=None, **changes):
    machine = machine or Machine.from_catalog("a100-80g", price_per_device_hour=10.0)
    defaults = {"step_s": 5.0, "devices": 2048, "write_s": 60.0, "step_p10": 0.9, "step_p90": 1.2}
    return compute_run_total(make_workload(), machine, **(defaults | changes))


def test_llama_3_405b_took_31_million_hours_failures_and_checkpoints_included():
    # arXiv 2407.21783: 15.6T tokens in batches of 16M on 16,384 H100; 6.49 s a step are its 400 TFLOP/s a device
    # (table 4). The model card books 30.84M hours.
    workload = Workload.from_dict(
        {"model": {"preset": "llama-3.1-405b"}, "tokens": 15.6e12, "global_batch_size": 2048, "sequence_length": 8192}
    )
    total = compute_run_total(
        workload, Machine.from_catalog("h100-80g"), step_s=6.49, devices=16_384, write_s=5.68e12 / 2e12
    )
    assert total.accelerator_hours == pytest.approx(30.84e6, rel=0.05)
    assert total.goodput == pytest.approx(0.92, abs=0.02)


def test_blooms_real_duration_is_within_the_range():
    # 104.5 s a step; 1,082,990 hours in all (arXiv 2211.02001), of which failures explain the smaller part.
    workload = Workload.from_dict(
        {"model": {"preset": "bloom-176b"}, "tokens": 366e9, "global_batch_size": 2048, "sequence_length": 2048}
    )
    machine = Machine.from_catalog("a100-80g", mtbf_hours_per_device=384 * 168)
    total = compute_run_total(
        workload, machine, step_s=104.5, devices=384, write_s=40.0, interval_s=3 * HOUR - 40, mtbf_spread=1.0
    )
    assert total.duration_s < 1_082_990 / 384 * HOUR < total.duration_p90_s
    assert total.duration_p90_s < 1.15 * total.duration_s


def test_parts_of_a_total_sum_to_the_whole():
    for total in (make_total(), make_total(time_limit_s=2 * DAY), make_total(stall_s=1.0), make_total(write_s=0.0)):
        assert tuple(total.losses_s) == LOSSES
        assert min(total.losses_s.values()) >= 0
        assert total.work_s + sum(total.losses_s.values()) == pytest.approx(total.duration_s, rel=1e-12)
        assert total.goodput == pytest.approx(total.work_s / total.duration_s)
        assert total.accelerator_s == pytest.approx(2048 * total.duration_s)
        assert total.price == pytest.approx(10.0 * total.accelerator_hours)
        assert total.duration_p10_s < total.duration_s < total.duration_p90_s
        assert json.loads(json.dumps(total.to_dict(), allow_nan=False))["steps"] == total.steps


def test_the_same_work_on_more_devices_stops_as_often_but_loses_a_larger_share():
    small, large = (make_total(devices=n, step_s=5.0 * 2048 / n) for n in (256, 8192))
    assert large.expected_stops == pytest.approx(small.expected_stops, rel=0.15)
    assert large.goodput < small.goodput
    for name in ("checkpoints", "restarts", "rework"):
        assert large.losses_s[name] / large.duration_s > small.losses_s[name] / small.duration_s


def test_the_range_is_wider_where_the_failure_rate_was_not_measured():
    own = Machine.from_catalog("a100-80g", mtbf_hours_per_device=50_601.0)
    unknown, measured = (make_total(machine=machine, devices=16_384) for machine in (None, own))
    assert measured.duration_p90_s < unknown.duration_p90_s
    assert measured.duration_p10_s >= unknown.duration_p10_s
    assert measured.duration_s == pytest.approx(unknown.duration_s, rel=1e-4)


def test_no_run_is_shorter_than_its_steps():
    total = make_total(step_p10=1.0, step_p90=1.0, devices=16_384)
    assert total.duration_p10_s >= total.work_s


def test_llama_65b_used_449_mwh():
    # arXiv 2302.13971, table 15: 1,022,362 hours at 400 W and a PUE of 1.1.
    machine = Machine.from_catalog("a100-80g", mtbf_hours_per_device=1e9, pue=1.1)
    total = make_total(machine=machine, step_s=1.0, write_s=0.0)
    per_hour = total.energy_j / total.accelerator_hours
    assert per_hour * 1_022_362 / 3.6e9 == pytest.approx(449, rel=0.005)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step_s", 0.0),
        ("step_s", math.nan),
        ("devices", 0),
        ("devices", 2.5),
        ("write_s", -1.0),
        ("stall_s", 61.0),
        ("interval_s", 0.0),
        ("time_limit_s", 0.0),
        ("mtbf_spread", 0.5),
        ("power_utilisation", -0.1),
    ],
)
def test_bad_values_are_named(name, value):
    with pytest.raises(InvalidInput) as error:
        make_total(**{name: value})
    assert error.value.field == name


# -- segments


def test_a_time_limit_cuts_a_run_into_jobs_that_each_start_anew():
    plan = plan_segments(running_s=20 * DAY, time_limit_s=2 * DAY, start_s=600, write_s=60, interval_s=1800)
    assert plan.segments == math.ceil(20 * DAY / (2 * DAY - 660))
    assert plan.segments == 11
    assert plan.lost_s == 10 * 660
    total = make_total(time_limit_s=2 * DAY)
    assert total.segments.segments > 1
    assert total.duration_s == pytest.approx(make_total().duration_s + total.segments.lost_s)


def test_a_run_within_the_limit_loses_nothing():
    plan = plan_segments(running_s=HOUR, time_limit_s=2 * HOUR, start_s=600, write_s=60, interval_s=1800)
    assert (plan.segments, plan.lost_s) == (1, 0)


def test_without_a_final_checkpoint_half_an_interval_is_lost_each_time():
    rest = {"running_s": 20 * DAY, "time_limit_s": DAY, "start_s": 600, "write_s": 60, "interval_s": 3600}
    kept, lost = (plan_segments(has_final_checkpoint=final, **rest) for final in (True, False))
    assert lost.lost_s_per_segment - kept.lost_s_per_segment == 1800 - 60
    assert lost.segments >= kept.segments


def test_a_limit_too_short_to_save_anything_is_said_not_raised():
    total = make_total(time_limit_s=650.0)
    assert total.segments.segments is None
    assert [item.code for item in review_run(total) if item.severity == "warning"][-1] == "time_limit_too_short"
    assert all(item.severity != "error" for item in review_run(total))


def test_segments_and_low_goodput_are_remarked():
    codes = {item.code for item in review_run(make_total(time_limit_s=2 * DAY))}
    assert "run_in_segments" in codes
    slow = make_total(devices=100_000, write_s=900.0)
    assert "low_goodput" in {item.code for item in review_run(slow)}
    assert review_run(make_total(devices=8)) == []


# -- questions the other way round


def test_a_budget_and_its_tokens_agree():
    total = make_total()
    rate = make_workload().tokens_per_step / 5.0 / 2048
    tokens = compute_tokens_for_budget(
        tokens_per_s_per_device=rate, goodput=total.goodput, accelerator_s=total.accelerator_s
    )
    assert tokens == pytest.approx(1.4e12, rel=1e-3)
    same = compute_tokens_for_budget(
        tokens_per_s_per_device=rate, goodput=total.goodput, price=total.price, price_per_device_hour=10.0
    )
    assert same == pytest.approx(tokens)
    with pytest.raises(InvalidInput, match="either accelerator_s or price"):
        compute_tokens_for_budget(tokens_per_s_per_device=rate)


def test_time_left_and_rate_needed_are_inverse():
    left = compute_time_left(tokens_left=5e11, tokens_per_s=7e5, goodput=0.93)
    assert compute_required_tokens_per_s(tokens=5e11, time_left_s=left, goodput=0.93) == pytest.approx(7e5)


def test_devices_by_rule_finish_in_time_and_one_less_does_not():
    work = {"active_parameters": 65.2e9, "tokens": 1.4e12, "flop_per_s_per_device": 148.7e12}
    devices = count_devices_by_rule(time_left_s=21 * DAY, **work)
    assert estimate_by_rule(devices=devices, **work).duration_s <= 21 * DAY
    assert estimate_by_rule(devices=devices - 1, **work).duration_s > 21 * DAY
