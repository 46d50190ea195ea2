"""What the selects of a new job offer."""

from typing import Any

from django.utils.translation import gettext_lazy

from jobs.estimation import OPTIMIZERS, RECOMPUTATIONS, TASKS, presets
from jobs.estimation.hardware import PRECISIONS
from jobs.estimation.plan import OFFLOADS, SCHEDULES
from jobs.estimation.workload import FRAMEWORKS
from jobs.services.estimates import preset_title

_AUTOMATIC = ("", gettext_lazy("Automatic"))
_TASK_NAMES = {
    "pretraining": gettext_lazy("Pretraining"),
    "continued_pretraining": gettext_lazy("Continued pretraining"),
    "full_finetuning": gettext_lazy("Full fine-tuning"),
    "lora": gettext_lazy("LoRA fine-tuning"),
    "qlora": gettext_lazy("QLoRA fine-tuning"),
    "preference_tuning": gettext_lazy("Preference tuning (DPO)"),
}
TASK_CHOICES = [(code, _TASK_NAMES[code]) for code in TASKS]
PRECISION_CHOICES = [_AUTOMATIC, *((code, code) for code in PRECISIONS)]
_OPTIMIZER_NAMES = {
    "adamw": "AdamW",
    "adamw_8bit": gettext_lazy("AdamW, 8-bit states"),
    "adafactor": "Adafactor",
    "muon": "Muon",
    "lion": "Lion",
    "sgd_momentum": gettext_lazy("SGD with momentum"),
    "sgd": "SGD",
}
OPTIMIZER_CHOICES = [_AUTOMATIC, *((code, _OPTIMIZER_NAMES[code]) for code in OPTIMIZERS)]
_FRAMEWORK_NAMES = {
    "megatron": "Megatron",
    "deepspeed": "DeepSpeed",
    "fsdp": "PyTorch FSDP",
    "jax": "JAX",
    "mindspore": "MindSpore",
    "paddle": "PaddlePaddle",
    "native": gettext_lazy("Hand-written loop"),
}
FRAMEWORK_CHOICES = [_AUTOMATIC, *((code, _FRAMEWORK_NAMES[code]) for code in FRAMEWORKS)]
GRADIENT_CHOICES = [
    _AUTOMATIC,
    ("fp32", gettext_lazy("fp32: accumulated exactly")),
    ("16-bit", gettext_lazy("16 bits: half the memory and traffic")),
    ("pure-bf16", gettext_lazy("bf16, and no fp32 copy of the weights")),
]
_RECOMPUTATION_NAMES = {
    "none": gettext_lazy("None"),
    "selective": gettext_lazy("Selective"),
    "full": gettext_lazy("Full"),
}
RECOMPUTATION_CHOICES = [(code, _RECOMPUTATION_NAMES[code]) for code in RECOMPUTATIONS]
_SCHEDULE_NAMES = {"1f1b": "1F1B", "zero_bubble": gettext_lazy("Zero bubble")}
SCHEDULE_CHOICES = [(code, _SCHEDULE_NAMES[code]) for code in SCHEDULES]
OFFLOAD_NAMES = {
    "none": gettext_lazy("Nothing"),
    "optimizer": gettext_lazy("Optimizer states"),
    "optimizer_and_weights": gettext_lazy("Optimizer states and weights"),
}
OFFLOAD_CHOICES = [(code, OFFLOAD_NAMES[code]) for code in OFFLOADS]
TARGET_NAMES = {
    "attention_qv": gettext_lazy("Attention: query and value"),
    "attention": gettext_lazy("Attention: all projections"),
    "all_linear": gettext_lazy("All linear layers"),
}
_GROUP_NAMES = {"demo": gettext_lazy("For trying out"), "llama": "Llama", "qwen": "Qwen", "gpt": "GPT"}


def preset_choices() -> list[tuple[Any, list[tuple[str, str]]]]:
    """Presets by group, in the reader's language."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for preset in presets().values():
        groups.setdefault(preset.group, []).append((preset.name, preset_title(preset)))
    return [(_GROUP_NAMES.get(group, group.title()), items) for group, items in groups.items()]
