"""What is trained: model, task, data volume, batch and number formats."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from jobs.estimation.architecture import Architecture
from jobs.estimation.hardware import PRECISIONS
from jobs.estimation.presets import get_preset, presets
from jobs.estimation.validation import (
    InvalidInput,
    check_boolean,
    check_choice,
    check_integer,
    check_keys,
    check_mapping,
    check_number,
    check_text,
)

TASKS: Final = ("pretraining", "continued_pretraining", "full_finetuning", "lora", "qlora", "preference_tuning")
ADAPTER_TASKS: Final = ("lora", "qlora")
OPTIMIZERS: Final = ("adamw", "adamw_8bit", "adafactor", "muon", "lion", "sgd_momentum", "sgd")
FRAMEWORKS: Final = ("megatron", "deepspeed", "fsdp", "jax", "mindspore", "paddle", "native")
LORA_TARGETS: Final = ("attention_qv", "attention", "all_linear")
ATTENTION_KERNELS: Final = ("flash", "standard")

REFERENCE_YEAR: Final = 2026.5
"""Software of this date is what an estimate assumes; published runs say theirs."""

MAX_TOKENS: Final = 10**16
MAX_SEQUENCE_LENGTH: Final = 10_000_000
MAX_GLOBAL_BATCH_SIZE: Final = 1_000_000

# Batches of GPT-3 (arXiv 2005.14165, table 2.1): 0.5M tokens for small models, 2M and more from 6.7B.
_BATCH_TOKENS_LARGE: Final = 2**22
_BATCH_TOKENS_SMALL: Final = 2**19
_LARGE_MODEL: Final = 6 * 10**9
_FINETUNING_BATCH: Final = 128
_DEFAULT_SEQUENCE_LENGTH: Final = 4096


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A training job without its hardware.

    `global_batch_size` counts sequences; `tokens` is what the run sees in all (epochs included).
    `attention_kernel` "flash" never stores the score matrix; "standard" is unfused attention with dropout masks,
    as in 2021-22 stacks and in plain NumPy. `framework` is the family of the training software: "megatron" (Megatron
    Core and what is built on it), "deepspeed" (Megatron-DeepSpeed, ZeRO), "fsdp" (PyTorch FSDP, eager kernels), "jax"
    (MaxText, Paxml), "mindspore", "paddle", "native" (hand-written loops such as llm.c). `fp32_gradients`: gradients
    accumulate, and are reduced, in fp32 (Megatron-LM); NVIDIA's performance recipes use 16 bits. `software_year` is
    the date of the training software as a year with decimals; older software is slower, above all for mixtures of
    experts. `fused_kernels`: fine-tuning with FSDP or DeepSpeed runs fused norms, activations and losses (Transformer
    Engine, Liger) instead of the model's plain code. `pure_bf16`: gradients and optimizer states are 16-bit, too, and
    there is no fp32 master copy (torchtune, litgpt's "bf16-true", Transformers where the weights were loaded in bf16).
    "preference_tuning" (DPO) trains all weights and runs a frozen reference model forward.
    `bytes_per_token_on_disk` is that of tokenised data.
    """

    architecture: Architecture
    tokens: int
    task: str = "pretraining"
    sequence_length: int = _DEFAULT_SEQUENCE_LENGTH
    global_batch_size: int = _FINETUNING_BATCH
    precision: str = "bf16"
    optimizer: str = "adamw"
    lora_rank: int = 16
    lora_targets: str = "all_linear"
    attention_kernel: str = "flash"
    framework: str = "megatron"
    fp32_gradients: bool = True
    software_year: float = REFERENCE_YEAR
    bytes_per_token_on_disk: float = 2.0
    preset: str | None = field(default=None, compare=False)
    pure_bf16: bool = False
    fused_kernels: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.architecture, Architecture):
            raise InvalidInput("architecture", self.architecture, "an Architecture")
        check_choice("task", self.task, TASKS)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("lora_targets", self.lora_targets, LORA_TARGETS)
        check_choice("attention_kernel", self.attention_kernel, ATTENTION_KERNELS)
        check_choice("framework", self.framework, FRAMEWORKS)
        check_boolean("fp32_gradients", self.fp32_gradients)
        check_boolean("fused_kernels", self.fused_kernels)
        if check_boolean("pure_bf16", self.pure_bf16) and self.precision != "bf16":
            raise InvalidInput("pure_bf16", True, f"false with precision {self.precision}")
        bounds = {
            "tokens": MAX_TOKENS,
            "sequence_length": MAX_SEQUENCE_LENGTH,
            "global_batch_size": MAX_GLOBAL_BATCH_SIZE,
            "lora_rank": 4096,
        }
        for name, maximum in bounds.items():
            object.__setattr__(self, name, check_integer(name, getattr(self, name), minimum=1, maximum=maximum))
        year = check_number("software_year", self.software_year, minimum=2017.0, maximum=2100.0)
        object.__setattr__(self, "software_year", year)
        number = check_number("bytes_per_token_on_disk", self.bytes_per_token_on_disk, minimum=0.0, maximum=1e7)
        object.__setattr__(self, "bytes_per_token_on_disk", number)
        rows = self.architecture.learned_position_rows
        if rows and self.sequence_length > rows:
            raise InvalidInput(
                "sequence_length", self.sequence_length, f"at most {rows}: the model's learned positions"
            )
        if self.preset is not None:
            check_text("preset", self.preset)

    @property
    def tokens_per_step(self) -> int:
        return self.global_batch_size * self.sequence_length

    @property
    def steps(self) -> int:
        """Optimizer steps, the last one rounded up."""
        return -(-self.tokens // self.tokens_per_step)

    @property
    def is_adapter(self) -> bool:
        """Whether only low-rank adapters are trained (LoRA, QLoRA)."""
        return self.task in ADAPTER_TASKS

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Workload":
        """Build from the JSON object that the form and the API send.

        `model` is {"preset": name}, {"config": a Hugging Face config.json} or {"architecture": Architecture.to_dict()};
        `tokens` is required, too. Defaults: the preset's own, else task pretraining, sequences of 4,096 tokens (or the
        model's positions if fewer), batches of 4Mi tokens (0.5Mi below 6B parameters; 128 sequences for fine-tuning),
        bf16, AdamW, LoRA rank 16 on all linear layers, FlashAttention, 2 bytes a token on disk (4 above 65,536 words).
        Raises InvalidInput, also for a key that is not known.
        """
        mapping = check_mapping("workload", data)
        names = {item.name for item in fields(cls)} - {"architecture", "preset"}
        check_keys("", mapping, known=names | {"model"}, required=("model", "tokens"))
        architecture, preset, defaults = _read_model(mapping["model"])
        values = {**defaults, **{name: value for name, value in mapping.items() if name != "model"}}
        if "sequence_length" not in values:
            values["sequence_length"] = min(_DEFAULT_SEQUENCE_LENGTH, architecture.max_position_embeddings)
        if "global_batch_size" not in values:
            values["global_batch_size"] = _default_batch(architecture, values)
        if "bytes_per_token_on_disk" not in values:
            values["bytes_per_token_on_disk"] = 2.0 if architecture.vocab_size <= 65_536 else 4.0
        return cls(architecture=architecture, preset=preset, **values)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that `from_dict` reads back to an equal workload."""
        data = {item.name: getattr(self, item.name) for item in fields(self)}
        del data["architecture"], data["preset"]
        known = presets().get(self.preset) if self.preset else None
        by_name = known is not None and known.architecture == self.architecture
        data["model"] = {"preset": self.preset} if by_name else {"architecture": self.architecture.to_dict()}
        return data


def _read_model(given: object) -> tuple[Architecture, str | None, Mapping[str, Any]]:
    model = check_mapping("model", given)
    check_keys("model", model, known=("preset", "config", "architecture"))
    if len(model) != 1:
        raise InvalidInput("model", sorted(model), "exactly one of preset, config, architecture")
    if "preset" in model:
        preset = get_preset(model["preset"])
        return preset.architecture, preset.name, preset.defaults
    if "config" in model:
        return Architecture.from_hf_config(check_mapping("model.config", model["config"])), None, {}
    return Architecture.from_dict(check_mapping("model.architecture", model["architecture"])), None, {}


def _default_batch(architecture: Architecture, values: Mapping[str, Any]) -> int:
    if values.get("task", "pretraining") not in ("pretraining", "continued_pretraining"):
        return _FINETUNING_BATCH
    length = check_integer("sequence_length", values["sequence_length"], minimum=1, maximum=MAX_SEQUENCE_LENGTH)
    tokens = _BATCH_TOKENS_LARGE if architecture.parameters >= _LARGE_MODEL else _BATCH_TOKENS_SMALL
    # Down to a power of two, which divides over data-parallel ranks.
    return int(1 << (max(1, tokens // length).bit_length() - 1))
