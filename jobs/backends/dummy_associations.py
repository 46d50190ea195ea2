"""Accounting in memory, for tests: keeps to sacctmgr's rules, and counts what is changed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from jobs.backends.associations import (
    AssociationAdmin,
    AssociationState,
    Change,
    ChangeKind,
    ChangeRefused,
    JobsActive,
    Qos,
    SchedulerUnavailable,
    SlurmAccount,
    SlurmUser,
    UserAssociation,
)

T = TypeVar("T", SlurmAccount, UserAssociation)


class DummyAssociations(AssociationAdmin):
    """`state` may be replaced by a test, as an operator would change it; `has_jobs`: who can't be removed now."""

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        if options:
            raise ValueError(f"{min(options)}: no such option; allowed: none")
        self.state = AssociationState(
            accounts={"root": SlurmAccount(name="root", is_marked=False)},
            qos={"normal": Qos(name="normal", is_marked=False)},
            users={"root": SlurmUser(name="root", admin_level="Administrator", default_account="root")},
        )
        self.has_jobs: set[tuple[str, str]] = set()
        self.is_away = False
        self.changes_made = 0

    def read(self, *, mark: str) -> AssociationState:
        self._check_away()
        return self.state

    def apply(self, change: Change, *, mark: str, parent_account: str) -> str:
        self._check_away()
        accounts, qos, users = dict(self.state.accounts), dict(self.state.qos), dict(self.state.users)
        associations = {(item.account, item.user, item.partition): item for item in self.state.associations}
        key = (change.account, change.user, "")
        match change.kind:
            case ChangeKind.ADD_QOS:
                _require(change.qos not in qos, "Nothing new added.")
                qos[change.qos] = _set_qos(Qos(name=change.qos, is_marked=True), change)
            case ChangeKind.SET_QOS:
                _require(change.qos in qos, "Nothing modified")
                qos[change.qos] = _set_qos(qos[change.qos], change)
            case ChangeKind.ADD_ACCOUNT:
                old = accounts.get(change.account)
                _require(old is None or not old.is_here, "Nothing new added.")
                new = SlurmAccount(name=change.account, is_marked=old is None or old.is_marked, parent=parent_account)
                accounts[change.account] = _set(new, change)
            case ChangeKind.SET_ACCOUNT:
                _require(change.account in accounts, "Nothing modified")
                accounts[change.account] = _set(accounts[change.account], change)
            case ChangeKind.ADD_USER:
                _require(change.account in accounts and key not in associations, "Nothing new added.")
                associations[key] = _set(UserAssociation(account=change.account, user=change.user), change)
                users.setdefault(change.user, SlurmUser(name=change.user, default_account=change.account))
            case ChangeKind.SET_USER:
                found = [item for item in associations if item[:2] == key[:2]]
                _require(bool(found), "Nothing modified")
                for item in found:  # sacctmgr can't name the one without a partition
                    associations[item] = _set(associations[item], change)
            case ChangeKind.SET_DEFAULT_ACCOUNT:
                _require(key in associations, "Nothing modified")
                users[change.user] = replace(users[change.user], default_account=change.account)
            case ChangeKind.REMOVE_USER:
                self._check_jobs(change)
                found = [item for item in associations if item[:2] == key[:2]]
                _require(bool(found), "Nothing deleted")
                for item in found:
                    del associations[item]
                _forget_user(users, change, {account for account, user, _ in associations if user == change.user})
            case ChangeKind.REMOVE_ACCOUNT:
                _require(change.account in accounts, "Nothing deleted")
                associations = {item: value for item, value in associations.items() if item[0] != change.account}
                accounts = {name: item for name, item in accounts.items() if item.parent != change.account}
                del accounts[change.account]
        self.state = AssociationState(
            accounts=accounts, associations=tuple(associations.values()), qos=qos, users=users
        )
        self.changes_made += 1
        return "done"

    def _check_away(self) -> None:
        if self.is_away:
            raise SchedulerUnavailable("sacctmgr: connection refused")

    def _check_jobs(self, change: Change) -> None:
        if (change.account, change.user) in self.has_jobs:
            raise JobsActive("Error with request: Job(s) active, cancel job(s) before remove")


def _require(condition: bool, words: str) -> None:
    if not condition:
        raise ChangeRefused(words)


def _forget_user(users: dict[str, SlurmUser], change: Change, remaining: set[str]) -> None:
    """A user without any association is gone; one whose default is gone has none."""
    user = users[change.user]
    if not remaining:
        del users[change.user]
    elif user.default_account == change.account:
        users[change.user] = replace(user, default_account="")


def _limits(old: Mapping[str, int], change: Change) -> dict[str, int]:
    limits = dict(old)
    for setting in change.settings:
        if setting.name in ("QOS", "DefaultQOS"):
            continue
        if setting.after is None:
            limits.pop(setting.name, None)
        else:
            limits[setting.name] = int(setting.after)
    return limits


def _set_qos(old: Qos, change: Change) -> Qos:
    return replace(old, limits=_limits(old.limits, change))


def _set(old: T, change: Change) -> T:
    texts = {setting.name: str(setting.after or "") for setting in change.settings}
    qos = tuple(filter(None, texts["QOS"].split(","))) if "QOS" in texts else old.qos
    return replace(
        old, limits=_limits(old.limits, change), qos=qos, default_qos=texts.get("DefaultQOS", old.default_qos)
    )
