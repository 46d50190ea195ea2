"""What a new installation starts with."""

import stat
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.utils import timezone

from accounts.models import Allocation, Cluster, Partition, User
from accounts.services import ledger
from jobs.services.estimates import estimate_workload, machine_for, parse_workload
from portal import installation
from portal.settings import SCHEDULERS

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _quick_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "measure_core_flop_per_s", lambda: 50 * 10**9)


def test_people_get_random_passwords_and_a_used_installation_is_left_alone() -> None:
    first = installation.create_demo_centre(at=timezone.now())
    assert set(first) == {"admin", "chen", "lin", "wang"}
    assert all(User.objects.get(username=name).check_password(password) for name, password in first.items())
    assert installation.create_demo_centre(at=timezone.now()) == {}
    assert len(set(first.values())) == len(first)


def test_credentials_are_readable_by_their_owner_only(tmp_path: Path, settings: object) -> None:
    settings.PORTAL_HOME = tmp_path  # type: ignore[attr-defined]
    call_command("ensure_installation")
    file = tmp_path / "credentials"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "lin " in file.read_text()
    before = file.read_text()
    call_command("ensure_installation")
    assert file.read_text() == before


def test_every_partition_of_the_demo_can_be_estimated_and_is_known_to_its_scheduler() -> None:
    installation.create_demo_centre(at=timezone.now())
    workload = parse_workload({"model": {"preset": "gpt2-small"}, "tokens": 10**9, "precision": "fp32"})
    for partition in Partition.objects.all():
        estimate = estimate_workload(workload, machine_for(partition), devices=partition.devices_per_node)
        assert estimate.duration_s > 0
    known = SCHEDULERS[Cluster.objects.get().code]["OPTIONS"]["PARTITIONS"]
    assert set(known) == set(Partition.objects.values_list("name", flat=True))


def test_the_grants_of_the_demo_are_in_the_ledger() -> None:
    now = timezone.now()
    installation.create_demo_centre(at=now)
    assert Allocation.objects.active(now + timedelta(days=1)).count() == 5
    assert ledger.find_mismatches() == []


def test_the_speed_of_a_core_is_really_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 10**8 < installation.measure_core_flop_per_s() < 10**13
