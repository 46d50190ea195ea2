"""Makes what tests need, by plain functions with sensible defaults."""

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from accounts.models import (
    Allocation,
    Cluster,
    Institution,
    Membership,
    Partition,
    Policy,
    Project,
    ResourceClass,
    Role,
    User,
)
from accounts.services import ledger

NOW = datetime(2026, 6, 1, 8, 0, tzinfo=UTC)
HOUR_S = 3600
PASSWORD = "correct horse battery staple"
_numbers = itertools.count(1)


def make_user(username: str = "", **fields: Any) -> User:
    username = username or f"user{next(_numbers)}"
    fields.setdefault("unix_username", username)
    return User.objects.create_user(username, f"{username}@example.org", PASSWORD, **fields)


def make_institution(code: str = "") -> Institution:
    code = code or f"inst{next(_numbers)}"
    return Institution.objects.create(code=code, name=f"Institution {code}")


def make_project(code: str = "", *, pi: User | None = None, members: tuple[User, ...] = (), **fields: Any) -> Project:
    code = code or f"project{next(_numbers)}"
    fields.setdefault("title", f"Project {code}")
    fields.setdefault("institution", fields.get("institution") or make_institution())
    project = Project.objects.create(code=code, **fields)
    if pi is not None:
        Membership.objects.create(project=project, user=pi, role=Role.PI)
    for member in members:
        Membership.objects.create(project=project, user=member, role=Role.MEMBER)
    return project


def make_resource_class(code: str = "", *, billing_weight: Decimal = Decimal(1)) -> ResourceClass:
    code = code or f"class{next(_numbers)}"
    return ResourceClass.objects.create(code=code, title=code.upper(), billing_weight=billing_weight)


def make_partition(
    name: str = "a800",
    *,
    cluster: Cluster | None = None,
    resource_class: ResourceClass | None = None,
    **fields: Any,
) -> Partition:
    if cluster is None:
        cluster, _ = Cluster.objects.get_or_create(code="dummy", defaults={"title": "Dummy cluster"})
    fields = {
        "accelerator": "a800-80g",
        "nodes": 8,
        "devices_per_node": 8,
        "gres_type": "a800",
        "max_time_limit_minutes": 7 * 24 * 60,
        **fields,
    }
    return Partition.objects.create(
        cluster=cluster, name=name, resource_class=resource_class or make_resource_class(), **fields
    )


def make_allocation(
    project: Project,
    resource_class: ResourceClass,
    *,
    hours: float = 1000,
    start_at: datetime = NOW - timedelta(days=30),
    end_at: datetime = NOW + timedelta(days=300),
) -> Allocation:
    return ledger.grant(
        project_id=project.pk,
        resource_class_id=resource_class.pk,
        amount_s=round(hours * HOUR_S),
        start_at=start_at,
        end_at=end_at,
        at=NOW,
        actor=None,
        reason="test",
    )


def make_policy(**fields: Any) -> Policy:
    return Policy.objects.create(**fields)
