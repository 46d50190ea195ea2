"""Finished jobs correct the estimate: quickly where they say the same, hardly where they are few, odd or elsewhere."""

import json
import math
import random
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.estimation.calibrated_estimate import CalibratedEstimate, estimate_calibrated
from jobs.estimation.calibration import LEVELS, Calibration, CalibrationFactors, RunKind
from jobs.estimation.calibration_fit import MAX_JOBS_OF_A_STACK, FinishedJob, learn
from jobs.estimation.evaluation import Estimate, estimate
from jobs.estimation.hardware import Machine
from jobs.estimation.plan import ParallelPlan
from jobs.estimation.validation import InvalidInput
from jobs.estimation.workload import Workload

SLOWER = 1.25
RUN_TO_RUN = 0.05
GIB = 2**30


def kind(
    accelerator: str = "a800-80g",
    *,
    framework: str = "megatron",
    task: str = "pretraining",
    parameters: int = 7 * 10**9,
    devices: int = 64,
) -> RunKind:
    return RunKind(
        accelerator=accelerator,
        accelerator_family=accelerator.partition("-")[0],
        framework=framework,
        task=task,
        parameters=parameters,
        devices=devices,
    )


def job(ratio: float = 1.0, *, of: RunKind | None = None, memory_ratio: float | None = None, age: float = 0) -> Any:
    """A job that took `ratio` times as long as estimated."""
    return FinishedJob(
        kind=of or kind(),
        step_s=10 * ratio,
        estimated_step_s=10.0,
        memory_bytes=None if memory_ratio is None else 40 * GIB * memory_ratio,
        estimated_memory_bytes=40.0 * GIB,
        age_days=age,
    )


def factors(jobs: list[FinishedJob], of: RunKind | None = None) -> CalibrationFactors:
    return learn(jobs).calibration.lookup_kind(of or kind())


def simulate(count: int, seed: int, *, slower: float = SLOWER, of: RunKind | None = None) -> list[FinishedJob]:
    """Jobs of a cluster that is `slower` than published, with run-to-run noise."""
    rng = np.random.default_rng(seed)
    return [job(slower * math.exp(RUN_TO_RUN * rng.standard_normal()), of=of) for _ in range(count)]


# What simulated clusters teach


def test_without_jobs_every_factor_is_exactly_one() -> None:
    found = factors([])
    assert (found.step_time_factor, found.memory_factor) == (1.0, 1.0)
    assert (found.step_weight, found.memory_weight, found.level, found.jobs) == (0.0, 0.0, "none", 0)


