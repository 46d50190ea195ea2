"""Mixtures of experts and latent attention.

Each rule follows the model's own code in `transformers` (or the remote code of grok-1 and kimi_k2), which decides
which layers are sparse, what the experts share, and which vectors the router has. Heads for multi-token prediction
(`num_nextn_predict_layers`) are left out, as the publishers do in their totals.
"""

from collections.abc import Callable, Mapping
from typing import Final

from jobs.estimation.hf_config.llama_like import read_llama, read_qwen2, read_qwen3
from jobs.estimation.hf_config.reader import Config, Fields, bias_fields, read_base, read_head_dim, read_window


def _read_experts(config: Config, *, count: tuple[str, ...], width: str, layers: int) -> Fields:
    """The fields of a mixture in `layers` layers; none at all where no layer is sparse."""
    if not layers:
        return {}
    return {
        "num_moe_layers": layers,
        "num_experts": config.integer(*count),
        "experts_per_token": config.integer("num_experts_per_tok"),
        "expert_intermediate_size": config.integer(width),
    }


def _read_mixtral(config: Config) -> Fields:
    fields = read_llama(config) | bias_fields(attention=False, mlp=False)
    layers = fields["num_hidden_layers"]
    experts = _read_experts(config, count=("num_local_experts",), width="intermediate_size", layers=layers)
    return fields | experts | read_window(config)


def _read_phimoe(config: Config) -> Fields:
    return _read_mixtral(config) | {
        "norm_vectors": 2,
        **bias_fields(attention=config.flag("attention_bias", default=False), mlp=False),
        "lm_head_bias": config.flag("lm_head_bias", default=False),
    }


def _read_granitemoe(config: Config) -> Fields:
    bias = config.flag("attention_bias", default=False)
    return _read_mixtral(config) | bias_fields(attention=bias, mlp=False) | {"sliding_window": 0}


def _read_olmoe(config: Config) -> Fields:
    fields = read_llama(config) | {"query_key_norm": True, "mlp_bias": False}
    layers = fields["num_hidden_layers"]
    return fields | _read_experts(config, count=("num_experts",), width="intermediate_size", layers=layers)


def _read_grok(config: Config) -> Fields:
    # model.py of xai-org/grok-1: norms before and after attention and experts; input and output embedding are one.
    fields = read_llama(config) | {
        "block_norms": 4,
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
    }
    layers = fields["num_hidden_layers"]
    count = ("num_experts", "num_local_experts")
    return fields | _read_experts(config, count=count, width="intermediate_size", layers=layers)


def _read_gpt_oss(config: Config) -> Fields:
    fields = read_llama(config)
    bias = config.flag("attention_bias", default=True)
    layers = fields["num_hidden_layers"]
    return fields | {
        **bias_fields(attention=bias, mlp=False),
        "attention_sinks": True,
        "router_bias": True,
        "expert_bias": True,
        **_read_experts(config, count=("num_local_experts",), width="intermediate_size", layers=layers),
        **read_window(config, default=128, period=2),
    }


def _count_qwen_sparse_layers(config: Config, layers: int) -> int:
    """Layers whose number + 1 is a multiple of `decoder_sparse_step`, less `mlp_only_layers`."""
    step = config.integer("decoder_sparse_step", default=1)
    dense = config.layer_indices("mlp_only_layers", layers=layers)
    return layers // step - sum(1 for index in dense if (index + 1) % step == 0)


def _read_qwen_experts(config: Config, layers: int) -> Fields:
    if not config.integer("num_experts", minimum=0):
        return {}
    sparse = _count_qwen_sparse_layers(config, layers)
    return _read_experts(config, count=("num_experts",), width="moe_intermediate_size", layers=sparse)


def _read_qwen2_moe(config: Config) -> Fields:
    fields = read_qwen2(config) | {"qkv_bias": config.flag("qkv_bias", default=True), "mlp_bias": False}
    experts = _read_qwen_experts(config, fields["num_hidden_layers"])
    if experts:
        experts["shared_expert_intermediate_size"] = config.integer("shared_expert_intermediate_size")
        experts["shared_expert_gate"] = True
    return fields | experts


def _read_qwen3_moe(config: Config) -> Fields:
    # Its class default for head_dim is hidden_size over heads, not Qwen 3's 128; published configs give it.
    fields = read_llama(config) if not config.has("head_dim") else read_qwen3(config)
    return fields | {"head_norms": 2, "mlp_bias": False} | _read_qwen_experts(config, fields["num_hidden_layers"])


def _read_latent_attention(config: Config) -> Fields:
    """DeepSeek-V2's attention (arXiv 2405.04434, 2.1); a null `q_lora_rank` leaves the query uncompressed."""
    heads = config.integer("num_attention_heads")
    rope = config.integer("qk_rope_head_dim")
    bias = config.flag("attention_bias", default=False)
    return {
        "num_key_value_heads": heads,
        "head_dim": config.integer("qk_nope_head_dim") + rope,
        "q_lora_rank": config.integer("q_lora_rank", default=0, minimum=0),
        "kv_lora_rank": config.integer("kv_lora_rank"),
        "qk_rope_head_dim": rope,
        "v_head_dim": config.integer("v_head_dim"),
        "qkv_bias": bias,
        "attention_output_bias": bias,
    }


def _read_shared_experts(config: Config, layers: int) -> Fields:
    """DeepSeek's mixture: from layer `first_k_dense_replace` on, each `moe_layer_freq`-th, with shared experts."""
    if not config.has("n_routed_experts"):
        return {}
    first = config.integer("first_k_dense_replace", default=0, minimum=0)
    step = config.integer("moe_layer_freq", default=1)
    sparse = sum(1 for index in range(min(first, layers), layers) if index % step == 0)
    experts = _read_experts(config, count=("n_routed_experts",), width="moe_intermediate_size", layers=sparse)
    if experts:
        shared = config.integer("n_shared_experts", default=0, minimum=0)
        experts["shared_expert_intermediate_size"] = shared * experts["expert_intermediate_size"]
    return experts


