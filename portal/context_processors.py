"""What every template may know of the site."""

from django.conf import settings
from django.http import HttpRequest

from accounts import access
from accounts.models import Office, User


def site(request: HttpRequest) -> dict[str, object]:
    """Version for the footer."""
    return {"portal_version": settings.VERSION}


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