@pytest.mark.parametrize("seed", range(20))
def test_a_cluster_a_quarter_slower_than_published_is_learnt_within_ten_jobs(seed: int) -> None:
    assert factors(simulate(10, seed)).step_time_factor == pytest.approx(SLOWER, rel=0.05)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_learnt_from_jobs_of_all_sizes_too(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [
        kind(parameters=int(10**9 * 2 ** rng.uniform(0, 6)), devices=8 * 2 ** int(rng.integers(6))) for _ in range(10)
    ]
    jobs = [simulate(1, 100 * seed + number, of=size)[0] for number, size in enumerate(sizes)]
    seen = [factors(jobs, of=size).step_time_factor / SLOWER - 1 for size in sizes]
    assert abs(np.median(seen)) < 0.05
    unseen = factors(jobs, of=kind(parameters=9 * 10**9, devices=48)).step_time_factor
    assert unseen == pytest.approx(SLOWER, rel=0.06)


def test_the_error_shrinks_with_every_job() -> None:
    errors = []
    for count in (0, 1, 3, 10, 30):
        found = [factors(simulate(count, seed)).step_time_factor for seed in range(30)]
        errors.append(float(np.sqrt(np.mean((np.array(found) / SLOWER - 1) ** 2))))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(0.2)
    assert errors[-1] < 0.015


@pytest.mark.parametrize("absurd", [100.0, 0.01, 8.0])
@pytest.mark.parametrize("others", [0, 1, 2, 5, 10, 100])
def test_one_absurd_job_moves_the_factor_by_less_than_two_percent(absurd: float, others: int) -> None:
    jobs = simulate(others, seed=others)
    before, after = factors(jobs).step_time_factor, factors([*jobs, job(absurd)]).step_time_factor
    assert after == pytest.approx(before, rel=0.02)


@pytest.mark.parametrize("absurd", [100.0, 5.0, 2.0, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_two_outliers_of_ten_change_little(absurd: float, seed: int) -> None:
    jobs = [*simulate(8, seed), job(absurd), job(absurd * 1.1)]
    random.Random(seed).shuffle(jobs)
    assert factors(jobs).step_time_factor == pytest.approx(SLOWER, rel=0.05)


def test_what_all_jobs_say_is_no_outlier_however_far_it_is() -> None:
    found = factors(simulate(10, seed=1, slower=4.0))
    assert found.step_time_factor == pytest.approx(4.0, rel=0.1)
    assert found.jobs == 10


def test_a_slow_accelerator_hardly_touches_another() -> None:
    jobs = simulate(30, seed=2)
    elsewhere = factors(jobs, of=kind("h100-80g")).step_time_factor
    assert 1.0 < elsewhere < 1.025
    known = [*jobs, *simulate(10, seed=3, slower=1.0, of=kind("h100-80g"))]
    assert factors(known, of=kind("h100-80g")).step_time_factor == pytest.approx(1.0, abs=0.03)
    assert factors(known).step_time_factor == pytest.approx(SLOWER, rel=0.03)


def test_evidence_counts_less_the_farther_away_it_is() -> None:
    jobs = simulate(30, seed=4, of=kind("a100-80g"))
    near_to_far = [
        kind("a100-80g"),
        kind("a100-80g", parameters=70 * 10**9, devices=1024),
        kind("a100-80g", framework="fsdp"),
        kind("a100-40g"),
        kind("h100-80g"),
    ]
    found = [factors(jobs, of=one) for one in near_to_far]
    seen = [one.step_time_factor for one in found]
    assert seen == sorted(seen, reverse=True)
    assert [one.level for one in found] == ["shape", "stack", "accelerator", "family", "centre"]
    weights = [one.step_weight for one in found]
    assert weights == sorted(weights, reverse=True)
    sigmas = [one.sigma_log_step for one in found]
    assert sigmas == sorted(sigmas)


def test_an_adapter_run_is_told_apart_from_one_that_trains_all_weights() -> None:
    jobs = [*simulate(20, seed=5), *simulate(20, seed=6, slower=1.0, of=kind(task="lora"))]
    assert factors(jobs, of=kind(task="qlora")).step_time_factor < 1.07
    assert factors(jobs).step_time_factor > 1.18


def test_old_jobs_give_way_to_new_ones() -> None:
    old = [replace(one, age_days=900) for one in simulate(20, seed=7, slower=1.5)]
    jobs = [*old, *simulate(5, seed=8, slower=1.0)]
    assert factors(jobs).step_time_factor == pytest.approx(factors(jobs[20:]).step_time_factor, rel=0.03)
    assert learn(jobs, half_life_days=None).calibration.lookup_kind(kind()).step_time_factor > 1.3


@pytest.mark.parametrize(("noise", "low", "high"), [(0.02, 0.05, 0.09), (0.25, 0.12, 0.3)])
def test_the_spread_follows_what_jobs_show(noise: float, low: float, high: float) -> None:
    rng = np.random.default_rng(9)
    jobs = [job(math.exp(noise * rng.standard_normal())) for _ in range(20)]
    assert low < factors(jobs).sigma_log_step < high


def test_the_range_covers_what_comes_next() -> None:
    """80 % of further jobs lie between P10 and P90 of what the first twenty taught."""
    inside = []
    for seed in range(150):
        rng = np.random.default_rng(1000 + seed)
        truth = math.exp(0.2 * rng.standard_normal())
        ratios = truth * np.exp(0.1 * rng.standard_normal(21))
        found = factors([job(float(ratio)) for ratio in ratios[:20]])
        inside.append(abs(math.log(ratios[20] / found.step_time_factor)) < 1.2816 * found.sigma_log_step)
    assert 0.7 < np.mean(inside) < 0.92


# Memory


def test_memory_that_jobs_used_beyond_the_estimate_is_added() -> None:
    found = factors([job(memory_ratio=1.15 + 0.005 * number) for number in range(5)])
    assert found.memory_factor == pytest.approx(1.16, abs=0.02)
    assert found.memory_weight > 0.8


def test_memory_is_never_lowered_below_what_a_like_job_used() -> None:
    jobs = [job(memory_ratio=ratio) for ratio in (0.7, 0.72, 0.74, 0.71, 0.93)]
    assert factors(jobs).memory_factor == pytest.approx(0.93)
    assert factors([*jobs, job(memory_ratio=1.02)]).memory_factor == 1.0


def test_memory_is_not_lowered_where_no_like_job_was_seen() -> None:
    jobs = [job(memory_ratio=0.7) for _ in range(20)]
    assert factors(jobs).memory_factor < 0.8
    assert factors(jobs, of=kind(parameters=700 * 10**9, devices=1024)).memory_factor == 1.0
    assert factors(jobs, of=kind("a100-80g")).memory_factor == 1.0


def test_a_reading_in_the_wrong_unit_is_left_out() -> None:
    jobs = [job(memory_ratio=1.1) for _ in range(3)]
    assert factors([*jobs, job(memory_ratio=1000.0)]).memory_factor == factors(jobs).memory_factor


# Explained


def test_the_levels_multiply_to_the_factor_and_count_their_jobs() -> None:
    jobs = [
        *simulate(6, seed=10),
        *simulate(4, seed=11, of=kind(framework="fsdp")),
        *simulate(3, seed=12, slower=0.9, of=kind("h100-80g")),
    ]
    calibration = learn(jobs).calibration
    shares = calibration.explain(kind())["step"]
    assert [share.level for share in shares] == list(LEVELS)
    assert [share.jobs for share in shares] == [13, 10, 10, 6, 6]
    product = math.prod(share.factor for share in shares)
    assert product == pytest.approx(calibration.lookup_kind(kind()).step_time_factor)
    assert all(0 < share.weight < 1 for share in shares)
    assert all(share.weight == 0 for share in Calibration().explain(kind())["step"])


def test_outliers_are_named_and_not_counted() -> None:
    fit = learn([*simulate(5, seed=13), job(100.0), job(4.0)])
    assert fit.outliers() == [5, 6]
    assert fit.calibration.lookup_kind(kind()).jobs == 5


# Stored


def test_a_calibration_survives_being_stored() -> None:
    calibration = learn([*simulate(5, seed=14), job(1.1, memory_ratio=1.1, of=kind("h100-80g"))]).calibration
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict(), allow_nan=False)))
    assert again == calibration
    assert again.lookup_kind(kind()) == calibration.lookup_kind(kind())


