"""What is looked for in the audit log."""

from datetime import datetime, time, timedelta
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.services.audit_search import AuditFilter


class AuditFilterForm(forms.Form):
    """Every field may be empty. Days are those of the reader's time zone, both of them within the period."""

    q = forms.CharField(label=_("Text"), required=False, max_length=100, widget=forms.TextInput({"type": "search"}))
    actor = forms.CharField(label=_("By"), required=False, max_length=150, help_text=_("A user name."))
    action = forms.CharField(
        label=_("Act"), required=False, max_length=64, help_text=_("As “member.add”, or a kind as “member”.")
    )
    target = forms.CharField(label=_("What"), required=False, max_length=200)
    project = forms.CharField(label=_("Project"), required=False, max_length=32)
    institution = forms.CharField(label=_("Institution"), required=False, max_length=32)
    since = forms.DateField(label=_("From day"), required=False, widget=forms.DateInput({"type": "date"}))
    until = forms.DateField(label=_("To day"), required=False, widget=forms.DateInput({"type": "date"}))
    order = forms.ChoiceField(
        label=_("Order"), required=False, choices=[("", _("Newest first")), ("oldest", _("Oldest first"))]
    )

    def __init__(self, data: Any) -> None:
        super().__init__(data, auto_id="filter_%s")

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        since, until = cleaned.get("since"), cleaned.get("until")
        if since and until and until < since:
            self.add_error("until", _("The period ends before it starts."))
        return cleaned

    @property
    def is_narrowed(self) -> bool:
        """Is anything looked for at all?"""
        return any(value for name, value in self.cleaned_data.items() if name != "order")

    def as_filter(self) -> AuditFilter:
        """What is looked for; call it on a valid form."""
        given = self.cleaned_data
        until = given["until"]
        return AuditFilter(
            text=given["q"],
            **{name: given[name] for name in ("actor", "action", "target", "project", "institution")},
            since_at=_start_of(given["since"]) if given["since"] else None,
            until_at=_start_of(until + timedelta(days=1)) if until and until.year < 9999 else None,
        )


def _start_of(day: Any) -> datetime:
    return timezone.make_aware(datetime.combine(day, time.min))
