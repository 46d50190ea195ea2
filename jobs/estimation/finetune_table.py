"""Published memory readings of fine-tuning (catalog/finetune_memory.csv): read, predicted and scored.

`read_finetune_table` turns each row into a workload, a machine and a plan, or says why it can't be scored: a row counts
if it was measured, its model is known, and method, micro-batch and the length of its sequences are published.
`score_finetuning` compares what memory.py says with what was read. The reading never influences how a row is read, with
one exception, which only refuses: a full fine-tuning that took less than AdamW's states had another optimizer.
"""

import csv
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from jobs.estimation.architecture import Architecture
from jobs.estimation.catalog_files import CATALOG
from jobs.estimation.columns import stack_columns
from jobs.estimation.geometry import lay_out
from jobs.estimation.hardware import GIB, Accelerator, Machine, find_accelerator
from jobs.estimation.memory import compute_memory, count_fixed_bytes
from jobs.estimation.plan import Floats, ParallelPlan, add_up
from jobs.estimation.presets import get_preset
from jobs.estimation.run_cells import Cells
from jobs.estimation.run_table import Refused, open_table
from jobs.estimation.validation import InvalidInput
from jobs.estimation.workload import Workload

FINETUNE_MEMORY: Final = CATALOG / "finetune_memory.csv"

_COLUMNS: Final = (
    *("id", "source", "kind", "model", "method", "bits_base", "accelerator", "devices"),
    *("micro_batch", "seq_len", "grad_checkpoint", "memory_gb_per_device", "memory_unit", "notes"),
)


@dataclass(frozen=True, kw_only=True)
class FinetuneRun:
    """One published reading. `memory_quantity`: "device" (what the driver shows), "reserved" or "allocated" (PyTorch's
    allocator with or without its cache, both without the context)."""

    id: str
    source: str
    workload: Workload
    machine: Machine
    plan: ParallelPlan
    memory_bytes: float
    memory_quantity: str
    has_varying_lengths: bool
    assumed: tuple[str, ...]


# --- Models ----------------------------------------------------------------------------------------------------------

_PRESETS: Final = (
    (r"llama-?2-7b|^llama-7b|^llama 2 \(7", "llama-2-7b"),
    (r"llama-?2-13b|^llama 2 \(13", "llama-2-13b"),
    (r"llama-?2-70b", "llama-2-70b"),
    (r"llama-?3(?:\.1)?-8b", "llama-3.1-8b"),
    (r"llama-?3\.[13]-70b", "llama-3.1-70b"),
    (r"zephyr-7b|mistral-7b", "mistral-7b"),
    (r"^qwen2\.5-(7b|14b|32b|72b)", r"qwen2.5-\1"),
    (r"^qwen3-(32b|30b-a3b)", r"qwen3-\1"),
    (r"chatglm3-6b", "chatglm3-6b"),
    (r"gpt-oss-20b", "gpt-oss-20b"),
)

_QWEN: Final = {"model_type": "qwen", "seq_length": 8192}
_LLAMA: Final = {"model_type": "llama", "max_position_embeddings": 8192}
_GEMMA: Final = {"vocab_size": 256000, "max_position_embeddings": 8192, "head_dim": 256}


def _shape(layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, vocab: int) -> dict[str, int]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
    }


