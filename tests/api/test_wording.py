"""Codes of the estimator and the launcher have words; services' fields have their place in bodies."""

import re
import string
from typing import Any

import pytest

from jobs.api.names import body_path
from jobs.estimation import (
    ADVICE_TEXT,
    ASSUMPTION_TEXT,
    MEMORY_PARTS,
    STEP_PARTS,
    Advice,
    Machine,
    Workload,
    accelerators,
    estimate_best,
)
from jobs.estimation.run_total import LOSSES
from jobs.launch import LaunchWarning
from jobs.presentation import BASIS_WORDING, describe_basis
from jobs.services.advice import (
    ADVICE_WORDING,
    ASSUMPTION_WORDING,
    MEMORY_PART_LABELS,
    describe_advice,
    describe_assumption,
    describe_launch_warning,
)
from jobs.views.estimate_panel import LOSS_LABELS, STEP_PART_LABELS


def fields(template: str) -> set[str]:
    return {name for _text, name, _format, _conversion in string.Formatter().parse(template) if name}


def example(code: str) -> dict[str, Any]:
    return {name: "weights" if name == "largest_part" else 12 for name in fields(ADVICE_TEXT[code])}


def test_every_code_of_the_engine_has_words_and_no_other_has() -> None:
    assert set(ADVICE_WORDING) == set(ADVICE_TEXT)
    assert set(ASSUMPTION_WORDING) == set(ASSUMPTION_TEXT)
    assert set(MEMORY_PART_LABELS) == set(MEMORY_PARTS)
    assert set(STEP_PART_LABELS) == set(STEP_PARTS)
    assert set(LOSS_LABELS) == set(LOSSES)


@pytest.mark.parametrize(("accelerator", "measured"), [(code, None) for code in accelerators()] + [("host-cpu", 1e11)])
def test_whatever_an_accelerators_estimates_rest_on_has_words(accelerator: str, measured: float | None) -> None:
    machine = Machine.from_catalog(accelerator, measured_peak_flop_per_s=measured)
    precision = next(iter(machine.accelerator.peak_flop_per_s))
    workload = {"model": {"preset": "gpt2-small"}, "tokens": 10**9, "precision": precision}
    result = estimate_best(Workload.from_dict(workload), machine, 1).to_dict()
    words = describe_basis(result)
    assert result["basis"] in BASIS_WORDING
    assert words.startswith("Rests on ")
    assert words.endswith("No finished job of this centre has corrected it.")
    assert describe_basis({"basis": result["basis"]}) == BASIS_WORDING[result["basis"]]


@pytest.mark.parametrize("code", sorted(ADVICE_TEXT))
def test_the_words_use_the_figures_that_the_engine_gives(code: str) -> None:
    assert fields(str(ADVICE_WORDING[code])) == fields(ADVICE_TEXT[code])
    parameters = example(code)
    words = describe_advice(Advice(code=code, severity="info", parameters=parameters))
    assert "{" not in words
    assert words == describe_advice({"code": code, "severity": "info", "parameters": parameters})
    if parameters:
        assert re.search("12|weights|1.2e", words)


def test_a_code_of_another_version_is_shown_as_it_is() -> None:
    assert describe_advice({"code": "from_the_future", "parameters": {"x": 1}}) == "from_the_future"
    assert describe_assumption("from_the_future") == "from_the_future"


@pytest.mark.parametrize(
    "warning",
    [
        LaunchWarning(code="crlf", parameters={"lines": 3}),
        LaunchWarning(code="user_directives_ignored", parameters={"count": 2, "lines": ("#SBATCH -N 9",)}),
        LaunchWarning(code="signal_at_start", parameters={"signal_lead_s": 300, "time_limit_minutes": 5}),
    ],
    ids=lambda warning: warning.code,
)
def test_remarks_on_a_script_have_words(warning: LaunchWarning) -> None:
    words = describe_launch_warning(warning)
    assert words != warning.code
    assert "{" not in words


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ("script", "entry.script"),
        ("command.argv", "entry.command"),
        ("command.argv[3]", "entry.command[3]"),
        ("command.launcher", "entry.launcher"),
        ("launcher", "entry.launcher"),
        ("signal_lead_s", "checkpoint_lead_s"),
        ("workload.architecture.hidden_size", "workload.model.architecture.hidden_size"),
        ("environment.script", "environment.script"),
        ("nodes", "nodes"),
    ],
)
def test_a_field_of_a_service_has_its_place_in_the_body(field: str, path: str) -> None:
    assert body_path(field) == path
