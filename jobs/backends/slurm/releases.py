"""Slurm's releases: which the portal supports, and which have known holes. docs/admin/slurm.md has the sources."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

Series = tuple[int, int]

OLDEST: Final[Series] = (22, 5)
"""The series that the portal is tested against; nothing older was ever tried."""

SAFE_RELEASES: Final = "25.05.9, 25.11.8 or 26.05.4"
"""The first of each series without any hole below."""

_RELEASE: Final = re.compile(r"\A(\d{2})\.(\d{2})\.(\d+)")


@dataclass(frozen=True, slots=True)
class Advisory:
    """Holes that were mended together. `fixed` is the first good release of each series; later series are good."""

    names: str
    fixed: Mapping[Series, int]


ADVISORIES: Final = (
    Advisory("CVE-2022-29500, -29501, -29502", {(20, 11): 9, (21, 8): 8}),
    Advisory("CVE-2023-41914", {(22, 5): 10, (23, 2): 6}),
    Advisory("CVE-2023-49933 to -49938", {(22, 5): 11, (23, 2): 7, (23, 11): 1}),
    Advisory("CVE-2025-43904", {(23, 11): 11, (24, 5): 8, (24, 11): 5}),
    Advisory(
        "CVE-2026-65107, -65108, -65109, -65138, -65139, -65140, -65165, -65168",
        {(25, 5): 9, (25, 11): 8, (26, 5): 4},
    ),
)

DISTRIBUTION_RELEASES: Final[Mapping[str, str]] = {
    "21.08.5": "Ubuntu 22.04",
    "22.05.8": "Debian 12",
    "23.11.4": "Ubuntu 24.04",
    "24.11.5": "Debian 13 and Ubuntu 25.10",
}
"""Releases that a distribution keeps and mends without changing the number that Slurm tells of itself."""


def parse_release(text: str) -> tuple[int, int, int] | None:
    """22.05.8 as three numbers; what follows them, such as -0rc1, is left out. None for anything else."""
    match = _RELEASE.match(text)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))


def open_advisories(release: tuple[int, int, int]) -> list[Advisory]:
    """What isn't mended in this release, as Slurm's own developers published it."""
    series, micro = release[:2], release[2]
    return [
        advisory
        for advisory in ADVISORIES
        if series <= max(advisory.fixed) and micro < advisory.fixed.get(series, micro + 1)
    ]
