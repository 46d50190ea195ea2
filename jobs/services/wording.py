"""Problems in words."""

from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import pgettext

from jobs.services.allowed_wording import describe_allowed
from jobs.services.problems import FieldProblem

_SHOWN_CHARACTERS = 80
_NO_BREAK_SPACE = "\u00a0"


def invalid_value(*, field: str, value: Any, allowed: str) -> FieldProblem:
    """A value that isn't allowed, shown shortened."""
    if value is None:
        message = _("A value is needed here; allowed: %(allowed)s.") % {"allowed": describe_allowed(allowed)}
        return FieldProblem(field=field, code="required", message=message, allowed=describe_allowed(allowed))
    shown = value if isinstance(value, str) else repr(value)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = f"{shown[:_SHOWN_CHARACTERS]}…"
    allowed = describe_allowed(allowed)
    message = _("“%(value)s” is not allowed here; allowed: %(allowed)s.") % {"value": shown, "allowed": allowed}
    return FieldProblem(field=field, code="invalid", message=message, value=shown, allowed=allowed)


def hours(accelerator_s: int | float | Decimal) -> str:
    """Accelerator-seconds as hours: two decimals, four for less than an hour, so that a small job shows its cost."""
    # Decimal, because an amount on a ledger must not show binary rounding.
    amount = Decimal(str(accelerator_s)) / 3600
    return f"{amount:,.4f}" if 0 < abs(amount) < 1 else f"{amount:,.2f}"


def duration_in_words(seconds_s: float) -> str:
    """Seconds as the two largest units that matter: "2 d 3 h", "1 h 5 min", "12 min", "45 s"."""
    seconds = round(abs(seconds_s))
    if seconds >= 86_400 - 30:
        whole_hours = round(seconds / 3600)
        parts = [(whole_hours // 24, "d"), (whole_hours % 24, "h")]
    elif seconds >= 3600 - 30:
        minutes = round(seconds / 60)
        parts = [(minutes // 60, "h"), (minutes % 60, "min")]
    else:
        parts = [(seconds // 60, "min"), (seconds % 60, "s")]
    words = [_write_time_unit(count, unit) for count, unit in parts if count]
    text = _NO_BREAK_SPACE.join(words) if words else _write_time_unit(0, "s")
    return f"−{text}" if seconds_s < 0 and seconds else text


def _write_time_unit(count: int, unit: str) -> str:
    """One part of a duration in the reader's language."""
    patterns = {
        "d": pgettext("duration", "%(count)s d"),
        "h": pgettext("duration", "%(count)s h"),
        "min": pgettext("duration", "%(count)s min"),
        "s": pgettext("duration", "%(count)s s"),
    }
    return (patterns[unit] % {"count": f"{count:,}"}).replace(" ", _NO_BREAK_SPACE)
