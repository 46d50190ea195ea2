"""What people type about themselves."""

import zoneinfo
from typing import Any

from django import forms
from django.conf import settings
from django.utils.translation import gettext as _

from accounts.models import User


class ProfileForm(forms.ModelForm):  # type: ignore[type-arg] # not subscriptable at run time
    """A person's own name, time zone and language of mails."""

    time_zone = forms.ChoiceField(required=False)
    language = forms.ChoiceField(required=False)

    class Meta:
        model = User
        fields = ("first_name", "last_name", "time_zone", "language")
        widgets = {
            "first_name": forms.TextInput(attrs={"autocomplete": "given-name"}),
            "last_name": forms.TextInput(attrs={"autocomplete": "family-name"}),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._set_choices("time_zone", _("Time zone"), [("", _("The centre's time zone")), *_zones_by_region()])
        self._set_choices("language", _("Language of mails"), [("", _("The centre's language")), *settings.LANGUAGES])

    def _set_choices(self, name: str, label: str, choices: list[Any]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101 (for the type checker)
        field.label, field.choices = label, choices


def _zones_by_region() -> list[tuple[str, list[tuple[str, str]]]]:
    """Time zones as groups of a select: ("Asia", [("Asia/Shanghai", "Shanghai"), …])."""
    regions: dict[str, list[tuple[str, str]]] = {}
    for zone in sorted(zoneinfo.available_timezones()):
        region, separator, place = zone.partition("/")
        if not separator:
            region, place = _("Other"), zone
        regions.setdefault(region, []).append((zone, place.replace("_", " ")))
    return list(regions.items())
