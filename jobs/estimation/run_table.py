"""Published training runs: from rows of a CSV table to `Run` objects.

The table's columns are those of catalog/published_runs.csv. Its rows were written down from many sources in the words
of each, so the reader knows those words: it is lenient where a row is silent (an empty cell is assumed, and `assumed`
says what and why) and strict where a row contradicts itself (InvalidInput with column, value and rule). It decides
what is possible by what was done: rules of the plan search (heads, layers, nodes) don't apply to a run that took place.

The measured columns never influence how a run is read, so a table without them is read alike.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TextIO

from jobs.estimation.architecture import Architecture
from jobs.estimation.hardware import GIB, Accelerator, Machine, find_accelerator
from jobs.estimation.plan import ParallelPlan
from jobs.estimation.run_architecture import read_architecture
from jobs.estimation.run_cells import Cells
from jobs.estimation.run_plan import fit_micro_batch, read_accumulation, read_plan
from jobs.estimation.validation import MAX_SHOWN, InvalidInput
from jobs.estimation.workload import REFERENCE_YEAR, Workload

MEASURED_COLUMNS: Final = (
    "step_time_s",
    "tokens_per_s_per_device",
    "model_tflops_per_device",
    "mfu_pct",
    "memory_gb_per_device",
)
NEEDED_COLUMNS: Final = (
    *("model", "layers", "hidden", "heads", "ffn_hidden", "seq_len", "accelerator", "devices"),
    *("tp", "pp", "dp", "micro_batch", "global_batch_sequences"),
)
"""Columns without which a file is not such a table; all others count as empty where they are missing."""

MAX_FILE_BYTES: Final = 200 * 10**6
MEMORY_UNIT_BYTES: Final = GIB
"""Unit of `memory_gb_per_device`: most sources print nvidia-smi's or PyTorch's "GB", which are 2^30 bytes."""

_PROBED_BYTES: Final = 2**16


@dataclass(frozen=True, kw_only=True)
class Run:
    """One published run: what was run, and what its source measured (None where it prints nothing).

    `assumed` lists what the row leaves open as "field=value: why". Where `recompute_known` is false, the plan says
    "none" and the reader of the prediction decides by memory; where `plan_known` is false, the row prints no parallel
    degrees and the plan is a stand-in. `software_release` is the year with decimals (26.04 is 2026.29).
    """

    id: str
    source: str
    workload: Workload
    machine: Machine
    plan: ParallelPlan
    row: Mapping[str, str]
    assumed: tuple[str, ...]
    step_s: float | None = None
    tokens_per_s_per_device: float | None = None
    memory_bytes: float | None = None
    tier: str = ""
    use_for: str = ""
    recompute_known: bool = True
    plan_known: bool = True
    software_release: float | None = None
    memory_quantity: str = "device"
    """What the source measured: "device" (driver), "reserved" (by the allocator) or "allocated" (in tensors)."""
    is_out_of_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A row that describes no run; `reason` names the column, the value and the rule."""

    id: str
    source: str
    reason: str


# --- Files -----------------------------------------------------------------------------------------------------------


@contextmanager
def open_table(path: Path) -> Iterator[TextIO]:
    """Open a CSV file for reading; raises InvalidInput for what can't be one.

    Bytes that are not UTF-8 survive as surrogates, so that a note in another encoding spoils no row.
    """
    shown = show_path(path)
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InvalidInput("file", shown, f"at most {MAX_FILE_BYTES // 10**6} MB (it has {size // 10**6} MB)")
        with path.open("rb") as binary:
            if b"\0" in binary.read(_PROBED_BYTES):
                raise InvalidInput("file", shown, "a CSV file in UTF-8 (this one holds binary data)")
        file = path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise InvalidInput("file", shown, f"a readable CSV file ({error.strerror})") from None
    with file:
        yield file


def show_path(path: Path | str) -> str:
    """A path for an error message: the end of a long one, which names the file."""
    text = str(path)
    longest = MAX_SHOWN - 4
    return text if len(text) <= longest else "…" + text[-longest:]


