"""From a Hugging Face `config.json` to the fields of `Architecture`, one function per family.

Each family's rule follows the model's own code in `transformers` (or its remote code for chatglm, baichuan,
internlm2 and qwen), which decides which projections carry a bias and where norms stand.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from jobs.estimation.validation import InvalidInput, check_boolean, check_integer, check_mapping

FIELD: Final = "model.config"
_LARGEST: Final = 10**9

_SPARSE_KEYS: Final = (
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
)


class _Config:
    """Typed reads of a config: a missing key or a wrong type becomes an InvalidInput with its path."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data

    def has(self, key: str) -> bool:
        return self.data.get(key) is not None

    def integer(self, *keys: str, default: int | None = None) -> int:
        for key in keys:
            if self.has(key):
                return check_integer(f"{FIELD}.{key}", self.data[key], minimum=1, maximum=_LARGEST)
        if default is None:
            raise InvalidInput(f"{FIELD}.{keys[0]}", None, f"required for model_type {self.data.get('model_type')!r}")
        return default

    def flag(self, key: str, *, default: bool) -> bool:
        return check_boolean(f"{FIELD}.{key}", self.data[key]) if self.has(key) else default


def _base(config: _Config) -> dict[str, Any]:
    """Keys that most families share."""
    heads = config.integer("num_attention_heads")
    hidden = config.integer("hidden_size")
    return {
        "num_hidden_layers": config.integer("num_hidden_layers"),
        "hidden_size": hidden,
        "intermediate_size": config.integer("intermediate_size", default=4 * hidden),
        "num_attention_heads": heads,
        "num_key_value_heads": config.integer("num_key_value_heads", default=heads),
        "head_dim": config.integer("head_dim", default=_head_dim(hidden, heads)),
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": config.integer("max_position_embeddings", default=2048),
    }


def _head_dim(hidden: int, heads: int) -> int:
    if hidden % heads:
        raise InvalidInput(f"{FIELD}.num_attention_heads", heads, f"a divisor of hidden_size ({hidden})")
    return hidden // heads


def _llama(config: _Config) -> dict[str, Any]:
    fields = _base(config)
    attention_bias = config.flag("attention_bias", default=False)
    fields |= {
        "intermediate_size": config.integer("intermediate_size"),
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        "qkv_bias": attention_bias,
        "attention_output_bias": attention_bias,
        "mlp_bias": config.flag("mlp_bias", default=False),
    }
    return fields


def _mistral(config: _Config) -> dict[str, Any]:
    window = config.integer("sliding_window", default=0) if config.has("sliding_window") else 0
    return _llama(config) | {"qkv_bias": False, "attention_output_bias": False, "sliding_window": window}


def _qwen2(config: _Config) -> dict[str, Any]:
    return _llama(config) | {"qkv_bias": True, "attention_output_bias": False}


def _qwen3(config: _Config) -> dict[str, Any]:
    fields = _llama(config)
    if not config.has("head_dim"):
        fields["head_dim"] = 128
    return fields | {"head_norms": 2}


def _qwen(config: _Config) -> dict[str, Any]:
    # Qwen 1: `intermediate_size` is that of both halves of the gated MLP together; all biases off but c_attn.
    fields = _base(config)
    return fields | {
        "intermediate_size": config.integer("intermediate_size") // 2,
        "qkv_bias": True,
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
    }


def _gemma(config: _Config) -> dict[str, Any]:
    return _llama(config) | {
        "head_dim": config.integer("head_dim", default=256),
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
    }


def _gemma2(config: _Config) -> dict[str, Any]:
    return _gemma(config) | {"block_norms": 4}


def _gemma3(config: _Config) -> dict[str, Any]:
    return _gemma(config) | {"block_norms": 4, "head_norms": 2}


def _gpt2(config: _Config) -> dict[str, Any]:
    hidden = config.integer("n_embd", "hidden_size")
    heads = config.integer("n_head", "num_attention_heads")
    positions = config.integer("n_positions", "n_ctx", "max_position_embeddings", default=1024)
    return {
        "num_hidden_layers": config.integer("n_layer", "num_hidden_layers"),
        "hidden_size": hidden,
        "intermediate_size": config.integer("n_inner", "intermediate_size", default=4 * hidden),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": _head_dim(hidden, heads),
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": positions,
        "learned_position_rows": positions,
        "gated_mlp": False,
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        "norm_vectors": 2,
        **_all_biases(),
    }


def _all_biases() -> dict[str, Any]:
    return {"qkv_bias": True, "attention_output_bias": True, "mlp_bias": True}


