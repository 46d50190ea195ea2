"""Memory of fine-tuning against published readings, and the relations that every tool shares."""

import csv

import pytest

from jobs.estimation import InvalidInput, Machine, ParallelPlan, Workload, estimate
from jobs.estimation.finetune_table import (
    FINETUNE_MEMORY,
    FinetuneRun,
    format_finetuning,
    read_finetune_row,
    read_finetune_table,
    score_finetuning,
)
from jobs.estimation.run_table import Refused

GIB = 2**30
ROW = {
    "id": "x-1",
    "source": "torchtune README (older)",
    "kind": "measured",
    "model": "Llama2-7B",
    "params_b": "6.74",
    "method": "LoRA",
    "bits_base": "16",
    "precision_trainable": "bf16",
    "lora_rank": "16",
    "lora_targets": "all-linear",
    "optimizer": "AdamW",
    "accelerator": "A100-80GB",
    "devices": "1",
    "micro_batch": "2",
    "seq_len": "2048",
    "grad_accum": "8",
    "flash_attention": "y",
    "grad_checkpoint": "y",
    "packing": "true",
    "memory_gb_per_device": "20",
    "memory_unit": "GiB",
    "notes": "",
}


def read(**changes):
    return read_finetune_row(ROW | changes)


def measure(task, *, preset="llama-2-7b", recomputation="full", framework="fsdp", plan=None, **changes):
    """Memory parts of one device with 80 GB."""
    data = {"model": {"preset": preset}, "tokens": 1e6, "sequence_length": 2048, "global_batch_size": 8}
    workload = Workload.from_dict({**data, "framework": framework, "task": task, **changes})
    plan = {"recomputation": recomputation, **(plan or {})}
    result = estimate(workload, Machine.from_catalog("a100-80g"), ParallelPlan(**plan))
    return dict(result.memory_parts_bytes)


def total(*args, **kwargs):
    return sum(measure(*args, **kwargs).values())


@pytest.fixture(scope="module")
def scores():
    return score_finetuning()


@pytest.mark.parametrize(("method", "rows", "median"), [("LoRA", 100, 7.5), ("QLoRA", 38, 8.5), ("full", 35, 10.0)])
def test_memory_of_each_method_is_near_its_published_readings(scores, method, rows, median):
    table = scores["by_method"][method]
    assert table["rows"] >= rows
    assert table["median_error_pct"] <= median
    assert abs(table["bias_pct"]) <= 6


def test_memory_of_all_published_fine_tuning_is_within_8_percent(scores):
    assert scores["all"]["rows"] >= 180
    assert scores["all"]["median_error_pct"] <= 8
    assert scores["rows"] == scores["rows_scored"] + len(scores["refused"])


def test_the_report_names_each_method_and_source(scores):
    text = "\n".join(format_finetuning(scores))
    for name in ("all", *scores["by_method"], *scores["by_source"]):
        assert name[:44] in text


def test_no_row_of_the_table_is_lost_and_every_refusal_says_why():
    rows = read_finetune_table()
    with FINETUNE_MEMORY.open(encoding="utf-8", newline="") as file:
        assert [row.id for row in rows] == [row["id"] for row in csv.DictReader(file)]
    reasons = [row.reason for row in rows if isinstance(row, Refused)]
    assert all(":" in reason and len(reason) > 20 for reason in reasons)


def test_a_row_is_read_into_workload_machine_and_plan():
    run = read(method="QLoRA", bits_base="4", lora_targets="q,v", lora_rank="8", optimizer="AdamW8bit")
    assert isinstance(run, FinetuneRun)
    workload = run.workload
    assert (workload.task, workload.lora_rank, workload.lora_targets) == ("qlora", 8, "attention_qv")
    assert (workload.optimizer, workload.framework, workload.global_batch_size) == ("adamw_8bit", "fsdp", 16)
    assert (run.plan.micro_batch_size, run.plan.recomputation, run.memory_quantity) == (2, "full", "reserved")
    assert run.memory_bytes == 20 * GIB


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("kind", "estimated(rule)"),
        ("kind", "OOM"),
        ("memory_gb_per_device", ""),
        ("memory_gb_per_device", "nan"),
        ("memory_gb_per_device", "-3"),
        ("method", "full+galore128"),
        ("method", "LoRA (emb)"),
        ("bits_base", "8"),
        ("model", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("model", "nobody/unheard-of-7b"),
        ("micro_batch", ""),
        ("micro_batch", "2 ~"),
        ("micro_batch", "0"),
        ("seq_len", ""),
        ("seq_len", "many"),
        ("packing", ""),
        ("devices", ""),
        ("accelerator", "Abacus-9000"),
        ("grad_checkpoint", "sometimes"),
    ],
)
def test_a_row_that_cannot_be_scored_is_refused_by_its_column(column, value):
    row = read(**{column: value})
    assert isinstance(row, Refused)
    assert row.reason.startswith(column)


