"""Run benchmarks, all or those named: `python -m tests.benchmarks [reconcile web ledger race dispatch …]`."""

import argparse
import importlib
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import django

from portal.embedded.testing import ensure_test_servers
from tests.benchmarks.measure import describe_load

NAMES = ("reconcile", "dispatch", "ledger", "race", "web", "reports", "estimation_speed", "slurm")
CHECKOUT = Path(__file__).resolve().parent.parent.parent


@contextmanager
def benchmark_database() -> Iterator[None]:
    """Django on throw-away servers, or on a test database of the servers that DATABASE_URL and REDIS_URL name."""
    urls, stop = ensure_test_servers(CHECKOUT / ".portal" / "test")
    os.environ.update(urls)
    os.environ.setdefault("SECRET_KEY", secrets.token_urlsafe(48))
    os.environ.setdefault("LOG_LEVEL", "WARNING")
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.benchmarks.settings"
    try:
        django.setup()
        from django.db import connection

        name = connection.settings_dict["NAME"]
        connection.creation.create_test_db(verbosity=0, autoclobber=True)
        try:
            yield
        finally:
            connection.creation.destroy_test_db(name, verbosity=0)
    finally:
        stop()


def describe_machine() -> str:
    """One line on what the figures were measured with."""
    from django.db import connection

    connection.ensure_connection()
    version = connection.pg_version
    return (
        f"Python {platform.python_version()}, Django {django.__version__}, PostgreSQL {version // 10000}."
        f"{version % 10000}, {platform.machine()}, {os.cpu_count()} cores"
    )


def forget_everything() -> None:
    """Empty the database, the cache and the scheduler, so that benchmarks don't see each other."""
    from django.core.cache import cache
    from django.core.management import call_command

    from jobs.backends.dummy import DummyBackend

    call_command("flush", interactive=False, verbosity=0)
    cache.clear()
    DummyBackend.reset()


def main() -> None:
    """Run what was asked for, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(NAMES))
    names = parser.parse_args().names or list(NAMES)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"{unknown[0]!r} is no benchmark; there are: {', '.join(NAMES)}")
    with benchmark_database():
        print(describe_machine())
        for name in names:
            print(f"\n{describe_load()}", flush=True)
            importlib.import_module(f"tests.benchmarks.{name}").run()
            forget_everything()
        print(f"\n{describe_load()}")


if __name__ == "__main__":
    main()
