"""The centre of the job tests, and what each test here needs besides."""

import itertools
from typing import Any

import pytest

from tests.jobs.conftest import centre

__all__ = ["centre"]

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def _own_counts(settings: Any) -> None:
    """Each test counts its attempts by itself."""
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "LOCATION": f"security-{next(_numbers)}",
        }
    }
