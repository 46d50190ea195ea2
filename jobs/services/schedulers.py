"""Scheduler backends, chosen by `settings.SCHEDULERS` in the idiom of CACHES and TASKS.

from jobs.services.schedulers import schedulers
schedulers["demo"].poll([...])
"""

from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.connection import BaseConnectionHandler, ConnectionDoesNotExist
from django.utils.module_loading import import_string

from jobs.backends.base import SchedulerBackend

__all__ = ["SchedulerDoesNotExist", "schedulers"]


class SchedulerDoesNotExist(ConnectionDoesNotExist):
    """settings.SCHEDULERS has no such alias."""


if TYPE_CHECKING:
    _Handler = BaseConnectionHandler[SchedulerBackend]
else:
    _Handler = BaseConnectionHandler  # not generic when it runs


class SchedulerHandler(_Handler):
    """One backend instance per alias and thread, made on first use."""

    settings_name = "SCHEDULERS"
    exception_class = SchedulerDoesNotExist

    def create_connection(self, alias: str) -> SchedulerBackend:
        config: dict[str, Any] = self.settings[alias]
        try:
            backend_class = import_string(config["BACKEND"])
        except (KeyError, ImportError) as error:
            raise ImproperlyConfigured(
                f"SCHEDULERS[{alias!r}]['BACKEND']: {config.get('BACKEND')!r} can't be imported: {error}"
            ) from error
        try:
            backend: SchedulerBackend = backend_class(alias, config.get("OPTIONS", {}))
        except ValueError as error:
            raise ImproperlyConfigured(f"SCHEDULERS[{alias!r}]['OPTIONS']: {error}") from error
        return backend


schedulers = SchedulerHandler()
