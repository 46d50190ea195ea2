"""Problems in words."""

from typing import Any

from django.utils.translation import gettext as _

from jobs.services.problems import FieldProblem

_SHOWN_CHARACTERS = 80


def invalid_value(*, field: str, value: Any, allowed: str) -> FieldProblem:
    """A value that isn't allowed, shown shortened."""
    shown = value if isinstance(value, str) else repr(value)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = f"{shown[:_SHOWN_CHARACTERS]}…"
    message = _("“%(value)s” is not allowed here; allowed: %(allowed)s.") % {"value": shown, "allowed": _(allowed)}
    return FieldProblem(field=field, code="invalid", message=message, value=shown, allowed=_(allowed))


def hours(accelerator_s: int) -> str:
    """Accelerator-seconds as hours with two decimals, for sentences."""
    return f"{accelerator_s / 3600:,.2f}"
