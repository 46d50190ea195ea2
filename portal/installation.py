"""The first start of an installation: a demo centre to look around in, with random passwords.

Creates nothing if there is any person in the database.
"""

import os
import secrets
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

from django.db import transaction

from accounts.models import Cluster, Institution, Membership, Partition, Policy, Project, ResourceClass, Role, User
from accounts.services import ledger

HOUR_S = 3600

_MEASURE_PEAK = """
import time, numpy
a = numpy.ones((768, 768), dtype=numpy.float32)
best = 1e9
for _ in range(12):
    start = time.perf_counter(); a @ a; best = min(best, time.perf_counter() - start)
print(int(2 * 768**3 / best))
"""


def measure_core_flop_per_s() -> int:
    """FLOP/s that one core of this machine reaches in a float32 matrix product, measured in about a second."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    answer = subprocess.run(  # noqa: S603 (our own interpreter, a constant program)
        [sys.executable, "-c", _MEASURE_PEAK], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return int(answer.stdout)


@transaction.atomic
def create_demo_centre(*, at: datetime) -> dict[str, str]:
    """Institutions, projects, people, the local cluster and allocations. Returns the password of each person.

    Returns nothing, and creates nothing, if there is anybody already.
    """
    if User.objects.exists():
        return {}
    passwords = {name: secrets.token_urlsafe(12) for name in ("admin", "chen", "lin", "wang")}
    admin = User.objects.create_superuser("admin", "admin@example.org", passwords["admin"], unix_username="")
    people = {
        name: User.objects.create_user(
            name, f"{name}@example.org", passwords[name], first_name=first, last_name=last, unix_username=name
        )
        for name, first, last in (("lin", "Lin", "Xia"), ("chen", "Chen", "Yu"), ("wang", "Wang", "Min"))
    }
    classes = {
        code: ResourceClass.objects.create(code=code, title=title, title_zh=title_zh)
        for code, title, title_zh in (
            ("cpu", "CPU cores", "CPU 核"),
            ("a800", "NVIDIA A800 80 GB", "英伟达 A800 80 GB"),
            ("ascend910b", "Huawei Ascend 910B", "华为昇腾 910B"),
        )
    }
    _create_cluster(classes)
    language = _create_project("nlp-lab", "Chinese language models", people["chen"], [people["lin"]])
    protein = _create_project("protein", "Protein language models", people["wang"], [people["chen"]])
    grants = [
        (language, "cpu", 200),
        (language, "a800", 60_000),
        (language, "ascend910b", 30_000),
        (protein, "cpu", 100),
        (protein, "a800", 5_000),
    ]
    for project, code, hours in grants:
        ledger.grant(
            project_id=project.pk,
            resource_class_id=classes[code].pk,
            amount_s=hours * HOUR_S,
            start_at=at,
            end_at=at + timedelta(days=365),
            at=at,
            actor=admin,
            reason="Demo centre",
        )
    Policy.objects.create(max_queued_jobs=100, max_running_jobs=8, max_accelerators_in_use=64)
    return passwords


def write_credentials(path: Path, passwords: dict[str, str]) -> None:
    """Write "name password" lines, readable by the owner only."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(f"{name} {password}\n" for name, password in passwords.items())


def _create_cluster(classes: dict[str, ResourceClass]) -> None:
    cluster = Cluster.objects.create(code="demo", title="This machine", title_zh="本机")
    simulated = {"nodes": 8, "devices_per_node": 8, "max_time_limit_minutes": 7 * 24 * 60, "is_simulated": True}
    Partition.objects.create(
        cluster=cluster,
        name="host-cpu",
        title="CPU cores of this machine",
        title_zh="本机 CPU 核",
        resource_class=classes["cpu"],
        accelerator="host-cpu",
        nodes=1,
        devices_per_node=os.cpu_count() or 1,
        gres_name="cpu",
        max_time_limit_minutes=24 * 60,
        default_time_limit_minutes=10,
        measured_peak_flop_per_s=measure_core_flop_per_s(),
    )
    Partition.objects.create(
        cluster=cluster,
        name="a800-sim",
        title="A800 (simulated)",
        title_zh="A800（模拟）",
        resource_class=classes["a800"],
        accelerator="a800-80g",
        gres_type="a800",
        **simulated,
    )
    Partition.objects.create(
        cluster=cluster,
        name="ascend910b-sim",
        title="Ascend 910B (simulated)",
        title_zh="昇腾 910B（模拟）",
        resource_class=classes["ascend910b"],
        accelerator="ascend910b-64g",
        gres_name="npu",
        gres_type="910b",
        **simulated,
    )


def _create_project(code: str, title: str, pi: User, members: list[User]) -> Project:
    institution, _ = Institution.objects.get_or_create(
        code="demo-univ", defaults={"name": "Demo University", "name_zh": "示范大学"}
    )
    project = Project.objects.create(code=code, title=title, institution=institution, field_of_science="AI")
    Membership.objects.create(project=project, user=pi, role=Role.PI)
    for member in members:
        Membership.objects.create(project=project, user=member, role=Role.MEMBER)
    return project
