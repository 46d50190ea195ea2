"""The catalogue of model presets (catalog/models.toml)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from jobs.estimation.architecture import Architecture
from jobs.estimation.catalog_files import load_catalog
from jobs.estimation.validation import InvalidInput

DOMAINS: Final = ("general", "finance", "medicine", "law", "science")
"""What a model was made for: everything, or one field (the second grouping, beside `group`)."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A well-known model.

    `group` is the line of models it belongs to, `domain` one of DOMAINS. `training_tokens` is the number of tokens
    its publisher says that it (or, for one that continues another model's training, that continuation) was trained
    with, 0 where that isn't public. `defaults` holds workload fields to use where the user gave none.
    """

    name: str
    title: str
    title_zh: str
    architecture: Architecture
    group: str
    source_url: str
    domain: str = "general"
    training_tokens: int = 0
    defaults: Mapping[str, Any] = field(default_factory=dict)


@cache
def presets() -> Mapping[str, Preset]:
    """All presets by name, in the catalogue's order."""
    return MappingProxyType(
        {
            name: Preset(
                name=name,
                title=entry["title"],
                title_zh=entry["title_zh"],
                architecture=_read_architecture(entry),
                group=entry["group"],
                source_url=entry["source_url"],
                domain=entry.get("domain", "general"),
                training_tokens=int(entry.get("training_tokens", 0)),
                defaults=MappingProxyType(entry.get("defaults", {})),
            )
            for name, entry in load_catalog("models.toml").items()
        }
    )


def _read_architecture(entry: Mapping[str, Any]) -> Architecture:
    """From `config`, or from `architecture` for a model that never had a config.json."""
    if "config" in entry:
        return Architecture.from_hf_config(entry["config"])
    return Architecture.from_dict(entry["architecture"])


def get_preset(name: object, *, field_name: str = "model.preset") -> Preset:
    """Return a preset; raise InvalidInput naming the known ones."""
    if not isinstance(name, str) or name not in presets():
        raise InvalidInput(field_name, name, "one of " + ", ".join(presets()))
    return presets()[name]
