"""Amounts and rates, growth, Chinese numbers, and the table of facts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.estimation.outlook import (
    FACT_STATUSES,
    ComputeAmount,
    ComputeRate,
    Fact,
    compute_yearly_growth,
    count_centre_days,
    count_months_to_factor,
    count_months_to_saturation,
    facts,
    format_chinese_number,
    grow_by_doubling,
    grow_by_year,
    parse_chinese_number,
)
from jobs.estimation.validation import InvalidInput

GPT3 = ComputeAmount.from_pflops_days(3640)
CENTRE = ComputeRate.from_pflops(500)

# -- amounts and rates


def test_an_amount_and_a_rate_cannot_be_added():
    for left, right in ((GPT3, CENTRE), (CENTRE, GPT3), (GPT3, 1.0), (CENTRE, 1.0)):
        with pytest.raises(TypeError):
            left + right
    with pytest.raises(TypeError):
        GPT3 - CENTRE


def test_like_adds_to_like():
    assert ComputeAmount.from_pflops_days(7280) == GPT3 + GPT3
    assert (GPT3 - GPT3).flop == 0
    assert (CENTRE + CENTRE).pflops == pytest.approx(1000)
    with pytest.raises(InvalidInput, match="fp16"):
        ComputeRate(1.0, "fp16") + ComputeRate(1.0, "fp64")


@given(rate=st.floats(1e9, 1e21), seconds=st.floats(1, 1e9))
def test_a_rate_over_time_is_an_amount_and_back(rate, seconds):
    amount = ComputeRate(rate).over(seconds)
    assert amount.at(ComputeRate(rate)) == pytest.approx(seconds)


def test_text_says_which_of_the_two_it_is():
    assert str(GPT3) == "3,640.0 PFLOPS·天"
    assert str(ComputeRate.from_pflops(500, "fp16")) == "500.0 PFLOPS (fp16)"


def test_centre_equivalents_follow_utilisation():
    assert count_centre_days(GPT3, CENTRE) == pytest.approx(7.28)
    assert count_centre_days(GPT3, CENTRE, utilisation=0.4) == pytest.approx(18.2)
    with pytest.raises(InvalidInput) as error:
        count_centre_days(GPT3, CENTRE, utilisation=0.0)
    assert error.value.field == "utilisation"
    with pytest.raises(InvalidInput):
        GPT3.at(ComputeRate(0.0))


# -- growth


def test_doubling_every_3_43_months_is_eleven_times_a_year():
    assert grow_by_doubling(12, doubling_months=3.43) == pytest.approx(11.30, abs=0.01)
    assert grow_by_doubling(62.4) == pytest.approx(3e5, rel=0.01)


@given(factor=st.floats(1, 1e12), months=st.floats(0.5, 60))
def test_months_to_a_factor_are_the_inverse_of_growth(factor, months):
    wait = count_months_to_factor(factor, doubling_months=months)
    if wait <= 1200:
        assert grow_by_doubling(wait, doubling_months=months) == pytest.approx(factor, rel=1e-9)


def test_yearly_growth_agrees_with_the_published_factors():
    assert grow_by_year(5, rate=0.5) == pytest.approx(7.59, abs=0.01)
    assert grow_by_year(5, rate=0.523) == pytest.approx(8.19, abs=0.01)
    assert compute_yearly_growth(500, years=7) == pytest.approx(1.43, abs=0.005)
    assert compute_yearly_growth(500, years=10) == pytest.approx(0.86, abs=0.005)


def test_a_centre_is_full_when_growth_reaches_its_capacity():
    months = count_months_to_saturation(used_per_month=500, capacity_per_month=1000, yearly_growth=0.5)
    assert 500 * grow_by_year(months / 12, rate=0.5) == pytest.approx(1000)
    assert count_months_to_saturation(used_per_month=9, capacity_per_month=9, yearly_growth=0.5) == 0
    assert count_months_to_saturation(used_per_month=5, capacity_per_month=9, yearly_growth=0.0) is None
    assert count_months_to_saturation(used_per_month=0, capacity_per_month=9, yearly_growth=0.5) is None


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("months", lambda: grow_by_doubling(-1)),
        ("doubling_months", lambda: grow_by_doubling(1, doubling_months=0)),
        ("factor", lambda: count_months_to_factor(0.5)),
        ("rate", lambda: grow_by_year(1, rate=-1.0)),
        ("years", lambda: compute_yearly_growth(2, years=0)),
        ("compute_amount.flop", lambda: ComputeAmount(-1.0)),
        ("compute_rate.flop_per_s", lambda: ComputeRate(math.nan)),
    ],
)
def test_bad_values_are_named(name, call):
    with pytest.raises(InvalidInput) as error:
        call()
    assert error.value.field == name


# -- Chinese numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("亿", 1e8),
        ("万亿", 1e12),
        ("百万亿", 1e14),
        ("百万亿参数", 1e14),
        ("14.5万亿", 1.45e13),
        ("1,750亿", 1.75e11),
        ("3000 亿词元", 3e11),
        ("7200万", 7.2e7),
        ("3640", 3640),
        ("-3.5万", -3.5e4),
    ],
)
def test_chinese_numbers_are_read(text, number):
    assert parse_chinese_number(text) == pytest.approx(number, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["", "很多", "万万", "十", "-", "1,75亿", "1.2.3亿", "1e8", "nan", "亿元", "9" * 99, None]
)
def test_what_is_no_chinese_number_is_refused(text):
    with pytest.raises(InvalidInput) as error:
        parse_chinese_number(text)
    assert error.value.field == "number"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1e8, "1亿"),
        (1e12, "1万亿"),
        (1e14, "100万亿"),
        (174.6e9, "1746亿"),
        (1.45e13, "14.5万亿"),
        (99_999_999.9, "1亿"),
        (12_345, "1.23万"),
        (-35_000, "-3.5万"),
        (0, "0"),
    ],
)
def test_numbers_are_written_in_groups_of_ten_thousand(number, text):
    assert format_chinese_number(number) == text


@given(number=st.floats(1, 1e18), decimals=st.integers(2, 6))
def test_numbers_survive_the_way_through_chinese(number, decimals):
    text = format_chinese_number(number, decimals=decimals)
    assert parse_chinese_number(text) == pytest.approx(number, rel=10.0**-decimals)


# -- facts


def test_every_fact_names_who_says_it_where_it_comes_from_and_what_checking_found():
    assert {"F1", "F2", "F3", "F4", "F5", "F6"} <= set(facts())
    for name, fact in facts().items():
        assert fact.id == name
        assert fact.status in FACT_STATUSES
        assert fact.as_stated_by
        assert fact.primary_source
        assert fact.note_zh


def test_the_facts_values_are_what_the_formulas_give():
    table = facts()
    assert table["F1"].unit == "PFLOPS·天"
    amount = ComputeAmount.from_pflops_days(table["F1"].value)
    assert count_centre_days(amount, CENTRE) == pytest.approx(table["F2"].value)
    growth = grow_by_doubling(12, doubling_months=table["F4"].value)
    assert f"{growth:.2f}" in table["F4"].note_zh
    assert f"{grow_by_year(5, rate=table['F5'].value):.2f}" in table["F5"].note_zh
    base = table["F6"].value / 500
    assert f"{base / 1e18:.0f} EFLOPS" in table["F6"].note_zh
    assert f"{100 * compute_yearly_growth(500, years=7):.0f}%" in table["F6"].note_zh
    assert parse_chinese_number("174万亿参数") == table["F10"].value


def test_a_fact_of_unknown_status_is_refused():
    with pytest.raises(InvalidInput) as error:
        Fact(
            id="X",
            statement_zh="…",
            value=None,
            unit="",
            as_stated_by="…",
            primary_source="…",
            status="大概对",
            note_zh="…",
        )
    assert error.value.field == "fact.status"
