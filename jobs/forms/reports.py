"""What a report is asked for."""

from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from django import forms
from django.utils.translation import gettext_lazy as _

from accounts import access
from accounts.models import Partition, User
from jobs.services.usage_reports import GROUPS, LONGEST_PERIOD_DAYS, ReportQuery, default_period
from jobs.states import TERMINAL, JobState

GROUP_LABELS: Final = {
    "institution": _("Institution"),
    "project": _("Project"),
    "user": _("Person"),
    "partition": _("Partition"),
    "field": _("Field of science"),
    "model_family": _("Model family"),
    "end_state": _("End"),
    "day": _("Day"),
    "week": _("Week"),
    "month": _("Month"),
}

_DATE_WIDGET: Final = {"type": "date"}


class ReportForm(forms.Form):
    """Grouping, period and filters. What isn't given is the last 30 days by project, without filters."""

    group_by = forms.ChoiceField(label=_("Group by"), required=False, choices=list(GROUP_LABELS.items()))
    institution = forms.ChoiceField(label=_("Institution"), required=False)
    project = forms.ChoiceField(label=_("Project"), required=False)
    partition = forms.ChoiceField(label=_("Partition"), required=False)
    field = forms.ChoiceField(label=_("Field of science"), required=False)
    end_state = forms.ChoiceField(label=_("End"), required=False)
    user = forms.CharField(label=_("User name"), required=False, max_length=150)
    model_family = forms.CharField(label=_("Model family"), required=False, max_length=32)

    def __init__(self, data: Any, *, user: User, today: date, state_labels: Mapping[JobState, Any]) -> None:
        given = data.copy()
        given.setdefault("group_by", "project")
        for name, day in zip(("from", "to"), default_period(today), strict=True):
            given.setdefault(name, day.isoformat())
        super().__init__(given, auto_id="report_%s")
        # “from” is a word of Python's own, so that the two can't be written as the others.
        for name, label in (("from", _("From")), ("to", _("To, included"))):
            self.fields[name] = forms.DateField(
                label=label, widget=forms.DateInput(attrs=_DATE_WIDGET, format="%Y-%m-%d"), input_formats=["%Y-%m-%d"]
            )
        self.order_fields(["group_by", "from", "to"])
        self._offer(user)
        ends = [(state.value, label) for state, label in state_labels.items() if state in TERMINAL]
        self._set_choices("end_state", ends)

    def _offer(self, user: User) -> None:
        projects = list(
            access.reportable_projects(user)
            .order_by("code")
            .values_list("code", "title", "institution__code", "institution__name", "field_of_science")
        )
        partitions = Partition.objects.order_by("cluster__code", "name").values_list("cluster__code", "name")
        names = [f"{cluster}/{name}" for cluster, name in partitions]
        self._set_choices("project", [(code, f"{code} · {title}") for code, title, *_rest in projects])
        self._set_choices("institution", sorted({(code, name) for _c, _t, code, name, _f in projects}))
        self._set_choices("field", [(one, one) for one in sorted({row[4] for row in projects if row[4]})])
        self._set_choices("partition", [(name, name) for name in names])

    def _set_choices(self, name: str, choices: list[Any]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101 (for the type checker)
        field.choices = [("", _("All")), *choices]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        first, last = cleaned.get("from"), cleaned.get("to")
        if first and last and last < first:
            self.add_error("to", _("The last day is before the first."))
        elif first and last and (last - first).days >= LONGEST_PERIOD_DAYS:
            words = {"days": LONGEST_PERIOD_DAYS}
            self.add_error("to", forms.ValidationError(_("A period may have %(days)s days at most."), params=words))
        return cleaned

    @property
    def is_narrowed(self) -> bool:
        """Is anything filtered at all?"""
        return any(self.data.get(name) for name in self.fields if name not in ("group_by", "from", "to"))

    def to_query(self) -> ReportQuery:
        """What the services are asked. Only of a valid form."""
        names = ("institution", "project", "user", "partition", "field", "model_family", "end_state")
        cleaned = self.cleaned_data
        return ReportQuery(
            group_by=cleaned["group_by"] if cleaned["group_by"] in GROUPS else "project",
            first_day=cleaned["from"],
            last_day=cleaned["to"],
            **{name: cleaned[name] for name in names},
        )
