"""pytest plugin, loaded before Django's settings: a throw-away PostgreSQL and Valkey for the run.

With DATABASE_URL and REDIS_URL set, those servers are used instead.
"""

import os
import secrets
from pathlib import Path

import pytest

from portal.embedded.testing import ensure_test_servers

os.environ.setdefault("SECRET_KEY", secrets.token_urlsafe(48))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

_stop = None
if "PYTEST_XDIST_WORKER" not in os.environ:
    # Workers of pytest-xdist inherit the environment of the process that started the servers.
    _urls, _stop = ensure_test_servers(Path(__file__).resolve().parent.parent / ".portal" / "test")
    os.environ.update(_urls)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    global _stop
    if _stop is not None:
        _stop()
        _stop = None
