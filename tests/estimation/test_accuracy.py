"""docs/estimation.md states what the engine reaches, and names what it is made of."""

import re
from dataclasses import fields
from xml.etree import ElementTree

import pytest

from jobs.estimation import MEMORY_PARTS, STEP_PARTS, Machine, ParallelPlan, Workload, accelerators, estimate
from jobs.estimation.constants import GROUPS
from jobs.estimation.plan_rules import RULES
from tests.estimation.accuracy import (
    BEGIN,
    DOCUMENT,
    END,
    MEMORY_PLOT,
    THROUGHPUT_PLOT,
    WORST,
    Point,
    draw_memory,
    draw_scatter,
    draw_throughput,
    format_tables,
    replace_tables,
)
from tests.estimation.published_runs import measure_accuracy

SVG = "{http://www.w3.org/2000/svg}"
REMEDY = "run: python -m tests.estimation.accuracy --write"


@pytest.fixture(scope="module")
def accuracy():
    return measure_accuracy()


# --- The document ----------------------------------------------------------------------------------------------------


def test_the_document_shows_the_tables_that_the_command_prints(accuracy):
    shown = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].strip()
    assert shown == format_tables(accuracy), REMEDY


@pytest.mark.parametrize(("path", "draw"), [(THROUGHPUT_PLOT, draw_throughput), (MEMORY_PLOT, draw_memory)])
def test_the_pictures_are_those_that_the_command_draws(path, draw, accuracy):
    assert path.read_text(encoding="utf-8") == draw(accuracy), REMEDY


def test_the_tables_count_every_scored_row_of_each_grouping_once(accuracy):
    counted = []
    for block in format_tables(accuracy).split("**Throughput by ")[1:]:
        rows = [line.split("|") for line in block.split("\n\n")[1].splitlines()[2:]]
        assert rows[-1][1].strip() == "**all**"
        assert sum(int(row[2]) for row in rows[:-1]) == int(rows[-1][2])
        counted.append(int(rows[-1][2]))
    assert counted == [len(accuracy.timed)] * 3


def test_the_worst_rows_are_worse_than_all_others(accuracy):
    def distance(score):
        return max(score.held_out_step_ratio, 1 / score.held_out_step_ratio)

    worst = accuracy.list_worst(WORST)
    assert len({score.run.id for score in worst}) == WORST
    others = [score for score in accuracy.timed if score not in worst and score.held_out_step_ratio]
    assert min(map(distance, worst)) >= max(map(distance, others))


@pytest.mark.parametrize("document", ["no mark", BEGIN, f"{BEGIN}{END}{END}"])
def test_a_document_without_both_marks_once_is_refused(document):
    with pytest.raises(ValueError, match="must be there once"):
        replace_tables(document, "table")


def list_bases():
    """Every basis that an estimate on an accelerator of the catalogue has."""
    workload = {"model": {"preset": "gpt2-small"}, "tokens": 1e9}
    bases = {"measured_peak"}
    for item in accelerators().values():
        precision = "fp16" if "fp16" in item.peak_flop_per_s else next(iter(item.peak_flop_per_s))
        task = Workload.from_dict({**workload, "precision": precision})
        bases.add(estimate(task, Machine(accelerator=item), ParallelPlan()).basis)
    return bases


def test_the_document_names_every_basis_rule_part_and_constant():
    document = DOCUMENT.read_text(encoding="utf-8")
    constants = [field.name for group in GROUPS.values() for field in fields(group)]
    bases = list_bases()
    assert len(bases) > 3
    names = (*bases, *RULES, *STEP_PARTS, *MEMORY_PARTS, *constants)
    assert not [name for name in names if not re.search(rf"\b{name}\b", document)]


# --- The pictures ----------------------------------------------------------------------------------------------------


def list_marks(root):
    """Positions of the marks that stand for points, by name."""
    tips = {mark: mark.find(f"{SVG}title") for mark in root.iter(f"{SVG}path")}
    return {
        tip.text.split(":")[0]: tuple(map(float, re.match(r"M([-\d.]+) ([-\d.]+)", mark.get("d")).groups()))
        for mark, tip in tips.items()
        if tip is not None
    }


@pytest.mark.parametrize(("path", "kind"), [(THROUGHPUT_PLOT, "timed"), (MEMORY_PLOT, "weighed")])
def test_a_picture_shows_every_scored_row_inside_its_frame_and_says_what_it_is(path, kind, accuracy):
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314 - our own file
    assert root.get("role") == "img"
    named = {element.get("id"): element.text for element in root if element.get("id")}
    assert set(root.get("aria-labelledby").split()) == set(named)
    assert all(named.values())
    marks = list_marks(root)
    assert set(marks) == {score.run.id for score in getattr(accuracy, kind)}
    frame = root.find(f".//{SVG}clipPath/{SVG}rect")
    width, height = float(frame.get("width")), float(frame.get("height"))
    assert all(0 <= x <= width and 0 <= y <= height for x, y in marks.values())


def test_marks_lie_on_the_diagonal_where_both_values_agree_and_above_it_where_y_is_higher():
    points = [Point(name=name, group="g", x=x, y=y) for name, x, y in (("a", 3, 3), ("b", 40, 40), ("c", 3, 40))]
    text = draw_scatter(points, title="t", description="d", x_label="x", y_label="y")
    assert text == draw_scatter(points[::-1], title="t", description="d", x_label="x", y_label="y")
    root = ElementTree.fromstring(text)  # noqa: S314 - our own text
    side = float(root.find(f".//{SVG}clipPath/{SVG}rect").get("width"))
    marks = list_marks(root)
    assert marks["a"][0] + marks["a"][1] == pytest.approx(side, abs=0.11)
    assert marks["b"][0] + marks["b"][1] == pytest.approx(side, abs=0.11)
    assert marks["c"] == (marks["a"][0], marks["b"][1])


def test_names_in_a_picture_are_escaped():
    point = Point(name="<a>", group="b&c", x=1, y=2)
    root = ElementTree.fromstring(  # noqa: S314 - our own text
        draw_scatter([point], title="<t>", description="&", x_label="<", y_label=">")
    )
    assert list_marks(root).keys() == {"<a>"}


def test_more_groups_than_can_be_told_apart_are_refused():
    points = [Point(name=str(number), group=str(number), x=1, y=1) for number in range(8)]
    with pytest.raises(ValueError, match="8 groups"):
        draw_scatter(points, title="", description="", x_label="", y_label="")
