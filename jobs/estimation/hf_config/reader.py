"""Typed reads of a Hugging Face config, and the rules that many families share."""

from collections.abc import Mapping
from typing import Any, Final

from jobs.estimation.validation import InvalidInput, check_boolean, check_choice, check_integer

FIELD: Final = "model.config"
_LARGEST: Final = 10**9
_LARGEST_LIST: Final = 10_000

_LAYER_TYPES: Final[Mapping[str, bool]] = {
    "full_attention": False,
    "sliding_attention": True,
    "chunked_attention": True,
}
"""What `layer_types` may say of a layer, and whether it limits attention to a window."""

_HEAD_KEYS: Final = ("num_attention_heads", "n_head", "n_heads", "num_heads")

Fields = dict[str, Any]
"""Keyword arguments of `Architecture`."""


class Config:
    """Typed reads of a config: a missing key or a wrong type becomes an InvalidInput with its path."""

    def __init__(self, data: Mapping[str, Any], *, path: str = FIELD) -> None:
        self.data = data
        self.path = path

    def has(self, key: str) -> bool:
        """Say whether the key is there and not null."""
        return self.data.get(key) is not None

    def integer(self, *keys: str, default: int | None = None, minimum: int = 1) -> int:
        """The first of `keys` that is there, else `default`; without a default the first key is required."""
        for key in keys:
            if self.has(key):
                return check_integer(f"{self.path}.{key}", self.data[key], minimum=minimum, maximum=_LARGEST)
        if default is None:
            raise InvalidInput(
                f"{self.path}.{keys[0]}", None, f"required for model_type {self.data.get('model_type')!r}"
            )
        return default

    def flag(self, key: str, *, default: bool) -> bool:
        return check_boolean(f"{self.path}.{key}", self.data[key]) if self.has(key) else default

    def sequence(self, key: str) -> list[Any]:
        """A list, [] if the key is missing or null."""
        value = self.data.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > _LARGEST_LIST:
            raise InvalidInput(f"{self.path}.{key}", value, f"a list of at most {_LARGEST_LIST} entries")
        return value

    def layer_indices(self, key: str, *, layers: int) -> set[int]:
        """A list of layer numbers, each from 0 to layers - 1; what lies beyond the last layer has no effect."""
        path = f"{self.path}.{key}"
        indices = {check_integer(path, item, minimum=0, maximum=_LARGEST) for item in self.sequence(key)}
        return {index for index in indices if index < layers}

    def section(self, key: str) -> "Config":
        """An object within the config; an empty one if the key is missing or null."""
        value = self.data.get(key)
        if value is None:
            value = {}
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise InvalidInput(f"{self.path}.{key}", value, "an object (mapping) with text keys")
        return Config(value, path=f"{self.path}.{key}")

    def refuse(self, key: str, allowed: str) -> InvalidInput:
        return InvalidInput(f"{self.path}.{key}", self.data.get(key), allowed)


def read_head_dim(config: Config, hidden: int, heads: int) -> int:
    """Hidden size over heads; raises InvalidInput if that is no integer."""
    if hidden % heads:
        key = next(name for name in _HEAD_KEYS if config.has(name))
        raise config.refuse(key, f"a divisor of hidden_size ({hidden})")
    return hidden // heads


def read_base(config: Config) -> Fields:
    """Keys that most families share."""
    heads = config.integer("num_attention_heads")
    hidden = config.integer("hidden_size")
    head_dim = config.integer("head_dim") if config.has("head_dim") else read_head_dim(config, hidden, heads)
    return {
        "num_hidden_layers": config.integer("num_hidden_layers"),
        "hidden_size": hidden,
        "intermediate_size": config.integer("intermediate_size", default=4 * hidden),
        "num_attention_heads": heads,
        "num_key_value_heads": config.integer("num_key_value_heads", default=heads),
        "head_dim": head_dim,
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": config.integer("max_position_embeddings", default=2048),
    }


def bias_fields(*, attention: bool, mlp: bool) -> Fields:
    return {"qkv_bias": attention, "attention_output_bias": attention, "mlp_bias": mlp}


def read_window(config: Config, *, key: str = "sliding_window", default: int = 0, period: int = 1) -> Fields:
    """The sliding window and the number of layers that have it.

    `layer_types` decides where it is given; else every layer but each `period`-th has the window, or all of them
    with a period of 1.
    """
    window = config.integer(key, default=default, minimum=0)
    layers = config.integer("num_hidden_layers")
    if config.sequence("layer_types"):
        count = _count_window_layers(config, layers)
    else:
        count = layers if period == 1 else layers - layers // period
    if not window or not count:
        return {"sliding_window": 0, "sliding_window_layers": 0}
    return {"sliding_window": window, "sliding_window_layers": 0 if count == layers else count}


def _count_window_layers(config: Config, layers: int) -> int:
    kinds = config.sequence("layer_types")
    for kind in kinds:
        check_choice(f"{config.path}.layer_types", kind, _LAYER_TYPES)
    if len(kinds) < layers:
        raise config.refuse("layer_types", f"a pattern for {layers} layers")
    return sum(_LAYER_TYPES[kind] for kind in kinds[:layers])