def test_several_devices_without_a_word_on_sharing_are_refused():
    assert read(devices="4").reason.startswith("zero_offload")
    assert read(devices="4", zero_offload="zero3").plan.zero_stage == 3


def test_a_full_fine_tuning_below_the_states_of_adamw_had_another_optimizer():
    changes = {"method": "full", "lora_rank": "", "lora_targets": "", "memory_gb_per_device": "30"}
    assert read(**changes, optimizer="").reason.startswith("optimizer")
    assert isinstance(read(**changes, optimizer="AdamW8bit"), FinetuneRun)


def test_a_sharded_reading_that_repeats_one_devices_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    rows = [ROW, ROW | {"id": "x-2", "devices": "4", "zero_offload": "FSDP"}]
    rows.append(rows[1] | {"id": "x-3", "memory_gb_per_device": "11"})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, sorted(rows[1]))
        writer.writeheader()
        writer.writerows(rows)
    first, second, third = read_finetune_table(path)
    assert isinstance(first, FinetuneRun)
    assert second.reason.startswith("memory_gb_per_device")
    assert isinstance(third, FinetuneRun)


def test_a_table_without_a_needed_column_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("id,source,model\nx,y,z\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="micro_batch"):
        read_finetune_table(path)


@pytest.mark.parametrize("preset", ["llama-2-7b", "qwen2.5-7b", "mistral-7b"])
def test_qlora_needs_less_than_lora_and_lora_less_than_all_weights(preset):
    qlora, lora, full = (total(task, preset=preset) for task in ("qlora", "lora", "full_finetuning"))
    assert qlora < 0.75 * lora
    assert lora < 0.5 * full


def test_pure_bf16_takes_8_bytes_a_weight_and_a_temporary_for_the_step():
    parts = measure("full_finetuning", pure_bf16=True)
    mixed = measure("full_finetuning")
    parameters = measure("lora", lora_rank=1)["weights"] / 2
    kept = parts["weights"] + parts["gradients"]
    assert kept == pytest.approx(4 * parameters, rel=0.01)
    # Two states of 2 bytes, and up to one more tensor of 2 bytes while the step is taken.
    assert 4 * parameters < 1.01 * parts["optimizer"] < 6.1 * parameters
    assert sum(parts.values()) < 0.65 * sum(mixed.values())


def test_pure_bf16_needs_bf16():
    with pytest.raises(InvalidInput, match="pure_bf16"):
        measure("full_finetuning", precision="fp16", pure_bf16=True)
    with pytest.raises(InvalidInput, match="pure_bf16"):
        measure("full_finetuning", pure_bf16="yes")


def test_eight_bit_adam_saves_three_quarters_of_the_states():
    states = measure("full_finetuning")["optimizer"]
    small = measure("full_finetuning", optimizer="adamw_8bit")["optimizer"]
    assert small < 0.6 * states


def test_adapters_on_all_matrices_keep_more_than_on_queries_and_values():
    few, many = (
        measure("lora", recomputation="none", lora_targets=targets) for targets in ("attention_qv", "all_linear")
    )
    assert few["activations"] < many["activations"]
    assert few["optimizer"] < many["optimizer"]


def test_transformers_keep_logits_in_fp32_unless_all_is_bf16():
    tokens, vocabulary = 2048, 32000
    assert measure("lora")["logits"] / tokens / vocabulary == pytest.approx(14, rel=0.05)
    assert measure("lora", pure_bf16=True)["logits"] / tokens / vocabulary == pytest.approx(6, rel=0.1)


def test_one_device_has_no_communicators():
    alone = measure("lora")["overhead"]
    shared = measure("lora", plan={"data_parallel": 8})["overhead"]
    assert GIB <= alone < 1.5 * GIB < shared
