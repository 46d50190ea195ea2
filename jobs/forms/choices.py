"""What the selects of a new job offer."""

from typing import Any

from django.utils.translation import get_language
from django.utils.translation import gettext_lazy as lazy

from jobs.estimation import OPTIMIZERS, RECOMPUTATIONS, presets

TASK_CHOICES = [
    ("pretraining", lazy("Pretraining")),
    ("continued_pretraining", lazy("Continued pretraining")),
    ("full_finetuning", lazy("Full fine-tuning")),
    ("lora", lazy("LoRA fine-tuning")),
    ("qlora", lazy("QLoRA fine-tuning")),
]
PRECISION_CHOICES = [("", lazy("Automatic")), ("bf16", "bf16"), ("fp16", "fp16"), ("fp32", "fp32")]
_OPTIMIZER_NAMES = {
    "adamw": "AdamW",
    "adamw_8bit": lazy("AdamW, 8-bit states"),
    "lion": "Lion",
    "sgd_momentum": lazy("SGD with momentum"),
    "sgd": "SGD",
}
OPTIMIZER_CHOICES = [("", lazy("Automatic")), *((code, _OPTIMIZER_NAMES[code]) for code in OPTIMIZERS)]
_RECOMPUTATION_NAMES = {"none": lazy("None"), "selective": lazy("Selective"), "full": lazy("Full")}
RECOMPUTATION_CHOICES = [(code, _RECOMPUTATION_NAMES[code]) for code in RECOMPUTATIONS]
TARGET_NAMES = {
    "attention_qv": lazy("Attention: query and value"),
    "attention": lazy("Attention: all projections"),
    "all_linear": lazy("All linear layers"),
}
_GROUP_NAMES = {"demo": lazy("For trying out"), "llama": "Llama", "qwen": "Qwen", "gpt": "GPT"}


def preset_choices() -> list[tuple[Any, list[tuple[str, str]]]]:
    """Presets by group, in the reader's language."""
    is_chinese = (get_language() or "").startswith("zh")
    groups: dict[str, list[tuple[str, str]]] = {}
    for preset in presets().values():
        groups.setdefault(preset.group, []).append((preset.name, preset.title_zh if is_chinese else preset.title))
    return [(_GROUP_NAMES.get(group, group.title()), items) for group, items in groups.items()]
