"""What the portal's rows say that a cluster's accounting should hold.

- A project with a current allocation on the cluster is an account; its active members with a Unix name are its users.
- A project's policy is on its account: running jobs, accelerators in use, and per job. A job of a person is bounded by
  the tighter of project and person, as the account's own limit or, for people with a policy of their own, as theirs.
- How much a person may use at once, over all projects, can only be said by a QOS: one for all, and one of their own
  for people with a policy of their own. Without a prefix for QOS none is written, and the portal alone keeps to it.
- "Queued jobs" is not written: Slurm counts running ones in, too, and would refuse what the portal holds back itself.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from accounts.models import Allocation, Cluster, Membership, Partition, Policy, Project
from accounts.models.policies import LIMIT_FIELDS
from jobs.backends.associations import NAME, SYSTEM_USERS
from jobs.services.association_plan import Finding, Wanted, WantedAccount, WantedQos, WantedUser

Bounds = dict[str, int | None]
"""Of a person or project, by field of `Policy`."""

STANDARD_QOS: Final = "standard"


@dataclass(frozen=True)
class _Policies:
    standard: Bounds
    by_user: dict[int, Bounds]
    by_project: dict[int, Bounds]

    def of_user(self, user_id: int) -> Bounds:
        own = self.by_user.get(user_id, {})
        return {name: value if own.get(name) is None else own[name] for name, value in self.standard.items()}


def wanted_associations(cluster: Cluster, *, qos_prefix: str, at: datetime) -> Wanted:
    """What one cluster should have. A constant number of queries."""
    partitions = list(Partition.objects.filter(cluster=cluster))
    tres = sorted({f"gres/{item.gres_name}" for item in partitions if item.gres_name not in ("", "cpu")})
    policies = _read_policies(partitions)
    findings: list[Finding] = []
    projects, kept = _keep_unambiguous(_projects_on(partitions, at), findings)
    members: dict[int, dict[str, int]] = defaultdict(dict)
    rows = Membership.objects.filter(project__in=list(projects.values()), user__is_active=True)
    for row in rows.select_related("user", "project").order_by("project__code", "user__username"):
        name = row.user.unix_username
        if not name:
            findings.append(Finding("no_unix_name", row.user.username, row.project.code))
        elif not NAME.match(name) or name in SYSTEM_USERS:
            findings.append(Finding("unusable_unix_name", name, row.project.code))
        else:
            members[row.project_id].setdefault(name, row.user_id)
    accounts = []
    people: dict[str, int] = {}
    for name, project in sorted(projects.items()):
        people |= members[project.pk]
        bounds = policies.by_project.get(project.pk, {})
        accounts.append(
            WantedAccount(
                name=name,
                project=project.code,
                limits=_account_limits(bounds, policies.standard, tres),
                qos=f"{qos_prefix}{STANDARD_QOS}" if qos_prefix else "",
                users=tuple(
                    WantedUser(
                        name=user,
                        limits=_user_limits(bounds, policies, user_id, tres),
                        qos=_own_qos(qos_prefix, user, policies, user_id),
                    )
                    for user, user_id in sorted(members[project.pk].items())
                ),
            )
        )
    return Wanted(
        accounts=tuple(accounts),
        qos=_wanted_qos(qos_prefix, people, policies, tres),
        kept=kept,
        findings=tuple(findings),
        is_qos_managed=bool(qos_prefix),
    )


def _projects_on(partitions: list[Partition], at: datetime) -> Iterable[Project]:
    """Active projects that may spend on one of the partitions now."""
    classes = {item.resource_class_id for item in partitions}
    spending = Allocation.objects.active(at).filter(resource_class__in=classes)
    projects: Iterable[Project] = Project.objects.active().filter(pk__in=spending.values("project_id")).order_by("code")
    return projects


def _keep_unambiguous(
    projects: Iterable[Project], findings: list[Finding]
) -> tuple[dict[str, Project], frozenset[str]]:
    """Projects by the name of their account; names that several want are nobody's, and are left as they are."""
    by_name: dict[str, list[Project]] = defaultdict(list)
    for project in projects:
        # As sacctmgr will have it.
        by_name[(project.slurm_account or project.code).lower()].append(project)
    kept = set()
    for name, sharing in by_name.items():
        codes = ", ".join(project.code for project in sharing)
        if not NAME.match(name) or name == "root":
            findings.append(Finding("unusable_account_name", name, codes))
            kept.add(name)
        elif len(sharing) > 1:
            findings.append(Finding("shared_account", name, codes))
            kept.add(name)
    return {name: sharing[0] for name, sharing in by_name.items() if name not in kept}, frozenset(kept)


