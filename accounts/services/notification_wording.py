"""Messages in words: made when they are read, in the reader's language and time zone.

The words of a subject are in a module `notification_wording_<subject>` beside this one, as `WORDS`: kind → (subject,
text), marked with gettext_noop, with %(figures)s by name. Besides the figures as they were given there are, for each
`<name>_s` (accelerator-seconds) `<name>_hours`, for each `<name>_at` (ISO 8601) `<name>_day`, and
`request_kind_label`.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.utils import formats, timezone
from django.utils.translation import gettext

from accounts import services
from accounts.models import Notification, RequestKind

_PREFIX: Final = f"{__name__.rpartition('.')[2]}_"


def _join() -> dict[str, tuple[str, str]]:
    """Every module of words there is: who adds one need not be named here."""
    found: dict[str, tuple[str, str]] = {}
    for module in pkgutil.iter_modules(services.__path__):
        if module.name.startswith(_PREFIX):
            words: dict[str, tuple[str, str]] = importlib.import_module(f"{services.__name__}.{module.name}").WORDS
            twice = found.keys() & words.keys()
            if twice:
                raise RuntimeError(f"{module.name} words {sorted(twice)} once more")
            found |= words
    return found


WORDS: Final = _join()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """A message for people: one line, and a sentence or two."""

    subject: str
    text: str


class _Figures(dict[str, Any]):
    """A figure that an old row lacks must not keep its reader from all others."""

    def __missing__(self, key: str) -> str:
        return "–"


def describe(notification: Notification) -> Wording:
    """The message in the language and time zone that are switched on."""
    known = WORDS.get(notification.kind)
    if known is None:
        return Wording(subject=notification.kind, text="")
    figures = _with_words(notification.figures)
    subject, text = (gettext(one) % figures for one in known)
    # One line: a line break in a title must not become a header of the mail.
    return Wording(subject=" ".join(subject.split()), text=text.strip())


def _with_words(given: Mapping[str, Any]) -> _Figures:
    figures = _Figures(given)
    for name, value in given.items():
        if name.endswith("_s") and isinstance(value, int):
            figures[f"{name[:-2]}_hours"] = _hours(value)
        elif name.endswith("_at") and isinstance(value, str):
            figures[f"{name[:-3]}_day"] = _day(value)
    kind = given.get("request_kind")
    if kind in RequestKind.values:
        figures["request_kind_label"] = RequestKind(kind).label
    return figures


def _hours(amount_s: int) -> str:
    places = 0 if amount_s % 3600 == 0 else 2
    return formats.number_format(amount_s / 3600, decimal_pos=places, use_l10n=True, force_grouping=True)


def _day(text: str) -> str:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{timezone.localtime(at) if at.tzinfo else at:%Y-%m-%d}"
