"""The local backend, made slow: so that a kill in the middle of a dispatch really hits its middle."""

import time

from jobs.backends.local import LocalBackend
from jobs.spec import JobSpec


class SlowLocalBackend(LocalBackend):
    """Waits before and after it hands a job over, as a busy scheduler does."""

    def submit(self, spec: JobSpec, *, key: str) -> str:
        time.sleep(0.25)
        native_id = super().submit(spec, key=key)
        time.sleep(0.25)
        return native_id
