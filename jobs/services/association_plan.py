"""From what a cluster's accounting has to what it should have: pure, without Slurm and without the database.

Ours are: accounts and QOS that carry the portal's mark (QOS have its prefix, too), and those associations in our
accounts that the portal's own log says it made. Whatever else there is, is never in a change, only in a finding.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from jobs.backends.associations import (
    AssociationState,
    Change,
    ChangeKind,
    Setting,
    SlurmAccount,
    UserAssociation,
)

OwnedUsers = frozenset[tuple[str, str]]
"""(account, user) of the associations that the portal made."""

BLOCKED: Final[Mapping[str, int | None]] = {"MaxSubmitJobs": 0}
CLOSED: Final[Mapping[str, int | None]] = {"GrpSubmitJobs": 0}
"""Nothing new starts. Unlike MaxSubmitJobs of an account, no association below can lift it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedUser:
    """A member. `limits` are the managed ones (None: must not be set); `qos` "": as the account has it."""

    name: str
    limits: Mapping[str, int | None] = field(default_factory=dict)
    qos: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedAccount:
    """A project that may use the cluster. `qos` "": none is managed."""

    name: str
    project: str
    users: tuple[WantedUser, ...] = ()
    limits: Mapping[str, int | None] = field(default_factory=dict)
    qos: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedQos:
    """A QOS of the portal's."""

    name: str
    limits: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the portal won't change by itself: a code, what it is about, and the project if there is one."""

    code: str
    target: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the portal wants of one cluster. `kept` names accounts that are in doubt, and so left as they are."""

    accounts: tuple[WantedAccount, ...] = ()
    qos: tuple[WantedQos, ...] = ()
    kept: frozenset[str] = frozenset()
    findings: tuple[Finding, ...] = ()
    is_qos_managed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Changes in the order in which they are to be made, and what is left to people."""

    changes: tuple[Change, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def fingerprint(self) -> str:
        """The same for the same changes: what was shown is what is applied."""
        text = json.dumps([asdict(change) for change in self.changes], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def make_plan(wanted: Wanted, actual: AssociationState, owned: OwnedUsers, *, delete_closed: bool = False) -> Plan:
    """The changes that bring `actual` to `wanted`. Rights shrink first, then what is missing is added."""
    planner = _Planner(wanted, actual, owned)
    planner.plan(delete_closed=delete_closed)
    changes = sorted(planner.changes, key=_phase)  # stable
    return Plan(changes=tuple(changes), findings=tuple(dict.fromkeys([*wanted.findings, *planner.findings])))


def _phase(change: Change) -> int:
    shrinks = any(
        setting.name in ("GrpSubmitJobs", "MaxSubmitJobs") and setting.after == 0 for setting in change.settings
    )
    if shrinks and change.kind in (ChangeKind.SET_ACCOUNT, ChangeKind.SET_USER):
        return 0
    return 1 + list(ChangeKind).index(change.kind)


class _Planner:
    def __init__(self, wanted: Wanted, actual: AssociationState, owned: OwnedUsers) -> None:
        self.wanted, self.actual, self.owned = wanted, actual, owned
        self.changes: list[Change] = []
        self.findings: list[Finding] = []
        self.by_account: dict[str, dict[str, list[UserAssociation]]] = {}
        for item in actual.associations:
            self.by_account.setdefault(item.account, {}).setdefault(item.user, []).append(item)
        self.unusable_qos: set[str] = set()

    def plan(self, *, delete_closed: bool) -> None:
        for qos in self.wanted.qos:
            self._plan_qos(qos)
        wanted_names = {account.name for account in self.wanted.accounts}
        for account in self.wanted.accounts:
            self._plan_account(account)
        for name, found in sorted(self.actual.accounts.items()):
            if found.is_marked and found.is_here and name not in wanted_names | self.wanted.kept and name != "root":
                self._close(found, delete=delete_closed)

    def _find(self, code: str, target: str, detail: str = "") -> None:
        self.findings.append(Finding(code, target, detail))

    def _plan_qos(self, qos: WantedQos) -> None:
        found = self.actual.qos.get(qos.name)
        if found is None:
            settings = _differences({}, qos.limits)
            self.changes.append(Change(kind=ChangeKind.ADD_QOS, qos=qos.name, settings=settings))
        elif not found.is_marked:
            self.unusable_qos.add(qos.name)
            self._find("foreign_qos", qos.name)
        elif settings := _differences(found.limits, qos.limits):
            self.changes.append(Change(kind=ChangeKind.SET_QOS, qos=qos.name, settings=settings))

    def _plan_account(self, account: WantedAccount) -> None:
        found = self.actual.accounts.get(account.name)
        if account.name == "root" or (found is not None and not found.is_marked):
            self._find("foreign_account", account.name, account.project)
            return
        limits = {**account.limits, "GrpSubmitJobs": None}
        here = found is not None and found.is_here
        settings = _differences(found.limits if found and here else {}, limits)
        settings += self._qos_settings(account.qos, found if here else None)
        if not here:
            self.changes.append(Change(kind=ChangeKind.ADD_ACCOUNT, account=account.name, settings=settings))
        elif settings:
            self.changes.append(Change(kind=ChangeKind.SET_ACCOUNT, account=account.name, settings=settings))
        wanted_users = {user.name for user in account.users}
        for user in account.users:
            self._plan_user(account, user)
        for name in sorted(self.by_account.get(account.name, {})):
            if name not in wanted_users:
                self._remove_user(account.name, name)

    def _plan_user(self, account: WantedAccount, user: WantedUser) -> None:
        found = self.by_account.get(account.name, {}).get(user.name, [])
        plain = next((item for item in found if not item.partition), None)
        limits = {**user.limits, "MaxSubmitJobs": None}
        settings = _differences(plain.limits if plain else {}, limits) + self._qos_settings(user.qos, plain)
        target = f"{account.name}/{user.name}"
        if plain is None:
            self.changes.append(
                Change(kind=ChangeKind.ADD_USER, account=account.name, user=user.name, settings=settings)
            )
        elif not settings:
            return
        elif len(found) > 1:
            self._find("partition_association", target)
        elif (account.name, user.name) not in self.owned:
            self._find("foreign_association_differs", target)
        else:
            self.changes.append(
                Change(kind=ChangeKind.SET_USER, account=account.name, user=user.name, settings=settings)
            )

    def _qos_settings(self, qos: str, found: SlurmAccount | UserAssociation | None) -> tuple[Setting, ...]:
        if not self.wanted.is_qos_managed or qos in self.unusable_qos:
            return ()
        before = (",".join(found.qos), found.default_qos) if found else ("", "")
        pairs = zip(("QOS", "DefaultQOS"), before, strict=True)
        return tuple(Setting(name, value or None, qos or None) for name, value in pairs if value != qos)

    def _remove_user(self, account: str, user: str) -> bool:
        """Plan the end of an association. Whether it will be gone."""
        found, target = self.by_account[account][user], f"{account}/{user}"
        if (account, user) not in self.owned:
            self._find("foreign_association", target)
            return False
        if any(item.partition for item in found):
            self._find("partition_association", target)
            return False
        known = self.actual.users.get(user)
        if known is not None and known.admin_level != "None":
            # With its last association sacctmgr deletes the user, and its rights with it.
            self._find("administrator", target, known.admin_level)
            return False
        if blocked := _differences(found[0].limits, BLOCKED):
            # Before it goes, nothing new may start: Slurm refuses to remove it while jobs are there.
            self.changes.append(Change(kind=ChangeKind.SET_USER, account=account, user=user, settings=blocked))
        if known is not None and known.default_account == account:
            self._move_default(user, account)
        self.changes.append(Change(kind=ChangeKind.REMOVE_USER, account=account, user=user))
        return True

    def _move_default(self, user: str, account: str) -> None:
        """Give the user another default account, if the portal made one that stays."""
        staying = sorted(
            item.name
            for item in self.wanted.accounts
            if item.name != account
            and (item.name, user) in self.owned
            and any(member.name == user for member in item.users)
            and user in self.by_account.get(item.name, {})
        )
        if staying:
            setting = Setting("DefaultAccount", account, staying[0])
            self.changes.append(
                Change(kind=ChangeKind.SET_DEFAULT_ACCOUNT, account=staying[0], user=user, settings=(setting,))
            )

    def _close(self, found: SlurmAccount, *, delete: bool) -> None:
        """Nothing new starts in an account of ours that no active project has."""
        if settings := _differences(found.limits, CLOSED):
            self.changes.append(Change(kind=ChangeKind.SET_ACCOUNT, account=found.name, settings=settings))
        if not delete:
            return
        if any(other.parent == found.name for other in self.actual.accounts.values()):
            self._find("has_accounts_below", found.name)
            return
        users = sorted(self.by_account.get(found.name, {}))
        gone = [self._remove_user(found.name, user) for user in users]
        if all(gone):
            self.changes.append(Change(kind=ChangeKind.REMOVE_ACCOUNT, account=found.name))


def _differences(actual: Mapping[str, int], wanted: Mapping[str, int | None]) -> tuple[Setting, ...]:
    return tuple(
        Setting(name, actual.get(name), value) for name, value in sorted(wanted.items()) if actual.get(name) != value
    )


def rows_of(plan: Plan) -> dict[str, Any]:
    """The plan as JSON."""
    return {
        "fingerprint": plan.fingerprint,
        "changes": [
            {
                "kind": change.kind.value,
                "target": change.target,
                "settings": [asdict(setting) for setting in change.settings],
            }
            for change in plan.changes
        ],
        "findings": [asdict(finding) for finding in plan.findings],
    }


def depends_on(change: Change, failed: Iterable[Change]) -> bool:
    """Would the change be refused because one before it was, or was not tried?"""
    needs: list[Callable[[Change], bool]] = [
        lambda before: before.kind is ChangeKind.ADD_ACCOUNT and before.account == change.account,
        lambda before: (
            before.kind is ChangeKind.ADD_QOS
            and any(before.qos in str(setting.after or "").split(",") for setting in change.settings)
        ),
        lambda before: (
            change.kind is ChangeKind.REMOVE_ACCOUNT
            and before.kind is ChangeKind.REMOVE_USER
            and before.account == change.account
        ),
    ]
    return any(need(before) for before in failed for need in needs)
