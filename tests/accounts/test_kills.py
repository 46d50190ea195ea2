"""SIGKILL in the middle of reserve and settle: never half an effect. `LEDGER_KILLS=200` makes it the long run."""

import os
import random
import subprocess
import sys
import time
from collections import Counter

import pytest
from django.db import connection

from accounts.models import Allocation, LedgerEntry, LedgerKind
from accounts.services import ledger
from tests.factories import NOW, make_allocation, make_project, make_resource_class

KILLS = int(os.environ.get("LEDGER_KILLS", "10"))

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120 + 10 * KILLS)]


def test_a_process_that_is_killed_leaves_whole_effects_only() -> None:
    chance = random.Random(20260601)
    project, resource_class = make_project(), make_resource_class()
    # Each hold of 90 spans two allocations at some time, so that a half effect would show between them too.
    rows = [make_allocation(project, resource_class, hours=amount) for amount in (0.5, 500)]
    died_in: Counter[str] = Counter()
    for number in range(KILLS):
        died_in[kill_one(project.pk, resource_class.pk, f"kill-{number}", chance.uniform(0.0, 0.15))] += 1
        assert ledger.find_mismatches() == []
    print(f"\n{KILLS} kills: the last act that was whole was {dict(died_in)}")
    for row in Allocation.objects.filter(pk__in=[row.pk for row in rows]):
        assert row.available_s >= 0
    assert_whole_acts()


def kill_one(project_id: int, resource_class_id: int, name: str, after_s: float) -> str:
    """Kill a process `after_s` after its first act; returns the kind of its last entry."""
    database = str(connection.settings_dict["NAME"])
    command = [sys.executable, "-m", "tests.accounts.kill_victim", database, str(project_id), str(resource_class_id)]
    victim = subprocess.Popen([*command, name], stdout=subprocess.PIPE, env={**os.environ, "KILL_AT": NOW.isoformat()})
    try:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"go\n"
        while not LedgerEntry.objects.filter(reference__startswith=f"{name}-").exists():
            assert victim.poll() is None
        time.sleep(after_s)
        assert victim.poll() is None, "it ended by itself"
    finally:
        victim.kill()
        victim.wait()
        victim.stdout.close()
    wait_for_its_session()
    last = LedgerEntry.objects.filter(reference__startswith=f"{name}-").order_by("pk").last()
    assert last is not None
    return str(last.kind)


def wait_for_its_session() -> None:
    """The server takes a moment to notice that a client is gone, and to roll back what it had begun."""
    deadline = time.monotonic() + 10
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'"
    )
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute(query)
            if cursor.fetchone() == (0,):
                return
        time.sleep(0.01)
    raise AssertionError("a killed client's session is still there")


def assert_whole_acts() -> None:
    """Each job's holds sum up to 90; what ended it took the whole hold away, and charged 50 or nothing."""
    by_job: dict[str, Counter[str]] = {}
    for entry in LedgerEntry.objects.exclude(kind=LedgerKind.GRANT):
        sums = by_job.setdefault(entry.reference, Counter())
        sums[f"{entry.kind} held"] += entry.reserved_delta_s
        sums["used"] += entry.used_delta_s
    assert by_job
    for reference, sums in by_job.items():
        assert sums["RESERVE held"] == 90, reference
        assert sums["SETTLE held"] in (0, -90), reference
        assert sums["RELEASE held"] in (0, -90), reference
        assert sums["used"] == (50 if sums["SETTLE held"] else 0), reference