def test_the_order_of_jobs_changes_nothing() -> None:
    jobs = [replace(one, age_days=float(number)) for number, one in enumerate(simulate(12, seed=15))]
    shuffled = jobs[:]
    random.Random(1).shuffle(shuffled)
    assert learn(shuffled).calibration == learn(jobs).calibration


def test_only_the_newest_jobs_of_a_stack_are_used() -> None:
    jobs = [job(age=float(number)) for number in range(MAX_JOBS_OF_A_STACK + 20)]
    fit = learn(jobs)
    assert fit.calibration.jobs == MAX_JOBS_OF_A_STACK
    assert np.isnan(fit.step_weights[-20:]).all()


def test_the_flat_lookup_is_that_of_the_kind() -> None:
    calibration = learn(simulate(3, seed=16)).calibration
    found = calibration.lookup("a800-80g", "a800", "megatron", 7 * 10**9, 64, "pretraining")
    assert found == calibration.lookup_kind(kind())


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"method": 99}, "calibration.method"),
        ({"step": {}}, "calibration.step"),
        ({"extra": 1}, "calibration.extra"),
        ({"step": [{"kind": {}}]}, "group"),
    ],
)
def test_a_damaged_calibration_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    stored = learn(simulate(2, seed=17)).calibration.to_dict()
    with pytest.raises(InvalidInput) as caught:
        Calibration.from_dict({**stored, **change})
    assert caught.value.field.startswith(field)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "1"])
