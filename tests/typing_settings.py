"""Settings for type checking: mypy's Django plugin reads them without any server."""

import os

os.environ.setdefault("SECRET_KEY", "only-for-type-checking-0123456789abcdef")
os.environ.setdefault("DATABASE_URL", "postgresql://localhost/none")
os.environ.setdefault("REDIS_URL", "redis://localhost/0")

from portal.settings import *  # noqa: F403
