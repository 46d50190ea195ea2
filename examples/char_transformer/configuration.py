"""The settings of a run, read from JSON and checked one by one."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


class InvalidConfiguration(ValueError):
    """A setting is not allowed; the message names it, its value and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One training run. A step trains on `batch` × `context` characters."""

    text: str
    layers: int
    hidden: int
    heads: int
    mlp: int
    context: int
    batch: int
    steps: int
    learning_rate: float
    minimum_learning_rate: float
    warmup_steps: int
    weight_decay: float
    gradient_clip: float
    seed: int
    log_every: int
    validate_every: int
    checkpoint_every: int

    @property
    def tokens_per_step(self) -> int:
        """Characters trained on in one step."""
        return self.batch * self.context


_LIMITS: dict[str, tuple[float, float]] = {
    "layers": (1, 64),
    "hidden": (1, 4096),
    "heads": (1, 256),
    "mlp": (1, 65536),
    "context": (2, 4096),
    "batch": (1, 4096),
    "steps": (1, 10_000_000),
    "learning_rate": (1e-9, 10),
    "minimum_learning_rate": (0, 10),
    "warmup_steps": (0, 10_000_000),
    "weight_decay": (0, 10),
    "gradient_clip": (1e-9, 1e9),
    "seed": (0, 2**63 - 1),
    "log_every": (1, 10_000_000),
    "validate_every": (1, 10_000_000),
    "checkpoint_every": (1, 10_000_000),
}


def read_configuration(path: Path, *, steps: int | None = None) -> Configuration:
    """Read and check a configuration; `steps` replaces the file's.

    Raises:
        InvalidConfiguration: unreadable, not JSON, a key missing, unknown or given twice, or a value not allowed.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_refuse_duplicates)
    except OSError as error:
        raise InvalidConfiguration(f"{path}: cannot be read: {error.strerror}") from None
    except InvalidConfiguration:
        raise
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, a number of thousands of digits
        raise InvalidConfiguration(f"{path}: is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InvalidConfiguration(f"{path}: must be a JSON object")
    known = [item.name for item in fields(Configuration)]
    for name in values:
        if name not in known:
            raise InvalidConfiguration(f"{name}: is not a setting; allowed: {', '.join(known)}")
    if steps is not None:
        values["steps"] = steps
    for name in known:
        if name not in values:
            raise InvalidConfiguration(f"{name}: is missing")
    checked = {name: _check(name, values[name]) for name in known}
    configuration = Configuration(**checked)
    if configuration.hidden % configuration.heads:
        raise InvalidConfiguration(
            f"heads: {configuration.heads} is not allowed; allowed: a divisor of hidden ({configuration.hidden})"
        )
    if configuration.minimum_learning_rate > configuration.learning_rate:
        raise InvalidConfiguration(
            f"minimum_learning_rate: {configuration.minimum_learning_rate} is not allowed; "
            f"allowed: at most learning_rate ({configuration.learning_rate})"
        )
    return configuration


def _check(name: str, value: Any) -> Any:
    if name == "text":
        if not isinstance(value, str) or not value or "\x00" in value:
            raise InvalidConfiguration(f"text: {value!r} is not allowed; allowed: the path of a text file")
        return value
    low, high = _LIMITS[name]
    wants_float = Configuration.__annotations__[name] in (float, "float")
    kind = "number" if wants_float else "whole number"
    is_right = isinstance(value, int | float if wants_float else int) and not isinstance(value, bool)
    if not is_right or not low <= value <= high:  # never true for NaN
        raise InvalidConfiguration(f"{name}: {value!r:.60} is not allowed; allowed: a {kind} from {low:g} to {high:g}")
    return float(value) if wants_float else value


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise InvalidConfiguration(f"{name}: is given twice")
        values[name] = value
    return values