# Models of this table that are no presets: the keys of each one's config.json that decide its size.
_CONFIGS: Final[tuple[tuple[str, Mapping[str, Any]], ...]] = (
    (r"^qwen-1[._]8b", _QWEN | _shape(24, 2048, 11008, 16, 16, 151936)),
    (r"^qwen-7b", _QWEN | _shape(32, 4096, 22016, 32, 32, 151936)),
    (r"^qwen-14b", _QWEN | _shape(40, 5120, 27392, 40, 40, 152064)),
    (r"^qwen-72b", _QWEN | _shape(80, 8192, 49152, 64, 64, 152064)),
    (r"^yi-6b", _LLAMA | _shape(32, 4096, 11008, 32, 4, 64000)),
    (r"^yi-34b", _LLAMA | _shape(60, 7168, 20480, 56, 8, 64000)),
    (r"^baichuan2-7b", {**_LLAMA, "model_type": "baichuan"} | _shape(32, 4096, 11008, 32, 32, 125696)),
    (r"^tiny-llama", _LLAMA | _shape(22, 2048, 5632, 32, 4, 32000)),
    (r"^llama-?3\.2-1b", _LLAMA | _shape(16, 2048, 8192, 32, 8, 128256) | {"tie_word_embeddings": True}),
    (r"^llama-?3\.2-3b", _LLAMA | _shape(28, 3072, 8192, 24, 8, 128256) | {"tie_word_embeddings": True}),
    (r"^gemma-2b", _GEMMA | {"model_type": "gemma"} | _shape(18, 2048, 16384, 8, 1, 256000)),
    (r"^gemma-7b", _GEMMA | {"model_type": "gemma"} | _shape(28, 3072, 24576, 16, 16, 256000)),
    (r"^gemma2-?2b", _GEMMA | {"model_type": "gemma2"} | _shape(26, 2304, 9216, 8, 4, 256000)),
    (r"^gemma2-9b", _GEMMA | {"model_type": "gemma2"} | _shape(42, 3584, 14336, 16, 8, 256000)),
    (r"^phi-1\.5", {"model_type": "phi"} | _shape(24, 2048, 8192, 32, 32, 51200)),
    (r"^phi-2", {"model_type": "phi"} | _shape(32, 2560, 10240, 32, 32, 51200)),
    (r"^phi-3", {**_LLAMA, "model_type": "phi3"} | _shape(32, 3072, 8192, 32, 32, 32064)),
    (
        r"^falcon-7b",
        {"model_type": "falcon", "multi_query": True, "parallel_attn": True, "bias": False}
        | {"num_hidden_layers": 32, "hidden_size": 4544, "num_attention_heads": 71, "vocab_size": 65024},
    ),
    (
        r"^stablelm(?:-base-| )alpha",
        {"model_type": "gpt_neox", "tie_word_embeddings": False, "max_position_embeddings": 4096}
        | _shape(16, 4096, 16384, 32, 32, 50688),
    ),
    (
        r"^qwen2\.5-3b",
        {**_LLAMA, "model_type": "qwen2", "tie_word_embeddings": True} | _shape(36, 2048, 11008, 16, 2, 151936),
    ),
    (
        r"^qwen3-14b",
        {**_LLAMA, "model_type": "qwen3", "head_dim": 128} | _shape(40, 5120, 17408, 40, 8, 151936),
    ),
    (
        r"^qwen1\.5-moe-a2\.7b",
        {"model_type": "qwen2_moe", "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408}
        | {"shared_expert_intermediate_size": 5632, "decoder_sparse_step": 1, "max_position_embeddings": 8192}
        | _shape(24, 2048, 5632, 16, 16, 151936),
    ),
)
# A vision or audio tower stands beside the language model, or the head is another one.
_OTHER_PARTS: Final = r"-vl|omni|embedding|reranker|ocr|emu3|internvl|keye|minicpm|moss|diffusion"


@cache
def _find_architecture(model: str, params_b: str) -> Architecture:
    name = model.lower().rsplit("/", 1)[-1]
    if re.search(_OTHER_PARTS, name):
        raise InvalidInput("model", model, "a language model: towers and other heads are not modelled")
    if name == "llama 2":
        name = f"llama 2 ({params_b}"
    for pattern, preset in _PRESETS:
        found = re.search(pattern, name)
        if found:
            return get_preset(found.expand(preset)).architecture
    for pattern, config in _CONFIGS:
        if re.search(pattern, name):
            return Architecture.from_hf_config(config)
    raise InvalidInput("model", model, "a model whose dimensions are known")


# --- One row ---------------------------------------------------------------------------------------------------------


def read_finetune_table(path: Path = FINETUNE_MEMORY) -> list[FinetuneRun | Refused]:
    """All rows in order; a row that can't be scored comes back as Refused with the reason.

    Raises InvalidInput for a file that can't be read or lacks columns.
    """
    with open_table(path) as file:
        reader = csv.DictReader(file)
        missing = sorted(set(_COLUMNS) - set(reader.fieldnames or ()))
        if missing:
            allowed = "a CSV header with the columns " + ", ".join(missing)
            raise InvalidInput("table.header", ",".join(reader.fieldnames or ()), allowed)
        rows = [read_finetune_row(row) for row in reader]
    alone = {_describe_reading(row) for row in rows if isinstance(row, FinetuneRun) and row.plan.devices == 1}
    return [_refuse_repeated(row, alone) for row in rows]


def _describe_reading(run: FinetuneRun) -> tuple[object, ...]:
    workload = run.workload
    size = (workload.sequence_length, run.plan.micro_batch_size)
    return (run.source, workload.architecture, workload.task, *size, run.memory_bytes)


def _refuse_repeated(row: FinetuneRun | Refused, alone: Collection[tuple[object, ...]]) -> FinetuneRun | Refused:
    """Refuse a sharded run whose reading is to the digit that of one device: it can't be both."""
    if isinstance(row, Refused) or row.plan.devices == 1 or _describe_reading(row) not in alone:
        return row
    reason = f"memory_gb_per_device: {row.memory_bytes / 1e9:.2f} GB on {row.plan.devices} devices repeats one device's"
    return Refused(id=row.id, source=row.source, reason=reason)


def read_finetune_row(row: Mapping[str, str]) -> FinetuneRun | Refused:
    """The run of a row, or why it can't be scored."""
    try:
        return _parse(Cells(row))
    except InvalidInput as error:
        return Refused(id=row.get("id", ""), source=row.get("source", ""), reason=str(error))


def _parse(cells: Cells) -> FinetuneRun:
    memory_bytes = _read_memory(cells)
    task = _read_task(cells)
    architecture = _find_architecture(cells.text("model"), cells.text("params_b"))
    if cells.text("source").startswith("litgpt"):
        # litgpt's checkpoints hold the output projection as a matrix of its own.
        architecture = replace(architecture, tied_embeddings=False)
    micro_batch, sequence = _read_tokens(cells)
    _check_software(cells)
    framework = _read_framework(cells, task)
    plan = _read_plan(cells, task, framework, micro_batch)
    rank, targets = _read_adapters(cells, task)
    optimizer = "adamw_8bit" if re.search(r"8-?bit", _join(cells, "optimizer", "method", "notes")) else "adamw"
    workload = Workload(
        architecture=architecture,
        tokens=10**6,
        task=task,
        sequence_length=sequence,
        global_batch_size=micro_batch * plan.data_parallel * _read_accumulation(cells),
        precision="fp8" if "fp8:" in cells.words("notes") else "bf16",
        optimizer=optimizer,
        lora_rank=rank,
        lora_targets=targets,
        attention_kernel="standard" if re.match(r"n|unfused|eager", cells.words("flash_attention")) else "flash",
        framework=framework,
        pure_bf16=_is_pure_bf16(cells, task, framework),
    )
    run = FinetuneRun(
        id=cells.text("id"),
        source=cells.text("source"),
        workload=workload,
        machine=Machine(accelerator=_read_accelerator(cells)),
        plan=plan,
        memory_bytes=memory_bytes,
        memory_quantity=_read_quantity(cells),
        has_varying_lengths=cells.text("source") in _VARYING_SOURCES,
        assumed=tuple(cells.assumed),
    )
    _check_optimizer(run, cells)
    return run


def _join(cells: Cells, *columns: str) -> str:
    return "; ".join(cells.words(column) for column in columns)


def _read_memory(cells: Cells) -> float:
    kind = cells.words("kind")
    if not kind.startswith("measured"):
        raise InvalidInput("kind", cells.text("kind"), "measured or measured(rounded)")
    memory = cells.number("memory_gb_per_device", maximum=1e6)
    if memory is None:
        raise InvalidInput("memory_gb_per_device", "", "a number above 0")
    # "GB" of nvidia-smi and of most tools are 2^30 bytes; only litgpt divides by 10^9.
    return memory * (1e9 if "1e9" in cells.words("memory_unit") else GIB)


def _read_task(cells: Cells) -> str:
    method = cells.words("method")
    if "int8" in method or cells.words("bits_base") not in ("16", "4"):
        raise InvalidInput("bits_base", f"{cells.text('bits_base')} ({method})", "16, or 4 with QLoRA")
    patterns = (
        (r"lora(?: \(multinode\)| \(hf\+fa2\))?", "lora"),
        (r"q-?lora(?: nf4(?:\+dq(?:\+paged)?)?| int4 \((?:gptq|bnb)\)| \(hf.*\))?", "qlora"),
        (r"full(?:-parameter| \(low-memory.*\))?", "full_finetuning"),
        (r"full rlhf:dpo", "preference_tuning"),
    )
    for pattern, task in patterns:
        if re.fullmatch(pattern, method):
            return task
    raise InvalidInput("method", cells.text("method"), "LoRA, QLoRA or full fine-tuning, or DPO of all weights")


# Where the largest batch has the printed length: padded to it, or (varying lengths) the longest samples reach it.
_VARYING_SOURCES: Final = ("ms-swift benchmark (2024)", "litgpt config_hub", "litgpt resource tables (2023-10)")
_FULL_SOURCES: Final = (*_VARYING_SOURCES, "Qwen README profiling", "LLaMA-Factory wiki via unsloth README")


def _read_tokens(cells: Cells) -> tuple[int, int]:
    """Micro-batch and tokens of a sequence."""
    numbers = []
    for column in ("micro_batch", "seq_len"):
        if "~" in cells.text(column):
            raise InvalidInput(column, cells.text(column), "a number that the source prints")
        number = cells.integer(column)
        if number is None:
            raise InvalidInput(column, "", "a number: memory can't be known without it")
        numbers.append(number)
    is_packed = cells.words("packing") in ("true", "y")
    if not is_packed and cells.text("source") not in _FULL_SOURCES:
        raise InvalidInput("packing", cells.text("packing"), "true: seq_len only caps samples of unknown length")
    return numbers[0], numbers[1]


def _check_software(cells: Cells) -> None:
    """Refuse what the workload can't express."""
    text = _join(cells, "method", "notes")
    if "unsloth+" in text or "unsloth equal" in text or "unsloth open" in text:
        raise InvalidInput("method", cells.text("method"), "a stack with the model's own kernels")
    # torchtune's recipes compute the loss in chunks (CEWithChunkedOutputLoss), which its ladder adds step by step.
    is_early_step = "baseline" in text or "+packed" in text or "+compile" in text
    if cells.text("source") == "torchtune README" and not is_early_step:
        raise InvalidInput("notes", cells.text("notes"), "whole logits: the recipe computes the loss in chunks")


def _read_framework(cells: Cells, task: str) -> str:
    if "megatron" in cells.words("notes"):
        return "megatron"
    # Qwen's scripts for all weights and for Q-LoRA (finetune_ds.sh, finetune_qlora_*.sh) run DeepSpeed, also alone.
    is_qwen = cells.text("source") == "Qwen README profiling"
    is_deepspeed = task != "lora" if is_qwen else "zero" in cells.words("zero_offload")
    return "deepspeed" if is_deepspeed else "fsdp"


def _read_accelerator(cells: Cells) -> Accelerator:
    name = cells.text("accelerator").rstrip("~ ")
    return find_accelerator("H20" if "H20" in name else name, field_name="accelerator")


_CHECKPOINTING_ASSUMED: Final = {"LLaMA-Factory wiki via unsloth README": "full"}


def _read_plan(cells: Cells, task: str, framework: str, micro_batch: int) -> ParallelPlan:
    devices = cells.integer("devices", maximum=10**5)
    if devices is None:
        raise InvalidInput("devices", "", "a number")
    tp, pp, ep = (cells.integer(name) or 1 for name in ("tp", "pp", "ep"))
    sharding = cells.words("zero_offload")
    if "device_map" in sharding:
        # Layers spread over the devices, which work one after the other.
        pp = devices
    if devices % (tp * pp):
        raise InvalidInput("devices", devices, f"a multiple of tp x pp ({tp * pp})")
    stage = re.search(r"zero-?([123])", sharding)
    zero = int(stage.group(1)) if stage else 3 if "fsdp" in sharding else 1 if framework == "megatron" else 0
    if devices > 1 and framework != "megatron" and zero == 0 and pp == 1:
        raise InvalidInput("zero_offload", cells.text("zero_offload"), "how several devices share the job")
    return ParallelPlan(
        tensor_parallel=tp,
        pipeline_parallel=pp,
        data_parallel=devices // (tp * pp),
        expert_parallel=ep,
        zero_stage=zero,
        micro_batch_size=micro_batch,
        recomputation=_read_recomputation(cells, devices),
        sequence_parallel=tp > 1,
        offload="optimizer" if re.search(r"offload", sharding) or "paged" in cells.words("optimizer") else "none",
    )


def _read_recomputation(cells: Cells, devices: int) -> str:
    text = cells.words("grad_checkpoint")
    # litgpt's FSDP strategy always checkpoints blocks; the row's "n ~" is the single device's.
    is_assumed = "~" in cells.text("grad_checkpoint") and "fsdp" in cells.words("zero_offload")
    if not text or is_assumed:
        source = cells.text("source")
        # litgpt checkpoints blocks under FSDP only.
        value = _CHECKPOINTING_ASSUMED.get(source, "full" if devices > 1 else "none")
        cells.assume("grad_checkpoint", value, "the stack's default")
        return value
    if re.match(r"y|true|full", text):
        return "full"
    if re.match(r"n|false", text):
        return "none"
    if text == "selective":
        # Megatron's selective recomputation is the attention core, which a flash kernel recomputes anyway.
        return "none"
    raise InvalidInput("grad_checkpoint", text, "y, n, full, selective or empty")


def _read_accumulation(cells: Cells) -> int:
    text = cells.words("grad_accum")
    return int(text) if text.isdigit() else 1


# What litgpt's config_hub/finetune/*/(q)lora.yaml adapt where the row has no say: (rank, targets).
_LITGPT_ALL_LINEAR: Final = r"gemma|phi|^tiny-llama"


def _read_adapters(cells: Cells, task: str) -> tuple[int, str]:
    if task not in ("lora", "qlora"):
        return 16, "all_linear"
    text = cells.words("lora_targets")
    rank = cells.text("lora_rank").rstrip("~ ")
    is_all = bool(re.search(r"all", text))
    targets = "all_linear" if is_all else "attention_qv" if re.search(r"q,v", text) else "attention"
    if not text:
        name = cells.words("model")
        is_hub = cells.text("source") == "litgpt config_hub"
        targets = "attention_qv" if is_hub and not re.search(_LITGPT_ALL_LINEAR, name) else "all_linear"
        if is_hub:
            rank = "8" if re.search(r"gemma|phi", name) else "32"
        cells.assume("lora_targets", targets, "as in the source's configuration")
    if not rank.isdigit():
        cells.assume("lora_rank", 16, "the row prints none")
        rank = "16"
    return int(rank), targets


def _is_pure_bf16(cells: Cells, task: str, framework: str) -> bool:
    """Whether weights, gradients and optimizer states are all 16-bit: what the source says, or loads."""
    text = cells.words("precision_trainable")
    if framework != "fsdp":
        return False
    if text in ("bf16-true", "pure_bf16") or text.startswith("bf16 (pure"):
        return True
    # Transformers trains all weights in the type that it loaded them in; sharded ones get an fp32 copy.
    is_alone = "zero" not in cells.words("zero_offload") and "fsdp" not in cells.words("zero_offload")
    return task == "full_finetuning" and is_alone


_ALLOCATED: Final = ("litgpt", "torchtune README")
_RESERVED: Final = ("ms-swift benchmark", "torchtune README (older)")


def _read_quantity(cells: Cells) -> str:
    source = cells.text("source")
    if source.startswith(_RESERVED):
        return "reserved"
    return "allocated" if source.startswith(_ALLOCATED) else "device"


def _check_optimizer(run: FinetuneRun, cells: Cells) -> None:
    """Refuse a full fine-tuning on one device whose AdamW alone would not fit into the reading."""
    if run.workload.task != "full_finetuning" or run.plan.devices > 1 or cells.text("optimizer"):
        return
    least = 8 * run.workload.architecture.parameters
    if run.memory_bytes < least:
        raise InvalidInput(
            "optimizer", "", f"named: weights, gradients and AdamW's states in 16 bits take {least / 1e9:.1f} GB"
        )


# --- Scores ----------------------------------------------------------------------------------------------------------

METHODS: Final[Mapping[str, str]] = {
    "lora": "LoRA",
    "qlora": "QLoRA",
    "full_finetuning": "full",
    "preference_tuning": "DPO",
}


# Batches of ever new lengths fit into no block that the allocator has kept of shorter ones, so that it holds the moving
# part about twice (PyTorch's notes on CUDA memory management: fragmentation with changing shapes).
_VARYING_LENGTH_CACHE: Final = 1.0


def predict_memory(runs: Sequence[FinetuneRun]) -> Floats:
    """Bytes that each run's source would have read: less what it does not count."""
    columns = stack_columns([(run.workload, run.machine, run.plan) for run in runs])
    parts = compute_memory(columns, lay_out(columns))
    quantity = np.array([run.memory_quantity for run in runs])
    fixed = count_fixed_bytes(columns)
    moving = parts["activations"] + parts["logits"] + parts["communication"]
    allocated = add_up(parts) - parts["overhead"]
    room = np.maximum(columns.machine.memory_bytes - allocated - fixed, 0.0)
    varies = np.array([run.has_varying_lengths for run in runs])
    cached = np.where(varies, np.minimum(_VARYING_LENGTH_CACHE * moving, room), parts["overhead"] - fixed)
    memory = allocated + np.where(quantity == "allocated", 0.0, cached) + np.where(quantity == "device", fixed, 0.0)
    return np.broadcast_to(memory, len(runs))


def score_finetuning(path: Path = FINETUNE_MEMORY) -> dict[str, Any]:
    """Error of predicted memory in percent of the reading, by method and by source, as a JSON-able object."""
    rows = read_finetune_table(path)
    runs = [row for row in rows if isinstance(row, FinetuneRun)]
    refused = [row for row in rows if isinstance(row, Refused)]
    ratios = predict_memory(runs) / np.array([run.memory_bytes for run in runs])
    order = np.argsort(-np.abs(ratios - 1))
    return {
        "rows": len(rows),
        "rows_scored": len(runs),
        "all": _summarise(ratios),
        "by_method": _group(runs, ratios, lambda run: METHODS[run.workload.task]),
        "by_source": _group(runs, ratios, lambda run: run.source),
        "worst": [{"id": runs[row].id, "ratio": float(ratios[row])} for row in order[:20]],
        "refused": {item.id: item.reason for item in refused},
    }


def _group(runs: Sequence[FinetuneRun], ratios: Floats, key: Callable[[FinetuneRun], str]) -> dict[str, Any]:
    keys = np.array([key(run) for run in runs])
    return {str(name): _summarise(ratios[keys == name]) for name in np.unique(keys)}


def _summarise(ratios: Floats) -> dict[str, Any]:
    if not len(ratios):
        return {"rows": 0}
    errors = 100 * np.abs(ratios - 1)
    return {
        "rows": len(ratios),
        "median_error_pct": float(np.median(errors)),
        "p90_error_pct": float(np.quantile(errors, 0.9)),
        "bias_pct": float(100 * np.median(ratios - 1)),
    }


def format_finetuning(result: Mapping[str, Any]) -> list[str]:
    """The table of `score_finetuning` as lines of text."""
    lines = [
        f"Fine-tuning memory ({result['rows']} readings, {result['rows_scored']} scored)",
        f"  {'':44} {'rows':>5} {'median':>8} {'P90':>8} {'bias':>8}",
    ]
    tables = {"all": result["all"], **result["by_method"], **result["by_source"]}
    for name, table in tables.items():
        if table["rows"]:
            errors = "".join(f" {table[key]:7.1f}%" for key in ("median_error_pct", "p90_error_pct", "bias_pct"))
            lines.append(f"  {name[:44]:44} {table['rows']:5d}{errors}")
    return lines


if __name__ == "__main__":
    print("\n".join(format_finetuning(score_finetuning())))
