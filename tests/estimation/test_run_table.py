"""Reading tables of published runs: lenient where a row is silent, strict where it contradicts itself."""

import csv
import io

import pytest

from jobs.estimation import InvalidInput
from jobs.estimation.catalog_files import CATALOG
from jobs.estimation.run_table import (
    MEASURED_COLUMNS,
    NEEDED_COLUMNS,
    Refused,
    Run,
    open_table,
    parse_run,
    parse_software_release,
    read_runs,
)

PUBLISHED = CATALOG / "published_runs.csv"

LLAMA_8B = {
    "id": "row-1",
    "source": "A source",
    "model": "LLAMA3_8B",
    "arch_family": "llama",
    "params_b": "8.03",
    "layers": "32",
    "hidden": "4096",
    "heads": "32",
    "kv_heads": "8",
    "ffn_hidden": "14336",
    "vocab": "128256",
    "seq_len": "8192",
    "precision": "bf16",
    "accelerator": "H100-SXM5-80GB",
    "devices": "64",
    "devices_per_node": "8",
    "tp": "2",
    "pp": "2",
    "dp": "16",
    "cp": "1",
    "zero_stage_fsdp": "distributed-optimizer(zero1)",
    "micro_batch": "1",
    "global_batch_sequences": "128",
    "recompute": "none",
    "framework": "NeMo/Megatron-Core",
    "flash_attention": "y",
}
GPT_175B = LLAMA_8B | {
    "model": "A GPT",
    "arch_family": "gpt",
    "params_b": "174.6",
    "layers": "96",
    "hidden": "12288",
    "heads": "96",
    "kv_heads": "96",
    "ffn_hidden": "49152",
    "vocab": "51200",
    "seq_len": "2048",
}


def read(**changes):
    return parse_run(LLAMA_8B | changes)


def sharded(text, **changes):
    """The plan of a data-parallel run with these words in zero_stage_fsdp."""
    plain = {"tp": "1", "pp": "1", "dp": "64", "framework": "Composer/FSDP"}
    return read(zero_stage_fsdp=text, **(plain | changes)).plan


def to_csv(*rows, columns=None, end="\n"):
    names = columns or list(rows[0])
    lines = [",".join(names), *(",".join(row.get(name, "") for name in names) for row in rows)]
    return end.join(lines) + end


# --- The table that ships --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    return read_runs(PUBLISHED)


def test_no_published_row_with_architecture_and_plan_is_refused(published):
    needed = ("layers", "hidden", "heads", "ffn_hidden", "vocab", "seq_len", "devices", "tp", "pp")
    with open_table(PUBLISHED) as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [item.id for item in published]
    refused = {item.id for item in published if isinstance(item, Refused)}
    complete = [row for row in rows if all(row[name] for name in needed) and row["tier"] != "D"]
    assert len(complete) > 800
    assert not [row["id"] for row in complete if row["id"] in refused]


def test_architectures_reproduce_the_published_parameters(published):
    wrong = {}
    for run in published:
        if isinstance(run, Run) and run.row["params_b"] and run.use_for.startswith("time"):
            ratio = run.workload.architecture.parameters / (1e9 * float(run.row["params_b"]))
            if abs(ratio - 1) > 0.03:
                wrong[run.row["model"]] = round(ratio, 3)
    assert not wrong


def test_every_row_that_is_used_for_time_has_a_measured_step_and_rate(published):
    for run in published:
        if isinstance(run, Run) and run.use_for.startswith("time"):
            assert run.step_s, run.id
            assert (
                run.tokens_per_s_per_device
                == pytest.approx(run.workload.tokens_per_step / run.step_s / run.plan.devices, rel=0.02)
                or run.tier == "D"
            ), run.id


def test_the_measured_columns_have_no_say_in_how_a_row_is_read(published):
    for run in published:
        if not isinstance(run, Run):
            continue
        blank = parse_run({**run.row, **dict.fromkeys(MEASURED_COLUMNS, ""), "hfu_pct": ""})
        assert (blank.workload, blank.machine, blank.plan, blank.assumed) == (
            run.workload,
            run.machine,
            run.plan,
            run.assumed,
        ), run.id


def test_the_shipped_table_names_no_machine_of_ours():
    text = PUBLISHED.read_text(encoding="utf-8")
    assert not [word for word in ("/work/", "/home/", "/root/", "localhost") if word in text]


# --- Architecture ----------------------------------------------------------------------------------------------------


