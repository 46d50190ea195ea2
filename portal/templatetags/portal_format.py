"""Template filters that write quantities for people: sizes, amounts of accelerator time, durations, big counts.

Inside, the portal keeps SI base units and integers; these filters are the edge where they become GB, hours
and 亿. Both interface languages write numbers with a decimal point and a comma per three digits. A filter
given None or "" writes an en dash, so that a table cell is never blank by accident.
"""

import re
from decimal import Decimal
from math import floor, isfinite, log10
from typing import Final

from django import template
from django.utils.translation import get_language
from django.utils.translation import gettext as _

from jobs.services.wording import duration_in_words, hours

register = template.Library()

Number = int | float | Decimal

MISSING: Final = "–"
NO_BREAK_SPACE: Final = "\u00a0"

_DECIMAL_PREFIXES: Final = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")
_ENGLISH_SCALE: Final = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))
_CHINESE_SCALE: Final = ((10**12, "万亿"), (10**8, "亿"), (10**4, "万"))
_FACTORS: Final = {
    "": 1,
    **{unit.lower(): factor for factor, unit in _ENGLISH_SCALE},
    **{unit: factor for factor, unit in _CHINESE_SCALE},
}
_BIG_NUMBER: Final = re.compile(r"(?P<digits>\d+(?:\.\d+)?|\.\d+)(?P<unit>[kKmMbBtT]|万亿|亿|万)?")
_SUPERSCRIPTS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _is_chinese() -> bool:
    return (get_language() or "").startswith("zh")


def _read_number(value: object) -> float | None:
    """The value as a finite float, or None for something that is not there (None, "", NaN, infinity)."""
    if value is None or value == "":
        return None
    if not isinstance(value, int | float | Decimal | str):
        raise TypeError(f"a number is wanted, not {type(value).__name__}")
    number = float(value)
    return number if isfinite(number) else None


def _write_three_figures(number: float) -> str:
    """Three significant figures without exponent: 6.74, 13.0, 405, 1,240."""
    if number == 0:
        return "0"
    decimals = max(0, 2 - floor(log10(abs(number))))
    rounded = round(number, decimals)
    if rounded and floor(log10(abs(rounded))) > floor(log10(abs(number))):  # 9.999 becomes 10.0, not 10.00
        decimals = max(0, decimals - 1)
    return f"{rounded:,.{decimals}f}"


def _write_scaled(number: float, unit: str) -> str:
    """A number with an SI prefix: 1.98e15 "FLOP/s" is "1.98 PFLOP/s"."""
    power = min(max(floor(log10(abs(number)) / 3), 0), len(_DECIMAL_PREFIXES) - 1) if number else 0
    text = _write_three_figures(number / 1000**power)
    if text.lstrip("-") == "1,000" and power + 1 < len(_DECIMAL_PREFIXES):  # 999.6 MB is 1.00 GB
        power, text = power + 1, text.replace("1,000", "1.00")
    return f"{text}{NO_BREAK_SPACE}{_DECIMAL_PREFIXES[power]}{unit}"


@register.filter
def gibibytes(value: object, decimals: int = 1) -> str:
    """Bytes of device memory in GiB: a card sold as "80 GB" has 80.0 GiB."""
    number = _read_number(value)
    if number is None:
        return MISSING
    return f"{number / 2**30:,.{decimals}f}{NO_BREAK_SPACE}GiB"


@register.filter
def data_size(value: object) -> str:
    """Bytes with the decimal unit that suits them, three figures: "1.02 TB"; whole bytes below 1 kB."""
    number = _read_number(value)
    if number is None:
        return MISSING
    if abs(number) < 1000:
        return f"{number:.0f}{NO_BREAK_SPACE}B"
    return _write_scaled(number, "B")


@register.filter
def accelerator_hours(value: object) -> str:
    """Accelerator-seconds in accelerator-hours: 4444200 is "1,234.50", 18 is "0.0050". The unit is the heading's."""
    return MISSING if value is None or value == "" else hours(Decimal(str(value)))