def iterate_rows(file: TextIO, *, name: str = "table") -> Iterator[tuple[Mapping[str, str], str]]:
    """Rows of an open table, one at a time, each with a reason to refuse it ("" if it has the header's shape).

    The first pair holds the header as keys, and nothing else. Raises InvalidInput if the header lacks columns.
    """
    reader = csv.reader(file)
    header = _read_header(reader, name)
    yield dict.fromkeys(header, ""), ""
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield dict.fromkeys(header, ""), f"line {reader.line_num}: {error}"
            continue
        if not cells:
            continue
        reason = ""
        if len(cells) != len(header):
            reason = f"row: {len(cells)} cells are not allowed; allowed: {len(header)}, as the header has"
        yield dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=False)), reason


def _read_header(reader: Iterator[list[str]], name: str) -> list[str]:
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        raise InvalidInput(name, "", f"a CSV table ({error})") from None
    missing = [column for column in NEEDED_COLUMNS if column not in header]
    if missing:
        raise InvalidInput(f"{name}.header", ",".join(header), "a CSV header with the columns " + ", ".join(missing))
    doubled = sorted({column for column in header if header.count(column) > 1})
    if doubled:
        raise InvalidInput(f"{name}.header", doubled[0], "each column once")
    return header


def read_runs(source: Path | str | TextIO) -> list[Run | Refused]:
    """All rows of a table, in order; never raises for a bad row, only for a bad file (InvalidInput)."""
    if isinstance(source, Path | str):
        with open_table(Path(source)) as file:
            return _read_all(file, show_path(source))
    return _read_all(source, "table")


def _read_all(file: TextIO, name: str) -> list[Run | Refused]:
    rows = iterate_rows(file, name=name)
    next(rows)
    return [read_row(row, reason) for row, reason in rows]


def read_row(row: Mapping[str, str], reason: str = "") -> Run | Refused:
    """The run of a row, or why there is none; `reason` refuses it beforehand."""
    if not reason:
        try:
            return parse_run(row)
        except InvalidInput as error:
            reason = str(error)
    return Refused(id=row.get("id", ""), source=row.get("source", ""), reason=reason)


# --- One row ---------------------------------------------------------------------------------------------------------


def parse_run(row: Mapping[str, str]) -> Run:
    """Read one row; raises InvalidInput naming column, value and rule."""
    cells = Cells(row)
    accelerator = find_accelerator(cells.text("accelerator"), field_name="accelerator")
    release = parse_software_release(cells.text("notes"), cells.text("source"))
    precision = _read_precision(cells, accelerator)
    framework = _read_framework(cells)
    architecture, preset = read_architecture(cells)
    machine = _read_machine(cells, accelerator)
    plan, plan_known, recompute_known = read_plan(
        cells, architecture, machine, framework=framework, is_old=_is_old_stack(cells, accelerator, framework, release)
    )
    workload = _read_workload(cells, architecture, plan, precision=precision, framework=framework, release=release)
    if plan_known:
        plan = fit_micro_batch(cells, plan, workload.global_batch_size)
    if preset:
        cells.assume("architecture", preset, "the published model of this name")
    step_s, tokens_per_s, memory_bytes = _read_measured(cells, workload, plan, architecture)
    return Run(
        id=cells.text("id"),
        source=cells.text("source"),
        workload=workload,
        machine=machine,
        plan=plan,
        row=MappingProxyType(dict(row)),
        assumed=tuple(cells.assumed),
        step_s=step_s,
        tokens_per_s_per_device=tokens_per_s,
        memory_bytes=memory_bytes,
        tier=cells.text("tier"),
        use_for=cells.text("use_for"),
        recompute_known=recompute_known,
        plan_known=plan_known,
        software_release=release,
        memory_quantity=_read_memory_quantity(cells),
        is_out_of_memory=_says_out_of_memory(cells),
    )


# --- Machine ---------------------------------------------------------------------------------------------------------

# Network of a machine that a source names but not in the row: Gbit/s of a node. Jean Zay (IDRIS): 4 x 100 Gb/s
# Omni-Path in its V100 and its A100 nodes; Frontier (OLCF): 4 x 200 Gb/s Slingshot.
_NODE_GBIT_PER_S: Final = (("bigscience", 400), ("bloom-176b", 400), ("frontier", 800))


