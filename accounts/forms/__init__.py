"""What people type about themselves, and what they ask for."""

from accounts.forms.profile import ProfileForm

__all__ = ["ProfileForm"]
