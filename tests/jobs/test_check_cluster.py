"""`manage.py check_cluster`."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from jobs.services.schedulers import SchedulerHandler

PARTITIONS = {"host": {"nodes": 1, "devices_per_node": 1}}


def run(*arguments: str) -> tuple[int, str]:
    """The exit code and what was printed."""
    output = StringIO()
    try:
        call_command("check_cluster", *arguments, stdout=output)
    except SystemExit as end:
        return int(str(end.code)), output.getvalue()
    return 0, output.getvalue()


@pytest.fixture
def clusters(settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A good one of each kind that needs no Slurm, and bad ones."""
    slurm = "jobs.backends.slurm.SlurmRestBackend"
    missing = {"JOBS_DIRECTORY": f"{tmp_path}/none", "TOKEN_BROKER": f"{tmp_path}/socket", "USER": "portal"}
    made = {
        "dummy": ("jobs.backends.dummy.DummyBackend", {"PARTITIONS": PARTITIONS}),
        "local": ("jobs.backends.local.LocalBackend", {"ROOT": str(tmp_path), "PARTITIONS": PARTITIONS}),
        "closed": (
            "jobs.backends.dummy.DummyBackend",
            {"PARTITIONS": {"host": {**PARTITIONS["host"], "state": "down"}}},
        ),
        "away": (slurm, {"URL": "http://127.0.0.1:1", **missing}),
        "wrong": (slurm, {"URL": "nowhere", **missing}),
    }
    chosen = {alias: {"BACKEND": backend, "OPTIONS": options} for alias, (backend, options) in made.items()}
    settings.SCHEDULERS = chosen
    monkeypatch.setattr("jobs.services.cluster_checks.schedulers", SchedulerHandler(chosen))


@pytest.mark.parametrize("alias", ["dummy", "local"])
@pytest.mark.usefixtures("clusters")
def test_a_good_cluster_gets_a_line_for_each_check_and_exit_code_0(alias: str) -> None:
    code, text = run(alias)
    assert code == 0
    assert text.splitlines() == [
        "ok       scheduler: It answers.",
        "ok       partitions: These take jobs: host.",
        "2 ok, 0 warning, 0 failed",
    ]


@pytest.mark.usefixtures("clusters")
def test_a_cluster_without_open_partitions_fails_with_what_to_do() -> None:
    code, text = run("closed")
    assert code == 1
    assert "failed   partitions: No partition takes jobs. → Configure one." in text


@pytest.mark.usefixtures("clusters")
def test_a_slurm_that_is_not_there_fails_with_each_thing_that_is_missing() -> None:
    code, text = run("away", "--json")
    report = json.loads(text)
    assert code == 1
    assert report["cluster"] == "away"
    outcomes = {check["name"]: check["outcome"] for check in report["checks"]}
    assert outcomes == {
        "tokens": "failed",
        "controller": "failed",
        "jobs directory": "failed",
        "researcher": "warning",
    }
    assert report["counts"] == {"ok": 0, "warning": 1, "failed": 3}
    assert all(check["remedy"] for check in report["checks"])


@pytest.mark.usefixtures("clusters")
def test_an_unknown_alias_is_answered_with_the_known_ones() -> None:
    with pytest.raises(CommandError, match=r"'main'.*: away, closed, dummy, local, wrong"):
        run("main")


@pytest.mark.usefixtures("clusters")
def test_options_that_are_not_allowed_are_named() -> None:
    with pytest.raises(CommandError, match="URL: 'nowhere' is not allowed"):
        run("wrong")
