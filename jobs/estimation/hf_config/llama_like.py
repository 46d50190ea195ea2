"""Dense decoders in the line of Llama: RMSNorm (mostly), gated MLP, rotary positions.

Each rule follows the model's own code in `transformers` (or its remote code for qwen, chatglm, baichuan, internlm2
and minicpm), which decides which projections carry a bias and where norms stand.
"""

from collections.abc import Callable, Mapping
from typing import Final

from jobs.estimation.hf_config.reader import Config, Fields, bias_fields, read_base, read_head_dim, read_window


def read_llama(config: Config) -> Fields:
    bias = config.flag("attention_bias", default=False)
    return read_base(config) | {
        "intermediate_size": config.integer("intermediate_size"),
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        **bias_fields(attention=bias, mlp=config.flag("mlp_bias", default=False)),
    }


def read_mistral(config: Config) -> Fields:
    return read_llama(config) | bias_fields(attention=False, mlp=False) | read_window(config)


def read_qwen(config: Config) -> Fields:
    # Qwen 1: `intermediate_size` is that of both halves of the gated MLP together; all biases off but c_attn.
    base = read_base(config)
    return base | {
        "intermediate_size": config.integer("intermediate_size", minimum=2) // 2,
        "head_dim": config.integer("kv_channels", default=base["head_dim"]),
        "max_position_embeddings": config.integer("seq_length", "max_position_embeddings", default=8192),
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        "qkv_bias": True,
    }


def read_qwen_window(config: Config) -> Fields:
    """Qwen 2 and 3: a window only if `use_sliding_window`, and only from layer `max_window_layers` on."""
    if not config.flag("use_sliding_window", default=False):
        return {}
    layers = config.integer("num_hidden_layers")
    if config.sequence("layer_types"):
        return read_window(config, default=4096)
    count = layers - min(layers, config.integer("max_window_layers", default=28, minimum=0))
    if not count:
        return {}
    return {
        "sliding_window": config.integer("sliding_window", default=4096),
        "sliding_window_layers": 0 if count == layers else count,
    }


def read_qwen2(config: Config) -> Fields:
    return read_llama(config) | {"qkv_bias": True, "attention_output_bias": False, **read_qwen_window(config)}


def read_qwen3(config: Config) -> Fields:
    head_dim = config.integer("head_dim", default=128)
    return _read_with_head_dim(config, head_dim) | {"head_norms": 2, **read_qwen_window(config)}


def _read_with_head_dim(config: Config, head_dim: int) -> Fields:
    """Llama's keys where the family's head_dim has its own default (so hidden_size need not divide by the heads)."""
    return read_llama(Config({**config.data, "head_dim": head_dim}, path=config.path))


def _read_gemma(config: Config) -> Fields:
    fields = _read_with_head_dim(config, config.integer("head_dim", default=256))
    return fields | {"tied_embeddings": config.flag("tie_word_embeddings", default=True), "mlp_bias": False}


def _read_gemma2(config: Config) -> Fields:
    return _read_gemma(config) | {"block_norms": 4, **read_window(config, default=4096, period=2)}


# transformers' Gemma3TextConfig: the text part of a multimodal config.json leaves out what equals these.
_GEMMA3_DEFAULTS: Final = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131_072,
}


def _read_gemma3(config: Config) -> Fields:
    given = {key: value for key, value in config.data.items() if value is not None}
    full = Config({**_GEMMA3_DEFAULTS, **given}, path=config.path)
    period = config.integer("sliding_window_pattern", default=6)
    return _read_gemma(full) | {"block_norms": 4, "head_norms": 2, **read_window(full, default=4096, period=period)}


def _read_chatglm(config: Config) -> Fields:
    heads = config.integer("num_attention_heads")
    hidden = config.integer("hidden_size")
    head_dim = config.integer("kv_channels") if config.has("kv_channels") else read_head_dim(config, hidden, heads)
    grouped = config.flag("multi_query_attention", default=False)
    bias = config.flag("add_bias_linear", default=False)
    return {
        "num_hidden_layers": config.integer("num_layers"),
        "hidden_size": hidden,
        "intermediate_size": config.integer("ffn_hidden_size"),
        "num_attention_heads": heads,
        "num_key_value_heads": config.integer("multi_query_group_num") if grouped else heads,
        "head_dim": head_dim,
        "vocab_size": config.integer("padded_vocab_size", "vocab_size"),
        "max_position_embeddings": config.integer("seq_length", default=8192),
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        "qkv_bias": bias or config.flag("add_qkv_bias", default=False),
        "attention_output_bias": bias,
        "mlp_bias": bias,
        "norm_vectors": 1 if config.flag("rmsnorm", default=True) else 2,
        "final_norm": config.flag("post_layer_norm", default=True),
    }


