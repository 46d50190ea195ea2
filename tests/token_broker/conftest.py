"""A broker for each test, and nothing of it left afterwards."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.token_broker.running import BrokerFiles, RunningBroker


@pytest.fixture
def files() -> Iterator[BrokerFiles]:
    """Files for a broker, where a socket's path stays short and other Unix users may pass."""
    with tempfile.TemporaryDirectory(prefix="broker-") as directory:
        Path(directory).chmod(0o755)
        yield BrokerFiles(Path(directory) / "b")


@pytest.fixture
def broker(files: BrokerFiles) -> Iterator[RunningBroker]:
    """A broker that runs, for the Unix user of the tests."""
    with files.running() as running:
        yield running
