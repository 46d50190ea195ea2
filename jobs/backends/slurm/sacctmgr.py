"""Accounts, associations and QOS by sacctmgr. https://slurm.schedmd.com/sacctmgr.html

No text of a person's is handed over: names are checked here once more, marks and numbers are the portal's. Every call
that changes something names its cluster and one account, user or QOS; nothing is ever loaded, dumped or edited in bulk.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from jobs.backends.associations import (
    ACCOUNT_LIMITS,
    NAME,
    QOS_LIMITS,
    SYSTEM_USERS,
    USER_LIMITS,
    AssociationAdmin,
    AssociationState,
    Change,
    ChangeKind,
    ChangeRefused,
    JobsActive,
    Qos,
    Setting,
    SlurmAccount,
    SlurmUser,
    UserAssociation,
)
from jobs.backends.base import SchedulerUnavailable
from jobs.backends.option_values import read_seconds
from jobs.backends.slurm.commands import CommandResult, CommandRunner
from jobs.backends.slurm.errors import is_unavailability
from jobs.backends.slurm.options import CliOptions, read_cli_options
from jobs.backends.slurm.text import read_duration_s, read_tres

_OPTIONS: Final = frozenset({"SLURM_CONF", "PATH", "TIMEOUT_S", "CLUSTER_NAME"})
_CLUSTER_NAME: Final = re.compile(r"\A[a-z0-9_][a-z0-9_.-]{0,39}\Z")
_CLUSTER_LINE: Final = re.compile(r"^ClusterName\s*=\s*(\S+)\s*$", re.MULTILINE)
_MARK: Final = re.compile(r"\A[a-z0-9][a-z0-9_.-]{0,39}\Z")
_TRES: Final = re.compile(r"\A[a-z]+(/[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)?)?\Z")
_ASSOCIATION_COLUMNS: Final = (
    *("account", "user", "partition", "parentname", "grptres", "maxtres", "maxwall", "grpjobs", "grpsubmitjobs"),
    *("maxsubmitjobs", "qos", "defaultqos"),
)
_NOT_FOUND_WORDS: Final = ("Nothing new added", "Nothing modified", "Nothing deleted")
_UNSET: Final = -1


class SacctmgrAssociations(AssociationAdmin):
    """Runs as the portal's own Unix user, which needs rights in Slurm: see docs/admin/slurm-associations.md.

    OPTIONS: SLURM_CONF, PATH and TIMEOUT_S as for `SlurmCliBackend`; CLUSTER_NAME is Slurm's own name of the cluster,
    asked of the controller unless given.
    """

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        checked = _read_options(options)
        environment = {"PATH": checked.path, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        if checked.slurm_conf:
            environment["SLURM_CONF"] = checked.slurm_conf
        self._runner = CommandRunner(
            run_as=None, environment=environment, timeout_s=checked.timeout_s, min_uid=checked.min_uid
        )
        self._cluster_name: str = options.get("CLUSTER_NAME", "")

    def read(self, *, mark: str) -> AssociationState:
        _check(_MARK, "mark", mark)
        # Which are marked is asked of Slurm: descriptions may hold anything, line ends included.
        questions: list[tuple[list[str], int]] = [
            (["account", f"organization={mark}", "format=account"], 1),
            (["qos", f"description={mark}", "format=name"], 1),
            (["account", "format=account"], 1),
            (["assoc", f"cluster={self._cluster()}", "woplimits", f"format={','.join(_ASSOCIATION_COLUMNS)}"], 12),
            (["qos", "format=name,maxjobsperuser,maxtresperuser"], 3),
            (["user", "format=user,adminlevel,defaultaccount"], 3),
        ]
        # All at once: a sacctmgr spends its time waiting for slurmdbd.
        with ThreadPoolExecutor(len(questions)) as pool:
            answers = list(pool.map(lambda question: self._rows(*question), questions))
        marked_accounts, marked_qos, every_account = ({row[0] for row in rows} for rows in answers[:3])
        accounts = {
            name: SlurmAccount(name=name, is_marked=name in marked_accounts, is_here=False) for name in every_account
        }
        associations = []
        for row in answers[3]:
            if row[1]:
                associations.append(_read_association(row))
            else:
                accounts[row[0]] = _read_account(row, is_marked=row[0] in marked_accounts)
        return AssociationState(
            accounts=accounts,
            associations=tuple(associations),
            qos={
                row[0]: Qos(name=row[0], is_marked=row[0] in marked_qos, limits=_read_qos_limits(row))
                for row in answers[4]
            },
            users={
                row[0]: SlurmUser(name=row[0], admin_level=row[1] or "None", default_account=row[2])
                for row in answers[5]
            },
        )

    def apply(self, change: Change, *, mark: str, parent_account: str) -> str:
        _check(_MARK, "mark", mark)
        words = self._words_of(change, mark, parent_account)
        done = self._runner.run(["sacctmgr", "--immediate", *words])
        if done.exit_code:
            raise _read_refusal(done)
        return done.text.strip()

    def _words_of(self, change: Change, mark: str, parent_account: str) -> list[str]:
        """The arguments of one change. Raises ChangeRefused for what the portal must never write."""
        kind, cluster = change.kind, f"cluster={self._cluster()}"
        if kind in (ChangeKind.ADD_QOS, ChangeKind.SET_QOS):
            name, settings = _name("QOS", change.qos), _write_settings(change.settings, QOS_LIMITS)
            if kind is ChangeKind.ADD_QOS:
                return ["add", "qos", f"name={name}", f"description={mark}", *settings]
            return ["modify", "qos", "where", f"name={name}", "set", *settings]
        account = _name("account", change.account)
        if account == "root":
            raise ChangeRefused("account 'root' is Slurm's own; the portal never touches it")
        if kind in (ChangeKind.ADD_ACCOUNT, ChangeKind.SET_ACCOUNT, ChangeKind.REMOVE_ACCOUNT):
            settings = _write_settings(change.settings, ACCOUNT_LIMITS)
            if kind is ChangeKind.ADD_ACCOUNT:
                parent = f"parent={_name('parent account', parent_account)}"
                marks = [f"description={mark}", f"organization={mark}"]
                return ["add", "account", f"name={account}", cluster, parent, *marks, *settings]
            if kind is ChangeKind.SET_ACCOUNT:
                return ["modify", "account", "where", f"name={account}", cluster, "set", *settings]
            return ["delete", "account", "where", f"name={account}", cluster]
        user = _name("user", change.user)
        if user in SYSTEM_USERS:
            raise ChangeRefused(f"user {user!r} is the system's; the portal never touches it")
        settings = _write_settings(change.settings, USER_LIMITS)
        if kind is ChangeKind.ADD_USER:
            return ["add", "user", f"name={user}", f"account={account}", cluster, *settings]
        if kind is ChangeKind.SET_USER:
            return ["modify", "user", "where", f"name={user}", f"account={account}", cluster, "set", *settings]
        if kind is ChangeKind.SET_DEFAULT_ACCOUNT:
            return ["modify", "user", "where", f"name={user}", cluster, "set", f"defaultaccount={account}"]
        return ["delete", "user", "where", f"name={user}", f"account={account}", cluster]

    def _cluster(self) -> str:
        """Slurm's name of this cluster: one database may serve several, and sacctmgr means all unless told which."""
        if not self._cluster_name:
            done = self._runner.run(["scontrol", "show", "config"])
            match = _CLUSTER_LINE.search(done.text)
            if done.exit_code or match is None or not _CLUSTER_NAME.match(match[1].lower()):
                raise SchedulerUnavailable(f"scontrol doesn't tell the cluster's name: {done.errors or 'no such line'}")
            self._cluster_name = match[1].lower()
        return self._cluster_name

    def _rows(self, words: list[str], columns: int) -> list[list[str]]:
        done = self._runner.run(["sacctmgr", "--noheader", "--parsable2", "--readonly", "show", *words])
        if done.exit_code:
            raise SchedulerUnavailable(f"sacctmgr failed: {done.errors or done.text.strip() or done.exit_code}")
        rows = [line.split("|") for line in done.text.split("\n") if line]
        for row in rows:
            if len(row) != columns:
                # Somebody's name with a line end or "|" in it: nothing is planned on what can't be read for certain.
                raise SchedulerUnavailable(f"sacctmgr's answer can't be read: {'|'.join(row)[:200]!r}")
        return rows


