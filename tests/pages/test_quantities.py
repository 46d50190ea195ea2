"""Amounts as people write them."""

import pytest
from django.core.exceptions import ValidationError

from jobs.forms.quantities import CountField, MinutesField, parse_count, parse_minutes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2e9", 2 * 10**9),
        ("2E+9", 2 * 10**9),
        ("2B", 2 * 10**9),
        ("2 b", 2 * 10**9),
        ("1.5T", 1_500_000_000_000),
        ("20亿", 2 * 10**9),
        ("20 亿", 2 * 10**9),
        ("1.2万亿", 1_200_000_000_000),
        ("300万", 3_000_000),
        ("2,000,000", 2_000_000),
        ("２０亿", 2 * 10**9),
        ("7", 7),
    ],
)
def test_a_count_is_read_in_any_spelling(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    "text", ["", "-2B", "0", "0.5", "1.0001K0", "2 billions", "1e999", "NaN", "B", "1" * 60, "\x00"]
)
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_count(text or " ")


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("90 min", 90),
        ("1.5 h", 90),
        ("2 d 12 h", 3600),
        ("2天12小时", 3600),
        ("1-12:00:00", 2160),
        ("36:00:00", 2160),
        ("0:00:30", 1),
    ],
)
def test_a_time_limit_is_read_in_any_spelling(text: str, minutes: int) -> None:
    assert parse_minutes(text) == minutes


@pytest.mark.parametrize("text", ["0", "-5", "soon", "5 weeks", "1:2:3:4", "9" * 39, "1e3", "h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_minutes(text)


def test_fields_name_the_value_and_show_how_to_write_it() -> None:
    with pytest.raises(ValidationError) as refused:
        CountField().clean("-2B")
    assert "-2B" in refused.value.messages[0]
    assert "20亿" in refused.value.messages[0]
    with pytest.raises(ValidationError) as refused:
        MinutesField().clean("soon")
    assert "soon" in refused.value.messages[0]
    assert MinutesField(required=False).clean("  ") is None
