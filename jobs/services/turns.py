"""One worker at a time for one kind of work on one cluster: a cluster that hangs must not hold up every worker."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection


@contextmanager
def take_turn(work: str, cluster_code: str) -> Iterator[bool]:
    """Yields whether this worker has the turn; without it there is nothing to do, since another one is at it.

    An advisory lock of PostgreSQL's, held by the connection: a worker that is killed gives it back.
    """
    digest = hashlib.sha256(f"{work}:{cluster_code}".encode()).digest()
    number = int.from_bytes(digest[:8], signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [number])
        has_turn = bool(cursor.fetchone()[0])
    try:
        yield has_turn
    finally:
        if has_turn:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [number])