def _read_machine(cells: Cells, accelerator: Accelerator) -> Machine:
    per_node = cells.integer("devices_per_node", maximum=1024)
    if per_node is None:
        per_node = accelerator.devices_per_node
        cells.assume("devices_per_node", per_node, f"usual for {accelerator.code}")
    rate = _read_node_gbit_per_s(cells)
    if rate is None:
        return Machine(accelerator=accelerator, devices_per_node=per_node)
    return Machine(accelerator=accelerator, devices_per_node=per_node, inter_node_bytes_per_s=rate * 1e9 / 8 / per_node)


def _read_node_gbit_per_s(cells: Cells) -> float | None:
    text = f"{cells.text('notes')} {cells.text('source_ref')}"
    found = re.search(r"(\d+) ?x ?(\d+) ?Gb", text)
    if found:
        return float(found.group(1)) * float(found.group(2))
    found = re.search(r"(\d+) ?Gbps node", text)
    if found:
        return float(found.group(1))
    source = cells.words("source")
    return next((float(rate) for name, rate in _NODE_GBIT_PER_S if name in source), None)


# --- Words of the sources --------------------------------------------------------------------------------------------

_MLPERF_ROUNDS: Final = {"v2.1": 2022.86, "v3.0": 2023.49, "v3.1": 2023.86, "v4.0": 2024.45, "v4.1": 2024.87}
_MLPERF_ROUNDS_LATER: Final = {"v5.0": 2025.42, "v5.1": 2025.87, "v6.0": 2026.45}


def parse_software_release(notes: str, source: str = "") -> float | None:
    """Year with decimals of the software: a container or release YY.MM, an MLPerf round, a date; None if unsaid."""
    for text in (notes, source):
        found = re.search(r"(?:\brelease |\bpytorch |^|\bNeMo )(\d\d)\.(0[1-9]|1[0-2])(?![\d])", text)
        if not found:
            found = re.search(r"(?:\b20)(\d\d)-(0[1-9]|1[0-2])\b", text)
        if found:
            return round(2000 + int(found.group(1)) + (int(found.group(2)) - 0.5) / 12, 2)
    found = re.search(r"MLPerf Training (v\d\.\d)", source)
    if found:
        return (_MLPERF_ROUNDS | _MLPERF_ROUNDS_LATER).get(found.group(1))
    found = re.search(r"\b(20[12]\d)\b", source) or re.search(r"\b(?:SC|PPoPP)(\d\d)\b", source)
    if found:
        return float(found.group(1)) % 2000 + 2000.5
    return None


def _read_precision(cells: Cells, accelerator: Accelerator) -> str:
    text = cells.words("precision")
    peaks = accelerator.peak_flop_per_s
    sixteen_bit = next((name for name in ("bf16", "fp16", "fp32") if name in peaks), next(iter(peaks)))
    if not text:
        cells.assume("precision", sixteen_bit, "the row says nothing; what the accelerator trains with")
        return sixteen_bit
    patterns = (
        (r"fp4", "fp4"),
        (r"fp8|int8|float8", "fp8"),
        (r"^(?:fp16/bf16|bf16/fp16|amp|mixed)$", sixteen_bit),
        (r"bf16|bfloat16", "bf16"),
        (r"fp16|float16|half", "fp16"),
        (r"fp32|tf32|float32|single", "fp32"),
    )
    named = next((value for pattern, value in patterns if re.search(pattern, text)), None)
    if named is None:
        raise InvalidInput("precision", cells.text("precision"), "bf16, fp16, fp32, tf32, fp8, fp4, int8 or a mix")
    if named in peaks:
        if named != text:
            cells.assume("precision", named, f"the row says {cells.text('precision')}")
        return named
    cells.assume("precision", sixteen_bit, f"{accelerator.code} has no rate of its own for {text}")
    return sixteen_bit


