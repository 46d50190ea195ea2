"""Dense decoders in the line of GPT: LayerNorm, MLP of two matrices, often biases and learned positions.

Each rule follows the model's own code in `transformers`.
"""

from collections.abc import Callable, Mapping
from typing import Final

from jobs.estimation.hf_config.reader import Config, Fields, bias_fields, read_base, read_head_dim, read_window
from jobs.estimation.validation import InvalidInput

_GPT: Final[Fields] = {"gated_mlp": False, "norm_vectors": 2, **bias_fields(attention=True, mlp=True)}


def _read_gpt2(config: Config) -> Fields:
    hidden = config.integer("n_embd", "hidden_size")
    heads = config.integer("n_head", "num_attention_heads")
    positions = config.integer("n_positions", "n_ctx", "max_position_embeddings", default=1024)
    return {
        "num_hidden_layers": config.integer("n_layer", "num_hidden_layers"),
        "hidden_size": hidden,
        "intermediate_size": config.integer("n_inner", "intermediate_size", default=4 * hidden),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": read_head_dim(config, hidden, heads),
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": positions,
        "learned_position_rows": positions,
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        **_GPT,
    }


def _read_gpt_bigcode(config: Config) -> Fields:
    fields = _read_gpt2(config)
    if config.flag("multi_query", default=True):
        fields["num_key_value_heads"] = 1
    return fields


def _read_gptj(config: Config) -> Fields:
    return _read_gpt2(config) | {
        "learned_position_rows": 0,
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        "lm_head_bias": True,
        "block_norms": 1,
        **bias_fields(attention=False, mlp=True),
    }


def _read_gpt_neo(config: Config) -> Fields:
    hidden = config.integer("hidden_size")
    heads = config.integer("num_heads", "num_attention_heads")
    layers = config.integer("num_layers", "num_hidden_layers")
    positions = config.integer("max_position_embeddings", default=2048)
    local = _count_local_layers(config, layers)
    window = config.integer("window_size", default=256)
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": config.integer("intermediate_size", default=4 * hidden),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": read_head_dim(config, hidden, heads),
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": positions,
        "learned_position_rows": positions,
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        "sliding_window": window if local else 0,
        "sliding_window_layers": 0 if local == layers else local,
        **_GPT,
        "qkv_bias": False,
    }


def _count_local_layers(config: Config, layers: int) -> int:
    """Layers with local attention: `attention_layers`, else `attention_types` such as [[["global", "local"], 12]]."""
    kinds = config.sequence("attention_layers")
    if kinds:
        return kinds[:layers].count("local")
    local = 0
    for entry in config.sequence("attention_types"):
        is_pair = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], list)
        if not is_pair or not isinstance(entry[1], int) or isinstance(entry[1], bool):
            raise config.refuse("attention_types", 'a list of pairs such as [["global", "local"], 12]')
        local += entry[0].count("local") * entry[1]
    if not 0 <= local <= layers:
        raise config.refuse("attention_types", f"a pattern for {layers} layers")
    return local


def _read_gpt_neox(config: Config) -> Fields:
    bias = config.flag("attention_bias", default=True)
    return read_base(config) | {
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        **_GPT,
        **bias_fields(attention=bias, mlp=True),
    }


def _read_opt(config: Config) -> Fields:
    fields = read_base(config)
    projection = config.integer("word_embed_proj_dim", default=fields["hidden_size"])
    if projection != fields["hidden_size"]:
        raise InvalidInput(
            f"{config.path}.word_embed_proj_dim",
            projection,
            f"hidden_size ({fields['hidden_size']}): no projected embedding",
        )
    bias = config.flag("enable_bias", default=True)
    has_norm_weights = config.flag("layer_norm_elementwise_affine", default=True)
    is_pre_norm = config.flag("do_layer_norm_before", default=True)
    return fields | {
        "intermediate_size": config.integer("ffn_dim"),
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        # OPT's position table starts at an offset of 2.
        "learned_position_rows": fields["max_position_embeddings"] + 2,
        "gated_mlp": False,
        "norm_vectors": 2 if has_norm_weights else 0,
        "final_norm": is_pre_norm and not config.flag("_remove_final_layer_norm", default=False),
        **bias_fields(attention=bias, mlp=bias),
    }


