"""Step times against published runs. The constants were fitted on these sources, so this is agreement, not proof."""

import statistics

import pytest

from jobs.estimation import Machine, ParallelPlan, Workload, estimate
from tests.estimation.published_runs import compute_median_percentage_error, read_published_runs

# Source and accelerator: highest median absolute error of throughput in percent, close above what is reached.
TOLERANCE = {
    ("Megatron-LM SC21 Table 1", "a100-80g"): 3,
    ("Megatron-LM SC21 Table 2", "a100-80g"): 4,
    ("Korthikanti et al. 2022", "a100-80g"): 7,
    ("BLOOM-176B run", "a100-80g"): 8,
    ("BigScience BLOOM tuning log", "a100-80g"): 11,
    ("MosaicML llm-foundry", "a100-80g"): 10,
    ("MosaicML llm-foundry", "a100-40g"): 10,
    ("FlagPerf", "a100-80g"): 7,
    ("FlagPerf", "a100-40g"): 33,
    ("GLM-130B training log", "a100-40g"): 42,
    ("llm.c", "a100-80g"): 17,
    ("NVIDIA dgxc-benchmarking", "h100-80g"): 3,
    ("MosaicML llm-foundry", "h100-80g"): 14,
    ("llm.c", "h100-80g"): 4,
    ("nanochat leaderboard", "h100-80g"): 27,
    ("BigScience 1B3 V100 tuning", "v100-32g"): 14,
    ("BigScience GPT2-scale V100 tuning", "v100-32g"): 13,
    ("MindFormers model cards (2024-12)", "ascend910b-64g"): 16,
    ("MindFormers model cards (2024-12)", "ascend910a-32g"): 40,
}


def select(source, accelerator):
    return [r for r in read_published_runs() if (r.source, r.machine.accelerator.code) == (source, accelerator)]


@pytest.mark.parametrize(("source", "accelerator"), list(TOLERANCE))
def test_throughput_agrees_with_the_source(source, accelerator):
    runs = select(source, accelerator)
    estimated = [float(run.evaluate().step_s[0]) for run in runs]
    error = compute_median_percentage_error(estimated, [run.step_s for run in runs])
    print(f"{source} {accelerator}: {error:.1f} % of {len(runs)}")
    assert runs
    assert error <= TOLERANCE[source, accelerator]


def test_every_source_in_the_data_has_a_tolerance():
    assert {(run.source, run.machine.accelerator.code) for run in read_published_runs()} == set(TOLERANCE)


def test_median_error_over_all_runs_is_below_10_percent():
    runs = read_published_runs()
    estimated = [float(run.evaluate().step_s[0]) for run in runs]
    error = compute_median_percentage_error(estimated, [run.step_s for run in runs])
    print(f"median absolute error of throughput: {error:.1f} % of {len(runs)} runs")
    assert error < 10


def test_the_80_percent_range_holds_at_least_80_percent_of_the_runs():
    inside = []
    for run in read_published_runs():
        constants = run.machine.accelerator.efficiency
        ratio = run.step_s / float(run.evaluate().step_s[0])
        inside.append(constants.error_p10 <= ratio <= constants.error_p90)
    print(f"{100 * statistics.mean(inside):.1f} % inside P10 to P90")
    assert statistics.mean(inside) >= 0.8


def test_llama_3_405b_on_16384_devices_is_at_most_6_points_of_mfu_too_fast():
    # arXiv 2407.21783, table 4: 41 % MFU with TP 8, PP 16, DP 128 at 8k tokens and 16 sequences a data rank.
    workload = Workload.from_dict({"model": {"preset": "llama-3.1-405b"}, "tokens": 15.6e12})
    plan = ParallelPlan(
        tensor_parallel=8,
        pipeline_parallel=16,
        data_parallel=128,
        virtual_stages=8,
        zero_stage=1,
        sequence_parallel=True,
    )
    result = estimate(workload, Machine.from_catalog("h100-80g"), plan)
    assert 0.41 <= result.mfu <= 0.47
