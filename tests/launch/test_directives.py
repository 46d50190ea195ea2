"""What sbatch would read from a script is what was asked, whatever a string held."""

import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.launch import Command, LaunchRequest, UserScript, parse_directives, render_batch_script
from jobs.spec import InvalidSpec

from .launch_requests import make_request

HOSTILE = [
    "\n#SBATCH --nodes=64",
    "\r#SBATCH --nodes=64",
    "\x00",
    "'",
    '"',
    "\\",
    "$(id)",
    "`id`",
    ";id",
    "|id",
    "&",
    "-",
    "--nodes=64",
    "%j",
    " --nodes=64",
    "\t",
    "#",
    "=",
    ":",
    ",",
    "..",
    "/",
    "~",
    "*",
    "\x7f",
    "\x85",
    "\u2028#SBATCH --nodes=64",
    "\u2029",
    "é",
    "\udc80",
]
PLACES = [lambda base, bad: bad, lambda base, bad: bad + base, lambda base, bad: base + bad, lambda base, bad: bad * 2]
STRING_FIELDS = {
    "key": "5f0c1d2e-0001",
    "name": "run",
    "partition": "gpu",
    "gres_name": "gpu",
    "gres_type": "a800",
    "qos": "high",
    "slurm_account": "physics",
    "signal_name": "USR1",
}


def expect_directives(request: LaunchRequest) -> dict[str, str]:
    """The options by the meaning of the fields, written apart from the renderer."""
    kind = f"{request.gres_name}:{request.gres_type}" if request.gres_type else request.gres_name
    expected = {
        "job-name": request.name,
        "comment": "portal:" + request.key,
        "partition": request.partition,
        "nodes": f"{request.nodes}",
        "ntasks-per-node": "1",
        "gres": f"{kind}:{request.devices_per_node}",
        "time": f"{request.time_limit_minutes}",
        "output": "stdout.log",
        "open-mode": "append",
        "no-requeue": "",
        "export": "NONE",
    }
    if request.qos:
        expected["qos"] = request.qos
    if request.slurm_account:
        expected["account"] = request.slurm_account
    if request.signal_name:
        expected["signal"] = f"B:{request.signal_name}@{request.signal_lead_s}"
    return expected


def check_syntax(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script.encode(), check=True, capture_output=True, timeout=20)


@pytest.mark.parametrize("field", sorted(STRING_FIELDS))
def test_hostile_text_in_a_field_is_refused_or_stays_a_value(field: str) -> None:
    refused = 0
    for bad in HOSTILE:
        for place in PLACES:
            value = place(STRING_FIELDS[field], bad)
            try:
                request = make_request(**{field: value})
            except InvalidSpec as error:
                assert error.field == field  # noqa: PT017
                refused += 1
                continue
            script = render_batch_script(request).script
            assert parse_directives(script) == expect_directives(request)
            check_syntax(script)
    assert refused >= len(HOSTILE)


@given(field=st.sampled_from(sorted(STRING_FIELDS)), value=st.text(max_size=40))
def test_any_text_in_a_field_is_refused_or_stays_a_value(field: str, value: str) -> None:
    try:
        request = make_request(**{field: value})
    except InvalidSpec:
        return
    assert parse_directives(render_batch_script(request).script) == expect_directives(request)


@given(body=st.text(max_size=200))
def test_no_user_script_adds_a_directive(body: str) -> None:
    try:
        request = make_request(entry=UserScript("#!/bin/bash\n#SBATCH --nodes=64\n" + body))
    except InvalidSpec:
        return
    assert parse_directives(render_batch_script(request).script) == expect_directives(request)


@given(words=st.lists(st.text(max_size=30), min_size=1, max_size=5), value=st.text(max_size=60))
def test_no_argument_or_variable_adds_a_directive(words: list[str], value: str) -> None:
    try:
        request = make_request(entry=Command(("echo", *words)), environment={"USER_VALUE": value})
    except InvalidSpec:
        return
    assert parse_directives(render_batch_script(request).script) == expect_directives(request)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"memory_bytes_per_node": 1}, {"mem": "1M"}),
        ({"memory_bytes_per_node": 4 * 1024**3 + 1}, {"mem": "4097M"}),
        ({"cpus_per_node": 12}, {"cpus-per-task": "12"}),
        ({"signal_name": "TERM", "signal_lead_s": 60}, {"signal": "B:TERM@60"}),
    ],
)
def test_optional_resources_become_options(changes: dict[str, Any], expected: dict[str, str]) -> None:
    request = make_request(**changes)
    assert parse_directives(render_batch_script(request).script) == expect_directives(request) | expected


def test_job_without_devices_asks_for_none() -> None:
    assert "gres" not in parse_directives(render_batch_script(make_request(devices_per_node=0)).script)


def test_script_is_a_function_of_the_request_alone() -> None:
    one = make_request(environment={"B": "2", "A": "1"})
    other = make_request(environment={"A": "1", "B": "2"})
    assert render_batch_script(one).script == render_batch_script(other).script


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("#!/bin/bash\n#SBATCH --nodes=2 --qos=high\n", {"nodes": "2", "qos": "high"}),
        ("#!/bin/bash\n#SBATCH -N 2\n\n  # comment\n#SBATCH --exclusive\n", {"N": "2", "exclusive": ""}),
        ("#!/bin/bash\ntrue\n#SBATCH --nodes=2\n", {}),
        ("#!/bin/bash\n #SBATCH --nodes=2\n##SBATCH --nodes=3\n", {}),
        ("#!/bin/bash\n#SBATCH --comment='two words' # why\n", {"comment": "two words"}),
        ("#!/bin/bash\n#SBATCH --nodes=2\n#SBATCH --nodes=3\n", {"nodes": "3"}),
        ("#!/bin/bash\r#SBATCH --nodes=2\n", {}),
    ],
)
def test_directives_are_read_as_sbatch_reads_them(script: str, expected: dict[str, str]) -> None:
    assert parse_directives(script) == expected


def test_directive_with_an_unclosed_quote_is_an_error() -> None:
    with pytest.raises(ValueError, match="quotation"):
        parse_directives("#!/bin/bash\n#SBATCH --comment='open\n")
