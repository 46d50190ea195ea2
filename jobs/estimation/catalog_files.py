"""The TOML files that ship with the library."""

import tomllib
from pathlib import Path
from typing import Any, Final

CATALOG: Final = Path(__file__).parent / "catalog"


def load_catalog(file_name: str) -> dict[str, Any]:
    """Read one TOML file of the catalogue."""
    # Not importlib.resources: its import alone takes 12 ms.
    return tomllib.loads((CATALOG / file_name).read_text(encoding="utf-8"))
