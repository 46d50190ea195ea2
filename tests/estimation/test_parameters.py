"""Parameter counts against the numbers that the models' publishers print."""

import pytest

from jobs.estimation import Architecture, InvalidInput, presets

# (model, config.json of the model reduced to what decides its size, published number of parameters)
PUBLISHED = [
    (
        "llama2-7b",
        {
            "model_type": "llama",
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 32000,
            "max_position_embeddings": 4096,
        },
        6_738_415_616,
    ),
    (
        "l2-13",
        {
            "model_type": "llama",
            "num_hidden_layers": 40,
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_attention_heads": 40,
            "num_key_value_heads": 40,
            "vocab_size": 32000,
            "max_position_embeddings": 4096,
        },
        13_015_864_320,
    ),
    (
        "405",
        {
            "model_type": "llama",
            "num_hidden_layers": 126,
            "hidden_size": 16384,
            "intermediate_size": 53248,
            "num_attention_heads": 128,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "max_position_embeddings": 4096,
        },
        405_853_388_800,
    ),
    (
        "mistral",
        {
            "model_type": "mistral",
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 32000,
            "max_position_embeddings": 4096,
        },
        7_241_732_096,
    ),
    (
        "qwen2.5-7b",
        {
            "model_type": "qwen2",
            "num_hidden_layers": 28,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "max_position_embeddings": 4096,
        },
        7_615_616_512,
    ),
    (
        "qwen2.5-0.5b",
        {
            "model_type": "qwen2",
            "num_hidden_layers": 24,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
        },
        494_032_768,
    ),
    (
        "qwen3-8b",
        {
            "model_type": "qwen3",
            "num_hidden_layers": 36,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 151936,
            "max_position_embeddings": 4096,
            "head_dim": 128,
        },
        8_190_735_360,
    ),
    (
        "qwen3-0.6b",
        {
            "model_type": "qwen3",
            "num_hidden_layers": 28,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "vocab_size": 151936,
            "max_position_embeddings": 4096,
            "head_dim": 128,
            "tie_word_embeddings": True,
        },
        596_049_920,
    ),
    (
        "qwen-7b",
        {
            "model_type": "qwen",
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "intermediate_size": 22016,
            "num_attention_heads": 32,
            "vocab_size": 151936,
            "seq_length": 8192,
            "tie_word_embeddings": False,
        },
        7_721_324_544,
    ),
    (
        "gemma-2b",
        {
            "model_type": "gemma",
            "num_hidden_layers": 18,
            "hidden_size": 2048,
            "intermediate_size": 16384,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "vocab_size": 256000,
            "max_position_embeddings": 4096,
            "head_dim": 256,
        },
        2_506_172_416,
    ),
    (
        "gemma-7b",
        {
            "model_type": "gemma",
            "num_hidden_layers": 28,
            "hidden_size": 3072,
            "intermediate_size": 24576,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "vocab_size": 256000,
            "max_position_embeddings": 4096,
            "head_dim": 256,
        },
        8_537_680_896,
    ),
    (
        "gemma2-9b",
        {
            "model_type": "gemma2",
            "num_hidden_layers": 42,
            "hidden_size": 3584,
            "intermediate_size": 14336,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "vocab_size": 256000,
            "max_position_embeddings": 4096,
            "head_dim": 256,
        },
        9_241_705_984,
    ),
    (
        "gemma3-1b",
        {
            "model_type": "gemma3_text",
            "num_hidden_layers": 26,
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "vocab_size": 262144,
            "max_position_embeddings": 4096,
            "head_dim": 256,
        },
        999_885_952,
    ),
    (
        "gpt2",
        {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024, "vocab_size": 50257},
        124_439_808,
    ),
    (
        "neox",
        {
            "model_type": "gpt_neox",
            "num_hidden_layers": 44,
            "hidden_size": 6144,
            "intermediate_size": 24576,
            "num_attention_heads": 64,
            "vocab_size": 50432,
        },
        20_554_567_680,
    ),
    (
        "pythia6.9",
        {
            "model_type": "gpt_neox",
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "intermediate_size": 16384,
            "num_attention_heads": 32,
            "vocab_size": 50432,
        },
        6_857_302_016,
    ),
    (
        "gptj",
        {"model_type": "gptj", "n_layer": 28, "n_embd": 4096, "n_head": 16, "n_positions": 2048, "vocab_size": 50400},
        6_050_882_784,
    ),
    (
        "opt-6.7",
        {
            "model_type": "opt",
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "ffn_dim": 16384,
            "num_attention_heads": 32,
            "vocab_size": 50272,
            "max_position_embeddings": 2048,
            "word_embed_proj_dim": 4096,
        },
        6_658_473_984,
    ),
    (
        "opt-125",
        {
            "model_type": "opt",
            "num_hidden_layers": 12,
            "hidden_size": 768,
            "ffn_dim": 3072,
            "num_attention_heads": 12,
            "vocab_size": 50272,
            "max_position_embeddings": 2048,
        },
        125_239_296,
    ),
    (
        "bloom",
        {"model_type": "bloom", "n_layer": 70, "hidden_size": 14336, "n_head": 112, "vocab_size": 250880},
        176_247_271_424,
    ),
    (
        "bloom560",
        {"model_type": "bloom", "n_layer": 24, "hidden_size": 1024, "n_head": 16, "vocab_size": 250880},
        559_214_592,
    ),
    (
        "falcon7",
        {
            "model_type": "falcon",
            "num_hidden_layers": 32,
            "hidden_size": 4544,
            "num_attention_heads": 71,
            "vocab_size": 65024,
            "multi_query": True,
            "parallel_attn": True,
            "bias": False,
        },
        6_921_720_704,
    ),
    (
        "falcon40",
        {
            "model_type": "falcon",
            "num_hidden_layers": 60,
            "hidden_size": 8192,
            "num_attention_heads": 128,
            "num_kv_heads": 8,
            "vocab_size": 65024,
            "new_decoder_architecture": True,
        },
        41_303_293_952,
    ),
    (
        "phi2",
        {
            "model_type": "phi",
            "num_hidden_layers": 32,
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_attention_heads": 32,
            "vocab_size": 51200,
        },
        2_779_683_840,
    ),
    (
        "phi3",
        {
            "model_type": "phi3",
            "num_hidden_layers": 32,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 32064,
            "max_position_embeddings": 4096,
        },
        3_821_079_552,
    ),
    (
        "chatglm3",
        {
            "model_type": "chatglm",
            "num_layers": 28,
            "hidden_size": 4096,
            "ffn_hidden_size": 13696,
            "num_attention_heads": 32,
            "kv_channels": 128,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "padded_vocab_size": 65024,
            "add_qkv_bias": True,
        },
        6_243_584_000,
    ),
    (
        "glm4-9b-chatglm",
        {
            "model_type": "chatglm",
            "num_layers": 40,
            "hidden_size": 4096,
            "ffn_hidden_size": 13696,
            "num_attention_heads": 32,
            "kv_channels": 128,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "padded_vocab_size": 151552,
            "add_qkv_bias": True,
        },
        9_399_951_360,
    ),
    (
        "baichuan2-13",
        {
            "model_type": "baichuan",
            "num_hidden_layers": 40,
            "hidden_size": 5120,
            "intermediate_size": 13696,
            "num_attention_heads": 40,
            "vocab_size": 125696,
            "model_max_length": 4096,
        },
        13_896_668_160,
    ),
    (
        "baichuan7",
        {
            "model_type": "baichuan",
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_attention_heads": 32,
            "vocab_size": 64000,
        },
        7_000_559_616,
    ),
    (
        "internlm2-7",
        {
            "model_type": "internlm2",
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 92544,
            "max_position_embeddings": 4096,
            "bias": False,
        },
        7_737_708_544,
    ),
    (
        "sc2-3b",
        {
            "model_type": "starcoder2",
            "num_hidden_layers": 30,
            "hidden_size": 3072,
            "intermediate_size": 12288,
            "num_attention_heads": 24,
            "num_key_value_heads": 2,
            "vocab_size": 49152,
            "max_position_embeddings": 4096,
        },
        3_030_371_328,
    ),
    (
        "sc2-7b",
        {
            "model_type": "starcoder2",
            "num_hidden_layers": 32,
            "hidden_size": 4608,
            "intermediate_size": 18432,
            "num_attention_heads": 36,
            "num_key_value_heads": 4,
            "vocab_size": 49152,
            "max_position_embeddings": 4096,
        },
        7_173_923_840,
    ),
    (
        "stablelm2-1.6",
        {
            "model_type": "stablelm",
            "num_hidden_layers": 24,
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 100352,
            "max_position_embeddings": 4096,
            "use_qkv_bias": True,
        },
        1_644_515_328,
    ),
    (
        "command-r",
        {
            "model_type": "cohere",
            "num_hidden_layers": 40,
            "hidden_size": 8192,
            "intermediate_size": 22528,
            "num_attention_heads": 64,
            "num_key_value_heads": 64,
            "vocab_size": 256000,
            "max_position_embeddings": 4096,
        },
        34_980_831_232,
    ),
    (
        "olmo1b",
        {
            "model_type": "olmo",
            "num_hidden_layers": 16,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "vocab_size": 50304,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
        },
        1_176_764_416,
    ),
    (
        "mpt7b",
        {
            "model_type": "mpt",
            "d_model": 4096,
            "n_heads": 32,
            "n_layers": 32,
            "vocab_size": 50432,
            "max_seq_len": 2048,
            "expansion_ratio": 4,
            "no_bias": True,
            "attn_config": {"alibi": True},
        },
        6_649_286_656,
    ),
    (
        "starcoderbase",
        {
            "model_type": "gpt_bigcode",
            "n_layer": 40,
            "n_embd": 6144,
            "n_head": 48,
            "n_positions": 8192,
            "n_inner": 24576,
            "vocab_size": 49152,
            "multi_query": True,
        },
        15_517_456_384,
    ),
    (
        "codegen350",
        {
            "model_type": "codegen",
            "n_layer": 20,
            "n_embd": 1024,
            "n_head": 16,
            "n_positions": 2048,
            "vocab_size": 51200,
        },
        356_712_448,
    ),
]

