"""Compute as an amount and as a rate, growth of demand, Chinese numbers, and the facts the portal shows.

Reports print "3640 PFLOPS a day" for what is an amount, 3,640 PFLOPS x days. The two types here can't be added.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from math import log, log2
from types import MappingProxyType
from typing import Any, Final

from jobs.estimation.catalog_files import load_catalog
from jobs.estimation.validation import InvalidInput, check_number, check_text

SECONDS_PER_DAY: Final = 86_400
PFLOP: Final = 1e15
FACT_STATUSES: Final = ("已核实", "口径有误", "仅为引述")

OPENAI_DOUBLING_MONTHS: Final = 3.43
"""Largest runs of 2012 to 2018 (Amodei and Hernandez 2018, as first published). For 2010 on, Epoch finds about 6."""


@dataclass(frozen=True, order=True)
class ComputeAmount:
    """An amount of computation in FLOP. Adding a rate raises TypeError."""

    flop: float

    def __post_init__(self) -> None:
        check_number("compute_amount.flop", self.flop, minimum=0.0, maximum=1e40)

    @classmethod
    def from_pflops_days(cls, value: float) -> "ComputeAmount":
        """An amount in PFLOPS·天 (PFLOP/s-days)."""
        return cls(value * PFLOP * SECONDS_PER_DAY)

    @property
    def pflops_days(self) -> float:
        return self.flop / (PFLOP * SECONDS_PER_DAY)

    def __add__(self, other: "ComputeAmount") -> "ComputeAmount":
        if not isinstance(other, ComputeAmount):
            return NotImplemented
        return ComputeAmount(self.flop + other.flop)

    def __sub__(self, other: "ComputeAmount") -> "ComputeAmount":
        if not isinstance(other, ComputeAmount):
            return NotImplemented
        return ComputeAmount(self.flop - other.flop)

    def at(self, rate: "ComputeRate") -> float:
        """Seconds that this amount takes at `rate`."""
        if rate.flop_per_s == 0:
            raise InvalidInput("compute_rate.flop_per_s", 0, "more than 0 to get anything done")
        return self.flop / rate.flop_per_s

    def __str__(self) -> str:
        return f"{self.pflops_days:,.1f} PFLOPS·天"


@dataclass(frozen=True, order=True)
class ComputeRate:
    """A rate of computation in FLOP/s, in a stated precision. Adding an amount raises TypeError."""

    flop_per_s: float
    precision: str = ""

    def __post_init__(self) -> None:
        check_number("compute_rate.flop_per_s", self.flop_per_s, minimum=0.0, maximum=1e40)
        if self.precision:
            check_text("compute_rate.precision", self.precision, maximum_length=16)

    @classmethod
    def from_pflops(cls, value: float, precision: str = "") -> "ComputeRate":
        return cls(value * PFLOP, precision)

    @property
    def pflops(self) -> float:
        return self.flop_per_s / PFLOP

    def __add__(self, other: "ComputeRate") -> "ComputeRate":
        if not isinstance(other, ComputeRate):
            return NotImplemented
        if self.precision != other.precision:
            raise InvalidInput(
                "compute_rate.precision", other.precision, f"the same as the other's: {self.precision!r}"
            )
        return ComputeRate(self.flop_per_s + other.flop_per_s, self.precision)

    def over(self, seconds: float) -> ComputeAmount:
        """The amount done in `seconds`."""
        return ComputeAmount(self.flop_per_s * check_number("seconds", seconds, minimum=0.0, maximum=1e15))

    def __str__(self) -> str:
        unit = f" ({self.precision})" if self.precision else ""
        return f"{self.pflops:,.1f} PFLOPS{unit}"


def count_centre_days(amount: ComputeAmount, centre: ComputeRate, *, utilisation: float = 1.0) -> float:
    """Days that `amount` takes a centre of rate `centre`; also the centres that do it in one day (智算中心等效)."""
    check_number("utilisation", utilisation, minimum=1e-6, maximum=1.0)
    return amount.at(centre) / utilisation / SECONDS_PER_DAY


# -- growth


def grow_by_doubling(months: float, *, doubling_months: float = OPENAI_DOUBLING_MONTHS) -> float:
    """Factor after `months` if demand doubles every `doubling_months`."""
    check_number("months", months, minimum=0.0, maximum=1200.0)
    check_number("doubling_months", doubling_months, minimum=0.1, maximum=1200.0)
    return float(2.0 ** min(months / doubling_months, 1000.0))


def count_months_to_factor(factor: float, *, doubling_months: float = OPENAI_DOUBLING_MONTHS) -> float:
    """Months until demand is `factor` times as large."""
    check_number("factor", factor, minimum=1.0, maximum=1e300)
    check_number("doubling_months", doubling_months, minimum=0.1, maximum=1200.0)
    return log2(factor) * doubling_months


def grow_by_year(years: float, *, rate: float) -> float:
    """Factor after `years` at a yearly growth of `rate` (0.5 is 50 %)."""
    check_number("years", years, minimum=0.0, maximum=100.0)
    check_number("rate", rate, minimum=-0.99, maximum=100.0)
    return float((1 + rate) ** years)


def compute_yearly_growth(factor: float, *, years: float) -> float:
    """The yearly growth that makes `factor` in `years`; 500 in 7 years is 143 %."""
    check_number("factor", factor, minimum=1e-12, maximum=1e300)
    check_number("years", years, minimum=0.01, maximum=100.0)
    return float(factor ** (1 / years)) - 1


def count_months_to_saturation(
    *, used_per_month: float, capacity_per_month: float, yearly_growth: float
) -> float | None:
    """Months until a centre's monthly use reaches its capacity; 0 if it has, None if use doesn't grow."""
    check_number("used_per_month", used_per_month, minimum=0.0, maximum=1e18)
    check_number("capacity_per_month", capacity_per_month, minimum=0.0, maximum=1e18)
    check_number("yearly_growth", yearly_growth, minimum=-0.99, maximum=100.0)
    if used_per_month >= capacity_per_month:
        return 0.0
    if yearly_growth <= 0 or used_per_month == 0:
        return None
    return 12 * log(capacity_per_month / used_per_month) / log(1 + yearly_growth)


# -- Chinese numbers

_ZH_BASES: Final = {"万亿": 1e12, "亿": 1e8, "万": 1e4, "": 1.0}
_ZH_PREFIXES: Final = {"千": 1e3, "百": 1e2, "十": 1e1, "": 1.0}
_ZH_NUMBER: Final = re.compile(
    r"(?P<sign>-?)(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)?\s*(?P<prefix>[千百十]?)(?P<base>万亿|亿|万)?",
    re.ASCII,
)
_COUNTED: Final = ("参数", "个参数", "词元", "个词元", "token", "tokens")


def format_chinese_number(value: float, *, decimals: int = 2) -> str:
    """A number in groups of 万, 亿, 万亿: 174.6e9 is "1746亿", 1.45e13 "14.5万亿"; no trailing zeros.

    1e14 is "100万亿", which `parse_chinese_number` reads as well as "百万亿".
    """
    number = check_number("value", value, minimum=-1e24, maximum=1e24)
    sign, size = ("-" if number < 0 else ""), abs(number)
    for unit, factor in _ZH_BASES.items():
        # Rounding may carry into the next unit: 99,999,999 is 1亿, not 10000万.
        if round(size / factor, decimals) >= 1 or not unit:
            text = f"{size / factor:.{decimals}f}"
            return sign + (text.rstrip("0").rstrip(".") if "." in text else text) + unit
    raise AssertionError("the last unit takes every number")


def parse_chinese_number(text: str) -> float:
    """The number that "14.5万亿", "百万亿参数" or "1,750亿" says; raises InvalidInput for anything else."""
    allowed = "digits, a unit (万, 亿, 万亿, with 十, 百 or 千 before it) or both, such as 14.5万亿 or 百万亿参数"
    check_text("number", text, maximum_length=64)
    stripped = text.strip()
    for word in _COUNTED:
        stripped = stripped.removesuffix(word).strip()
    match = _ZH_NUMBER.fullmatch(stripped)
    if match is None or not (match["digits"] or match["base"]) or (match["prefix"] and not match["base"]):
        raise InvalidInput("number", text, allowed)
    number = float(match["digits"].replace(",", "")) if match["digits"] else 1.0
    number *= _ZH_PREFIXES[match["prefix"]] * _ZH_BASES[match["base"] or ""]
    return -number if match["sign"] else number


# -- facts


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A figure as it is stated, and what checking it against its source gave (catalog/facts.toml).

    `status` is one of FACT_STATUSES; `note_zh` says what was found. `value` is None where no single number is stated.
    """

    id: str
    statement_zh: str
    value: float | None
    unit: str
    as_stated_by: str
    primary_source: str
    status: str
    note_zh: str

    def __post_init__(self) -> None:
        for name in ("id", "statement_zh", "as_stated_by", "primary_source", "note_zh"):
            check_text(f"fact.{name}", getattr(self, name), maximum_length=500)
        if self.status not in FACT_STATUSES:
            raise InvalidInput("fact.status", self.status, "one of " + "、".join(FACT_STATUSES))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@cache
def facts() -> Mapping[str, Fact]:
    """All facts by id, in the catalogue's order."""
    entries = load_catalog("facts.toml")
    return MappingProxyType(
        {name: Fact(id=name, **{"value": None, "unit": "", **entry}) for name, entry in entries.items()}
    )