def test_a_full_row_is_read_without_assumptions_about_its_plan():
    run = read()
    plan = run.plan
    assert (plan.tensor_parallel, plan.pipeline_parallel, plan.data_parallel, plan.zero_stage) == (2, 2, 16, 1)
    assert run.workload.architecture.parameters == pytest.approx(8.03e9, rel=1e-3)
    assert run.workload.global_batch_size == 128
    assert (run.recompute_known, run.plan_known) == (True, True)
    assert not [text for text in run.assumed if text.split("=")[0] in ("tp", "pp", "dp", "micro_batch", "recompute")]


@pytest.mark.parametrize(
    ("changes", "gated", "tied"),
    [
        ({}, False, True),
        # Nemotron-4 15B: plain MLP, own output projection.
        (
            {"params_b": "15.6", "layers": "32", "hidden": "6144", "heads": "48", "kv_heads": "8"}
            | {"ffn_hidden": "24576", "vocab": "256000"},
            False,
            False,
        ),
        # GLM-130B: a gated MLP in a GPT.
        ({"params_b": "130", "layers": "70", "ffn_hidden": "32768", "vocab": "150528"}, True, False),
    ],
)
def test_the_variant_that_reproduces_params_b_is_chosen(changes, gated, tied):
    architecture = parse_run(GPT_175B | changes).workload.architecture
    assert architecture.gated_mlp == gated
    assert architecture.tied_embeddings == tied or architecture.parameters > 1e11
    assert architecture.parameters == pytest.approx(1e9 * float(changes.get("params_b", "174.6")), rel=0.01)


def test_empty_key_heads_are_those_that_reproduce_params_b():
    assert read(kv_heads="").workload.architecture.num_key_value_heads == 8
    assert read(kv_heads="", params_b="8.84", model="x").workload.architecture.num_key_value_heads == 32


def test_dimensions_that_miss_params_b_are_kept_and_said():
    run = read(params_b="13")
    assert run.workload.architecture.num_hidden_layers == 32
    assert any(text.startswith("params_b=8.03") for text in run.assumed)


def test_a_preset_is_taken_by_name_and_cut_to_the_rows_depth():
    run = read(model="Llama3.1-405B", params_b="", layers="20", hidden="16384", heads="128", ffn_hidden="53248")
    assert run.workload.architecture.num_hidden_layers == 20
    assert any("llama-3.1-405b" in text for text in run.assumed)


def test_a_row_without_dimensions_takes_those_of_the_model_it_names():
    empty = dict.fromkeys(("layers", "hidden", "heads", "kv_heads", "ffn_hidden", "vocab"), "")
    assert read(model="GPT-3 175B", params_b="175", **empty).workload.architecture.hidden_size == 12288
    assert read(model="Mixtral-8x7B", arch_family="moe", params_b="", **empty).workload.architecture.num_experts == 8
    with pytest.raises(InvalidInput, match="layers"):
        read(model="Nobody's 12B", params_b="12", **empty)
    with pytest.raises(InvalidInput, match="layers"):
        read(model="GPT-3 175B", params_b="13", **empty)


def test_wider_heads_are_known_by_name():
    run = read(model="Qwen3-32B", params_b="32.8", layers="64", hidden="5120", heads="64", ffn_hidden="25600")
    assert run.workload.architecture.head_dim == 128


def test_experts_are_as_wide_as_params_b_asks_for():
    mixture = {"arch_family": "moe", "model": "x", "layers": "32", "experts": "8", "topk": "2", "vocab": "32000"}
    run = read(**mixture, params_b="46.7")
    assert run.workload.architecture.expert_intermediate_size == 14336
    assert read(**mixture, params_b="24").workload.architecture.expert_intermediate_size < 8192


def test_an_encoder_is_not_causal():
    assert not read(arch_family="bert", model="BERT").workload.architecture.is_causal


