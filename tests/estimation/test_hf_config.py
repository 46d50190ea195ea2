"""Reading a config.json: what decides the shape beside its size, and what is refused."""

import json
import math

import pytest

from jobs.estimation import Architecture, InvalidInput
from jobs.estimation.hf_config import FAMILIES
from tests.estimation.published_models import PUBLISHED

LLAMA = PUBLISHED["meta-llama/Llama-2-7b-hf"]["config"]
MIXTRAL = PUBLISHED["mistralai/Mixtral-8x7B-v0.1"]["config"]
QWEN_MOE = PUBLISHED["Qwen/Qwen3-30B-A3B"]["config"]
DEEPSEEK = PUBLISHED["deepseek-ai/DeepSeek-V3"]["config"]
MAVERICK = PUBLISHED["meta-llama/Llama-4-Maverick-17B-128E"]["config"]
MPT = PUBLISHED["mosaicml/mpt-7b"]["config"]
T5 = PUBLISHED["google-t5/t5-11b"]["config"]
BERT = PUBLISHED["google-bert/bert-large-uncased"]["config"]
GPT_NEO = PUBLISHED["EleutherAI/gpt-neo-2.7B"]["config"]

# Published to three digits only: (config, billions, relative tolerance, source).
ROUNDED = {
    "grok-1": (
        {
            "model_type": "grok-1",
            "num_hidden_layers": 64,
            "hidden_size": 6144,
            "intermediate_size": 32768,
            "num_attention_heads": 48,
            "num_key_value_heads": 8,
            "vocab_size": 131072,
            "num_experts": 8,
            "num_experts_per_tok": 2,
        },
        (314, 0.01, "xai-org/grok-1 README"),
    ),
    "internlm-20b": (
        {
            "model_type": "internlm",
            "num_hidden_layers": 60,
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_attention_heads": 40,
            "vocab_size": 103168,
            "bias": False,
        },
        (20, 0.01, "internlm/internlm-20b model card"),
    ),
    "openpangu-embedded-1b": (
        {
            "model_type": "PanguEmbedded",
            "num_hidden_layers": 26,
            "hidden_size": 1536,
            "intermediate_size": 6144,
            "num_attention_heads": 12,
            "num_key_value_heads": 6,
            "vocab_size": 153376,
            "bias": True,
            "tie_word_embeddings": True,
        },
        (1.16, 0.01, "its shape, with biases on all four attention projections as in its modelling code"),
    ),
}


def read(config: dict, **changes: object) -> Architecture:
    return Architecture.from_hf_config({**config, **changes})


def refusal_of(config: object) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        Architecture.from_hf_config(config)
    assert caught.value.allowed
    return caught.value


@pytest.mark.parametrize(("config", "published"), ROUNDED.values(), ids=ROUNDED)
def test_a_rounded_published_number_is_met(config, published):
    billions, tolerance, _ = published
    assert read(config).parameters == pytest.approx(1e9 * billions, rel=tolerance)


def test_every_family_has_a_published_or_rounded_model():
    aliases = {
        "grok",
        "RefinedWeb",
        "RefinedWebModel",
        "granite",
        "smollm3",
        "ernie4_5",
        "xlm-roberta",
        "mt5",
        "gemma3",
    }
    tested = {row["config"]["model_type"] for row in PUBLISHED.values()}
    tested |= {config["model_type"] for config, _ in ROUNDED.values()}
    assert set(FAMILIES) - tested - aliases == set()


def test_read_architectures_survive_json():
    architectures = {name: read(row["config"]) for name, row in PUBLISHED.items()}
    stored = json.dumps({name: architecture.to_dict() for name, architecture in architectures.items()})
    assert {name: Architecture.from_dict(data) for name, data in json.loads(stored).items()} == architectures


# -- attention


@pytest.mark.parametrize(
    ("name", "window", "layers"),
    [
        ("openai/gpt-oss-120b", 128, 18),
        ("google/gemma-2-9b", 4096, 21),
        ("google/gemma-3-1b-pt", 4096, 22),
        ("CohereForAI/c4ai-command-r7b-12-2024", 4096, 24),
        ("meta-llama/Llama-4-Maverick-17B-128E", 8192, 36),
        ("EleutherAI/gpt-neo-2.7B", 256, 16),
        ("Qwen/Qwen3-8B", 0, 0),
        ("meta-llama/Llama-2-7b-hf", 0, 0),
    ],
)
def test_alternating_windows_are_counted_by_layer(name, window, layers):
    architecture = read(PUBLISHED[name]["config"])
    assert (architecture.sliding_window, architecture.sliding_window_layers) == (window, layers)


