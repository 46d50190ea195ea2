"""How a cluster's associations are kept: SCHEDULERS[alias]["ASSOCIATIONS"], checked once.

[main.ASSOCIATIONS]
MODE = "show"
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.connection import BaseConnectionHandler, ConnectionDoesNotExist
from django.utils.module_loading import import_string

from jobs.backends.associations import AssociationAdmin

__all__ = ["AssociationSetup", "NotManaged", "is_managed", "managed_clusters", "setups"]

_DEFAULT_BACKEND: Final = "jobs.backends.slurm.sacctmgr.SacctmgrAssociations"
_SHARED_OPTIONS: Final = ("SLURM_CONF", "PATH", "TIMEOUT_S")
_NAMES: Final = frozenset({"BACKEND", "OPTIONS", "MODE", "MARK", "PARENT_ACCOUNT", "QOS_PREFIX"})
_PATTERNS: Final = {
    "MODE": (re.compile(r"\A(show|apply)\Z"), "show", "'show' or 'apply'"),
    "MARK": (re.compile(r"\A[a-z0-9][a-z0-9_.-]{2,39}\Z"), "training-portal", "3 to 40 of a-z, 0-9, '_.-'"),
    "PARENT_ACCOUNT": (re.compile(r"\A[a-z_][a-z0-9_-]{0,63}\Z"), "root", "the name of an account, in lower case"),
    "QOS_PREFIX": (re.compile(r"\A([a-z][a-z0-9_-]{2,15})?\Z"), "", "3 to 16 of a-z, 0-9, '_-', or nothing"),
}


class NotManaged(ConnectionDoesNotExist):
    """The cluster has no ASSOCIATIONS in settings.SCHEDULERS: the portal doesn't look at its accounts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationSetup:
    """Who is asked, and what is the portal's. `applies`: the hourly task changes, and doesn't only look."""

    admin: AssociationAdmin
    applies: bool
    mark: str
    parent_account: str
    qos_prefix: str


if TYPE_CHECKING:
    _Handler = BaseConnectionHandler[AssociationSetup]
else:
    _Handler = BaseConnectionHandler  # not generic when it runs


class SetupHandler(_Handler):
    """One setup per alias and thread, made on first use."""

    settings_name = "SCHEDULERS"
    exception_class = NotManaged

    def create_connection(self, alias: str) -> AssociationSetup:
        config: Mapping[str, Any] = self.settings[alias]
        given = config.get("ASSOCIATIONS")
        if given is None:
            raise NotManaged(f"SCHEDULERS[{alias!r}] has no ASSOCIATIONS")
        try:
            return _read_setup(alias, given, config.get("OPTIONS", {}))
        except ValueError as error:
            raise ImproperlyConfigured(f"SCHEDULERS[{alias!r}]['ASSOCIATIONS']: {error}") from error


def _read_setup(alias: str, given: object, scheduler_options: Mapping[str, Any]) -> AssociationSetup:
    if not isinstance(given, Mapping):
        raise ValueError(f"{given!r} is not allowed; allowed: a table")
    unknown = sorted(str(name) for name in set(given) - _NAMES)
    if unknown:
        raise ValueError(f"{unknown[0]}: no such setting; allowed: {', '.join(sorted(_NAMES))}")
    texts = {}
    for name, (pattern, default, allowed) in _PATTERNS.items():
        value = given.get(name, default)
        if not isinstance(value, str) or not pattern.match(value):
            raise ValueError(f"{name}: {value!r} is not allowed; allowed: {allowed}")
        texts[name] = value
    backend = given.get("BACKEND", _DEFAULT_BACKEND)
    options = dict(given.get("OPTIONS", {}))
    if backend == _DEFAULT_BACKEND:
        # Where Slurm is has been said once already, if jobs are submitted by its command line, too.
        options = {name: scheduler_options[name] for name in _SHARED_OPTIONS if name in scheduler_options} | options
    try:
        admin_class = import_string(backend)
    except ImportError as error:
        raise ValueError(f"BACKEND: {backend!r} can't be imported: {error}") from error
    return AssociationSetup(
        admin=admin_class(alias, options),
        applies=texts["MODE"] == "apply",
        mark=texts["MARK"],
        parent_account=texts["PARENT_ACCOUNT"],
        qos_prefix=texts["QOS_PREFIX"],
    )


setups = SetupHandler()


def is_managed(cluster_code: str) -> bool:
    """Does the portal look at this cluster's accounts at all?"""
    return "ASSOCIATIONS" in settings.SCHEDULERS.get(cluster_code, {})


def managed_clusters() -> list[str]:
    """The codes of clusters whose accounts the portal looks at."""
    return sorted(code for code in settings.SCHEDULERS if is_managed(code))
