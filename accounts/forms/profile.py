"""What people type about themselves."""

import zoneinfo
from typing import Any

from django import forms
from django.utils.translation import gettext as _

from accounts.models import User


class ProfileForm(forms.ModelForm):  # type: ignore[type-arg] # not subscriptable at run time
    """A person's own name and time zone."""

    time_zone = forms.ChoiceField(required=False)

    class Meta:
        model = User
        fields = ("first_name", "last_name", "time_zone")
        widgets = {
            "first_name": forms.TextInput(attrs={"autocomplete": "given-name"}),
            "last_name": forms.TextInput(attrs={"autocomplete": "family-name"}),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["time_zone"]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101 (for the type checker)
        field.label = _("Time zone")
        field.choices = [("", _("The centre's time zone")), *_zones_by_region()]


def _zones_by_region() -> list[tuple[str, list[tuple[str, str]]]]:
    """Time zones as groups of a select: ("Asia", [("Asia/Shanghai", "Shanghai"), …])."""
    regions: dict[str, list[tuple[str, str]]] = {}
    for zone in sorted(zoneinfo.available_timezones()):
        region, separator, place = zone.partition("/")
        if not separator:
            region, place = _("Other"), zone
        regions.setdefault(region, []).append((zone, place.replace("_", " ")))
    return list(regions.items())