def test_layer_types_decide_over_the_pattern():
    config = PUBLISHED["google/gemma-2-9b"]["config"]
    kinds = ["sliding_attention"] * 40 + ["full_attention"] * 2
    assert read(config, layer_types=kinds).sliding_window_layers == 40
    assert read(config, layer_types=["full_attention"] * 42).sliding_window == 0


def test_a_qwen_window_counts_only_where_it_is_switched_on():
    config = {**PUBLISHED["Qwen/Qwen2.5-7B"]["config"], "sliding_window": 131072, "max_window_layers": 20}
    assert read(config).sliding_window == 0
    used = read(config, use_sliding_window=True)
    assert (used.sliding_window, used.sliding_window_layers) == (131072, 8)


def test_latent_attention_shows_the_kernel_whole_heads_and_the_cache_one_vector():
    architecture = read(DEEPSEEK)
    assert architecture.is_mla
    assert architecture.query_size == architecture.key_value_size == 128 * (128 + 64)
    assert architecture.value_size == architecture.attention_output_size == 128 * 128
    assert architecture.cache_size == 512 + 64


def test_encoders_see_both_sides_and_decoders_one():
    assert not read(PUBLISHED["google-bert/bert-large-uncased"]["config"]).is_causal
    assert read(LLAMA).is_causal
    architecture = read(T5)
    assert (architecture.encoder_layers, architecture.num_hidden_layers, architecture.num_layers) == (24, 24, 48)


# -- which layers are sparse


@pytest.mark.parametrize(
    ("config", "changes", "sparse"),
    [
        (DEEPSEEK, {}, 58),
        (DEEPSEEK, {"first_k_dense_replace": 100}, 0),
        (DEEPSEEK, {"first_k_dense_replace": 0, "moe_layer_freq": 2}, 31),
        (DEEPSEEK, {"n_routed_experts": None}, 0),
        (QWEN_MOE, {"decoder_sparse_step": 2}, 24),
        (QWEN_MOE, {"decoder_sparse_step": 2, "mlp_only_layers": [0, 1, 3]}, 22),
        (QWEN_MOE, {"mlp_only_layers": None}, 48),
        (MAVERICK, {}, 24),
        (MAVERICK, {"moe_layers": [1, 3]}, 2),
    ],
)
def test_sparse_layers_are_those_of_the_model_s_code(config, changes, sparse):
    architecture = read(config, **changes)
    assert architecture.num_moe_layers == sparse
    assert architecture.is_moe == (sparse > 0)
    assert architecture.num_dense_layers == architecture.num_hidden_layers - sparse


def test_the_text_part_of_a_multimodal_config_is_read():
    nested = {"model_type": "llama4", "text_config": MAVERICK, "vision_config": {"hidden_size": 1408}}
    assert Architecture.from_hf_config(nested) == read(MAVERICK)


def test_what_gemma_3_leaves_out_of_its_text_part_has_the_class_s_value():
    # google/gemma-3-27b-pt: vocabulary and head_dim are not written; counted from transformers' own class.
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "num_attention_heads": 32,
        "num_hidden_layers": 62,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "sliding_window": 1024,
    }
    architecture = Architecture.from_hf_config({"model_type": "gemma3", "text_config": text})
    assert architecture.parameters == 27_009_346_304
    assert (architecture.sliding_window, architecture.sliding_window_layers) == (1024, 52)


# -- refusals


def test_an_unknown_type_names_the_known_ones_and_what_the_generic_shape_lacks():
    error = refusal_of({"model_type": "mamba", "hidden_size": 2560, "num_hidden_layers": 64, "vocab_size": 50280})
    assert (error.field, error.value) == ("model.config.model_type", "mamba")
    assert "llama" in error.allowed
    assert "deepseek_v3" in error.allowed
    assert "lacks intermediate_size, num_attention_heads, num_key_value_heads" in error.allowed
    assert "hidden_size" not in error.allowed.partition("lacks")[2]


