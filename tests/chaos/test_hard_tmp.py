"""Whatever dies, whenever: no job is lost, none runs twice, each is charged what it used. Longer: `make chaos`."""

import os

import pytest

from tests.chaos.harness import Plan, run_chaos
from tests.integration.slurm.lab import SlurmLab
from tests.integration.slurm.sharing import take_turn

KILLS, JOBS = int(os.environ.get("KILLS", "30")), int(os.environ.get("JOBS", "60"))
SEED = int(os.environ.get("SEED", "2026"))


@pytest.mark.slurm
@pytest.mark.timeout(500)
def test_killing_any_part_of_portal_and_slurm_loses_doubles_and_mischarges_no_job(slurm_lab: SlurmLab) -> None:
    with take_turn(slurm_lab):
        report = run_chaos(slurm_lab, Plan(kills=KILLS, jobs=JOBS, seed=SEED, kills_controller_hard=True))
    print(report.describe())
    assert report.problems == [], report.describe()
    assert report.kills.total() == KILLS
    assert report.jobs >= JOBS * 0.8, report.describe()
