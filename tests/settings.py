"""Settings of the tests: the portal's own, with the dummy scheduler, and cheap passwords and static files."""

from portal.settings import *  # noqa: F403

MIDDLEWARE = [name for name in MIDDLEWARE if not name.startswith("whitenoise")]  # noqa: F405
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
SCHEDULERS = {
    "dummy": {
        "BACKEND": "jobs.backends.dummy.DummyBackend",
        "OPTIONS": {
            "PARTITIONS": {
                "a800": {
                    "nodes": 8,
                    "devices_per_node": 8,
                    "gres_name": "gpu",
                    "gres_type": "a800",
                    "max_time_limit_minutes": 7 * 24 * 60,
                },
            }
        },
        "ASSOCIATIONS": {"BACKEND": "jobs.backends.dummy_associations.DummyAssociations"},
    }
}
# Nudges go nowhere in tests: workers are called by hand, so that a test says what runs when.
CELERY_BROKER_URL = "memory://"
# Tests on several connections leave rows behind, which Django truncates: the ledger and the audit log as well.
DATABASES["default"]["OPTIONS"]["options"] = "-c portal.truncate_allowed=on"  # noqa: F405
