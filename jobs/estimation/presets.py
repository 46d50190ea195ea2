"""The catalogue of model presets (catalog/models.toml)."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jobs.estimation.architecture import Architecture
from jobs.estimation.validation import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A well-known model. `defaults` holds workload fields to use where the user gave none."""

    name: str
    title: str
    title_zh: str
    architecture: Architecture
    group: str
    source_url: str
    defaults: Mapping[str, Any] = field(default_factory=dict)


def load_catalog(file_name: str) -> dict[str, Any]:
    """Read one TOML file that ships with the library."""
    # Not importlib.resources: its import alone takes 12 ms.
    return tomllib.loads((Path(__file__).parent / "catalog" / file_name).read_text(encoding="utf-8"))


@cache
def presets() -> Mapping[str, Preset]:
    """All presets by name, in the catalogue's order."""
    return MappingProxyType(
        {
            name: Preset(
                name=name,
                title=entry["title"],
                title_zh=entry["title_zh"],
                architecture=Architecture.from_hf_config(entry["config"]),
                group=entry["group"],
                source_url=entry["source_url"],
                defaults=MappingProxyType(entry.get("defaults", {})),
            )
            for name, entry in load_catalog("models.toml").items()
        }
    )


def get_preset(name: object, *, field_name: str = "model.preset") -> Preset:
    """Return a preset; raise InvalidInput naming the known ones."""
    if not isinstance(name, str) or name not in presets():
        raise InvalidInput(field_name, name, "one of " + ", ".join(presets()))
    return presets()[name]
