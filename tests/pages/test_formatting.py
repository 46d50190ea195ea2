"""Numbers, times and states as people read them."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from django import forms
from django.contrib.staticfiles import finders
from django.template import Context, Template
from django.test import override_settings
from django.utils import timezone, translation
from hypothesis import given
from hypothesis import strategies as st

from jobs.states import HoldReason, JobState
from portal.templatetags import portal_format as fmt
from portal.templatetags import portal_ui

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
PLAIN_STATIC = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}


@pytest.fixture(autouse=True)
def _english():
    with translation.override("en"), override_settings(STORAGES=PLAIN_STATIC):
        yield


def spaced(text: str) -> str:
    return str(text).replace(fmt.NO_BREAK_SPACE, " ")


@pytest.mark.parametrize(
    ("write", "value", "expected"),
    [
        (fmt.gibibytes, 80 * 2**30, "80.0 GiB"),
        (fmt.gibibytes, 1234.56 * 2**30, "1,234.6 GiB"),
        (fmt.data_size, 999, "999 B"),
        (fmt.data_size, 1_023_000_000_000, "1.02 TB"),
        (fmt.data_size, 999_600_000, "1.00 GB"),
        (fmt.bytes_per_s, 25e9, "25.0 GB/s"),
        (fmt.accelerator_hours, 4_444_200, "1,234.50"),
        (fmt.accelerator_hours, Decimal(18), "0.0050"),
        (fmt.accelerator_hours, 0, "0.00"),
        (fmt.accelerator_hours, 3_600_000_000_001, "1,000,000,000.00"),
        (fmt.flop_per_s, 4.12e14, "412 TFLOP/s"),
        (fmt.flop_per_s, 1.98e18, "1.98 EFLOP/s"),
        (fmt.flop, 3.15e24, "3.15 × 10²⁴ FLOP"),
        (fmt.flop, 0, "0 FLOP"),
        (fmt.percent, 0.4531, "45.3%"),
        (fmt.percent, 12.5, "1,250.0%"),
        (fmt.whole_number, 16384, "16,384"),
        (fmt.significant, 12345.6, "12,346"),
        (fmt.significant, 0.01234, "0.0123"),
        (fmt.significant, 9.999, "10.0"),
        (fmt.significant, 0, "0"),
        (fmt.duration, 0, "0 s"),
        (fmt.duration, 45, "45 s"),
        (fmt.duration, 3599, "1 h"),
        (fmt.duration, 3900, "1 h 5 min"),
        (fmt.duration, 86_399, "1 d"),
        (fmt.duration, 183_600, "2 d 3 h"),
        (fmt.duration, -90, "−1 min 30 s"),
    ],
)
def test_a_quantity_is_written_with_its_unit(write, value, expected):
    assert spaced(write(value)) == expected


@pytest.mark.parametrize(
    "write",
    [
        fmt.gibibytes,
        fmt.data_size,
        fmt.accelerator_hours,
        fmt.duration,
        fmt.big_number,
        fmt.flop,
        fmt.percent,
        fmt.significant,
    ],
)
@pytest.mark.parametrize("nothing", [None, ""])
def test_what_is_not_there_is_written_as_a_dash(write, nothing):
    assert write(nothing) == "–"


def test_a_value_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="not list"):
        fmt.gibibytes([1])


@pytest.mark.parametrize(
    ("value", "english", "chinese"),
    [
        (999, "999", "999"),
        (7_000, "7.00K", "7,000"),
        (13_000_000_000, "13.0B", "130 亿"),
        (6_738_415_616, "6.74B", "67.38 亿"),
        (405_000_000_000, "405B", "4,050 亿"),
        (15_000_000_000_000, "15.0T", "15 万亿"),
        (350_000_000, "350M", "3.5 亿"),
        (125_000, "125K", "12.5 万"),
        (999_950_000, "1.00B", "10 亿"),
        (99_999_999, "100M", "1 亿"),
    ],
)
def test_a_big_count_follows_the_reader_s_counting(value, english, chinese):
    assert fmt.big_number(value) == english
    with translation.override("zh-hans"):
        assert spaced(fmt.big_number(value)) == chinese


@pytest.mark.parametrize("language", ["en", "zh-hans"])
@given(count=st.integers(min_value=1, max_value=10**15))
def test_a_big_count_that_was_written_can_be_read_back(language, count):
    with translation.override(language):
        assert fmt.parse_big_number(fmt.big_number(count)) == pytest.approx(count, rel=0.006)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("13B", 13 * 10**9),
        ("1.5 t", 15 * 10**11),
        ("130亿", 13 * 10**9),
        ("2,000,000", 2_000_000),
        ("1.2 万亿", 12 * 10**11),
    ],
)
def test_a_count_is_read_as_people_type_it(text, count):
    assert fmt.parse_big_number(text) == count


@pytest.mark.parametrize("text", ["", "many", "-3B", "1e9", "13 GB", "0", "1.5"])
def test_what_is_not_a_count_is_refused_with_the_text_given(text):
    with pytest.raises(ValueError, match=re.escape(f"“{text}”")):
        fmt.parse_big_number(text)


@pytest.mark.parametrize("state", list(JobState))
def test_every_job_state_has_a_badge_with_words_and_an_icon_that_exists(state):
    badge = Template("{% load portal_ui %}{% state_badge state %}").render(Context({"state": str(state)}))
    look = portal_ui.STATE_LOOKS[state]
    assert str(look.label) in badge
    assert f"tone-{look.tone}" in badge
    assert look.icon in sprite_names()


@pytest.mark.parametrize("reason", list(HoldReason))
def test_a_held_job_says_why(reason):
    template = Template("{% load portal_ui %}{% state_badge 'HELD' reason %}")
    assert str(portal_ui.HOLD_REASONS[reason]) in template.render(Context({"reason": str(reason)}))


def test_an_unknown_state_is_an_error_not_an_empty_badge():
    with pytest.raises(ValueError, match="SLEEPING"):
        portal_ui.state_badge("SLEEPING")


def sprite_names() -> set[str]:
    return set(re.findall(r'<symbol id="([^"]+)"', Path(finders.find(portal_ui.ICON_SPRITE)).read_text()))


def test_every_icon_that_a_template_names_is_in_the_sprite():
    named = {
        name
        for path in TEMPLATES.rglob("*.html")
        for match in re.findall(r"""{% icon ['"]([\w-]+)['"]|\bicon=['"]([\w-]+)['"]""", path.read_text())
        for name in match
        if name
    }
    assert named
    assert named <= sprite_names()


def test_no_template_has_inline_code_or_inline_style():
    offences = [
        f"{path.name}: {match.group(0)}"
        for path in TEMPLATES.rglob("*.html")
        for match in re.finditer(
            r"<style|\sstyle=|\son[a-z]+=|hx-on|<script(?![^>]*(?:\ssrc=|application/json))", path.read_text()
        )
    ]
    assert offences == []


NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (timedelta(seconds=-20), "just now"),
        (timedelta(seconds=20), "in less than a minute"),
        (timedelta(minutes=-3), "3 minutes ago"),
        (timedelta(hours=2), "in 2 hours"),
    ],
)
def test_a_moment_tells_the_distance_and_the_exact_time(offset, words):
    with timezone.override("UTC"):
        html = spaced(portal_ui.moment(NOW + offset, "relative", now=NOW))
    stamp = (NOW + offset).isoformat(timespec="seconds")
    assert f'datetime="{stamp}"' in html
    assert f">{words}</time>" in html


