"""Published models and their exact parameter counts (data/published_models.toml, which says where each is from)."""

import tomllib
from pathlib import Path
from typing import Any, Final

PUBLISHED: Final[dict[str, dict[str, Any]]] = tomllib.loads(
    (Path(__file__).parent / "data" / "published_models.toml").read_text(encoding="utf-8")
)
"""By the model's name: `parameters`, `source` and the `config` that decides its size."""
