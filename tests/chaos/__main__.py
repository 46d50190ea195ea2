"""The long run, with a lab of its own: see the package. Sizes come from the environment."""

import os
import random
import sys

from tests.benchmarks.measure import read_size
from tests.chaos.harness import Plan, run_chaos
from tests.integration.slurm.lab import LabError, SlurmLab, remove_lab


def main() -> int:
    plan = Plan(
        kills=read_size("KILLS", 300),
        jobs=read_size("JOBS", 500),
        seed=read_size("SEED", random.SystemRandom().randrange(10**6), low=0),
        down_s=read_size("DOWN_S", 60),
        quiet_s=900,
    )
    print(f"{plan.kills} kills, {plan.jobs} jobs, seed {plan.seed}", flush=True)
    try:
        lab = SlurmLab.create(f"chaos-{os.getpid()}")
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    try:
        report = run_chaos(lab, plan)
    finally:
        remove_lab(lab.layout.root)
    print(report.describe())
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
