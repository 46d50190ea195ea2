"""Memory against the formulas of its papers and against published device readings."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs.estimation import Machine, ParallelPlan, Workload, estimate
from jobs.estimation.geometry import lay_out
from jobs.estimation.memory import activation_bytes_per_token, count_in_flight
from jobs.estimation.plan import PlanColumns
from tests.estimation.published_runs import read_published_runs


def make_workload(**changes):
    data = {"model": {"preset": "gpt3-175b"}, "tokens": 1e9, "sequence_length": 2048, "global_batch_size": 64}
    return Workload.from_dict({**data, "attention_kernel": "standard", **changes})


def make_columns(**plan):
    return PlanColumns.from_plans([ParallelPlan(**plan)])


@pytest.mark.parametrize(
    ("plan", "per_token_and_hidden"),
    [
        # Korthikanti 2022 (arXiv 2205.05198), table 2, divided by s b h; GPT-3: a = 96, s = 2048, h = 12288.
        ({}, 34 + 5 * 96 * 2048 / 12288),
        ({"tensor_parallel": 8}, 10 + 24 / 8 + 5 * 96 * 2048 / 12288 / 8),
        ({"tensor_parallel": 8, "sequence_parallel": True}, (34 + 5 * 96 * 2048 / 12288) / 8),
        ({"tensor_parallel": 8, "sequence_parallel": True, "recomputation": "selective"}, 34 / 8),
        ({"tensor_parallel": 8, "recomputation": "full"}, 2),
    ],
)
def test_activations_a_layer_follow_korthikanti(plan, per_token_and_hidden):
    workload, columns = make_workload(), make_columns(**plan)
    kept, _ = activation_bytes_per_token(workload, columns, lay_out(workload, columns))
    assert kept[0] / 12288 == pytest.approx(per_token_and_hidden, rel=1e-12)


def test_interleaving_holds_more_micro_batches_on_the_first_stage():
    workload, columns = make_workload(), make_columns(pipeline_parallel=8, virtual_stages=3)
    in_flight = count_in_flight(columns, lay_out(workload, columns), np.zeros(1))
    # 1 + (p - 1)/(p v) times p stages' worth (arXiv 2205.05198, 4.2.3).
    assert in_flight[0] == pytest.approx(8 * (1 + 7 / 24))


@pytest.mark.parametrize(("stage", "bytes_per_parameter"), [(0, 18), (1, 6 + 12 / 8), (2, 2 + 16 / 8), (3, 18 / 8)])
def test_states_take_the_bytes_of_the_zero_paper_with_fp32_gradients(stage, bytes_per_parameter):
    workload = Workload.from_dict({"model": {"preset": "llama-2-7b"}, "tokens": 1e9, "global_batch_size": 8})
    result = estimate(workload, Machine.from_catalog("a100-80g"), ParallelPlan(data_parallel=8, zero_stage=stage))
    parts = result.memory_parts_bytes
    states = parts["weights"] + parts["gradients"] + parts["optimizer"]
    assert states / result.parameters == pytest.approx(bytes_per_parameter, rel=1e-9)


def test_qlora_of_a_70b_model_fits_one_card_where_lora_does_not():
    data = {"model": {"preset": "llama-3.1-70b"}, "tokens": 1e8, "sequence_length": 2048, "global_batch_size": 16}
    machine = Machine.from_catalog("a100-80g")
    plan = ParallelPlan(recomputation="full")
    fits = {
        task: estimate(Workload.from_dict({**data, "task": task}), machine, plan).fits for task in ("lora", "qlora")
    }
    assert fits == {"lora": False, "qlora": True}


def test_eight_billion_parameters_without_sharding_do_not_fit_80_gb():
    # FlagPerf reports out of memory for Llama-3-8B on 8 x A100 80 GB with TP 1, PP 1, DP 8.
    data = {"model": {"preset": "llama-3.1-8b"}, "tokens": 1e9, "global_batch_size": 64}
    result = estimate(Workload.from_dict(data), Machine.from_catalog("a100-80g"), ParallelPlan(data_parallel=8))
    assert not result.fits
    assert result.advice[0].code == "out_of_memory"


def test_published_memory_is_met_within_11_percent_in_the_median():
    errors = {}
    for run in read_published_runs():
        if run.memory_bytes:
            ratio = run.evaluate().memory_bytes[0] / run.memory_bytes
            errors.setdefault(run.source, []).append(ratio - 1)
    everything = [abs(error) for values in errors.values() for error in values]
    for source, values in sorted(errors.items()):
        print(f"{source:45} {len(values):3} median {100 * statistics.median(values):+.1f} %")
    print(f"median absolute error {100 * statistics.median(everything):.1f} % of {len(everything)}")
    assert len(everything) >= 40
    assert 100 * statistics.median(everything) < 11


def test_the_demo_job_uses_no_more_memory_than_estimated(tmp_path):
    examples = Path(__file__).parents[2] / "examples"
    environment = {**os.environ, "PORTAL_PYTHON": sys.executable, "PORTAL_EXAMPLES": str(examples)}
    environment |= {"PORTAL_CHECKPOINT_DIR": str(tmp_path / "checkpoints"), "OMP_NUM_THREADS": "1"}
    script = examples / "char_transformer" / "job.sh"
    output = subprocess.run(
        # Two steps are enough: the last one is followed by a validation pass, after which memory no longer grows.
        ["bash", str(script), "--steps", "2"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    measured = max(json.loads(line).get("rss_bytes", 0) for line in output.splitlines())
    workload = Workload.from_dict({"model": {"preset": "char-transformer-demo"}, "tokens": 1500 * 16 * 64})
    estimated = estimate(workload, Machine.from_catalog("host-cpu"), ParallelPlan(micro_batch_size=16)).memory_bytes
    print(f"measured {measured / 1e6:.1f} MB, estimated {estimated / 1e6:.1f} MB")
    assert 1.0 <= estimated / measured <= 1.25