def test_an_unknown_type_with_a_text_part_says_where_to_look():
    assert "text_config" in refusal_of({"model_type": "mistral3", "text_config": dict(LLAMA)}).allowed


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({**LLAMA, "num_local_experts": 8}, "num_local_experts"),
        ({**LLAMA, "num_experts": 4.0}, "num_experts"),
        ({**LLAMA, "num_experts": math.nan}, "num_experts"),
        ({**LLAMA, "num_experts": "8"}, "num_experts"),
        ({**LLAMA, "moe_layers": [1, 3]}, "moe_layers"),
        ({**LLAMA, "use_moe": True}, "use_moe"),
        ({**LLAMA, "kv_lora_rank": 512}, "kv_lora_rank"),
        ({**MPT, "ffn_config": {"moe_num_experts": 8}}, "ffn_config.moe_num_experts"),
    ],
)
def test_experts_or_latent_attention_under_a_dense_type_are_never_read_as_dense(config, field):
    assert refusal_of(config).field == f"model.config.{field}"


def test_a_dense_config_may_say_that_it_has_no_experts():
    harmless = {"num_experts": 1, "num_local_experts": 0, "moe_intermediate_size": None, "use_moe": False}
    assert read(LLAMA, **harmless) == read(LLAMA)


BAD_VALUES = [math.nan, -1, 0.5, "8", True, [8], 10**400]


@pytest.mark.parametrize("value", BAD_VALUES, ids=repr)
@pytest.mark.parametrize(
    ("config", "key"),
    [
        (MIXTRAL, "num_local_experts"),
        (MIXTRAL, "num_experts_per_tok"),
        (QWEN_MOE, "moe_intermediate_size"),
        (QWEN_MOE, "decoder_sparse_step"),
        (DEEPSEEK, "kv_lora_rank"),
        (DEEPSEEK, "q_lora_rank"),
        (DEEPSEEK, "first_k_dense_replace"),
        (DEEPSEEK, "n_shared_experts"),
        (MAVERICK, "interleave_moe_layer_step"),
        (T5, "d_kv"),
        (T5, "num_layers"),
    ],
    ids=lambda argument: argument if isinstance(argument, str) else argument["model_type"],
)
def test_a_bad_number_names_its_key(config, key, value):
    assert refusal_of({**config, key: value}).field == f"model.config.{key}"


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({**MIXTRAL, "num_experts_per_tok": 9}, "architecture.experts_per_token"),
        ({**DEEPSEEK, "num_experts_per_tok": None}, "model.config.num_experts_per_tok"),
        ({**QWEN_MOE, "mlp_only_layers": [-1]}, "model.config.mlp_only_layers"),
        ({**QWEN_MOE, "mlp_only_layers": 3}, "model.config.mlp_only_layers"),
        ({**MAVERICK, "moe_layers": ["1"]}, "model.config.moe_layers"),
        ({**LLAMA, "model_type": "gemma2", "layer_types": ["full_attention"]}, "model.config.layer_types"),
        ({**LLAMA, "model_type": "gemma2", "layer_types": ["linear_attention"] * 32}, "model.config.layer_types"),
        ({**T5, "feed_forward_proj": 3}, "model.config.feed_forward_proj"),
        ({"model_type": "llama4"}, "model.config.text_config"),
        ({"model_type": "llama4", "text_config": []}, "model.config.text_config"),
        ({"model_type": "llama4", "text_config": {"model_type": "llama"}}, "model.config.text_config.model_type"),
        ({"model_type": "gemma3", "text_config": {"hidden_size": -1}}, "model.config.text_config.hidden_size"),
        ({"model_type": ["llama"]}, "model.config.model_type"),
        ({**GPT_NEO, "attention_types": [[["local"], 10**9]]}, "model.config.attention_types"),
        ({**GPT_NEO, "attention_types": [["local", 2]]}, "model.config.attention_types"),
        ({**BERT, "architectures": [7]}, "model.config.architectures"),
    ],
)
def test_contradictions_and_wrong_types_are_named(config, field):
    assert refusal_of(config).field == field


@pytest.mark.parametrize("config", [None, [], "llama", 7, {1: 2}])
def test_a_config_that_is_no_object_is_refused(config):
    assert refusal_of(config).field == "model.config"