def _gpt_bigcode(config: _Config) -> dict[str, Any]:
    fields = _gpt2(config)
    if config.flag("multi_query", default=True):
        fields["num_key_value_heads"] = 1
    return fields


def _gptj(config: _Config) -> dict[str, Any]:
    fields = _gpt2(config)
    return fields | {
        "learned_position_rows": 0,
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        "qkv_bias": False,
        "attention_output_bias": False,
        "lm_head_bias": True,
        "block_norms": 1,
    }


def _gpt_neox(config: _Config) -> dict[str, Any]:
    bias = config.flag("attention_bias", default=True)
    return _base(config) | {
        "gated_mlp": False,
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        "norm_vectors": 2,
        "qkv_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": True,
    }


def _opt(config: _Config) -> dict[str, Any]:
    fields = _base(config)
    projection = config.integer("word_embed_proj_dim", default=fields["hidden_size"])
    if projection != fields["hidden_size"]:
        raise InvalidInput(
            f"{FIELD}.word_embed_proj_dim", projection, f"hidden_size ({fields['hidden_size']}): no projected embedding"
        )
    return fields | {
        "intermediate_size": config.integer("ffn_dim"),
        "gated_mlp": False,
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        # OPT's position table starts at an offset of 2.
        "learned_position_rows": fields["max_position_embeddings"] + 2,
        "norm_vectors": 2,
        **_all_biases(),
    }


def _bloom(config: _Config) -> dict[str, Any]:
    hidden = config.integer("hidden_size", "n_embed")
    heads = config.integer("n_head", "num_attention_heads")
    return {
        "num_hidden_layers": config.integer("n_layer", "num_hidden_layers"),
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": _head_dim(hidden, heads),
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": config.integer("seq_length", default=2048),
        "gated_mlp": False,
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        "norm_vectors": 2,
        "embedding_norm": True,
        **_all_biases(),
    }


def _falcon(config: _Config) -> dict[str, Any]:
    hidden = config.integer("hidden_size")
    heads = config.integer("num_attention_heads", "n_head")
    new = config.flag("new_decoder_architecture", default=False)
    parallel = config.flag("parallel_attn", default=True)
    if new:
        kv_heads = config.integer("num_kv_heads", "n_head_kv", default=heads)
    else:
        kv_heads = 1 if config.flag("multi_query", default=True) else heads
    bias = config.flag("bias", default=False)
    return {
        "num_hidden_layers": config.integer("num_hidden_layers", "n_layer"),
        "hidden_size": hidden,
        "intermediate_size": config.integer("ffn_hidden_size", default=4 * hidden),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": _head_dim(hidden, heads),
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": config.integer("max_position_embeddings", default=2048),
        "gated_mlp": False,
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        "norm_vectors": 2,
        "block_norms": config.integer("num_ln_in_parallel_attn", default=2) if new else (1 if parallel else 2),
        "qkv_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": bias,
    }


def _phi(config: _Config) -> dict[str, Any]:
    return _base(config) | {
        "gated_mlp": False,
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        "norm_vectors": 2,
        "block_norms": 1,
        "lm_head_bias": True,
        **_all_biases(),
    }


def _starcoder2(config: _Config) -> dict[str, Any]:
    bias = config.flag("use_bias", default=True)
    return _base(config) | {
        "gated_mlp": False,
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        "norm_vectors": 2,
        "qkv_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": bias,
    }


def _stablelm(config: _Config) -> dict[str, Any]:
    if config.flag("qk_layernorm", default=False):
        raise InvalidInput(f"{FIELD}.qk_layernorm", True, "false (per-head norms of StableLM are not supported yet)")
    return _llama(config) | {
        "norm_vectors": 2,
        "qkv_bias": config.flag("use_qkv_bias", default=False),
        "attention_output_bias": False,
        "block_norms": 1 if config.flag("use_parallel_residual", default=False) else 2,
    }


def _cohere(config: _Config) -> dict[str, Any]:
    if config.flag("use_qk_norm", default=False):
        raise InvalidInput(f"{FIELD}.use_qk_norm", True, "false (per-head norms of Cohere are not supported yet)")
    return _llama(config) | {"tied_embeddings": config.flag("tie_word_embeddings", default=True), "block_norms": 1}


def _olmo(config: _Config) -> dict[str, Any]:
    return _llama(config) | {"norm_vectors": 0}