def read_glm(config: Config) -> Fields:
    fields = _read_with_head_dim(config, config.integer("head_dim", default=128))
    return fields | {"attention_output_bias": False, "mlp_bias": False}


def _read_glm4(config: Config) -> Fields:
    return read_glm(config) | {"block_norms": 4}


def _read_baichuan(config: Config) -> Fields:
    return read_base(config) | {
        "max_position_embeddings": config.integer("max_position_embeddings", "model_max_length", default=4096),
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
    }


def _read_internlm(config: Config) -> Fields:
    # InternLM 1's `bias` is true by default, InternLM 2's false; both leave the MLP without.
    default = config.data.get("model_type") == "internlm"
    return read_llama(config) | bias_fields(attention=config.flag("bias", default=default), mlp=False)


def _read_minicpm(config: Config) -> Fields:
    return read_llama(config) | {"tied_embeddings": config.flag("tie_word_embeddings", default=True)}


def _read_stablelm(config: Config) -> Fields:
    return read_llama(config) | {
        "norm_vectors": 2,
        "qkv_bias": config.flag("use_qkv_bias", default=False),
        "attention_output_bias": False,
        "mlp_bias": False,
        "query_key_norm": config.flag("qk_layernorm", default=False),
        "block_norms": 1 if config.flag("use_parallel_residual", default=False) else 2,
    }


def _read_cohere(config: Config) -> Fields:
    return read_llama(config) | {
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        "block_norms": 1,
        "query_key_norm": config.flag("use_qk_norm", default=False),
        "mlp_bias": False,
    }


def _read_cohere2(config: Config) -> Fields:
    period = config.integer("sliding_window_pattern", default=4)
    window = read_window(config, default=4096, period=period)
    return _read_cohere(config) | {"query_key_norm": False, **window}


def _read_olmo(config: Config) -> Fields:
    return read_llama(config) | {"norm_vectors": 0, "mlp_bias": False}


def _read_olmo2(config: Config) -> Fields:
    return read_llama(config) | {"query_key_norm": True, "mlp_bias": False}


def _read_ernie4_5(config: Config) -> Fields:
    bias = config.flag("use_bias", default=False)
    return _read_with_head_dim(config, config.integer("head_dim", default=128)) | {
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        **bias_fields(attention=bias, mlp=bias),
    }


def _read_seed_oss(config: Config) -> Fields:
    return _read_with_head_dim(config, config.integer("head_dim", default=128)) | {
        "qkv_bias": config.flag("attention_bias", default=True),
        "attention_output_bias": config.flag("attention_out_bias", default=False),
    }


def _read_pangu(config: Config) -> Fields:
    bias = config.flag("bias", default=True)
    for key in ("param_sink_number", "num_nextn_predict_layers"):
        if config.integer(key, default=0, minimum=0):
            raise config.refuse(key, "0; learned sink tokens and multi-token prediction are not supported for Pangu")
    return read_llama(config) | bias_fields(attention=bias, mlp=False)


LLAMA_LIKE: Final[Mapping[str, Callable[[Config], Fields]]] = {
    "llama": read_llama,
    "mistral": read_mistral,
    "phi3": read_mistral,
    "granite": read_llama,
    "smollm3": read_llama,
    "internlm": _read_internlm,
    "internlm2": _read_internlm,
    "qwen": read_qwen,
    "qwen2": read_qwen2,
    "qwen3": read_qwen3,
    "gemma": _read_gemma,
    "gemma2": _read_gemma2,
    "gemma3_text": _read_gemma3,
    "stablelm": _read_stablelm,
    "cohere": _read_cohere,
    "cohere2": _read_cohere2,
    "olmo": _read_olmo,
    "olmo2": _read_olmo2,
    "chatglm": _read_chatglm,
    "glm": read_glm,
    "glm4": _read_glm4,
    "baichuan": _read_baichuan,
    "minicpm": _read_minicpm,
    "ernie4_5": _read_ernie4_5,
    "seed_oss": _read_seed_oss,
    "PanguEmbedded": _read_pangu,
}
