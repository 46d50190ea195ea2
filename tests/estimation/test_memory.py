"""Memory against the formulas of its papers and against published device readings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs.estimation import Machine, ParallelPlan, Workload, estimate
from jobs.estimation.columns import make_columns
from jobs.estimation.geometry import lay_out
from jobs.estimation.memory import activation_bytes_per_token, count_in_flight
from jobs.estimation.plan import PlanColumns


def make_workload(**changes):
    data = {"model": {"preset": "gpt3-175b"}, "tokens": 1e9, "sequence_length": 2048, "global_batch_size": 64}
    return Workload.from_dict({**data, "attention_kernel": "standard", **changes})


def lay_out_plan(workload, **plan):
    machine = Machine.from_catalog("a100-80g")
    columns = make_columns(workload, machine, PlanColumns.from_plans([ParallelPlan(**plan)]))
    return columns, lay_out(columns)


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
    none, selective, full = activation_bytes_per_token(*lay_out_plan(make_workload(), **plan))
    kept = {"none": none, "selective": selective, "full": full}[plan.get("recomputation", "none")]
    assert float(np.ravel(kept)[0]) / 12288 == pytest.approx(per_token_and_hidden, rel=1e-12)


def test_interleaving_holds_more_micro_batches_on_the_first_stage():
    columns, geometry = lay_out_plan(make_workload(), pipeline_parallel=8, virtual_stages=3)
    in_flight = count_in_flight(columns, geometry, np.zeros(1))
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


def test_experts_take_memory_by_their_own_parallelism():
    workload = Workload.from_dict({"model": {"preset": "deepseek-v3"}, "tokens": 1e9, "global_batch_size": 256})
    machine = Machine.from_catalog("h800-80g")
    weights = [
        estimate(
            workload, machine, ParallelPlan(data_parallel=64, expert_parallel=experts, recomputation="full")
        ).memory_parts_bytes["weights"]
        for experts in (1, 64)
    ]
    # 256 routed experts of 58 layers hold 654 of the 671 thousand million parameters.
    assert weights[0] == pytest.approx(2 * 671.03e9, rel=0.01)
    assert weights[1] == pytest.approx(2 * (671.03e9 - 654.0e9 * 63 / 64), rel=0.02)


def test_offloaded_states_leave_the_device():
    workload = Workload.from_dict({"model": {"preset": "llama-3.1-70b"}, "tokens": 1e9, "global_batch_size": 8})
    machine = Machine.from_catalog("a100-80g")
    kept, states, all_gone = (
        estimate(workload, machine, ParallelPlan(data_parallel=8, zero_stage=3, offload=where)).memory_parts_bytes
        for where in ("none", "optimizer", "optimizer_and_weights")
    )
    assert kept["optimizer"] > 0
    assert states["optimizer"] == 0
    assert all_gone["weights"] < states["weights"]


def test_what_an_allocator_caches_never_decides_whether_a_job_fits():
    # The last gigabytes of a device are used by the cache, so the estimate stops at its capacity.
    data = {"model": {"preset": "llama-2-7b"}, "tokens": 1e9, "global_batch_size": 64}
    machine = Machine.from_catalog("a100-80g")
    results = [
        estimate(
            Workload.from_dict({**data, "framework": "fsdp"}),
            machine,
            ParallelPlan(data_parallel=8, zero_stage=3, micro_batch_size=size),
        )
        for size in (1, 2, 4, 8)
    ]
    assert [item.memory_bytes <= item.memory_capacity_bytes for item in results] == [item.fits for item in results]
    assert results[0].fits
    assert not results[-1].fits


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
