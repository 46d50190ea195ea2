"""The shape of a transformer (dense, mixture of experts, latent attention, encoder) and its exact parameter count."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Final

from jobs.estimation.hf_config import read_hf_config
from jobs.estimation.validation import (
    InvalidInput,
    check_boolean,
    check_integer,
    check_keys,
    check_mapping,
    check_text,
)

MAX_LAYERS: Final = 2_000
MAX_HIDDEN: Final = 1_000_000
MAX_EXPERTS: Final = 1_000_000
MAX_PARAMETERS: Final = 10**15
"""A thousand trillion: above every published model, dense or sparse (BaGuaLu: 1.7 x 10^14)."""

_INTEGER_BOUNDS: Final[Mapping[str, tuple[int, int]]] = {
    "num_hidden_layers": (1, MAX_LAYERS),
    "hidden_size": (8, MAX_HIDDEN),
    "intermediate_size": (8, 8 * MAX_HIDDEN),
    "num_attention_heads": (1, 65_536),
    "num_key_value_heads": (1, 65_536),
    "head_dim": (1, 8_192),
    "vocab_size": (2, 10_000_000),
    "max_position_embeddings": (1, 100_000_000),
    "learned_position_rows": (0, 100_000_000),
    "norm_vectors": (0, 2),
    "block_norms": (0, 8),
    "head_norms": (0, 2),
    "sliding_window": (0, 100_000_000),
    "sliding_window_layers": (0, MAX_LAYERS),
    "num_moe_layers": (0, MAX_LAYERS),
    "num_experts": (0, MAX_EXPERTS),
    "experts_per_token": (0, MAX_EXPERTS),
    "expert_intermediate_size": (0, 8 * MAX_HIDDEN),
    "shared_expert_intermediate_size": (0, 8 * MAX_HIDDEN),
    "q_lora_rank": (0, MAX_HIDDEN),
    "kv_lora_rank": (0, MAX_HIDDEN),
    "qk_rope_head_dim": (0, 8_192),
    "v_head_dim": (0, 8_192),
    "encoder_layers": (0, MAX_LAYERS),
    "token_type_rows": (0, 65_536),
    "relative_attention_buckets": (0, 65_536),
    "num_labels": (0, 10_000_000),
}

_REQUIRED: Final = (
    "family",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A transformer; field names follow Hugging Face `config.json` where it has one.

    Norms: `block_norms` counts the normalisations over the hidden width in a layer (2 in Llama, 1 in a parallel
    block with one shared norm, 4 in Gemma 2); `head_norms` the query/key norms over one head (Qwen 3), while
    `query_key_norm` says that these two span all heads (OLMo 2, Command R+). `norm_vectors` is 2 for LayerNorm with
    bias, 1 for RMSNorm or LayerNorm without bias, 0 without weights.

    Attention: `learned_position_rows` is 0 for rotary or ALiBi positions. `sliding_window` is 0 for full attention;
    `sliding_window_layers` the number of layers that have it, 0 for all. `kv_lora_rank` > 0 means multi-head latent
    attention (DeepSeek-V2, arXiv 2405.04434, 2.1): `head_dim` then is the whole query/key head (qk_nope + qk_rope),
    and `q_lora_rank` 0 means an uncompressed query. `v_head_dim` 0 means `head_dim`.

    Mixture of experts: `num_moe_layers` layers of `num_experts` routed experts of `expert_intermediate_size`, of which
    a token passes `experts_per_token`; `shared_expert_intermediate_size` is the width of all shared experts of such a
    layer together. The other layers have a dense MLP of `intermediate_size`.

    Encoders: `is_causal` is false where every token sees all others (BERT). `encoder_layers` > 0 means an
    encoder-decoder (T5): `num_hidden_layers` then are the decoder's, each with cross-attention and one more norm.
    """

    family: str
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    gated_mlp: bool = True
    tied_embeddings: bool = False
    learned_position_rows: int = 0
    qkv_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    lm_head_bias: bool = False
    norm_vectors: int = 1
    block_norms: int = 2
    head_norms: int = 0
    final_norm: bool = True
    embedding_norm: bool = False
    sliding_window: int = 0
    sliding_window_layers: int = 0
    num_moe_layers: int = 0
    num_experts: int = 0
    experts_per_token: int = 0
    expert_intermediate_size: int = 0
    shared_expert_intermediate_size: int = 0
    shared_expert_gate: bool = False
    """A gate of one output on the shared expert (Qwen 1.5 MoE)."""
    router_bias: bool = False
    """One number an expert: a bias of the router, or DeepSeek-V3's correction for balance."""
    expert_bias: bool = False
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    query_key_norm: bool = False
    attention_sinks: bool = False
    """One learned logit a head in each layer (GPT-OSS)."""
    is_causal: bool = True
    encoder_layers: int = 0
    token_type_rows: int = 0
    """Rows of the segment embedding (2 in BERT)."""
    relative_attention_buckets: int = 0
    """Rows of the table of relative position biases, one table a stack (T5)."""
    pooler: bool = False
    """A dense layer over the first token (BERT)."""
    head_transform: bool = False
    """A dense layer and a norm before the output projection (BERT's masked-word head)."""
    num_labels: int = 0
    """Classes of a classification head with bias (2 for BERT's next-sentence task)."""

    def __post_init__(self) -> None:
        check_text("architecture.family", self.family, maximum_length=64)
        for name, (low, high) in _INTEGER_BOUNDS.items():
            number = check_integer(f"architecture.{name}", getattr(self, name), minimum=low, maximum=high)
            object.__setattr__(self, name, number)
        for field in fields(self):
            if field.type is bool:
                check_boolean(f"architecture.{field.name}", getattr(self, field.name))
        self._check_attention()
        self._check_experts()
        if self.parameters > MAX_PARAMETERS:
            raise InvalidInput("architecture", f"{self.parameters} parameters", f"at most {MAX_PARAMETERS} parameters")

    def _check_attention(self) -> None:
        heads = self.num_attention_heads
        if heads % self.num_key_value_heads:
            self._refuse("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
        if self.sliding_window_layers > self.num_hidden_layers:
            self._refuse("sliding_window_layers", f"at most num_hidden_layers ({self.num_hidden_layers})")
        if self.sliding_window_layers and not self.sliding_window:
            self._refuse("sliding_window_layers", "0 without a sliding_window")
        if not self.is_mla:
            for name in ("q_lora_rank", "qk_rope_head_dim"):
                if getattr(self, name):
                    self._refuse(name, "0 without latent attention (kv_lora_rank is 0)")
            return
        if not 0 < self.qk_rope_head_dim < self.head_dim:
            self._refuse("qk_rope_head_dim", f"from 1 to head_dim - 1 ({self.head_dim - 1}) with latent attention")
        if self.num_key_value_heads != heads:
            self._refuse("num_key_value_heads", f"num_attention_heads ({heads}) with latent attention")

    def _check_experts(self) -> None:
        if self.num_moe_layers > self.num_hidden_layers:
            self._refuse("num_moe_layers", f"at most num_hidden_layers ({self.num_hidden_layers})")
        names = ("num_experts", "experts_per_token", "expert_intermediate_size")
        if not self.num_moe_layers:
            for name in (*names, "shared_expert_intermediate_size", "shared_expert_gate", "router_bias", "expert_bias"):
                if getattr(self, name):
                    self._refuse(name, "nothing: num_moe_layers is 0, so there are no experts")
            return
        for name in names:
            if not getattr(self, name):
                self._refuse(name, f"at least 1, as num_moe_layers is {self.num_moe_layers}")
        if self.experts_per_token > self.num_experts:
            self._refuse("experts_per_token", f"at most num_experts ({self.num_experts})")
        if self.shared_expert_gate and not self.shared_expert_intermediate_size:
            self._refuse("shared_expert_gate", "false without a shared expert")
        if self.encoder_layers:
            self._refuse("num_moe_layers", "0 in an encoder-decoder; mixtures of experts there are not supported")

    def _refuse(self, name: str, allowed: str) -> None:
        raise InvalidInput(f"architecture.{name}", getattr(self, name), allowed)

    @classmethod
    def from_hf_config(cls, config: Mapping[str, Any]) -> "Architecture":
        """Read a Hugging Face `config.json`.

        Raises InvalidInput for an unknown model type, and for missing or contradicting keys.
        """
        return cls(**read_hf_config(config))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Architecture":
        """Rebuild from `to_dict()`; unknown and missing keys raise InvalidInput."""
        mapping = check_mapping("architecture", data)
        check_keys("architecture", mapping, known={field.name for field in fields(cls)}, required=_REQUIRED)
        return cls(**mapping)  # type: ignore[arg-type] # every value is checked in __post_init__

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    # -- attention

    @property
    def is_mla(self) -> bool:
        """Multi-head latent attention: keys and values are rebuilt from one low-rank vector a token."""
        return self.kv_lora_rank > 0

    @property
    def value_head_dim(self) -> int:
        return self.v_head_dim or self.head_dim

    @property
    def query_size(self) -> int:
        """Width of all query heads together; differs from hidden_size in Gemma, Qwen 3 and DeepSeek."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of all key heads together, as the attention kernel sees them.

        With latent attention every query head has its own key of head_dim (nope + rope) in training. The values are
        as wide unless v_head_dim says otherwise (`value_size`).
        """
        return self.num_key_value_heads * self.head_dim

    @property
    def value_size(self) -> int:
        """Width of all value heads together."""
        return self.num_key_value_heads * self.value_head_dim

    @property
    def attention_output_size(self) -> int:
        """Width of the attention's result, the input of the output projection."""
        return self.num_attention_heads * self.value_head_dim

    @property
    def cache_size(self) -> int:
        """Numbers a layer keeps for a token in a KV cache: keys and values, or MLA's latent vector and shared key."""
        if self.is_mla:
            return self.kv_lora_rank + self.qk_rope_head_dim
        return self.key_value_size + self.value_size

    @cached_property
    def attention_matmul_parameters(self) -> int:
        """Weights of all matrices of a layer's self-attention, MLA's down- and up-projections among them."""
        hidden = self.hidden_size
        output = self.attention_output_size * hidden
        if not self.is_mla:
            return hidden * (self.query_size + self.key_value_size + self.value_size) + output
        # DeepSeek-V2 (arXiv 2405.04434), 2.1.2 and appendix C.
        query = self.q_lora_rank * (hidden + self.query_size) if self.q_lora_rank else hidden * self.query_size
        down = hidden * (self.kv_lora_rank + self.qk_rope_head_dim)
        up = self.kv_lora_rank * (self.query_size - self.num_attention_heads * self.qk_rope_head_dim + self.value_size)
        return query + down + up + output

    @property
    def cross_attention_parameters(self) -> int:
        """Matrix weights of a decoder layer's cross-attention in an encoder-decoder, else 0."""
        return self.attention_matmul_parameters if self.encoder_layers else 0

    @cached_property
    def _attention_vectors(self) -> int:
        """Biases, norms over heads or latent vectors, and sinks of one self-attention."""
        count = self.head_norms * self.norm_vectors * self.head_dim
        if self.qkv_bias and self.is_mla:
            count += self.q_lora_rank + self.kv_lora_rank + self.qk_rope_head_dim
        elif self.qkv_bias:
            count += self.query_size + self.key_value_size + self.value_size
        if self.attention_output_bias:
            count += self.hidden_size
        if self.query_key_norm:
            count += self.query_size + self.key_value_size
        if self.attention_sinks:
            count += self.num_attention_heads
        return count + self.q_lora_rank + self.kv_lora_rank

    # -- MLP and experts

    @property
    def is_moe(self) -> bool:
        return self.num_moe_layers > 0

    @property
    def num_dense_layers(self) -> int:
        """Layers (the decoder's, in an encoder-decoder) with a dense MLP."""
        return self.num_hidden_layers - self.num_moe_layers

    @property
    def mlp_matrices(self) -> int:
        return 3 if self.gated_mlp else 2

    @property
    def dense_mlp_parameters(self) -> int:
        """Matrix weights of a dense layer's MLP."""
        return self.mlp_matrices * self.hidden_size * self.intermediate_size

    @property
    def expert_parameters(self) -> int:
        """Matrix weights of one routed expert."""
        return self.mlp_matrices * self.hidden_size * self.expert_intermediate_size

    @property
    def shared_expert_parameters(self) -> int:
        """Matrix weights of all shared experts of a layer."""
        return self.mlp_matrices * self.hidden_size * self.shared_expert_intermediate_size

    @property
    def router_parameters(self) -> int:
        """Matrix weights of a layer's router and of the gate on its shared expert; 0 without experts."""
        return self.hidden_size * (self.num_experts + int(self.shared_expert_gate))

    def _count_mlp_biases(self, width: int) -> int:
        return (self.mlp_matrices - 1) * width + self.hidden_size

    @property
    def _expert_biases(self) -> int:
        return self._count_mlp_biases(self.expert_intermediate_size) if self.expert_bias else 0

    # -- layers

    @property
    def num_layers(self) -> int:
        """All layers: the encoder's and the decoder's."""
        return self.num_hidden_layers + self.encoder_layers

    @property
    def _block_parameters(self) -> int:
        """What every layer has whatever its MLP: self-attention and norms."""
        norms = self.block_norms * self.norm_vectors * self.hidden_size
        return self.attention_matmul_parameters + self._attention_vectors + norms

    @property
    def _cross_block_parameters(self) -> int:
        if not self.encoder_layers:
            return 0
        norm = self.norm_vectors * self.hidden_size
        return self.cross_attention_parameters + self._attention_vectors + norm

    @property
    def encoder_layer_parameters(self) -> int:
        """All parameters of an encoder layer of an encoder-decoder (a dense layer without cross-attention)."""
        biases = self._count_mlp_biases(self.intermediate_size) if self.mlp_bias else 0
        return self._block_parameters + self.dense_mlp_parameters + biases

    @cached_property
    def dense_layer_parameters(self) -> int:
        """All parameters of a layer with a dense MLP: matrices, biases, norms, cross-attention if there is one."""
        return self.encoder_layer_parameters + self._cross_block_parameters

    @cached_property
    def moe_layer_parameters(self) -> int:
        """All parameters of a layer whose MLP is a mixture of experts; 0 if there is none."""
        if not self.is_moe:
            return 0
        experts = self.num_experts * (self.expert_parameters + self._expert_biases)
        biases = self.num_experts if self.router_bias else 0
        return self._block_parameters + experts + self.shared_expert_parameters + self.router_parameters + biases

    @cached_property
    def _parameters_of_layers(self) -> int:
        dense = self.num_dense_layers * self.dense_layer_parameters
        encoder = self.encoder_layers * self.encoder_layer_parameters
        return dense + self.num_moe_layers * self.moe_layer_parameters + encoder

    def _count_matmul_parameters_of_layers(self, *, experts: int) -> int:
        """Matrix weights of all layers, with `experts` routed experts in each mixture."""
        layers = self.num_layers * self.attention_matmul_parameters
        layers += self.num_hidden_layers * self.cross_attention_parameters
        layers += (self.num_dense_layers + self.encoder_layers) * self.dense_mlp_parameters
        mixture = experts * self.expert_parameters + self.shared_expert_parameters + self.router_parameters
        return layers + self.num_moe_layers * mixture

    @cached_property
    def layer_parameters(self) -> float:
        """All parameters of a layer, the mean over all layers (encoder, decoder, dense and sparse ones)."""
        return self._parameters_of_layers / self.num_layers

    @cached_property
    def layer_matmul_parameters(self) -> float:
        """Matrix weights that a token is multiplied with in a layer (of experts the active), the mean over layers."""
        return self._count_matmul_parameters_of_layers(experts=self.experts_per_token) / self.num_layers

    @cached_property
    def other_layer_parameters(self) -> float:
        """Parameters of a layer that are no matrix (norms, biases, sinks), the mean over layers."""
        matrices = self._count_matmul_parameters_of_layers(experts=self.num_experts)
        return (self._parameters_of_layers - matrices) / self.num_layers

    # -- the whole model

    @cached_property
    def embedding_parameters(self) -> int:
        """Word, learned position and segment embeddings, their norm, and tables of relative positions."""
        rows = self.vocab_size + self.learned_position_rows + self.token_type_rows
        count = rows * self.hidden_size + (self.norm_vectors * self.hidden_size if self.embedding_norm else 0)
        stacks = 2 if self.encoder_layers else 1
        return count + stacks * self.relative_attention_buckets * self.num_attention_heads

    @cached_property
    def head_parameters(self) -> int:
        """Output projection (0 if tied), its bias, the final norms, and the further heads of an encoder."""
        hidden = self.hidden_size
        count = 0 if self.tied_embeddings else self.vocab_size * hidden
        if self.lm_head_bias:
            count += self.vocab_size
        if self.final_norm:
            count += (2 if self.encoder_layers else 1) * self.norm_vectors * hidden
        if self.pooler:
            count += hidden * hidden + hidden
        if self.head_transform:
            count += hidden * hidden + hidden + self.norm_vectors * hidden
        return count + self.num_labels * (hidden + 1)

    @cached_property
    def parameters(self) -> int:
        """Exact number of parameters, each tied matrix counted once; heads for multi-token prediction not counted."""
        return self._parameters_of_layers + self.embedding_parameters + self.head_parameters

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that a token passes: all but the experts it is not routed to; embeddings count in full."""
        idle = self.num_experts - self.experts_per_token
        return self.parameters - self.num_moe_layers * idle * (self.expert_parameters + self._expert_biases)

    @cached_property
    def matmul_parameters(self) -> int:
        """Weights that a token is multiplied with: active matrices and output projection, not the input embedding.

        In an encoder-decoder the sum over both stacks, of which a token passes one.
        """
        layers = self._count_matmul_parameters_of_layers(experts=self.experts_per_token)
        return layers + self.vocab_size * self.hidden_size