def _read_options(options: Mapping[str, Any]) -> CliOptions:
    unknown = sorted(str(name) for name in set(options) - _OPTIONS)
    if unknown:
        raise ValueError(f"{unknown[0]}: no such option; allowed: {', '.join(sorted(_OPTIONS))}")
    name = options.get("CLUSTER_NAME", "x")
    if not isinstance(name, str) or not _CLUSTER_NAME.match(name):
        raise ValueError(f"CLUSTER_NAME: {name!r} is not allowed; allowed: a-z, 0-9 and '_.-', as sacctmgr shows it")
    read_seconds(options, "TIMEOUT_S", 15.0, low=0.1, high=120.0)
    shared = {key: value for key, value in options.items() if key != "CLUSTER_NAME"}
    return read_cli_options({"JOBS_DIRECTORY": "/nonexistent", **shared})  # no job is submitted here


def _check(pattern: re.Pattern[str], label: str, value: str) -> str:
    if not pattern.match(value):
        raise ChangeRefused(f"{label}: {value!r} is not allowed; allowed: {pattern.pattern}")
    return value


def _name(label: str, value: str) -> str:
    return _check(NAME, label, value)


def _write_settings(settings: Iterable[Setting], allowed: frozenset[str]) -> list[str]:
    """ "GrpJobs=4", "GrpTRES=gres/gpu=8,gres/npu=-1", "QOS=portal_standard"; what is not set any more becomes -1."""
    plain: list[str] = []
    tres: dict[str, list[str]] = defaultdict(list)
    for setting in settings:
        name, _, resource = setting.name.partition(":")
        if setting.name in ("QOS", "DefaultQOS"):
            given = [_name("QOS", text) for text in str(setting.after or "").split(",") if text]
            plain.append(f"{name}={','.join(given) or ('' if name == 'QOS' else _UNSET)}")
            continue
        value = _UNSET if setting.after is None else setting.after
        if name not in allowed or bool(resource) != name.endswith(("TRES", "TRESPerJob", "TRESPerUser")):
            raise ChangeRefused(f"limit: {setting.name!r} is not allowed here; allowed: {', '.join(sorted(allowed))}")
        if not isinstance(value, int) or isinstance(value, bool) or value < _UNSET:
            raise ChangeRefused(f"{setting.name}: {value!r} is not allowed; allowed: a whole number of at least 0")
        if resource:
            tres[name].append(f"{_check(_TRES, 'TRES', resource)}={value}")
        else:
            plain.append(f"{name}={value}")
    return [*plain, *(f"{name}={','.join(parts)}" for name, parts in tres.items())]


