"""Estimates on their way from the planner to a request: signed, so that a reviewer can trust the figures.

Accounts doesn't know jobs. Whoever makes an estimate signs a copy of what it says; the request's form carries it.
"""

from collections.abc import Mapping
from typing import Any, Final

from django.core import signing

_SALT: Final = "accounts.request.estimate"
_MAX_AGE_S: Final = 30 * 24 * 3600
_LONGEST: Final = 8000
FIELDS: Final = (
    "model",
    "tokens",
    "partition",
    "accelerator",
    "resource_class",
    "devices",
    "duration_s",
    "amount_s",
    "engine_version",
    "job",
)
"""What a snapshot says: `amount_s` is accelerator-seconds, `duration_s` wall time, `job` an id or empty."""


def sign(snapshot: Mapping[str, Any]) -> str:
    """A text for an address or a hidden field, that `read` takes."""
    return signing.dumps({name: snapshot.get(name) for name in FIELDS}, salt=_SALT, compress=True)


def read(text: str) -> dict[str, Any] | None:
    """The snapshot; None if the text is empty, not of this portal's making, or older than thirty days."""
    if not text or len(text) > _LONGEST:
        return None
    try:
        found: dict[str, Any] = signing.loads(text, salt=_SALT, max_age=_MAX_AGE_S)
    except signing.BadSignature:
        return None
    return found