_FRAMEWORK_PATTERNS: Final = (
    (r"maxtext|paxml|jax|t5x|levanter", "jax"),
    (r"mindformers|mindspore", "mindspore"),
    (r"paddle", "paddle"),
    (r"llm\.c|nanochat|nanogpt|apex|bagualu|native", "native"),
    (r"composer|fsdp|torchtitan|automodel|lit-gpt|lightning|peft|torchtune|llm-foundry|hugging|accelerate", "fsdp"),
    (r"colossal|xformers|fairscale|unsloth|axolotl|llama-factory|swift", "fsdp"),
    (r"deepspeed|neox|internevo", "deepspeed"),
    (r"megatron|nemo|mindspeed|hai-llm|gigatron|primus|simumax|vtrain|megascale|bridge|modellink", "megatron"),
)


def _read_framework(cells: Cells) -> str:
    text = cells.words("framework")
    for pattern, framework in _FRAMEWORK_PATTERNS:
        if re.search(pattern, text):
            return framework
    framework = "fsdp" if re.search(r"fsdp|zero ?-?3|shard_grad", cells.words("zero_stage_fsdp")) else "megatron"
    if text.startswith("pytorch") and framework != "fsdp":
        framework = "native"
    cells.assume("framework", framework, f"the row says {text}" if text else "the row says nothing")
    return framework


def _is_old_stack(cells: Cells, accelerator: Accelerator, framework: str, release: float | None) -> bool:
    """Whether the software is older than sequence parallelism (Korthikanti 2022, arXiv 2205.05198)."""
    if framework in ("deepspeed", "native") or "v100" in accelerator.code:
        return True
    return release is not None and release < 2022.4


# --- Workload --------------------------------------------------------------------------------------------------------


def _read_workload(
    cells: Cells,
    architecture: Architecture,
    plan: ParallelPlan,
    *,
    precision: str,
    framework: str,
    release: float | None,
) -> Workload:
    task, rank = _read_task(cells)
    total = cells.number("total_tokens_b", maximum=1e6)
    sequence = cells.integer("seq_len", maximum=10**7)
    flash = _read_attention_kernel(cells)
    optimizer = "adamw"
    for name in ("muon", "adafactor"):
        if name in f"{cells.words('zero_stage_fsdp')} {cells.words('notes')}":
            optimizer = name
    return Workload(
        architecture=architecture,
        tokens=20 * architecture.parameters if total is None else max(1, round(total * 1e9)),
        task=task,
        # An empty sequence length was chosen with the architecture.
        sequence_length=sequence or min(architecture.max_position_embeddings, 4096),
        global_batch_size=_read_global_batch(cells, plan, framework),
        precision=precision,
        optimizer=optimizer,
        lora_rank=rank,
        attention_kernel=flash,
        framework=framework,
        fp32_gradients=_read_gradient_precision(cells, framework),
        fused_kernels=bool(re.search(r"\bTE\b|triton|[Ll]iger|[Tt]ransformer [Ee]ngine", cells.text("notes"))),
        software_year=min(release or REFERENCE_YEAR, REFERENCE_YEAR),
    )


def _read_task(cells: Cells) -> tuple[str, int]:
    """Task and the rank of adapters."""
    model, notes = cells.words("model"), cells.words("notes")
    text = f"{model}; {notes}"
    if re.search(r"\bq-?lora\b|lora\b", text.replace("_", " ")):
        rank = cells.noted(r"(?:rank|\br)[ =]*(\d+)")
        if rank is None:
            cells.assume("lora_rank", 16, "the row says nothing")
        return ("qlora" if re.search(r"\bq-?lora", text) else "lora"), rank or 16
    if re.search(r"\bdpo\b", text):
        return "preference_tuning", 16
    if re.search(r"fine-?tun|\bsft\b|full ft|(?:^|; )sft;", text.replace("_", " ")):
        return "full_finetuning", 16
    return "pretraining", 16


def _read_gradient_precision(cells: Cells, framework: str) -> bool:
    """Whether gradients accumulate in fp32: not in NVIDIA's performance recipes (grad_reduce_in_fp32=False)."""
    if framework == "megatron" and re.search(r"nemo|bridge", cells.words("framework")):
        cells.assume("fp32_gradients", False, "as in NVIDIA's performance recipes")
        return False
    return True