def test_a_moment_is_shown_in_the_reader_s_zone_and_stamped_in_utc():
    with timezone.override("Asia/Shanghai"):
        html = portal_ui.moment(NOW, "absolute")
    assert ">2026-03-01 20:00</time>" in html
    assert 'datetime="2026-03-01T12:00:00+00:00"' in html


def test_a_moment_that_has_not_come_is_a_dash():
    assert portal_ui.moment(None) == "–"


class RunForm(forms.Form):
    hours = forms.IntegerField(min_value=1, help_text="Whole hours.")
    notify = forms.BooleanField(required=False)
    task = forms.ChoiceField(choices=[("a", "A")], widget=forms.RadioSelect)


def test_a_field_with_an_error_names_its_notes_for_screen_readers():
    field = RunForm({"hours": "0", "task": "a"})["hours"]
    html = Template('{% include "_field.html" with unit="h" %}').render(Context({"field": field}))
    assert 'aria-invalid="true"' in html
    assert 'aria-describedby="id_hours_helptext id_hours_error"' in html
    assert 'id="id_hours_error"' in html
    assert 'id="id_hours_helptext"' in html
    assert 'class="form-control is-invalid"' in html
    assert 'for="id_hours"' in html


def test_a_group_of_choices_is_a_fieldset_with_a_legend():
    html = Template('{% include "_field.html" %}').render(Context({"field": RunForm()["task"]}))
    assert "<fieldset" in html
    assert "<legend>Task" in html


def test_a_job_name_cannot_leave_the_data_block_of_a_chart():
    data = {"unit": "GB", "categories": ["</script><script>alert(1)</script>"], "series": []}
    html = Template('{% include "_chart.html" with id="m" kind="memory" description="Memory" %}').render(
        Context({"data": data})
    )
    assert html.count("</script>") == 1
    assert 'data-chart-source="m-data"' in html
    assert 'id="m-data" type="application/json"' in html
