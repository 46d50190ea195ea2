"""Telling people: rows that show in the portal at once and go out by mail. The only writer of `Notification`."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from accounts.models import Notification, User


def notify(
    people: Iterable[User],
    kind: str,
    *,
    at: datetime,
    figures: Mapping[str, Any] | None = None,
    path: str = "",
    once: str = "",
) -> None:
    """Tell people something, in the caller's transaction: no message of what did not happen.

    `figures` hold what the words of `kind` need. `path` is the page that it is about. With `once`, a person who was
    told under the same word is not told again.
    """
    Notification.objects.bulk_create(
        [
            Notification(
                user=person, at=at, kind=kind, figures=dict(figures or {}), path=path, once=once, mail_due_at=at
            )
            for person in {person.pk: person for person in people}.values()
            if person.is_active
        ],
        ignore_conflicts=bool(once),
    )