# --- Words of the sources --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "stage", "group", "offload"),
    [
        ("distributed-optimizer(zero1)", 1, 0, "none"),
        ("optimizer-parallel(zero1)", 1, 0, "none"),
        ("zero0 (DDP)", 0, 0, "none"),
        ("zero2", 2, 0, "none"),
        ("ZeRO-3", 3, 0, "none"),
        ("FSDP-FULL_SHARD(zero3)", 3, 0, "none"),
        ("FSDP-SHARD_GRAD_OP(zero2)", 2, 0, "none"),
        ("FSDP2(zero3) shard=8", 3, 8, "none"),
        ("FSDP2(zero3) shard=64", 3, 0, "none"),
        ("FSDP(zero3) group=32", 3, 32, "none"),
        ("FSDP 8 in node + DP", 3, 8, "none"),
        ("FSDP hybrid", 3, 8, "none"),
        ("HSDP", 3, 8, "none"),
        ("hybrid shard=16 replicate=4", 3, 16, "none"),
        ("FSDP 2D (256-way)", 3, 0, "none"),
        ("dist-opt", 1, 0, "none"),
        ("no", 0, 0, "none"),
        ("FSDP in slice + DP over DCN", 3, 0, "none"),
        ("zero2-like DistMuonAdamW", 2, 0, "none"),
        ("sharding stage2 degree 8", 2, 8, "none"),
        ("sharding stage1 degree 1", 0, 0, "none"),
        ("FSDP(zero3) + CPU offload", 3, 0, "optimizer_and_weights"),
        ("zero2 + CPU offload", 2, 0, "optimizer"),
    ],
)
def test_sharding_is_read_in_every_wording(text, stage, group, offload):
    plan = sharded(text)
    assert (plan.zero_stage, plan.zero_group, plan.offload) == (stage, group, offload)


def test_sharding_over_data_and_context_ranks_is_over_all():
    assert sharded("FSDP2(zero3) shard=32", dp="32", cp="2").zero_group == 0


def test_muon_is_known_as_an_optimizer():
    assert read(zero_stage_fsdp="zero2-like DistMuonAdamW").workload.optimizer == "muon"


@pytest.mark.parametrize(
    ("text", "recomputation", "layers", "is_known"),
    [
        ("", "none", 0, False),
        ("none", "none", 0, True),
        ("full", "full", 0, True),
        ("selective", "selective", 0, True),
        ("selective(gelu) ~", "selective", 0, True),
        ("selective (mla_up_proj, moe_act)", "selective", 0, True),
        ("full 4 layers", "full", 4, True),
        ("selective 2", "full", 8, True),
        ("selective 0", "selective", 0, True),
        ("selective, 1 of 4 layers", "full", 4, True),
        ("50 % of the layers", "full", 8, True),
        ("full (uniform, 1)", "full", 0, True),
        ("1F1B + ckpt", "full", 0, True),
        ("offloaded", "none", 0, True),
        ("who knows", "none", 0, False),
    ],
)
def test_recomputation_is_read_in_every_wording(text, recomputation, layers, is_known):
    run = read(recompute=text)
    assert (run.plan.recomputation, run.plan.recomputed_layers) == (recomputation, layers)
    assert run.recompute_known == is_known


@pytest.mark.parametrize(
    ("text", "accelerator", "precision"),
    [
        ("bf16", "H100-SXM5-80GB", "bf16"),
        ("BF16", "A100-SXM4-80GB", "bf16"),
        ("bf16(amp)", "H100-SXM5-80GB", "bf16"),
        ("fp16(O2)", "A100-SXM4-80GB", "fp16"),
        ("amp", "A100-SXM4-80GB", "bf16"),
        ("amp", "V100-SXM2-32GB", "fp16"),
        ("mixed fp16/fp32", "A100-SXM4-80GB", "fp16"),
        ("fp16/bf16", "A100-SXM4-80GB", "bf16"),
        ("fp32(tf32)", "A100-SXM4-80GB", "fp32"),
        ("FP8-CS", "H100-SXM5-80GB", "fp8"),
        ("bf16+fp8", "H100-SXM5-80GB", "fp8"),
        ("fp8(tensorwise)", "H100-SXM5-80GB", "fp8"),
        ("MXFP8", "B200-SXM-180GB", "fp8"),
        ("FP8-MX/blockwise", "GB200-186GB", "fp8"),
        ("NVFP4", "GB300-279GB", "fp4"),
        ("", "A100-SXM4-80GB", "bf16"),
        ("", "V100-SXM2-32GB", "fp16"),
        ("bf16", "V100-SXM2-32GB", "fp16"),
    ],
)
def test_precision_is_read_in_every_wording(text, accelerator, precision):
    assert read(precision=text, accelerator=accelerator).workload.precision == precision


