"""What people type about themselves, and what they ask for."""

from accounts.forms.profile import ProfileForm
from accounts.forms.requests import (
    DecisionForm,
    HoursField,
    ReasonForm,
    RequestFilterForm,
    RequestForm,
    VerifyForm,
    WordsForm,
    write_hours,
)

__all__ = [
    "DecisionForm",
    "HoursField",
    "ProfileForm",
    "ReasonForm",
    "RequestFilterForm",
    "RequestForm",
    "VerifyForm",
    "WordsForm",
    "write_hours",
]
