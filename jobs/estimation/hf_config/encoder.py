"""Encoders (BERT, RoBERTa) and encoder-decoders (T5).

Each rule follows the model's own code in `transformers`.
"""

from collections.abc import Callable, Mapping
from typing import Final

from jobs.estimation.hf_config.reader import Config, Fields, bias_fields, read_base


def _read_encoder(config: Config, *, types: int) -> Fields:
    """What BERT and RoBERTa share: norms after each block and on the embedding, learned positions, biases."""
    fields = read_base(config)
    return fields | {
        "is_causal": False,
        "gated_mlp": False,
        "norm_vectors": 2,
        "final_norm": False,
        "embedding_norm": True,
        "learned_position_rows": fields["max_position_embeddings"],
        "token_type_rows": config.integer("type_vocab_size", default=types, minimum=0),
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        **bias_fields(attention=True, mlp=True),
    }


def _name_class(config: Config, default: str) -> str:
    """The model class that `architectures` names; it decides which heads there are."""
    names = config.sequence("architectures")
    if not names:
        return default
    if not isinstance(names[0], str):
        raise config.refuse("architectures", "a list of class names")
    return names[0]


def _read_bert(config: Config) -> Fields:
    name = _name_class(config, "BertForPreTraining")
    is_bare = name == "BertModel"
    return _read_encoder(config, types=2) | {
        "pooler": is_bare or name == "BertForPreTraining",
        "head_transform": not is_bare,
        "lm_head_bias": not is_bare,
        # The next-sentence task.
        "num_labels": 2 if name == "BertForPreTraining" else 0,
    }


def _read_roberta(config: Config) -> Fields:
    is_bare = _name_class(config, "RobertaForMaskedLM") == "RobertaModel"
    return _read_encoder(config, types=2) | {
        "pooler": is_bare,
        "head_transform": not is_bare,
        "lm_head_bias": not is_bare,
    }


def _read_t5(config: Config) -> Fields:
    layers = config.integer("num_layers")
    activation = config.data.get("feed_forward_proj", "relu")
    if not isinstance(activation, str):
        raise config.refuse("feed_forward_proj", "an activation such as relu or gated-gelu")
    heads = config.integer("num_heads")
    return {
        "encoder_layers": layers,
        "num_hidden_layers": config.integer("num_decoder_layers", default=layers),
        "hidden_size": config.integer("d_model"),
        "intermediate_size": config.integer("d_ff"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": config.integer("d_kv"),
        "vocab_size": config.integer("vocab_size"),
        # T5 has no table of positions; n_positions is the length that it was trained with.
        "max_position_embeddings": config.integer("n_positions", default=512),
        "gated_mlp": activation.startswith("gated-"),
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        "relative_attention_buckets": config.integer("relative_attention_num_buckets", default=32),
    }


ENCODERS: Final[Mapping[str, Callable[[Config], Fields]]] = {
    "bert": _read_bert,
    "roberta": _read_roberta,
    "xlm-roberta": _read_roberta,
    "t5": _read_t5,
    "mt5": _read_t5,
}