@pytest.mark.parametrize("name", ["step_s", "estimated_step_s", "memory_bytes", "estimated_memory_bytes"])
def test_a_figure_that_is_none_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        replace(job(memory_ratio=1.0), **{name: value})
    assert caught.value.field == f"job.{name}"


@pytest.mark.parametrize("name", ["parameters", "devices"])
def test_a_kind_without_size_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        replace(kind(), **{name: 0})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            job,
            st.floats(0.01, 100),
            of=st.builds(
                kind,
                st.sampled_from(["a800-80g", "a100-80g", "a100-40g", "h100-80g"]),
                framework=st.sampled_from(["megatron", "fsdp"]),
                task=st.sampled_from(["pretraining", "lora"]),
                parameters=st.integers(10**6, 10**12),
                devices=st.integers(1, 10_000),
            ),
            memory_ratio=st.one_of(st.none(), st.floats(0.01, 100)),
            age=st.floats(0, 2000),
        ),
        max_size=25,
    )
)
def test_whatever_jobs_say_factors_stay_within_what_they_measured(jobs: list[FinishedJob]) -> None:
    found = factors(jobs)
    assert 0.1 <= found.step_time_factor <= 10
    assert 1 / 3 <= found.memory_factor <= 3
    assert 0 <= found.step_weight < 1
    assert 0 <= found.memory_weight < 1
    assert 0 < found.sigma_log_step < 1
    json.dumps(found.to_dict(), allow_nan=False)


# Applied to an estimate

WORKLOAD = Workload.from_dict({"model": {"preset": "llama-2-7b"}, "tokens": 10**11})
MACHINE = Machine.from_catalog("a800-80g", price_per_device_hour=2.0)
PLAN = ParallelPlan(data_parallel=8, zero_stage=3)
SEEN: CalibrationFactors = factors([job(SLOWER, memory_ratio=1.08) for _ in range(30)])


def corrected(**changes: float) -> CalibratedEstimate:
    """The estimate with these factors instead of those seen."""
    return estimate_calibrated(WORKLOAD, MACHINE, PLAN, factors=replace(SEEN, **changes), version=7)


def corrected_on(capacity_bytes: float, **changes: float) -> CalibratedEstimate:
    """The same on accelerators with so much memory."""
    machine = replace(MACHINE, accelerator=replace(MACHINE.accelerator, memory_bytes=int(capacity_bytes)))
    return estimate_calibrated(WORKLOAD, machine, PLAN, factors=replace(SEEN, **changes))


ALONE = estimate(WORKLOAD, MACHINE, PLAN)


def test_a_calibrated_estimate_is_consistent() -> None:
    after = corrected()
    slower = SEEN.step_time_factor
    assert after.step_s == pytest.approx(ALONE.step_s * SLOWER, rel=0.01)
    assert sum(after.step_parts_s.values()) == after.step_s
    assert sum(after.memory_parts_bytes.values()) == after.memory_bytes
    assert after.memory_bytes == pytest.approx(ALONE.memory_bytes * SEEN.memory_factor)
    for name, values in ALONE.step_parts_s.items():
        assert after.step_parts_s[name] == pytest.approx(values * slower), name
    for name in ("tokens_per_s", "tokens_per_s_per_device", "model_flop_per_s_per_device", "mfu", "read_bytes_per_s"):
        assert getattr(after, name) == pytest.approx(getattr(ALONE, name) / slower), name
    for name in ("duration_s", "accelerator_s", "energy_j", "price"):
        assert getattr(after, name) == pytest.approx(getattr(ALONE, name) * slower, rel=1e-3), name
    assert after.steps * after.step_s + sum(after.losses_s.values()) == pytest.approx(after.duration_s)
    for name in ("model_flop_per_step", "checkpoint_bytes", "parameters", "steps", "plan", "basis", "assumptions"):
        assert getattr(after, name) == getattr(ALONE, name), name


