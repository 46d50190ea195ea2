from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.harness import HARNESSES, BackendHarness, LocalHarness


@pytest.fixture(params=HARNESSES, ids=lambda harness_class: harness_class.name)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BackendHarness]:
    """Each backend in turn."""
    harness = request.param(tmp_path)
    try:
        yield harness
    finally:
        harness.close()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalHarness]:
    """The local backend, for what only it does."""
    harness = LocalHarness(tmp_path)
    try:
        yield harness
    finally:
        harness.close()
