"""Strings of Django and allauth that our translations say in the words of the portal.

Our catalogue comes before theirs; a string is collected into it by standing here, exactly as theirs. Nothing imports
this module; a test compares it with their catalogues.
"""

from typing import Final

from django.utils.translation import gettext_noop, ngettext_lazy, pgettext_lazy

BORROWED: Final = (
    # allauth
    pgettext_lazy("field label", "Login"),
    gettext_noop("Username or email"),
    gettext_noop("Email"),
    gettext_noop("Password (again)"),
    gettext_noop("New Password (again)"),
    gettext_noop("Password Reset"),
    gettext_noop("Sign Out"),
    gettext_noop("Successfully signed in as %(name)s."),
    gettext_noop("You have signed out."),
    gettext_noop("Sign Up Closed"),
    gettext_noop("We are sorry, but the sign up is currently closed."),
    gettext_noop("Already have an account? Then please %(link)ssign in%(end_link)s."),
    gettext_noop("Bad Token"),
    gettext_noop("This account is inactive."),
    # Django
    ngettext_lazy("%(num)d month", "%(num)d months", "num"),
    ngettext_lazy(
        "Your password must contain at least %(min_length)d character.",
        "Your password must contain at least %(min_length)d characters.",
        "min_length",
    ),
    gettext_noop("Your password can’t be too similar to your other personal information."),
    gettext_noop("Your password can’t be a commonly used password."),
    gettext_noop("Your password can’t be entirely numeric."),
)
