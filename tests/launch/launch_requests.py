"""One valid request to vary, and the requests whose scripts are kept as golden files."""

from typing import Any

from jobs.launch import Command, LaunchRequest, Plan, UserScript

GIB = 1024**3


def make_request(**changes: Any) -> LaunchRequest:
    values: dict[str, Any] = {
        "key": "5f0c1d2e-0001",
        "name": "llama-3.1-8b",
        "partition": "gpu-a800",
        "nodes": 1,
        "devices_per_node": 8,
        "time_limit_minutes": 90,
        "entry": UserScript("#!/bin/bash\necho hello\n"),
    }
    return LaunchRequest(**(values | changes))


def list_golden_requests() -> dict[str, LaunchRequest]:
    plan = Plan(
        tensor_parallel=4,
        pipeline_parallel=2,
        data_parallel=4,
        micro_batch_size=2,
        gradient_accumulation_steps=16,
        sequence_length=8192,
        zero_stage=1,
        recomputation="selective",
        precision="bf16",
    )
    return {
        "user_script": make_request(
            entry=UserScript("#!/usr/bin/env python3\n#SBATCH --nodes=64\nprint('$HOME `id` \\'quoted\\'')\n"),
            environment={"WANDB_MODE": "offline", "GREETING": "it's $(date) `now`"},
            signal_name="USR1",
            signal_lead_s=120,
        ),
        "command": make_request(
            entry=Command(("python3", "train.py", "--title", "it's 100% $HOME")),
            devices_per_node=0,
            partition="cpu",
            cpus_per_node=16,
            memory_bytes_per_node=32 * GIB + 1,
        ),
        "torchrun_one_node": make_request(
            entry=Command(("train.py", "--epochs", "3"), "torchrun"), gres_type="a800", cpus_per_node=64
        ),
        "torchrun_one_node_with_signal": make_request(
            entry=Command(("-m", "trainer.main"), "torchrun"), signal_name="USR1", signal_lead_s=300
        ),
        "torchrun_many_nodes": make_request(
            entry=Command(("train.py", "--config", "my run.yaml"), "torchrun"),
            nodes=4,
            gres_type="a800",
            cpus_per_node=64,
            memory_bytes_per_node=900 * GIB,
            qos="high",
            slurm_account="physics",
            signal_name="USR1",
            signal_lead_s=300,
            plan=plan,
            environment={"NCCL_DEBUG": "INFO"},
        ),
    }
