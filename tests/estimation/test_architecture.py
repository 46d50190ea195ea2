"""The parts of an architecture: they sum to the whole, and contradicting ones are refused."""

import math

import pytest

from jobs.estimation import Architecture, InvalidInput, presets
from tests.estimation.published_models import PUBLISHED

ARCHITECTURES = {name: Architecture.from_hf_config(row["config"]) for name, row in PUBLISHED.items()}

# One of each make.
MAKES = [
    "openai-community/gpt2",
    "meta-llama/Llama-2-7b-hf",
    "Qwen/Qwen2.5-0.5B",
    "CohereForAI/c4ai-command-r-plus",
    "mistralai/Mixtral-8x7B-v0.1",
    "Qwen/Qwen1.5-MoE-A2.7B",
    "deepseek-ai/DeepSeek-V3",
    "openai/gpt-oss-120b",
    "meta-llama/Llama-4-Maverick-17B-128E",
    "google-bert/bert-large-uncased",
    "google/flan-t5-xxl",
]

# Small enough to write down every tensor.
LATENT = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "kv_lora_rank": 16,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 10,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
}
LATENT_ATTENTION = [(64, 12), (12, 4 * 12), (64, 16 + 4), (16, 4 * (8 + 10)), (4 * 10, 64)]
LATENT_NORMS = [(64,), (64,), (12,), (16,)]