def _read_deepseek_attention(config: Config) -> Fields:
    heads = config.integer("num_attention_heads")
    head = config.integer("qk_nope_head_dim") + config.integer("qk_rope_head_dim")
    base = read_base(Config({**config.data, "head_dim": head, "num_key_value_heads": heads}, path=config.path))
    tied = config.flag("tie_word_embeddings", default=False)
    return base | {"tied_embeddings": tied, **_read_latent_attention(config)}


def _read_deepseek_v2(config: Config) -> Fields:
    fields = _read_deepseek_attention(config)
    return fields | _read_shared_experts(config, fields["num_hidden_layers"])


def _read_deepseek_v3(config: Config) -> Fields:
    fields = _read_deepseek_v2(config)
    # Its router carries one correction an expert that balances the load (arXiv 2412.19437, 2.1.2).
    return fields | {"router_bias": "num_moe_layers" in fields}


def _read_glm4_moe(config: Config) -> Fields:
    fields = read_llama(config) | {"attention_output_bias": False, "mlp_bias": False}
    experts = _read_shared_experts(config, fields["num_hidden_layers"])
    norms = 2 if config.flag("use_qk_norm", default=False) else 0
    return fields | experts | {"head_norms": norms, "router_bias": bool(experts)}


def _read_ernie4_5_moe(config: Config) -> Fields:
    if config.flag("use_bias", default=False):
        raise config.refuse("use_bias", "false (a sparse ERNIE with biases is not supported yet)")
    fields = read_llama(config) | {"tied_embeddings": config.flag("tie_word_embeddings", default=True)}
    layers = fields["num_hidden_layers"]
    step = config.integer("moe_layer_interval", default=1)
    start = config.integer("moe_layer_start_index", default=1, minimum=0)
    end = config.integer("moe_layer_end_index", default=-1, minimum=-1)
    last = layers - 1 if end < 0 else min(end, layers - 1)
    sparse = sum(1 for index in range(start, last + 1) if (index + 1) % step == 0)
    fields |= bias_fields(attention=False, mlp=False)
    if not sparse:
        return fields
    width = config.integer("moe_intermediate_size")
    return fields | {
        "num_moe_layers": sparse,
        "num_experts": config.integer("moe_num_experts"),
        "experts_per_token": config.integer("moe_k"),
        "expert_intermediate_size": width,
        "shared_expert_intermediate_size": width * config.integer("moe_num_shared_experts", default=0, minimum=0),
        "router_bias": True,
    }


def _read_llama4(config: Config) -> Fields:
    """Llama 4's text part: the experts have `intermediate_size`, as has the one shared; the dense layers another.

    Its chunks of attention count as a sliding window of that size. Query and key norms have no weights.
    """
    fields = read_llama(config) | bias_fields(attention=False, mlp=False)
    layers = fields["num_hidden_layers"]
    step = config.integer("interleave_moe_layer_step", default=1)
    listed = config.layer_indices("moe_layers", layers=layers)
    sparse = len(listed) if config.has("moe_layers") else layers // step
    experts = _read_experts(config, count=("num_local_experts",), width="intermediate_size", layers=sparse)
    if experts:
        experts["shared_expert_intermediate_size"] = config.integer("intermediate_size")
    return fields | {
        **experts,
        "intermediate_size": config.integer("intermediate_size_mlp"),
        **_read_llama4_chunks(config, layers),
    }


def _read_llama4_chunks(config: Config, layers: int) -> Fields:
    """Layers with rotary positions attend within chunks; `no_rope_layers` marks them with 1."""
    if config.sequence("layer_types"):
        return read_window(config, key="attention_chunk_size", default=8192)
    marks = config.sequence("no_rope_layers")[:layers]
    interval = config.integer("no_rope_layer_interval", default=4)
    count = sum(1 for mark in marks if mark == 1) if marks else layers - layers // interval
    chunk = config.integer("attention_chunk_size", default=8192)
    return {"sliding_window": chunk if count else 0, "sliding_window_layers": 0 if count == layers else count}


def _read_dbrx(config: Config) -> Fields:
    hidden = config.integer("d_model")
    heads = config.integer("n_heads")
    layers = config.integer("n_layers")
    experts = config.section("ffn_config")
    width = experts.integer("ffn_hidden_size")
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": config.section("attn_config").integer("kv_n_heads", default=1),
        "head_dim": read_head_dim(config, hidden, heads),
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": config.integer("max_seq_len", default=2048),
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        "num_moe_layers": layers,
        "num_experts": experts.integer("moe_num_experts"),
        "experts_per_token": experts.integer("moe_top_k", default=1),
        "expert_intermediate_size": width,
    }


SPARSE: Final[Mapping[str, Callable[[Config], Fields]]] = {
    "mixtral": _read_mixtral,
    "phimoe": _read_phimoe,
    "granitemoe": _read_granitemoe,
    "olmoe": _read_olmoe,
    "grok-1": _read_grok,
    "grok": _read_grok,
    "gpt_oss": _read_gpt_oss,
    "qwen2_moe": _read_qwen2_moe,
    "qwen3_moe": _read_qwen3_moe,
    "deepseek_v2": _read_deepseek_v2,
    "deepseek_v3": _read_deepseek_v3,
    "kimi_k2": _read_deepseek_v3,
    "glm4_moe": _read_glm4_moe,
    "ernie4_5_moe": _read_ernie4_5_moe,
    "llama4_text": _read_llama4,
    "dbrx": _read_dbrx,
}
