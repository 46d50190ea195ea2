"""Parameter counts against the numbers that the models' publishers print."""

import pytest

from jobs.estimation import Architecture, InvalidInput, presets
from tests.estimation.published_models import PUBLISHED

LLAMA_2_7B = PUBLISHED["meta-llama/Llama-2-7b-hf"]["config"]

# What the publishers say is used for a token, in billions.
ACTIVE_BILLIONS = {
    "mixtral-8x7b": (12.9, 0.01),
    "mixtral-8x22b": (39.0, 0.01),
    "deepseek-v2": (21.0, 0.03),
    "deepseek-v3": (37.0, 0.02),
    "qwen3-30b-a3b": (3.3, 0.03),
    "qwen3-235b-a22b": (22.0, 0.02),
    "llama-4-maverick": (17.0, 0.02),
    "kimi-k2": (32.0, 0.03),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_exactly_the_published_number(name):
    assert Architecture.from_hf_config(PUBLISHED[name]["config"]).parameters == PUBLISHED[name]["parameters"]


@pytest.mark.parametrize(("name", "billions"), ACTIVE_BILLIONS.items())
def test_a_token_uses_the_published_number_of_parameters(name, billions):
    published, tolerance = billions
    assert presets()[name].architecture.active_parameters == pytest.approx(1e9 * published, rel=tolerance)


# Publishers that leave the input embedding out, each to the digits that it prints: the table "model parameters" of the
# GPT-OSS model card, README_WEIGHTS.md of DeepSeek-V3 ("36.6B, including 0.9B for the output head") and the paper of
# DeepSeek-V2, appendix B, which leaves it out as well (2.66 with it).
@pytest.mark.parametrize(
    ("name", "billions", "digits"),
    [("gpt-oss-120b", 5.13, 2), ("gpt-oss-20b", 3.61, 2), ("deepseek-v3", 36.6, 1), ("deepseek-v2-lite", 2.4, 0)],
)
def test_active_parameters_less_the_input_embedding_are_the_published_number(name, billions, digits):
    arch = presets()[name].architecture
    counted = (arch.active_parameters - arch.vocab_size * arch.hidden_size) / 1e9
    assert counted == pytest.approx(billions, abs=0.51 * 10.0**-digits if digits else 0.06)


def test_an_architecture_stored_before_mixtures_were_known_still_reads():
    stored = Architecture.from_hf_config(LLAMA_2_7B).to_dict()
    old = {name: value for name, value in stored.items() if "expert" not in name and "lora" not in name}
    old = {name: value for name, value in old.items() if name not in ("num_moe_layers", "is_causal", "encoder_layers")}
    assert Architecture.from_dict(old) == Architecture.from_hf_config(LLAMA_2_7B)


def test_gpt3_has_the_174_600_million_of_its_paper():
    assert presets()["gpt3-175b"].architecture.parameters == pytest.approx(174.6e9, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "model.config.num_experts_per_tok", "required"),
        ({"num_local_experts": 8}, "model.config.num_local_experts", "dense"),
        ({"model_type": "deepseek_v2", "kv_lora_rank": 512}, "model.config.qk_nope_head_dim", "required"),
        ({"model_type": "mamba"}, "model.config.model_type", "llama"),
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
    config = {**LLAMA_2_7B, **change}
    with pytest.raises(InvalidInput) as caught:
        Architecture.from_hf_config(config)
    assert caught.value.field == field
    assert words in caught.value.allowed
