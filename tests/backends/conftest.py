"""A scheduler for each test, and nothing of it left afterwards."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.harness import BackendHarness, DummyHarness, LocalHarness
from tests.backends.slurm_harness import SlurmCliHarness, SlurmHarness, SlurmRestHarness, SlurmSshHarness
from tests.integration.slurm.lab import SlurmLab
from tests.integration.slurm.packages import missing_programs
from tests.integration.slurm.sharing import share_lab

SLURM_HARNESSES: list[type[SlurmHarness]] = [SlurmCliHarness, SlurmSshHarness, SlurmRestHarness]
HARNESSES: list[type[BackendHarness]] = [DummyHarness, LocalHarness, *SLURM_HARNESSES]
"""Every backend. A new one is added here and runs the whole suite."""


@pytest.fixture(scope="session")
def slurm_lab() -> Iterator[SlurmLab]:
    """A real Slurm, for all tests of this worker that ask for one."""
    if os.geteuid() != 0 or missing_programs():
        pytest.skip("a Slurm of one's own needs root and Debian's packages: python -m tests.integration.slurm up")
    with share_lab() as lab:
        yield lab


def _as_parameter(kind: type[BackendHarness]) -> Any:
    """Tests on a real Slurm can be told apart: `-m slurm`."""
    return pytest.param(kind, id=kind.name, marks=[pytest.mark.slurm] if issubclass(kind, SlurmHarness) else [])


@pytest.fixture(params=[_as_parameter(kind) for kind in HARNESSES])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BackendHarness]:
    """Each backend in turn."""
    kind: type[BackendHarness] = request.param
    if issubclass(kind, SlurmHarness):
        with kind.on(request.getfixturevalue("slurm_lab")) as slurm:
            yield slurm
        return
    harness = kind(tmp_path)
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


@pytest.fixture(params=[_as_parameter(kind) for kind in SLURM_HARNESSES])
def slurm(request: pytest.FixtureRequest, slurm_lab: SlurmLab) -> Iterator[SlurmHarness]:
    """A real Slurm, by each way of talking to it."""
    kind: type[SlurmHarness] = request.param
    with kind.on(slurm_lab) as harness:
        yield harness