@pytest.mark.parametrize(
    ("text", "framework"),
    [
        ("Megatron-Core/Bridge", "megatron"),
        ("NeMo/Megatron-Core", "megatron"),
        ("MindSpeed-LLM(Megatron-Core)", "megatron"),
        ("HAI-LLM (DualPipe)", "megatron"),
        ("Megatron-DeepSpeed", "deepspeed"),
        ("GPT-NeoX", "deepspeed"),
        ("AscendSpeed(Megatron-DeepSpeed)", "deepspeed"),
        ("Composer/FSDP", "fsdp"),
        ("PyTorch/NeMo AutoModel", "fsdp"),
        ("torchtitan (Primus container)", "fsdp"),
        ("MaxText/JAX", "jax"),
        ("Paxml/JAX", "jax"),
        ("MindFormers/MindSpore", "mindspore"),
        ("PaddlePaddle", "paddle"),
        ("llm.c CUDA", "native"),
    ],
)
def test_frameworks_are_known_by_name(text, framework):
    assert read(framework=text).workload.framework == framework


@pytest.mark.parametrize(
    ("changes", "kernel"),
    [
        ({"flash_attention": "y(cuDNN)"}, "flash"),
        ({"flash_attention": "n"}, "standard"),
        ({"flash_attention": "", "notes": "release 25.04"}, "flash"),
        ({"flash_attention": "", "source": "Megatron-LM SC21 Table 1"}, "standard"),
    ],
)
def test_the_attention_kernel_is_printed_or_that_of_the_time(changes, kernel):
    assert read(**changes).workload.attention_kernel == kernel


@pytest.mark.parametrize(
    ("notes", "source", "release"),
    [
        ("release 26.04; phase=Pre-Training", "", 2026.29),
        ("release 24.11.1; pretrain", "", 2024.88),
        ("25.04.rc2; with CP", "", 2025.29),
        ("HARDWARE TFLOPs 24.11 (recompute counted)", "", None),
        ("", "NVIDIA NeMo 24.07", 2024.54),
        ("", "MindFormers model cards (2024-12)", 2024.96),
        ("", "MLPerf Training v4.1", 2024.87),
        ("", "Megatron-LM SC21 Table 1", 2021.5),
        ("nothing", "Nobody", None),
    ],
)
def test_the_software_release_is_a_year_with_decimals(notes, source, release):
    assert parse_software_release(notes, source) == release


@pytest.mark.parametrize(
    ("changes", "is_on"),
    [
        ({}, True),
        ({"tp": "1", "dp": "32"}, False),
        ({"framework": "Megatron-DeepSpeed"}, False),
        ({"source": "Megatron-LM SC21 Table 1", "framework": "Megatron-LM"}, False),
        ({"accelerator": "V100-SXM2-32GB", "precision": "fp16"}, False),
        ({"notes": "full recompute, no seq parallel"}, False),
        ({"framework": "Megatron-DeepSpeed", "notes": "selective recompute + sequence parallel"}, True),
    ],
)
def test_sequence_parallelism_is_assumed_for_stacks_from_mid_2022(changes, is_on):
    assert read(**changes).plan.sequence_parallel == is_on


@pytest.mark.parametrize(
    ("changes", "task", "rank"),
    [
        ({"model": "Llama3.1-8B LoRA"}, "lora", 16),
        ({"model": "llama2_13b_lora"}, "lora", 16),
        ({"notes": "LoRA rank 64"}, "lora", 64),
        ({"model": "Llama QLoRA"}, "qlora", 16),
        ({"model": "llama2_13b Finetune"}, "full_finetuning", 16),
        ({"model": "Llama3.1-8B SFT"}, "full_finetuning", 16),
        ({"model": "Aquila2-7B full FT"}, "full_finetuning", 16),
        ({"model": "DPO of an 8B"}, "preference_tuning", 16),
        ({}, "pretraining", 16),
    ],
)
def test_the_task_is_read_from_name_and_notes(changes, task, rank):
    workload = read(**changes).workload
    assert (workload.task, workload.lora_rank) == (task, rank)


def test_networks_in_the_notes_are_those_of_a_device():
    assert read(notes="omnipath fabric 4x100Gb").machine.inter_bytes_per_s == pytest.approx(6.25e9)
    assert read(source_ref="8 GPUs with 1600 Gbps node-node").machine.inter_bytes_per_s == pytest.approx(25e9)


def test_an_accelerator_is_found_by_any_usual_name():
    codes = {read(accelerator=name).machine.accelerator.code for name in ("H100-SXM5-80GB", "h100-80g", "NVIDIA H100")}
    assert codes == {"h100-80g"}