def _read_bloom(config: Config) -> Fields:
    hidden = config.integer("hidden_size", "n_embed")
    heads = config.integer("n_head", "num_attention_heads")
    return {
        "num_hidden_layers": config.integer("n_layer", "num_hidden_layers"),
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": read_head_dim(config, hidden, heads),
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": config.integer("seq_length", default=2048),
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        "embedding_norm": True,
        **_GPT,
    }


def _read_falcon(config: Config) -> Fields:
    hidden = config.integer("hidden_size")
    heads = config.integer("num_attention_heads", "n_head")
    is_new = config.flag("new_decoder_architecture", default=False)
    is_parallel = config.flag("parallel_attn", default=True)
    if is_new:
        kv_heads = config.integer("num_kv_heads", "n_head_kv", default=heads)
        norms = config.integer("num_ln_in_parallel_attn", default=2)
    else:
        kv_heads = 1 if config.flag("multi_query", default=True) else heads
        norms = 1 if is_parallel else 2
    bias = config.flag("bias", default=False)
    return {
        "num_hidden_layers": config.integer("num_hidden_layers", "n_layer"),
        "hidden_size": hidden,
        "intermediate_size": config.integer("ffn_hidden_size", default=4 * hidden),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": read_head_dim(config, hidden, heads),
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": config.integer("max_position_embeddings", default=2048),
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        "block_norms": norms,
        **_GPT,
        **bias_fields(attention=bias, mlp=bias),
    }


def _read_phi(config: Config) -> Fields:
    return read_base(config) | {
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        "block_norms": 1,
        "lm_head_bias": True,
        "head_norms": 2 if config.flag("qk_layernorm", default=False) else 0,
        **_GPT,
    }


def _read_starcoder2(config: Config) -> Fields:
    bias = config.flag("use_bias", default=True)
    return read_base(config) | {
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        **_GPT,
        **bias_fields(attention=bias, mlp=bias),
        **read_window(config),
    }


def _read_mpt(config: Config) -> Fields:
    if not config.flag("no_bias", default=True):
        raise InvalidInput(f"{config.path}.no_bias", False, "true (MPT with biases is not supported yet)")
    hidden = config.integer("d_model")
    heads = config.integer("n_heads")
    attention = config.section("attn_config")
    if attention.flag("qk_ln", default=False):
        raise InvalidInput(f"{attention.path}.qk_ln", True, "false (MPT with query and key norms is not supported yet)")
    positions = config.integer("max_seq_len", default=2048)
    has_positions = not attention.flag("alibi", default=True) and config.flag("learned_pos_emb", default=True)
    return {
        "num_hidden_layers": config.integer("n_layers"),
        "hidden_size": hidden,
        "intermediate_size": config.integer("expansion_ratio", default=4) * hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": read_head_dim(config, hidden, heads),
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": positions,
        "learned_position_rows": positions if has_positions else 0,
        "gated_mlp": False,
        "tied_embeddings": True,
    }


def _read_nemotron(config: Config) -> Fields:
    # LayerNorm1P has a weight and a bias; squared ReLU, so two matrices.
    bias = config.flag("attention_bias", default=False)
    return read_base(config) | {
        "intermediate_size": config.integer("intermediate_size"),
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        **_GPT,
        **bias_fields(attention=bias, mlp=config.flag("mlp_bias", default=False)),
    }


def _read_biogpt(config: Config) -> Fields:
    # Fairseq's decoder: learned positions with an offset of 2, as in OPT.
    fields = read_base(config)
    return fields | {
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        "learned_position_rows": fields["max_position_embeddings"] + 2,
        **_GPT,
    }


GPT_LIKE: Final[Mapping[str, Callable[[Config], Fields]]] = {
    "gpt2": _read_gpt2,
    "gpt_bigcode": _read_gpt_bigcode,
    "gptj": _read_gptj,
    "codegen": _read_gptj,
    "gpt_neo": _read_gpt_neo,
    "gpt_neox": _read_gpt_neox,
    "opt": _read_opt,
    "bloom": _read_bloom,
    "falcon": _read_falcon,
    "RefinedWeb": _read_falcon,
    "RefinedWebModel": _read_falcon,
    "phi": _read_phi,
    "starcoder2": _read_starcoder2,
    "mpt": _read_mpt,
    "nemotron": _read_nemotron,
    "biogpt": _read_biogpt,
}
