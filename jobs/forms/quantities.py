"""Form fields for amounts as people write them: "2B", "20亿", "2e9"; "90", "12 h", "1-12:00:00"."""

import math
import re
import unicodedata
from decimal import Decimal
from typing import Any, Final

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

_FACTORS: Final = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "b": 10**9,
    "g": 10**9,
    "t": 10**12,
    "万": 10**4,
    "亿": 10**8,
    "万亿": 10**12,
}
_COUNT: Final = re.compile(r"(?P<digits>\d+(?:\.\d*)?|\.\d+)(?P<power>e\+?\d{1,2})?(?P<unit>[kmbgt]|万亿|亿|万)?")
_LONGEST_COUNT: Final = 40

_MINUTES_PER: Final = {"min": 1, "m": 1, "分": 1, "分钟": 1, "h": 60, "小时": 60, "d": 1440, "天": 1440}
_TIME_PARTS: Final = re.compile(r"(\d+(?:\.\d+)?)(min|m|h|d|分钟|分|小时|天)")
_CLOCK: Final = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>\d{2})(?::(?P<seconds>\d{2}))?")
_MAX_MINUTES: Final = 10 * 366 * 24 * 60


def parse_count(text: str) -> int:
    """Read a count: "2e9", "2B", "1.5 T", "20亿", "2,000,000".

    Raises:
        ValueError: it is none, or not a whole number above zero.
    """
    compact = re.sub(r"[\s,_]", "", unicodedata.normalize("NFKC", text)).lower()
    match = _COUNT.fullmatch(compact) if len(compact) <= _LONGEST_COUNT else None
    if match is None:
        raise ValueError(text)
    count = Decimal(match["digits"] + (match["power"] or "")) * _FACTORS[match["unit"] or ""]
    if count <= 0 or count != count.to_integral_value():
        raise ValueError(text)
    return int(count)


def parse_minutes(text: str) -> int:
    """Read a time limit in minutes: "90", "90 min", "1.5 h", "2 d 12 h", or Slurm's "days-hours:minutes:seconds".

    Parts of a minute count as a whole one. Raises ValueError for anything else, and for zero.
    """
    compact = re.sub(r"\s", "", unicodedata.normalize("NFKC", text)).lower()
    if len(compact) > _LONGEST_COUNT:
        raise ValueError(text)
    clock = _CLOCK.fullmatch(compact)
    if compact.isascii() and compact.isdigit():
        minutes = Decimal(compact)
    elif clock is not None:
        minutes = int(clock["days"] or 0) * Decimal(1440) + int(clock["hours"]) * 60 + int(clock["minutes"])
        minutes += Decimal(int(clock["seconds"] or 0)) / 60
    elif compact and _TIME_PARTS.sub("", compact) == "":
        minutes = sum((Decimal(n) * _MINUTES_PER[unit] for n, unit in _TIME_PARTS.findall(compact)), Decimal(0))
    else:
        raise ValueError(text)
    whole = math.ceil(minutes)
    if not 0 < whole <= _MAX_MINUTES:
        raise ValueError(text)
    return whole


class CountField(forms.Field):
    """A count above zero, with units of either language."""

    widget = forms.TextInput(attrs={"maxlength": _LONGEST_COUNT, "autocomplete": "off"})

    def to_python(self, value: Any) -> Any:
        text = "" if value is None else str(value).strip()
        if not text:
            return None
        try:
            return parse_count(text)
        except ValueError as error:
            message = _("“%(value)s” is not a count above zero; write it as 2000000000, 2e9, 2B or 20亿.")
            raise ValidationError(message, code="invalid", params={"value": text[:40]}) from error


class MinutesField(forms.Field):
    """A time in minutes, written in minutes, hours or days."""

    widget = forms.TextInput(attrs={"maxlength": _LONGEST_COUNT, "autocomplete": "off"})

    def to_python(self, value: Any) -> Any:
        text = "" if value is None else str(value).strip()
        if not text:
            return None
        try:
            return parse_minutes(text)
        except ValueError as error:
            message = _("“%(value)s” is not a time; write it as 90 min, 12 h, 2 d or 1-12:00:00.")
            raise ValidationError(message, code="invalid", params={"value": text[:40]}) from error
