"""From a Hugging Face `config.json` to the fields of `Architecture`, one function per family."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from jobs.estimation.hf_config.encoder import ENCODERS
from jobs.estimation.hf_config.gpt_like import GPT_LIKE
from jobs.estimation.hf_config.llama_like import LLAMA_LIKE
from jobs.estimation.hf_config.reader import FIELD, Config, Fields
from jobs.estimation.hf_config.sparse import SPARSE
from jobs.estimation.validation import InvalidInput, check_mapping

FAMILIES: Final[Mapping[str, Callable[[Config], Fields]]] = {**LLAMA_LIKE, **GPT_LIKE, **SPARSE, **ENCODERS}
"""Supported `model_type` values."""

# Multimodal models whose language part is a family of its own: that part is read, the rest is not counted.
_TEXT_PARTS: Final[Mapping[str, str]] = {"llama4": "llama4_text", "gemma3": "gemma3_text"}

_GENERIC_FIELDS: Final = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)
"""What an architecture needs at least, under the names that most configs use."""


def read_hf_config(config: Mapping[str, Any]) -> Fields:
    """Return the keyword arguments of `Architecture` for a config; raise InvalidInput if it cannot be exact."""
    data: Mapping[str, Any] = check_mapping(FIELD, config)
    reader = Config(data)
    model_type = data.get("model_type")
    known = ", ".join(sorted({*FAMILIES, *_TEXT_PARTS}))
    if model_type is None:
        raise InvalidInput(f"{FIELD}.model_type", None, f"required; one of {known}")
    if isinstance(model_type, str) and model_type in _TEXT_PARTS:
        if not reader.has("text_config"):
            raise reader.refuse("text_config", f"required for model_type {model_type!r}")
        reader = reader.section("text_config")
        given = reader.data.get("model_type", _TEXT_PARTS[model_type])
        if given != _TEXT_PARTS[model_type]:
            raise reader.refuse("model_type", _TEXT_PARTS[model_type])
        model_type = given
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise InvalidInput(f"{FIELD}.model_type", model_type, f"one of {known}{_describe_gap(data)}")
    if model_type not in SPARSE:
        _refuse_sparse_keys(reader, model_type)
    return {"family": model_type, **FAMILIES[model_type](reader)}


def _describe_gap(data: Mapping[str, Any]) -> str:
    """What to do with a config of an unknown type: where its text part is, or what the generic form would need."""
    if isinstance(data.get("text_config"), Mapping):
        return "; put the object under text_config here"
    missing = [key for key in _GENERIC_FIELDS if data.get(key) is None]
    if missing:
        return f"; or the shape itself as an architecture, for which this config lacks {', '.join(missing)}"
    return "; or the shape itself as an architecture, for which this config has every size"


def _refuse_sparse_keys(config: Config, model_type: str, *, is_section: bool = False) -> None:
    """Refuse experts or latent attention under a dense model type: the model would come out far too small."""
    for key, value in config.data.items():
        name = key.lower()
        if isinstance(value, Mapping) and not is_section:
            # For instance MPT's ffn_config. One level is enough; deeper nesting is no business of these keys.
            _refuse_sparse_keys(config.section(key), model_type, is_section=True)
        elif ("expert" in name or "moe" in name) and _is_more_than_one(value):
            raise config.refuse(key, f"nothing: {model_type} is dense; name the sparse model_type")
        elif name in ("kv_lora_rank", "q_lora_rank") and _is_more_than_one(value):
            raise config.refuse(key, f"nothing: {model_type} has no multi-head latent attention")


def _is_more_than_one(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        # "not <= 1" and not "> 1", so that NaN counts too.
        return not value <= 1
    return bool(value)
