"""Notifications by mail. The rows are the queue: `mail_due_at` says when the next attempt is due, None that none is.

A row is claimed by moving `mail_due_at` on, in a transaction of its own; then it is sent, outside any transaction;
then it is marked. So nobody else sends it meanwhile, and a mail server that hangs holds no lock. Only a process that
dies between the server's "accepted" and the mark leaves a mail that is sent once more.
"""

import logging
import zoneinfo
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.db import transaction
from django.utils import timezone, translation
from django.utils.translation import gettext as _

from accounts.models import Notification
from accounts.services.notification_wording import describe

logger = logging.getLogger(__name__)

BATCH: Final = 20
MAX_ATTEMPTS: Final = 8
_PAUSE: Final = timedelta(minutes=10)
"""Before the second attempt; then twice as long each time. Longer than a task may run: nobody claims a row that
another still works on."""
_LONGEST_PAUSE: Final = timedelta(hours=12)


def send_due_mail(*, now: Callable[[], datetime], limit: int = BATCH) -> int:
    """Send what is due, at most `limit` mails. Returns how many were accepted by the mail server."""
    claimed = _claim(now(), limit)
    if not claimed:
        return 0
    connection = get_connection()
    return sum(_send(notification, connection, now) for notification in claimed)


def _claim(at: datetime, limit: int) -> list[Notification]:
    with transaction.atomic():
        due = Notification.objects.filter(mail_due_at__lte=at, mailed_at__isnull=True)
        rows = list(
            due.select_related("user")
            .order_by("mail_due_at", "pk")
            .select_for_update(skip_locked=True, of=("self",))[:limit]
        )
        for row in rows:
            row.mail_attempts += 1
            row.mail_due_at = at + min(_PAUSE * 2 ** (row.mail_attempts - 1), _LONGEST_PAUSE)
        Notification.objects.bulk_update(rows, ["mail_attempts", "mail_due_at"])
    return rows


def _send(notification: Notification, connection: BaseEmailBackend, now: Callable[[], datetime]) -> bool:
    row = Notification.objects.filter(pk=notification.pk)
    user = notification.user
    if not user.email or not user.is_active:
        row.update(mail_due_at=None)  # it shows in the portal all the same
        return False
    try:
        _compose(notification, connection).send()
    except Exception:  # whatever a mail backend raises: one bad mail must not keep the others
        is_last = notification.mail_attempts >= MAX_ATTEMPTS
        if is_last:
            row.update(mail_due_at=None)
        logger.warning(
            "mail of notification %s to user %s failed, attempt %s of %s%s",
            notification.pk,
            user.pk,
            notification.mail_attempts,
            MAX_ATTEMPTS,
            ": given up" if is_last else "",
            exc_info=True,
        )
        return False
    row.update(mailed_at=now(), mail_due_at=None)
    return True


def _compose(notification: Notification, connection: BaseEmailBackend) -> EmailMessage:
    user = notification.user
    zone = zoneinfo.ZoneInfo(user.time_zone) if user.time_zone else None
    with translation.override(user.language or settings.LANGUAGE_CODE), timezone.override(zone):
        words = describe(notification)
        lines = [_("Dear %(name)s,") % {"name": user}, "", words.text]
        if notification.path:
            lines += ["", f"{settings.PORTAL_URL.rstrip('/')}{notification.path}"]
        lines += ["", "-- ", _("You get this mail because you are concerned by it in the Training Portal.")]
        subject = f"[{_('Training Portal')}] {words.subject}"
    return EmailMessage(subject, "\n".join(lines), to=[user.email], connection=connection)
