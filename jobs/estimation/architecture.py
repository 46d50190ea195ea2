"""The shape of a dense decoder transformer and its exact parameter count."""

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
MAX_PARAMETERS: Final = 10**15
"""A thousand trillion: above every published model, dense or sparse."""

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
    "block_norms": (0, 8),
    "head_norms": (0, 2),
    "sliding_window": (0, 100_000_000),
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A dense transformer; field names follow Hugging Face `config.json` where it has one.

    `block_norms` counts the normalisations over the hidden width in a layer (2 in Llama, 1 in a parallel
    block with one shared norm, 4 in Gemma 2); `head_norms` the query/key norms over one head (Qwen 3).
    `norm_vectors` is 2 for LayerNorm with bias, 1 for RMSNorm or LayerNorm without bias, 0 without weights.
    `learned_position_rows` is 0 for rotary or ALiBi positions. `sliding_window` is 0 for full attention.
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

    def __post_init__(self) -> None:
        check_text("architecture.family", self.family, maximum_length=64)
        for name, (low, high) in _INTEGER_BOUNDS.items():
            number = check_integer(f"architecture.{name}", getattr(self, name), minimum=low, maximum=high)
            object.__setattr__(self, name, number)
        norm_vectors = check_integer("architecture.norm_vectors", self.norm_vectors, minimum=0, maximum=2)
        object.__setattr__(self, "norm_vectors", norm_vectors)
        for field in fields(self):
            if field.type is bool:
                check_boolean(f"architecture.{field.name}", getattr(self, field.name))
        if self.num_attention_heads % self.num_key_value_heads:
            raise InvalidInput(
                "architecture.num_key_value_heads",
                self.num_key_value_heads,
                f"a divisor of num_attention_heads ({self.num_attention_heads})",
            )
        if self.parameters > MAX_PARAMETERS:
            raise InvalidInput("architecture", f"{self.parameters} parameters", f"at most {MAX_PARAMETERS} parameters")

    @classmethod
    def from_hf_config(cls, config: Mapping[str, Any]) -> "Architecture":
        """Read a Hugging Face `config.json` of a dense decoder.

        Raises InvalidInput for a sparse or unknown model type, and for missing or contradicting keys.
        """
        return cls(**read_hf_config(config))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Architecture":
        """Rebuild from `to_dict()`; unknown and missing keys raise InvalidInput."""
        mapping = check_mapping("architecture", data)
        known = {field.name for field in fields(cls)}
        required = {"family", *list(_INTEGER_BOUNDS)[:8]}
        check_keys("architecture", mapping, known=known, required=required)
        return cls(**mapping)  # type: ignore[arg-type] # every value is checked in __post_init__

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def query_size(self) -> int:
        """Width of all query heads together; differs from hidden_size in Gemma and Qwen 3."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of all key heads together (the values are as wide)."""
        return self.num_key_value_heads * self.head_dim

    @property
    def mlp_matrices(self) -> int:
        return 3 if self.gated_mlp else 2

    @property
    def layer_matmul_parameters(self) -> int:
        """Weights of the matrices in one layer."""
        attention = self.hidden_size * (2 * self.query_size + 2 * self.key_value_size)
        return attention + self.mlp_matrices * self.hidden_size * self.intermediate_size

    @cached_property
    def layer_parameters(self) -> int:
        """All parameters of one layer: matrices, biases, norms."""
        count = self.layer_matmul_parameters
        if self.qkv_bias:
            count += self.query_size + 2 * self.key_value_size
        if self.attention_output_bias:
            count += self.hidden_size
        if self.mlp_bias:
            count += (self.mlp_matrices - 1) * self.intermediate_size + self.hidden_size
        count += self.block_norms * self.norm_vectors * self.hidden_size
        return count + self.head_norms * self.norm_vectors * self.head_dim

    @property
    def embedding_parameters(self) -> int:
        """Word and learned position embeddings and their norm."""
        rows = self.vocab_size + self.learned_position_rows
        return rows * self.hidden_size + (self.norm_vectors * self.hidden_size if self.embedding_norm else 0)

    @property
    def head_parameters(self) -> int:
        """Output projection (0 if tied), its bias and the final norm."""
        count = 0 if self.tied_embeddings else self.vocab_size * self.hidden_size
        if self.lm_head_bias:
            count += self.vocab_size
        return count + (self.norm_vectors * self.hidden_size if self.final_norm else 0)

    @cached_property
    def parameters(self) -> int:
        """Exact number of parameters, each tied matrix counted once."""
        return self.num_hidden_layers * self.layer_parameters + self.embedding_parameters + self.head_parameters

    @property
    def matmul_parameters(self) -> int:
        """Parameters that a token is multiplied with: layers and output projection, not the input embedding."""
        return self.num_hidden_layers * self.layer_matmul_parameters + self.vocab_size * self.hidden_size
