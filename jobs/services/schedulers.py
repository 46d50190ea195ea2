"""Scheduler backends, chosen by `settings.SCHEDULERS` in the idiom of CACHES and TASKS.

from jobs.services.schedulers import schedulers
schedulers["demo"].poll([...])
"""

import re
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.connection import BaseConnectionHandler, ConnectionDoesNotExist
from django.utils.module_loading import import_string

from jobs.backends.base import SchedulerBackend

__all__ = ["SchedulerDoesNotExist", "queue_of", "schedulers"]

_QUEUE = re.compile(r"\A[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")


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
        queue_of(alias)
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


def queue_of(alias: str) -> str | None:
    """The Celery queue for a cluster's own workers, from SCHEDULERS[alias]["QUEUE"]; None: the queue of everything.

    Raises:
        ImproperlyConfigured: for what is no name of a queue.
    """
    name = schedulers.settings.get(alias, {}).get("QUEUE")
    if name is None or (isinstance(name, str) and _QUEUE.match(name)):
        return name
    allowed = "letters, digits and '_.-', starting with a letter"
    raise ImproperlyConfigured(f"SCHEDULERS[{alias!r}]['QUEUE']: {name!r} is not allowed; allowed: {allowed}")