def _read_attention_kernel(cells: Cells) -> str:
    text = cells.words("flash_attention")
    if text:
        return "standard" if re.match(r"n|false|0|off", text) else "flash"
    release = parse_software_release(cells.text("notes"), cells.text("source"))
    is_old = (release is not None and release < 2023.0) or "v100" in cells.words("accelerator")
    kernel = "standard" if is_old else "flash"
    cells.assume("flash_attention", kernel, "usual for software of that time")
    return kernel


def _read_global_batch(cells: Cells, plan: ParallelPlan, framework: str) -> int:
    given = cells.integer("global_batch_sequences", maximum=10**6) or cells.noted(r"\bGBS[ =]*(\d+)")
    if given is not None:
        return given
    one = plan.data_parallel * plan.micro_batch_size
    steps = read_accumulation(cells)
    if steps is not None:
        cells.assume("global_batch_sequences", one * steps, "dp x micro-batch x accumulation in the notes")
        return one * steps
    steps = 1 if framework == "jax" else 4 * plan.pipeline_parallel if plan.pipeline_parallel > 1 else 8
    cells.assume("global_batch_sequences", one * steps, f"{steps} micro-batches a step, as is usual")
    return one * steps


# --- What was measured -----------------------------------------------------------------------------------------------


def _read_measured(
    cells: Cells, workload: Workload, plan: ParallelPlan, architecture: Architecture
) -> tuple[float | None, float | None, float | None]:
    """Step time, tokens/s of a device and memory; a missing one of the first two follows from the other.

    Where only hardware TFLOP/s are printed, the step follows from the formula of Narayanan 2021 (arXiv 2104.04473,
    eq. 3), which counts full recomputation: 96 B s l h^2 (1 + s/6h + V/16lh).
    """
    step_s = cells.number("step_time_s")
    rate = cells.number("tokens_per_s_per_device")
    memory = cells.number("memory_gb_per_device", maximum=1e6)
    tokens = workload.tokens_per_step / plan.devices
    if step_s is None and rate is None:
        printed = re.search(
            r"hardware (?:tera|t)flop(?:/?s)?(?:/gpu)? (\d+(?:\.\d+)?)|(\d+(?:\.\d+)?) tflop/s/gpu \(hardware\)",
            cells.words("notes"),
        )
        if printed:
            hidden, layers = architecture.hidden_size, architecture.num_hidden_layers
            attention = workload.sequence_length / (6 * hidden)
            head = architecture.vocab_size / (16 * layers * hidden)
            flop = 96 * workload.tokens_per_step * layers * hidden**2 * (1 + attention + head)
            step_s = flop / (float(printed.group(1) or printed.group(2)) * 1e12 * plan.devices)
    if step_s is None and rate is not None and cells.text("global_batch_sequences"):
        step_s = tokens / rate
    if rate is None and step_s is not None:
        rate = tokens / step_s
    return step_s, rate, None if memory is None else memory * _memory_unit(cells)


def _memory_unit(cells: Cells) -> float:
    """Bytes of the row's "GB": 10^9 where the notes print the bytes themselves or say so."""
    return 1e9 if re.search(r"peak_memory_usage|1e9|gb = 10", cells.words("notes")) else float(MEMORY_UNIT_BYTES)


def _read_memory_quantity(cells: Cells) -> str:
    """What a memory reading counts; sources that don't say it print what the driver shows."""
    text = f"{cells.words('source')} {cells.words('source_ref')} {cells.words('notes')}"
    if re.search(r"peak_memory_usage|nvidia-smi|npu-smi", text):
        return "device"
    if re.search(r"max.?(?:memory.?)?allocated|peak.(?:allocated|active)|simumax|torchtune|litgpt", text):
        return "allocated"
    return "reserved" if re.search(r"max.?(?:memory.?)?reserved|peak.reserved|torchtitan", text) else "device"


def _says_out_of_memory(cells: Cells) -> bool:
    notes = cells.words("notes")
    if re.search(r"same case with|too close to oom", notes):
        return False
    return bool(re.search(r"\boom\b|out of memory|out-of-memory", notes))