# --- Plans -----------------------------------------------------------------------------------------------------------


def test_what_is_missing_of_the_plan_follows_from_the_rest():
    run = read(dp="", cp="", devices_per_node="")
    assert run.plan.data_parallel == 16
    assert {text.split("=")[0] for text in run.assumed} >= {"dp", "devices_per_node"}
    assert read(devices="").plan.devices == 64


def test_an_empty_batch_is_assumed_and_said():
    run = read(micro_batch="", global_batch_sequences="")
    assert run.plan.micro_batch_size == 1
    assert run.workload.global_batch_size == 16 * 4 * 2
    assert {text.split("=")[0] for text in run.assumed} >= {"micro_batch", "global_batch_sequences"}
    noted = read(micro_batch="", global_batch_sequences="", notes="LBS 2 GA 4")
    assert (noted.plan.micro_batch_size, noted.workload.global_batch_size) == (2, 2 * 4 * 16)
    assert read(micro_batch="", notes="grad-accum 4").plan.micro_batch_size == 2


def test_a_row_without_degrees_says_that_its_plan_is_not_known():
    assert not read(tp="", pp="", dp="", cp="", zero_stage_fsdp="").plan_known
    assert sharded("FSDP(zero3)", tp="", pp="", dp="").data_parallel == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"tp": "16", "dp": "2"},
        {"pp": "3", "dp": "32", "tp": "1", "devices": "96"},
        {"heads": "32", "tp": "64", "pp": "1", "dp": "1"},
        {"global_batch_sequences": "130"},
        {"pp": "64", "tp": "1", "dp": "1", "vpp": "5"},
    ],
)
def test_a_run_that_took_place_is_not_judged_by_rules_of_the_search(changes):
    assert read(**changes).plan.devices == int(changes.get("devices", "64"))


def test_experts_without_a_printed_degree_stay_in_the_node():
    mixture = {"arch_family": "moe", "experts": "64", "topk": "2", "params_b": "", "model": "x"}
    assert read(**mixture).plan.expert_parallel == 8
    assert read(**mixture, ep="32").plan.expert_parallel == 32
    assert read(**mixture, notes="EP1; seq ~").plan.expert_parallel == 1


def test_dual_pipe_counts_as_zero_bubble():
    assert read(framework="HAI-LLM (DualPipe)").plan.pipeline_schedule == "zero_bubble"


# --- Measured values -------------------------------------------------------------------------------------------------


def test_step_time_and_rate_follow_from_each_other():
    run = read(step_time_s="4")
    assert run.tokens_per_s_per_device == pytest.approx(128 * 8192 / 4 / 64)
    assert read(tokens_per_s_per_device="4096").step_s == pytest.approx(4)


def test_a_step_follows_from_printed_hardware_tflops():
    # SC21, table 1: 145.6B on 1,536 A100 with 148 TFLOP/s a device; 96 B s l h^2 (1 + s/6h + V/16lh).
    cells = {"params_b": "145.6", "layers": "80", "devices": "1536", "tp": "8", "pp": "8", "dp": "24"}
    run = parse_run(
        GPT_175B | cells | {"global_batch_sequences": "2304", "notes": "HARDWARE teraFLOP/s/GPU 148 by a formula"}
    )
    assert run.step_s == pytest.approx(24.82, rel=0.001)


def test_memory_is_read_in_gib_unless_the_notes_print_bytes():
    assert read(memory_gb_per_device="40").memory_bytes == 40 * 2**30
    assert read(memory_gb_per_device="70.83", notes="peak_memory_usage 70833405952 B").memory_bytes == 70.83e9


def test_out_of_memory_is_read_from_the_notes_of_the_run_itself():
    assert read(notes="OOM").is_out_of_memory
    assert not read(notes="same case with PP1DP8TP1 is OOM").is_out_of_memory


