"""What every template may know of the site."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest

from accounts import access
from accounts.models import Notification, Office, User


def site(request: HttpRequest) -> dict[str, object]:
    """Version for the footer; how many messages are unread, for the header."""
    return {"portal_version": settings.VERSION, "count_unread": _count_unread(request)}


def _count_unread(request: HttpRequest) -> Callable[[], int]:
    """Asked by the header alone: parts of pages don't pay for it."""

    def count() -> int:
        user = getattr(request, "user", None)
        return Notification.objects.filter(user=user.pk, read_at__isnull=True).count() if user is not None else 0

    return count


def offices(request: HttpRequest) -> dict[str, object]:
    """Which pages of the centre's offices the navigation names; asked only by templates that show it."""
    user = getattr(request, "user", None)
    if not isinstance(user, User):
        return {}
    # Those who lead a project reach its log from the project's page.
    return {
        "sees_audit": lambda: user.is_staff or user.holds(Office.AUDITOR, Office.INSTITUTION_MANAGER),
        "sees_offices": lambda: access.sees_all(user),
    }