def _read_account(row: list[str], *, is_marked: bool) -> SlurmAccount:
    qos, default_qos = _read_qos_names(row)
    return SlurmAccount(
        name=row[0],
        is_marked=is_marked,
        parent=row[3],
        limits=_read_limits(row),
        qos=qos,
        default_qos=default_qos,
    )


def _read_association(row: list[str]) -> UserAssociation:
    qos, default_qos = _read_qos_names(row)
    return UserAssociation(
        account=row[0],
        user=row[1],
        partition=row[2],
        limits=_read_limits(row),
        qos=qos,
        default_qos=default_qos,
    )


def _read_qos_names(row: list[str]) -> tuple[tuple[str, ...], str]:
    return tuple(sorted(filter(None, row[10].split(",")))), row[11]


def _read_limits(row: list[str]) -> dict[str, int]:
    limits = _tres_limits("GrpTRES", row[4]) | _tres_limits("MaxTRESPerJob", row[5])
    wall_s = read_duration_s(row[6]) if row[6] else None
    if wall_s is not None:
        limits["MaxWall"] = int(wall_s) // 60
    return limits | _counts(("GrpJobs", row[7]), ("GrpSubmitJobs", row[8]), ("MaxSubmitJobs", row[9]))


def _read_qos_limits(row: list[str]) -> dict[str, int]:
    return _counts(("MaxJobsPerUser", row[1])) | _tres_limits("MaxTRESPerUser", row[2])


def _tres_limits(name: str, text: str) -> dict[str, int]:
    return {f"{name}:{resource}": count for resource, count in read_tres(text).items()}


def _counts(*fields: tuple[str, str]) -> dict[str, int]:
    return {name: int(text) for name, text in fields if text.isascii() and text.isdigit()}


def _read_refusal(done: CommandResult) -> Exception:
    words = f"{done.errors}\n{done.text.strip()}".strip() or f"exit code {done.exit_code}"
    if any(sign in words for sign in _NOT_FOUND_WORDS):
        return ChangeRefused(words)
    if is_unavailability(words):
        return SchedulerUnavailable(f"sacctmgr failed: {words}")
    return JobsActive(words) if "Job(s) active" in words else ChangeRefused(words)