PRESET_PARAMETERS = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "bloom-176b": 176_247_271_424,
    "chatglm3-6b": 6_243_584_000,
    "mistral-7b": 7_241_732_096,
    "gpt2-small": 124_439_808,
}


@pytest.mark.parametrize(("name", "config", "parameters"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_parameters_are_exactly_the_published_number(name, config, parameters):
    assert Architecture.from_hf_config(config).parameters == parameters


@pytest.mark.parametrize(("name", "parameters"), PRESET_PARAMETERS.items())
def test_presets_have_the_published_number(name, parameters):
    assert presets()[name].architecture.parameters == parameters


def test_gpt3_has_the_174_600_million_of_its_paper():
    assert presets()["gpt3-175b"].architecture.parameters == pytest.approx(174.6e9, rel=1e-3)


def test_demo_model_is_small():
    assert presets()["char-transformer-demo"].architecture.parameters < 200_000


def test_every_preset_names_its_source_and_both_titles():
    for preset in presets().values():
        assert preset.title
        assert preset.title_zh
        assert preset.source_url


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "model.config.num_local_experts", "dense"),
        ({"model_type": "deepseek_v2", "kv_lora_rank": 512}, "model.config.kv_lora_rank", "latent"),
        ({"model_type": "t5"}, "model.config.model_type", "llama"),
        ({"model_type": None}, "model.config.model_type", "required"),
        ({"hidden_size": None}, "model.config.hidden_size", "required"),
        ({"num_attention_heads": 31}, "model.config.num_attention_heads", "divisor"),
        ({"num_key_value_heads": 5}, "architecture.num_key_value_heads", "divisor"),
        ({"num_hidden_layers": True}, "model.config.num_hidden_layers", "integer"),
        ({"num_hidden_layers": float("nan")}, "model.config.num_hidden_layers", "integer"),
        ({"num_hidden_layers": -3}, "model.config.num_hidden_layers", "integer"),
        ({"num_hidden_layers": "32"}, "model.config.num_hidden_layers", "integer"),
        ({"vocab_size": 10**9}, "architecture.vocab_size", "from"),
        ({"tie_word_embeddings": "yes"}, "model.config.tie_word_embeddings", "true or false"),
    ],
)
def test_unusable_config_names_the_key_and_what_is_allowed(change, field, words):
    config = {**PUBLISHED[0][1], **change}
    with pytest.raises(InvalidInput) as caught:
        Architecture.from_hf_config(config)
    assert caught.value.field == field
    assert words in caught.value.allowed
