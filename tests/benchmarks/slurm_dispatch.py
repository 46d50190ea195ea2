"""Prints how many jobs per second dispatchers hand over; run with a portal's environment: see `slurm`.

    python -m tests.benchmarks.slurm_dispatch 4     so many at once, each in a thread with its own connections

With PROFILE=1 it also prints where the time goes, to stderr.
"""

import cProfile
import os
import pstats
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import django

BATCH = 20


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    django.setup()
    from django.db import connection
    from django.utils import timezone

    from jobs.models import Job
    from jobs.services import admission, dispatch
    from jobs.states import JobState

    while admission.admit_submitted_jobs(at=timezone.now()):
        pass
    dispatchers = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    waiting = Job.objects.filter(state=JobState.QUEUED).count()
    profile = cProfile.Profile()
    if os.environ.get("PROFILE"):
        profile.enable()
    start = time.perf_counter()

    def hand_over_all(_number: int) -> int:
        accepted = 0
        try:
            while done := dispatch.dispatch_queued_jobs(now=timezone.now, lease_s=120, limit=BATCH):
                accepted += done
        finally:
            connection.close()
        return accepted

    if dispatchers == 1:
        accepted = hand_over_all(0)  # where the profile sees it
    else:
        with ThreadPoolExecutor(dispatchers) as pool:
            accepted = sum(pool.map(hand_over_all, range(dispatchers)))
    if accepted < waiting:
        raise SystemExit(f"only {accepted} of {waiting} jobs could be handed over")
    seconds = time.perf_counter() - start
    profile.disable()
    if os.environ.get("PROFILE"):
        pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats(45)
    print(accepted / seconds)


if __name__ == "__main__":
    main()
