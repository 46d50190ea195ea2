"""slurm.conf as Slurm prints it, line by line better or worse."""

import pytest

from jobs.backends.checks import Outcome
from jobs.backends.slurm.configuration_checks import check_configuration
from jobs.backends.slurm.options import read_cli_options

GOOD = {
    "AccountingStorageEnforce": "associations,limits,qos",
    "AccountingStorageTRES": "cpu,mem,gres/gpu,gres/gpu:a800",
    "AccountingStoreFlags": "job_comment",
    "EnforcePartLimits": "ALL",
    "MinJobAge": "300 sec",
    "MessageTimeout": "10 sec",
    "PrivateData": "none",
}


def judge(changes: dict[str, str], **options: object) -> dict[str, Outcome]:
    checks = check_configuration(
        GOOD | changes,
        read_cli_options({"JOBS_DIRECTORY": "/jobs", **options}),
        gres_names={"gpu", ""},
        poll_interval_s=2.0,
    )
    return {check.name: check.outcome for check in checks if check.name != "key"}


def test_a_good_configuration_is_called_so() -> None:
    assert set(judge({}).values()) == {Outcome.OK}


@pytest.mark.parametrize(
    ("changes", "name", "outcome"),
    [
        ({"AccountingStorageEnforce": "none"}, "enforcement", Outcome.FAILED),
        ({"AccountingStorageEnforce": "associations"}, "enforcement", Outcome.FAILED),
        ({"AccountingStorageEnforce": "safe"}, "enforcement", Outcome.OK),
        ({"AccountingStorageEnforce": "limits"}, "enforcement", Outcome.OK),
        ({"AccountingStorageEnforce": "all"}, "enforcement", Outcome.OK),
        ({"EnforcePartLimits": "NO"}, "partition limits", Outcome.FAILED),
        ({"EnforcePartLimits": ""}, "partition limits", Outcome.FAILED),
        ({"EnforcePartLimits": "ANY"}, "partition limits", Outcome.OK),
        ({"AccountingStoreFlags": "(null)"}, "comment", Outcome.WARNING),
        ({"AccountingStoreFlags": "job_script,job_comment"}, "comment", Outcome.OK),
        ({"AccountingStorageTRES": "cpu,mem"}, "accelerators", Outcome.FAILED),
        ({"MinJobAge": "10 sec"}, "memory", Outcome.WARNING),
        ({"MinJobAge": "0 sec"}, "memory", Outcome.OK),
        ({"MessageTimeout": "15 sec"}, "patience", Outcome.FAILED),
        ({"MessageTimeout": "?"}, "patience", Outcome.WARNING),
    ],
)
def test_each_line_is_judged_for_itself(changes: dict[str, str], name: str, outcome: Outcome) -> None:
    judged = judge(changes)
    assert judged.pop(name) is outcome
    assert set(judged.values()) == {Outcome.OK}


def test_a_portal_that_is_less_patient_than_slurm_is_told_so() -> None:
    assert judge({}, SETTLE_S=19.9)["patience"] is Outcome.FAILED
    assert judge({}, SETTLE_S=20)["patience"] is Outcome.OK
