"""Fixtures that all tests share."""

import os
import uuid
from collections.abc import Generator, Iterator

import pytest
from django.utils import translation

from jobs.backends.dummy import DummyBackend
from tests.running_portal import SESSION_VARIABLE, remove_template


@pytest.fixture(autouse=True)
def _forget_dummy_scheduler() -> Iterator[None]:
    """The in-memory scheduler keeps its jobs per process: each test starts with none."""
    DummyBackend.reset()
    yield
    DummyBackend.reset()


@pytest.fixture(autouse=True)
def _speak_english() -> Iterator[None]:
    """A request leaves its language switched on for the thread, as Django's middleware does: not for the next test."""
    with translation.override("en"):
        yield


def pytest_configure() -> None:
    """Name the session before its workers are started: they share a template of an installed portal."""
    os.environ.setdefault(SESSION_VARIABLE, uuid.uuid4().hex)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever needs the real Slurm can be told apart, however it came by it: `-m slurm`."""
    for item in items:
        if "slurm_lab" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slurm)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The controller's alone: its workers copy from there."""
    if not hasattr(session.config, "workerinput"):
        remove_template()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test is a failed one: what it needs must be there."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