# --- Bad rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"layers": "abc"}, "layers"),
        ({"layers": "nan"}, "layers"),
        ({"layers": "32.5"}, "layers"),
        ({"hidden": "-4096"}, "hidden"),
        ({"seq_len": "0"}, "seq_len"),
        ({"heads": "inf"}, "heads"),
        ({"heads": "24"}, "heads"),
        ({"kv_heads": "5"}, "kv_heads"),
        ({"params_b": "1e400"}, "params_b"),
        ({"tp": "0"}, "tp"),
        ({"devices": "60"}, "devices"),
        ({"dp": "", "devices": "62"}, "devices"),
        ({"devices": "", "dp": ""}, "devices"),
        ({"devices": "9999999"}, "devices"),
        ({"global_batch_sequences": "4"}, "global_batch_sequences"),
        ({"micro_batch": "1e99"}, "micro_batch"),
        ({"accelerator": "abacus"}, "accelerator"),
        ({"accelerator": ""}, "accelerator"),
        ({"precision": "int2"}, "precision"),
        ({"arch_family": "hybrid-moe", "model": "x"}, "arch_family"),
        ({"arch_family": "rnn"}, "arch_family"),
        ({"arch_family": "moe", "model": "x"}, "experts"),
        ({"arch_family": "moe", "model": "x", "experts": "4", "topk": "8"}, "topk"),
        ({"step_time_s": "-1"}, "step_time_s"),
        ({"tokens_per_s_per_device": "fast"}, "tokens_per_s_per_device"),
        ({"notes": "x" * 10_000}, "notes"),
    ],
)
def test_a_bad_cell_is_refused_by_column_value_and_rule(changes, column):
    with pytest.raises(InvalidInput) as caught:
        read(**changes)
    assert caught.value.field == column
    assert caught.value.allowed


def test_a_plan_that_does_not_multiply_to_the_devices_is_refused_with_the_numbers():
    with pytest.raises(InvalidInput, match="2 x 2 x 16 x 1 = 64"):
        read(devices="128")


def test_a_bad_row_does_not_stop_the_others():
    text = to_csv(LLAMA_8B, LLAMA_8B | {"id": "row-2", "hidden": "zero"}, LLAMA_8B | {"id": "row-3"})
    rows = read_runs(io.StringIO(text))
    assert [type(row) for row in rows] == [Run, Refused, Run]
    assert rows[1].id == "row-2"
    assert "hidden" in rows[1].reason


def test_half_a_row_and_a_long_row_are_refused():
    lines = to_csv(LLAMA_8B, LLAMA_8B, LLAMA_8B).splitlines()
    lines[2] = lines[2][: len(lines[2]) // 2]
    lines[3] += ",one,more"
    rows = read_runs(io.StringIO("\n".join(lines)))
    assert [type(row) for row in rows] == [Run, Refused, Refused]
    assert "cells" in rows[1].reason


def test_rows_may_share_an_id_and_blank_lines_don_t_count():
    assert len(read_runs(io.StringIO(to_csv(LLAMA_8B, LLAMA_8B) + "\n\n"))) == 2


# --- Files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks_make_no_difference(tmp_path, end, mark):
    path = tmp_path / "runs.csv"
    path.write_bytes(mark + to_csv(LLAMA_8B, end=end).encode())
    (run,) = read_runs(path)
    assert (run.id, run.workload.architecture.num_hidden_layers) == ("row-1", 32)


def test_quoted_cells_keep_commas_and_line_ends(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(to_csv(LLAMA_8B | {"notes": '"release 26.04, a ""quote""\nand a line"'}), encoding="utf-8")
    (run,) = read_runs(path)
    assert run.row["notes"] == 'release 26.04, a "quote"\nand a line'
    assert run.software_release == 2026.29


def test_a_note_in_another_encoding_spoils_nothing(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_bytes(to_csv(LLAMA_8B | {"notes": "NOTE"}).encode().replace(b"NOTE", "显存".encode("gbk")))
    (run,) = read_runs(path)
    assert isinstance(run, Run)


def test_columns_beyond_the_needed_ones_may_be_missing(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(to_csv(LLAMA_8B, columns=NEEDED_COLUMNS), encoding="utf-8")
    (run,) = read_runs(path)
    assert run.plan.devices == 64


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "columns"),
        (b"a,b,c\n1,2,3\n", "layers"),
        (b"\x00\x01\x02\x03" * 100, "binary"),
        (to_csv(LLAMA_8B).encode("utf-16"), "binary"),
        (b'{"json": true}', "columns"),
        (",".join([*NEEDED_COLUMNS, "model"]).encode(), "once"),
    ],
)
def test_a_file_that_is_no_such_table_is_an_error(tmp_path, content, words):
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=words):
        read_runs(path)


def test_a_missing_file_and_a_directory_are_errors(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InvalidInput, match="readable"):
            read_runs(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.csv"
    with path.open("wb") as file:
        file.truncate(201 * 10**6)
    with pytest.raises(InvalidInput, match="200 MB"):
        read_runs(path)
