"""The local backend behind a scheduler that takes every call and answers none in time."""

import time
from collections.abc import Collection

from jobs.backends.base import JobStatus, SchedulerUnavailable
from jobs.backends.local import LocalBackend
from jobs.spec import JobSpec

HANGS_S = 15.0


class HangingBackend(LocalBackend):
    """As if each call ran into its time-out."""

    def submit(self, spec: JobSpec, *, key: str) -> str:
        raise self._hang()

    def find(self, key: str) -> str | None:
        raise self._hang()

    def poll(self, native_ids: Collection[str]) -> dict[str, JobStatus]:
        raise self._hang()

    def _hang(self) -> SchedulerUnavailable:
        time.sleep(HANGS_S)
        return SchedulerUnavailable("timed out")
