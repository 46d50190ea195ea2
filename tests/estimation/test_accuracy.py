"""The accuracy that docs/estimation.md states, and runs that no constant was fitted on."""

import re

import numpy as np
import pytest

from jobs.estimation import MEMORY_PARTS, STEP_PARTS, accelerators
from jobs.estimation.geometry import RULES
from tests.estimation.accuracy import BEGIN, DOCUMENT, END, format_tables, main, replace_tables
from tests.estimation.published_runs import read_published_runs


def test_the_document_shows_the_tables_that_the_command_prints(capsys):
    document = DOCUMENT.read_text(encoding="utf-8")
    assert main([]) == 0
    printed = capsys.readouterr().out.strip()
    shown = document.split(BEGIN)[1].split(END)[0].strip()
    assert shown == printed, "run: python -m tests.estimation.accuracy --write"


def test_the_tables_count_every_shipped_run_once():
    rows = [line.split("|") for line in format_tables().splitlines() if line.startswith("| **all**")]
    fitted, held_out, memory = (int(row[3]) for row in rows)
    runs = [*read_published_runs(), *read_published_runs("held_out_runs")]
    assert fitted + held_out == len(runs)
    assert memory == sum(run.memory_bytes is not None for run in runs)


@pytest.mark.parametrize("document", ["no mark", BEGIN, f"{BEGIN}{END}{END}"])
def test_a_document_without_both_marks_once_is_refused(document):
    with pytest.raises(ValueError, match="must be there once"):
        replace_tables(document, "table")


def test_held_out_runs_are_of_sources_that_no_constant_was_fitted_on():
    fitted = {run.source for run in read_published_runs()}
    held_out = {run.source for run in read_published_runs("held_out_runs")}
    assert held_out
    assert not fitted & held_out


def test_median_error_of_held_out_runs_is_below_15_percent():
    ratios = np.array([run.step_s / run.evaluate().step_s[0] for run in read_published_runs("held_out_runs")])
    print(f"measured / estimated: {np.round(ratios, 2)}")
    assert 100 * np.median(np.abs(ratios - 1)) < 15


def test_recomputation_that_a_held_out_source_does_not_print_is_the_least_that_fits():
    for run in read_published_runs("held_out_runs"):
        if run.is_recomputation_published:
            continue
        without = run.with_recomputation("none").evaluate().memory_bytes[0]
        fits = without <= run.machine.accelerator.memory_bytes
        assert run.plan.recomputation == ("none" if fits else "full"), run.id


def test_the_document_names_every_basis_rule_and_part():
    document = DOCUMENT.read_text(encoding="utf-8")
    bases = {item.efficiency.basis for item in accelerators().values()}
    missing = [name for name in (*bases, *RULES, *STEP_PARTS, *MEMORY_PARTS) if not re.search(rf"\b{name}\b", document)]
    assert not missing