def count(shapes: list[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def test_latent_attention_with_shared_experts_is_the_sum_of_its_tensors():
    architecture = Architecture.from_hf_config(LATENT)
    dense = LATENT_ATTENTION + LATENT_NORMS + 2 * [(64, 96)] + [(96, 64)]
    expert = 2 * [(64, 24)] + [(24, 64)]
    sparse = LATENT_ATTENTION + LATENT_NORMS + 6 * expert + 2 * expert + [(64, 6), (6,)]
    assert architecture.attention_matmul_parameters == count(LATENT_ATTENTION)
    assert architecture.expert_parameters == count(expert)
    assert architecture.shared_expert_parameters == 2 * count(expert)
    assert architecture.router_parameters == 64 * 6
    assert architecture.dense_layer_parameters == count(dense)
    assert architecture.moe_layer_parameters == count(sparse)
    assert architecture.parameters == count(dense) + 2 * count(sparse) + count([(100, 64), (64,), (100, 64)])
    assert architecture.active_parameters == architecture.parameters - 2 * 4 * count(expert)


def test_an_encoder_decoder_is_the_sum_of_its_tensors():
    architecture = Architecture.from_hf_config(
        {"model_type": "t5", "num_layers": 2, "num_decoder_layers": 3, "d_model": 16, "d_kv": 6, "d_ff": 40}
        | {"num_heads": 2, "vocab_size": 50, "relative_attention_num_buckets": 8}
    )
    attention, mlp, norm = 3 * [(16, 12)] + [(12, 16)], [(16, 40), (40, 16)], [(16,)]
    encoder = count(attention + mlp + 2 * norm)
    decoder = count(attention + attention + mlp + 3 * norm)
    assert architecture.encoder_layer_parameters == encoder
    assert architecture.dense_layer_parameters == decoder
    tables = count(2 * [(8, 2)] + 2 * norm)
    assert architecture.parameters == 2 * encoder + 3 * decoder + count([(50, 16)]) + tables


@pytest.mark.parametrize("name", MAKES)
def test_layers_embedding_and_head_are_the_whole(name):
    arch = ARCHITECTURES[name]
    ends = arch.embedding_parameters + arch.head_parameters
    assert arch.num_layers * arch.layer_parameters + ends == pytest.approx(arch.parameters, rel=1e-12)
    by_kind = arch.num_dense_layers * arch.dense_layer_parameters + arch.num_moe_layers * arch.moe_layer_parameters
    assert by_kind + arch.encoder_layers * arch.encoder_layer_parameters + ends == arch.parameters


@pytest.mark.parametrize("name", MAKES)
def test_matrices_and_the_rest_are_a_layer(name):
    arch = ARCHITECTURES[name]
    mixture = arch.num_experts * arch.expert_parameters + arch.shared_expert_parameters + arch.router_parameters
    matrices = (
        arch.num_layers * arch.attention_matmul_parameters
        + arch.num_hidden_layers * arch.cross_attention_parameters
        + (arch.num_dense_layers + arch.encoder_layers) * arch.dense_mlp_parameters
        + arch.num_moe_layers * mixture
    )
    whole = arch.num_layers * (arch.layer_parameters - arch.other_layer_parameters)
    assert whole == pytest.approx(matrices, rel=1e-12)
    assert 0 <= arch.other_layer_parameters < 0.02 * arch.layer_parameters


@pytest.mark.parametrize("name", MAKES)
def test_only_a_mixture_leaves_parameters_idle(name):
    arch = ARCHITECTURES[name]
    assert (arch.active_parameters < arch.parameters) == arch.is_moe
    assert (arch.moe_layer_parameters > 0) == (arch.router_parameters > 0) == arch.is_moe
    head = arch.vocab_size * arch.hidden_size
    assert arch.matmul_parameters == pytest.approx(arch.num_layers * arch.layer_matmul_parameters + head, rel=1e-12)
    assert arch.matmul_parameters <= arch.active_parameters + (head if arch.tied_embeddings else 0)


def test_routing_to_all_experts_uses_every_parameter():
    data = ARCHITECTURES["mistralai/Mixtral-8x7B-v0.1"].to_dict()
    every = Architecture.from_dict({**data, "experts_per_token": 8})
    assert every.active_parameters == every.parameters


SPARSE = ARCHITECTURES["deepseek-ai/DeepSeek-V3"].to_dict()
DENSE = ARCHITECTURES["meta-llama/Llama-2-7b-hf"].to_dict()


@pytest.mark.parametrize(
    ("data", "change", "field"),
    [
        (DENSE, {"num_experts": 8}, "num_experts"),
        (DENSE, {"experts_per_token": 2}, "experts_per_token"),
        (DENSE, {"router_bias": True}, "router_bias"),
        (DENSE, {"num_moe_layers": 32}, "num_experts"),
        (DENSE, {"q_lora_rank": 512}, "q_lora_rank"),
        (DENSE, {"qk_rope_head_dim": 64}, "qk_rope_head_dim"),
        (DENSE, {"kv_lora_rank": 512}, "qk_rope_head_dim"),
        (DENSE, {"sliding_window_layers": 4}, "sliding_window_layers"),
        (DENSE, {"sliding_window": 128, "sliding_window_layers": 33}, "sliding_window_layers"),
        (DENSE, {"shared_expert_gate": True}, "shared_expert_gate"),
        (DENSE, {"is_causal": 0}, "is_causal"),
        (DENSE, {"encoder_layers": -1}, "encoder_layers"),
        (SPARSE, {"num_moe_layers": 62}, "num_moe_layers"),
        (SPARSE, {"num_moe_layers": 0}, "num_experts"),
        (SPARSE, {"experts_per_token": 257}, "experts_per_token"),
        (SPARSE, {"expert_intermediate_size": 0}, "expert_intermediate_size"),
        (SPARSE, {"qk_rope_head_dim": 192}, "qk_rope_head_dim"),
        (SPARSE, {"num_key_value_heads": 64}, "num_key_value_heads"),
        (SPARSE, {"encoder_layers": 4}, "num_moe_layers"),
        (SPARSE, {"shared_expert_intermediate_size": 0, "shared_expert_gate": True}, "shared_expert_gate"),
        (SPARSE, {"num_experts": math.nan}, "num_experts"),
        (SPARSE, {"num_experts": "256"}, "num_experts"),
    ],
)
def test_contradicting_fields_are_refused_by_name(data, change, field):
    with pytest.raises(InvalidInput) as caught:
        Architecture.from_dict({**data, **change})
    assert caught.value.field == f"architecture.{field}"


def test_a_model_of_ten_thousand_trillion_parameters_is_refused():
    with pytest.raises(InvalidInput) as caught:
        Architecture.from_dict({**SPARSE, "num_experts": 1_000_000, "expert_intermediate_size": 1_000_000})
    assert "parameters" in str(caught.value)


def test_every_preset_is_an_architecture_that_reads_back():
    for preset in presets().values():
        assert Architecture.from_dict(preset.architecture.to_dict()) == preset.architecture
