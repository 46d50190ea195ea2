"""One person with hundreds of jobs doesn't starve those with a few."""

import numpy as np
import pytest

from tests.simulation.fair_share import FLOODER, by_fair_share, first_come, make_jobs, simulate, waits_by_user


@pytest.mark.parametrize("seed", [1, 2])
def test_who_has_few_jobs_waits_little_though_one_floods(seed: int) -> None:
    jobs = make_jobs(seed, flood=200)
    fifo, fair = (waits_by_user(jobs, simulate(jobs, order)) for order in (first_come, by_fair_share))
    others_fifo, others_fair = (
        [wait for user, waits in found.items() if user != FLOODER for wait in waits] for found in (fifo, fair)
    )
    assert np.median(others_fair) < np.median(others_fifo) / 5
    assert np.percentile(others_fair, 90) < 12
    # The flood isn't punished: all of it runs, and its median wait grows by what the others used, not more.
    assert len(fair[FLOODER]) == 200
    assert np.median(fair[FLOODER]) < np.median(fifo[FLOODER]) * 2
