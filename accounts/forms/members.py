"""Who joins a project, and who is appointed to an office."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from accounts.models import Institution, Office, Role
from accounts.services.members import GIVEN_ROLE_CHOICES
from accounts.services.refusals import Refusal

_PERSON_CHARACTERS = 254


class _PersonField(forms.CharField):
    """A user name or an e-mail address."""

    def __init__(self) -> None:
        super().__init__(
            label=_("User name or e-mail address"),
            max_length=_PERSON_CHARACTERS,
            widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        )


class RefusableForm(forms.Form):
    """A form that shows what a service refused beside the field it concerns."""

    def show(self, refusal: Refusal) -> None:
        """Put the refusal where it belongs."""
        self.add_error(refusal.field if refusal.field in self.fields else None, refusal.message)


class RoleForm(RefusableForm):
    """What a member is to be."""

    role = forms.ChoiceField(label=_("Role"), choices=GIVEN_ROLE_CHOICES)


class MemberForm(RoleForm):
    """A person who joins."""

    person = _PersonField()
    field_order = ("person", "role")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("initial", {"role": Role.MEMBER.value})
        super().__init__(*args, **kwargs)


class AppointmentForm(RefusableForm):
    """A person and an office."""

    person = _PersonField()
    office = forms.ChoiceField(label=_("Office"), choices=Office.choices)
    institution = forms.ModelChoiceField(
        label=_("Institution"),
        queryset=Institution.objects.order_by("code"),
        required=False,
        to_field_name="code",
        empty_label="–",
        help_text=_("Of an institution manager only."),
    )