def _mpt(config: _Config) -> dict[str, Any]:
    if not config.flag("no_bias", default=True):
        raise InvalidInput(f"{FIELD}.no_bias", False, "true (MPT with biases is not supported yet)")
    hidden = config.integer("d_model")
    heads = config.integer("n_heads")
    attention = check_mapping(f"{FIELD}.attn_config", config.data.get("attn_config") or {})
    positions = config.integer("max_seq_len", default=2048)
    return {
        "num_hidden_layers": config.integer("n_layers"),
        "hidden_size": hidden,
        "intermediate_size": config.integer("expansion_ratio", default=4) * hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": _head_dim(hidden, heads),
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": positions,
        "learned_position_rows": 0 if attention.get("alibi") is True else positions,
        "gated_mlp": False,
        "tied_embeddings": True,
    }


def _chatglm(config: _Config) -> dict[str, Any]:
    heads = config.integer("num_attention_heads")
    grouped = config.flag("multi_query_attention", default=False)
    mlp_bias = config.flag("add_bias_linear", default=False)
    return {
        "num_hidden_layers": config.integer("num_layers"),
        "hidden_size": config.integer("hidden_size"),
        "intermediate_size": config.integer("ffn_hidden_size"),
        "num_attention_heads": heads,
        "num_key_value_heads": config.integer("multi_query_group_num") if grouped else heads,
        "head_dim": config.integer("kv_channels", default=_head_dim(config.integer("hidden_size"), heads)),
        "vocab_size": config.integer("padded_vocab_size", "vocab_size"),
        "max_position_embeddings": config.integer("seq_length", default=8192),
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        "qkv_bias": mlp_bias or config.flag("add_qkv_bias", default=False),
        "attention_output_bias": mlp_bias,
        "mlp_bias": mlp_bias,
        "norm_vectors": 1 if config.flag("rmsnorm", default=True) else 2,
    }


def _glm(config: _Config) -> dict[str, Any]:
    return _llama(config) | {
        "head_dim": config.integer("head_dim", default=128),
        "qkv_bias": config.flag("attention_bias", default=False),
        "attention_output_bias": False,
    }


def _glm4(config: _Config) -> dict[str, Any]:
    return _glm(config) | {"block_norms": 4}


def _baichuan(config: _Config) -> dict[str, Any]:
    fields = _base(config)
    return fields | {
        "max_position_embeddings": config.integer("max_position_embeddings", "model_max_length", default=4096),
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
    }


def _internlm2(config: _Config) -> dict[str, Any]:
    bias = config.flag("bias", default=False)
    return _llama(config) | {"qkv_bias": bias, "attention_output_bias": bias, "mlp_bias": False}


FAMILIES: Final[Mapping[str, Callable[[_Config], dict[str, Any]]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "phi3": _mistral,
    "granite": _llama,
    "internlm": _internlm2,
    "internlm2": _internlm2,
    "qwen": _qwen,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "gpt2": _gpt2,
    "gpt_bigcode": _gpt_bigcode,
    "gptj": _gptj,
    "codegen": _gptj,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "bloom": _bloom,
    "falcon": _falcon,
    "RefinedWeb": _falcon,
    "RefinedWebModel": _falcon,
    "phi": _phi,
    "starcoder2": _starcoder2,
    "stablelm": _stablelm,
    "cohere": _cohere,
    "olmo": _olmo,
    "mpt": _mpt,
    "chatglm": _chatglm,
    "glm": _glm,
    "glm4": _glm4,
    "baichuan": _baichuan,
}
"""Supported `model_type` values."""


def read_hf_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of `Architecture` for a config; raise InvalidInput if it cannot be exact."""
    data = check_mapping(FIELD, config)
    model_type = data.get("model_type")
    if model_type is None:
        raise InvalidInput(f"{FIELD}.model_type", None, "required; one of " + ", ".join(sorted(FAMILIES)))
    sparse = _find_sparse_key(data)
    if sparse is not None:
        raise InvalidInput(
            f"{FIELD}.{sparse}", data[sparse], "dense models only; mixtures of experts not supported yet"
        )
    if data.get("kv_lora_rank"):
        raise InvalidInput(
            f"{FIELD}.kv_lora_rank", data["kv_lora_rank"], "no multi-head latent attention; it is not supported yet"
        )
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        hint = "; put the object under text_config here" if isinstance(data.get("text_config"), Mapping) else ""
        raise InvalidInput(f"{FIELD}.model_type", model_type, "one of " + ", ".join(sorted(FAMILIES)) + hint)
    return {"family": model_type, **FAMILIES[model_type](_Config(data))}


def _find_sparse_key(data: Mapping[str, Any]) -> str | None:
    for key in _SPARSE_KEYS:
        value = data.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 1:
            return key
    return None