def _read_policies(partitions: list[Partition]) -> _Policies:
    centre: Bounds = dict.fromkeys(LIMIT_FIELDS)
    by_partition: dict[int, Bounds] = {}
    by_user: dict[int, Bounds] = {}
    by_project: dict[int, Bounds] = {}
    for policy in Policy.objects.all():
        bounds: Bounds = {name: getattr(policy, name) for name in LIMIT_FIELDS}
        if policy.user_id is not None:
            by_user[policy.user_id] = bounds
        elif policy.project_id is not None:
            by_project[policy.project_id] = bounds
        elif policy.partition_id is not None:
            by_partition[policy.partition_id] = bounds
        else:
            centre = bounds
    standard: Bounds = {}
    for name in LIMIT_FIELDS:
        # A partition's own limit replaces the centre's there; Slurm must not refuse what any partition allows.
        own = [by_partition.get(item.pk, {}).get(name) for item in partitions]
        values = [centre[name] if value is None else value for value in own] or [centre[name]]
        standard[name] = _largest(values)
    return _Policies(standard, by_user, by_project)


def _largest(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def _tightest(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _per_job(project: Bounds, person: Bounds, tres: list[str]) -> Bounds:
    devices = _tightest(project.get("max_accelerators_per_job"), person["max_accelerators_per_job"])
    minutes = _tightest(project.get("max_time_limit_minutes"), person["max_time_limit_minutes"])
    return {**{f"MaxTRESPerJob:{item}": devices for item in tres}, "MaxWall": minutes}


def _account_limits(project: Bounds, standard: Bounds, tres: list[str]) -> Bounds:
    in_use = project.get("max_accelerators_in_use")
    return {
        "GrpJobs": project.get("max_running_jobs"),
        **{f"GrpTRES:{item}": in_use for item in tres},
        **_per_job(project, standard, tres),
    }


def _user_limits(project: Bounds, policies: _Policies, user_id: int, tres: list[str]) -> Bounds:
    """Only where they differ from what the account says to all."""
    own = _per_job(project, policies.of_user(user_id), tres)
    common = _per_job(project, policies.standard, tres)
    return {name: value if value != common[name] else None for name, value in own.items()}


def _own_qos(prefix: str, user: str, policies: _Policies, user_id: int) -> str:
    own, standard = policies.of_user(user_id), policies.standard
    differs = any(own[name] != standard[name] for name in ("max_running_jobs", "max_accelerators_in_use"))
    return f"{prefix}user-{user}" if prefix and differs else ""


def _wanted_qos(prefix: str, people: dict[str, int], policies: _Policies, tres: list[str]) -> tuple[WantedQos, ...]:
    if not prefix:
        return ()
    found = [WantedQos(name=f"{prefix}{STANDARD_QOS}", limits=_qos_limits(policies.standard, tres))]
    for user, user_id in sorted(people.items()):
        if name := _own_qos(prefix, user, policies, user_id):
            found.append(WantedQos(name=name, limits=_qos_limits(policies.of_user(user_id), tres)))
    return tuple(found)


def _qos_limits(person: Bounds, tres: list[str]) -> Bounds:
    in_use = person["max_accelerators_in_use"]
    return {"MaxJobsPerUser": person["max_running_jobs"], **{f"MaxTRESPerUser:{item}": in_use for item in tres}}
