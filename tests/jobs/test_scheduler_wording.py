"""A scheduler's reasons in words."""

import re
from pathlib import Path

import pytest
from django.utils import translation

from jobs.backends.local.backend import LocalBackend
from jobs.backends.slurm import states
from jobs.presentation import describe_advice, describe_reason
from jobs.services.scheduler_wording import describe_scheduler_reason

CODES = [
    line.strip()
    for line in (Path(__file__).parent / "slurm_reasons.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]
CHINESE = re.compile(r"[\u4e00-\u9fff]")


@pytest.mark.parametrize("code", [*CODES, "RaisedSignal:9", "RaisedSignal:63"])
def test_every_reason_of_slurm_has_words_and_advice_in_both_languages(code: str) -> None:
    english = describe_scheduler_reason(code)
    assert english is not None
    for text in (english.clause, english.advice):
        assert text
        assert not CHINESE.search(text)
        assert "%(" not in text
    assert english.clause[0].islower()
    assert english.advice.endswith(".")
    with translation.override("zh-hans"):
        chinese = describe_scheduler_reason(code)
    assert chinese is not None
    assert CHINESE.search(chinese.clause)
    assert CHINESE.search(chinese.advice)
    assert not re.search(r"[A-Za-z]{2,}", re.sub(r"\(?SIG\w+\)?|QOS|scontrol release", "", chinese.clause))


def test_the_list_of_reasons_is_the_whole_one() -> None:
    assert len(CODES) == len(set(CODES)) > 200


def test_what_the_portals_backends_say_by_themselves_has_words() -> None:
    made = {*states._END_REASONS.values(), *states._SHOWN_AS_REASON.values(), *states._HELD_WORDS.values()}
    source = Path(__import__(LocalBackend.__module__, fromlist=["_"]).__file__).read_text()
    made |= set(re.findall(r"return \"([A-Z]\w+)\"", source))
    assert {"PartitionDown", "TimeLimit", "Suspended", "LaunchFailedHeld"} <= made
    assert made <= set(CODES)


@pytest.mark.parametrize(
    ("code", "clause"),
    [
        ("AssocGrpGRES", "the project already uses all the accelerators that it may use at once"),
        ("AssocGrpGRESMinutes", "the project's time budget for accelerators on the cluster is used up"),
        ("AssocGrpCPURunMinutesLimit", "claim all the time on processor cores"),
        ("QOSMaxGRESPerUser", "its owner already uses all the accelerators"),
        ("QOSMaxMemoryPerNode", "asks for more memory on a node"),
        ("QOSMinCpuNotSatisfied", "must ask for more processor cores"),
        ("MaxNodePerAccount", "all the nodes that one project may"),
        ("JobHeldAdmin", "held by an operator"),
        ("RaisedSignal:11", "signal 11 (SIGSEGV)"),
    ],
)
def test_a_reason_says_which_limit_of_what(code: str, clause: str) -> None:
    assert clause in describe_reason(code, {})


@pytest.mark.parametrize(
    "code", ["FooBar", "AssocGrpFoo", "QOSMaxGRESPerMoon", "XAssocGrpGRES", "AssocGrpGRES\n", "<b>"]
)
def test_an_unknown_reason_is_shown_as_the_schedulers_own_word(code: str) -> None:
    assert describe_reason(code, {}) == f"other reason, in the scheduler's own word: {code}"
    assert describe_advice(code) == ""


def test_the_portals_own_reasons_are_not_the_schedulers() -> None:
    assert describe_reason("cluster_down", {}).startswith("the cluster doesn't answer")
    assert describe_advice("cluster_down") == ""
    assert describe_advice("") == ""
