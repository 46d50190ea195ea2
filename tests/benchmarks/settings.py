"""Settings of the benchmarks: the portal's own, with a large scheduler in memory, and cheap passwords and static files.

Middleware, cache, throttles and broker are the real ones.
"""

from portal.settings import *  # noqa: F403
from tests.settings import DATABASES, EMAIL_BACKEND, PASSWORD_HASHERS, STORAGES

__all__ = ["DATABASES", "EMAIL_BACKEND", "PASSWORD_HASHERS", "SCHEDULERS", "STORAGES"]

SCHEDULERS = {
    "dummy": {
        "BACKEND": "jobs.backends.dummy.DummyBackend",
        "OPTIONS": {
            "PARTITIONS": {
                "a800": {
                    "nodes": 1024,
                    "devices_per_node": 8,
                    "gres_name": "gpu",
                    "gres_type": "a800",
                    "max_time_limit_minutes": 7 * 24 * 60,
                },
            }
        },
    }
}
