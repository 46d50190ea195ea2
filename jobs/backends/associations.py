"""The contract between the portal and whatever keeps a cluster's accounts, associations and QOS.

It stands beside `SchedulerBackend` and not in it: who submits jobs and who administers accounting are two rights, and a
cluster that is driven over slurmrestd is administered by sacctmgr all the same.

A limit is named by Slurm's own word: "GrpJobs", "MaxWall" (minutes), or "GrpTRES:gres/gpu" for one trackable resource.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from jobs.backends.base import SchedulerError, SchedulerUnavailable

__all__ = [
    "ACCOUNT_LIMITS",
    "NAME",
    "QOS_LIMITS",
    "SYSTEM_USERS",
    "USER_LIMITS",
    "AssociationAdmin",
    "AssociationState",
    "Change",
    "ChangeKind",
    "ChangeRefused",
    "JobsActive",
    "Qos",
    "SchedulerUnavailable",
    "Setting",
    "SlurmAccount",
    "SlurmUser",
    "UserAssociation",
]

NAME: Final = re.compile(r"\A[a-z_][a-z0-9_-]{0,63}\Z")
"""Names that the portal writes. sacctmgr lower-cases names, and reads commas, brackets and quotes in them."""

SYSTEM_USERS: Final = frozenset({"root", "slurm", "munge", "mysql", "nobody"})
"""Never given an association, whatever the portal's rows say."""

ACCOUNT_LIMITS: Final = frozenset({"GrpJobs", "GrpSubmitJobs", "GrpTRES", "MaxTRESPerJob", "MaxWall"})
USER_LIMITS: Final = frozenset({"MaxSubmitJobs", "MaxTRESPerJob", "MaxWall"})
QOS_LIMITS: Final = frozenset({"MaxJobsPerUser", "MaxTRESPerUser"})


class ChangeRefused(SchedulerError):
    """The change was refused, in Slurm's own words; nothing was done."""


class JobsActive(ChangeRefused):
    """Refused because jobs still use what was to be removed: it can be done when they have ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmAccount:
    """An account. `is_here`: it has an association on this cluster, on which the limits are."""

    name: str
    is_marked: bool
    is_here: bool = True
    parent: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)
    qos: tuple[str, ...] = ()
    default_qos: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserAssociation:
    """A user in an account on this cluster. Limits and QOS are those set here, without inherited ones."""

    account: str
    user: str
    partition: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)
    qos: tuple[str, ...] = ()
    default_qos: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Qos:
    """A quality of service."""

    name: str
    is_marked: bool
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmUser:
    """A user of the accounting database. `admin_level` is "None" for most."""

    name: str
    admin_level: str = "None"
    default_account: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationState:
    """All that a cluster's accounting has, the portal's and everybody else's."""

    accounts: Mapping[str, SlurmAccount] = field(default_factory=dict)
    associations: tuple[UserAssociation, ...] = ()
    qos: Mapping[str, Qos] = field(default_factory=dict)
    users: Mapping[str, SlurmUser] = field(default_factory=dict)


class ChangeKind(StrEnum):
    """What one call does."""

    ADD_QOS = "add_qos"
    SET_QOS = "set_qos"
    ADD_ACCOUNT = "add_account"
    SET_ACCOUNT = "set_account"
    ADD_USER = "add_user"
    SET_USER = "set_user"
    SET_DEFAULT_ACCOUNT = "set_default_account"
    REMOVE_USER = "remove_user"
    REMOVE_ACCOUNT = "remove_account"


@dataclass(frozen=True, slots=True)
class Setting:
    """One field: what it is and what it is to be. None: not set. "QOS" and "DefaultQOS" are texts, limits numbers."""

    name: str
    before: int | str | None
    after: int | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One call. `account`, `user` and `qos` name what it is about; the user's new default account is `account`."""

    kind: ChangeKind
    account: str = ""
    user: str = ""
    qos: str = ""
    settings: tuple[Setting, ...] = ()

    @property
    def target(self) -> str:
        """The account, account/user, or QOS."""
        return self.qos or (f"{self.account}/{self.user}" if self.user else self.account)


class AssociationAdmin(ABC):
    """Reads and changes a cluster's accounting. One instance per cluster."""

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        """`options` are SCHEDULERS[alias]["ASSOCIATIONS"]["OPTIONS"], validated here (ValueError)."""
        self.alias = alias
        self.options = dict(options)

    @abstractmethod
    def read(self, *, mark: str) -> AssociationState:
        """Everything as it is now; accounts and QOS that carry `mark` are marked. Raises SchedulerUnavailable."""

    @abstractmethod
    def apply(self, change: Change, *, mark: str, parent_account: str) -> str:
        """Make one change, touching its target alone, and return Slurm's words.

        What is added gets `mark`; accounts are added below `parent_account`.

        Raises:
            JobsActive: it has to wait for jobs to end.
            ChangeRefused: nothing was done.
            SchedulerUnavailable: it may or may not have been done; read again.
        """