@register.filter
def duration(value: object) -> str:
    """Seconds as the two largest units that matter: "2 d 3 h", "1 h 5 min", "12 min", "45 s".

    Below a minute seconds are shown, below an hour whole minutes and seconds; longer times are rounded
    to the minute, and from a day on to the hour.
    """
    number = _read_number(value)
    if number is None:
        return MISSING
    return duration_in_words(number)


@register.filter
def big_number(value: object) -> str:
    """A count of parameters, tokens or samples: 13000000000 is "13.0B", in Chinese "130 亿".

    English has three figures; Chinese up to two decimals, without trailing zeros, as is customary there.
    `parse_big_number` reads either back.
    """
    number = _read_number(value)
    if number is None:
        return MISSING
    if _is_chinese():
        return _write_chinese_count(number)
    for factor, unit in _ENGLISH_SCALE:
        # 999,600,000 would be written "1,000M": what rounds up to the next unit belongs to it.
        if abs(number) >= factor * 0.9995:
            return f"{_write_three_figures(number / factor)}{unit}"
    return _write_plain(number)


def _write_chinese_count(number: float) -> str:
    for factor, unit in _CHINESE_SCALE:
        if abs(number) >= factor * (1 - 5e-7):
            return f"{_strip_zeros(f'{number / factor:,.2f}')}{NO_BREAK_SPACE}{unit}"
    return _write_plain(number)


def _write_plain(number: float) -> str:
    return _strip_zeros(f"{number:,.2f}")


def _strip_zeros(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def parse_big_number(text: str) -> int:
    """Read a count as people write it: "13B", "1.5 T", "130亿", "2,000,000".

    Raises:
        ValueError: the text is not a positive whole number once the unit is applied.
    """
    compact = re.sub(r"[\s,，_\u00a0]", "", text)
    match = _BIG_NUMBER.fullmatch(compact)
    if match is None:
        raise ValueError(
            _("“%(text)s” is not a count. Write a number, optionally followed by K, M, B, T, 万, 亿 or 万亿.")
            % {"text": text}
        )
    count = Decimal(match["digits"]) * _FACTORS[(match["unit"] or "").lower()]
    if count != count.to_integral_value() or count <= 0:
        raise ValueError(_("“%(text)s” is not a whole number above zero.") % {"text": text})
    return int(count)


@register.filter
def whole_number(value: object) -> str:
    """A count in full with separators: 16384 is "16,384"."""
    number = _read_number(value)
    return MISSING if number is None else f"{number:,.0f}"


@register.filter
def flop_per_s(value: object) -> str:
    """A rate of floating-point operations with an SI prefix: 4.12e14 is "412 TFLOP/s"."""
    number = _read_number(value)
    return MISSING if number is None else _write_scaled(number, "FLOP/s")


@register.filter
def flop(value: object) -> str:
    """An amount of floating-point operations as a power of ten: 3.15e24 is "3.15 × 10²⁴ FLOP"."""
    number = _read_number(value)
    if number is None:
        return MISSING
    if number == 0:
        return f"0{NO_BREAK_SPACE}FLOP"
    mantissa, exponent = f"{number:.2e}".split("e")
    space = NO_BREAK_SPACE
    return f"{mantissa}{space}×{space}10{str(int(exponent)).translate(_SUPERSCRIPTS)}{space}FLOP"


@register.filter
def bytes_per_s(value: object) -> str:
    """A rate of data with a decimal unit: 2.5e10 is "25.0 GB/s"."""
    number = _read_number(value)
    return MISSING if number is None else _write_scaled(number, "B/s")


@register.filter
def percent(value: object, decimals: int = 1) -> str:
    """A fraction as a percentage: 0.4531 is "45.3%"."""
    number = _read_number(value)
    return MISSING if number is None else f"{number * 100:,.{decimals}f}%"


@register.filter
def significant(value: object) -> str:
    """Any figure with three significant digits and separators: 12345.6 is "12,346", 0.0123 is "0.0123"."""
    number = _read_number(value)
    return MISSING if number is None else _write_three_figures(number)
