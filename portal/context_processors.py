"""What every template may know of the site."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest

from accounts.models import Notification


def site(request: HttpRequest) -> dict[str, object]:
    """Version for the footer; how many messages are unread, for the header."""
    return {"portal_version": settings.VERSION, "count_unread": _count_unread(request)}


def _count_unread(request: HttpRequest) -> Callable[[], int]:
    """Asked by the header alone: parts of pages don't pay for it."""

    def count() -> int:
        user = getattr(request, "user", None)
        return Notification.objects.filter(user=user.pk, read_at__isnull=True).count() if user is not None else 0

    return count
