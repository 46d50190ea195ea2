"""What the selects of a new job offer."""

from typing import Any

from django.utils.translation import gettext_lazy

from jobs.estimation import OPTIMIZERS, RECOMPUTATIONS, presets
from jobs.services.estimates import preset_title

TASK_CHOICES = [
    ("pretraining", gettext_lazy("Pretraining")),
    ("continued_pretraining", gettext_lazy("Continued pretraining")),
    ("full_finetuning", gettext_lazy("Full fine-tuning")),
    ("lora", gettext_lazy("LoRA fine-tuning")),
    ("qlora", gettext_lazy("QLoRA fine-tuning")),
]
PRECISION_CHOICES = [("", gettext_lazy("Automatic")), ("bf16", "bf16"), ("fp16", "fp16"), ("fp32", "fp32")]
_OPTIMIZER_NAMES = {
    "adamw": "AdamW",
    "adamw_8bit": gettext_lazy("AdamW, 8-bit states"),
    "lion": "Lion",
    "sgd_momentum": gettext_lazy("SGD with momentum"),
    "sgd": "SGD",
}
OPTIMIZER_CHOICES = [("", gettext_lazy("Automatic")), *((code, _OPTIMIZER_NAMES[code]) for code in OPTIMIZERS)]
_RECOMPUTATION_NAMES = {
    "none": gettext_lazy("None"),
    "selective": gettext_lazy("Selective"),
    "full": gettext_lazy("Full"),
}
RECOMPUTATION_CHOICES = [(code, _RECOMPUTATION_NAMES[code]) for code in RECOMPUTATIONS]
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