def test_it_says_what_it_rests_on() -> None:
    after = corrected()
    assert after.calibration["version"] == 7
    assert after.calibration["jobs_at_level"]["shape"] == 30
    assert after.calibration["level"] == "shape"


def test_without_evidence_an_estimate_stays_as_it_is() -> None:
    after = estimate_calibrated(WORKLOAD, MACHINE, PLAN, factors=factors([]))
    for item in fields(Estimate):
        assert getattr(after, item.name) == pytest.approx(getattr(ALONE, item.name)), item.name


def width(found: Estimate, name: str) -> float:
    """Of a range, in logarithms."""
    figures = found.to_dict()
    unit = "bytes" if name == "memory" else "s"
    return math.log(figures[f"{name}_p90_{unit}"] / figures[f"{name}_p10_{unit}"])


@pytest.mark.parametrize("name", ["step", "duration", "memory"])
def test_agreeing_jobs_narrow_the_range_and_quarrelling_ones_widen_it(name: str) -> None:
    assert width(corrected(), name) < 0.7 * width(ALONE, name)
    apart = [math.exp(0.5 * (-1) ** number) for number in range(40)]
    quarrel = factors([job(ratio, memory_ratio=ratio) for ratio in apart])
    wide = estimate_calibrated(WORKLOAD, MACHINE, PLAN, factors=quarrel)
    assert width(wide, name) > width(ALONE, name)
    for found in (corrected(), wide):
        assert found.step_p10_s is not None
        assert found.step_p90_s is not None
        assert found.step_p10_s < found.step_s < found.step_p90_s
        assert found.duration_p10_s < found.duration_s < found.duration_p90_s


def test_additional_memory_is_overhead_and_saved_memory_is_not_taken_from_what_is_counted() -> None:
    more = corrected(memory_factor=1.1).memory_parts_bytes
    for name, value in ALONE.memory_parts_bytes.items():
        extra = 0.1 * ALONE.memory_bytes if name == "overhead" else 0.0
        assert more[name] == pytest.approx(value + extra), name
    less = corrected(memory_factor=0.9)
    assert less.memory_bytes == pytest.approx(0.9 * ALONE.memory_bytes)
    counted = ("weights", "gradients", "optimizer")
    for name, value in ALONE.memory_parts_bytes.items():
        after = less.memory_parts_bytes[name]
        assert (after == value) if name in counted else (after < value or value == 0), name
    # Even what is counted alone would be more than this.
    least = corrected(memory_factor=0.1)
    assert least.memory_bytes == pytest.approx(0.1 * ALONE.memory_bytes)
    assert min(least.memory_parts_bytes.values()) >= 0


def test_whether_it_fits_and_the_advice_follow_the_corrected_memory() -> None:
    room = 1.5 * ALONE.memory_bytes
    states = {
        factor: (found.fits, {item.code for item in found.advice})
        for factor in (1.0, 1.42, 1.6)
        for found in [corrected_on(room, memory_factor=factor)]
    }
    assert [states[factor][0] for factor in (1.0, 1.42, 1.6)] == [True, True, False]
    assert not {"out_of_memory", "memory_nearly_full"} & states[1.0][1]
    assert "memory_nearly_full" in states[1.42][1]
    assert "out_of_memory" in states[1.6][1]


def test_a_plan_that_is_not_possible_is_refused_as_without_calibration() -> None:
    with pytest.raises(InvalidInput, match="devices: 7"):
        estimate_calibrated(WORKLOAD, MACHINE, ParallelPlan(tensor_parallel=7), factors=SEEN)


def test_a_calibrated_estimate_survives_being_stored() -> None:
    after = corrected()
    stored = json.loads(json.dumps(after.to_dict(), allow_nan=False))
    assert stored["calibration"]["version"] == 7
    assert CalibratedEstimate.from_dict(stored) == after
