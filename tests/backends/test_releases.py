"""Which releases of Slurm have known holes, by their numbers alone."""

import re
from pathlib import Path

import pytest

from jobs.backends.slurm.releases import ADVISORIES, SAFE_RELEASES, open_advisories, parse_release

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "admin" / "slurm.md"


def names_of(release: str) -> set[str]:
    numbers = parse_release(release)
    assert numbers is not None
    return {re.split("[ ,]", advisory.names)[0] for advisory in open_advisories(numbers)}


@pytest.mark.parametrize(
    ("release", "holes"),
    [
        ("20.11.8", {"CVE-2022-29500", "CVE-2023-41914", "CVE-2023-49933", "CVE-2025-43904", "CVE-2026-65107"}),
        ("21.08.8", {"CVE-2023-41914", "CVE-2023-49933", "CVE-2025-43904", "CVE-2026-65107"}),
        ("22.05.8", {"CVE-2023-41914", "CVE-2023-49933", "CVE-2025-43904", "CVE-2026-65107"}),
        ("22.05.10", {"CVE-2023-49933", "CVE-2025-43904", "CVE-2026-65107"}),
        ("22.05.11", {"CVE-2025-43904", "CVE-2026-65107"}),
        ("23.02.7", {"CVE-2025-43904", "CVE-2026-65107"}),
        ("23.11.0", {"CVE-2023-49933", "CVE-2025-43904", "CVE-2026-65107"}),
        ("24.05.7", {"CVE-2025-43904", "CVE-2026-65107"}),
        ("24.11.5", {"CVE-2026-65107"}),
        ("25.05.8", {"CVE-2026-65107"}),
        ("25.05.9", set()),
        ("25.11.7", {"CVE-2026-65107"}),
        ("25.11.8", set()),
        ("26.05.3", {"CVE-2026-65107"}),
        ("26.05.4", set()),
        ("26.11.0", set()),
    ],
)
def test_a_release_has_the_holes_that_were_mended_after_it(release: str, holes: set[str]) -> None:
    assert names_of(release) == holes


def test_the_releases_that_are_recommended_have_none() -> None:
    recommended = re.findall(r"\d\d\.\d\d\.\d+", SAFE_RELEASES)
    assert len(recommended) == 3
    assert all(names_of(release) == set() for release in recommended)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("22.05.8", (22, 5, 8)),
        ("24.05.0-0rc1", (24, 5, 0)),
        ("23.11.10-1.el9", (23, 11, 10)),
        ("slurm 22.05.8", None),
        ("22.05", None),
        ("", None),
    ],
)
def test_the_number_of_a_release_is_read(text: str, numbers: tuple[int, int, int] | None) -> None:
    assert parse_release(text) == numbers


def test_the_guide_names_every_advisory_and_every_release_that_mends_it() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    for advisory in ADVISORIES:
        (row,) = [line for line in guide.splitlines() if line.startswith(f"| {advisory.names} |")]
        fixed = {f"{year}.{month:02d}.{micro}" for (year, month), micro in advisory.fixed.items()}
        assert set(re.findall(r"\d\d\.\d\d\.\d+", row)) == fixed
