"""The filters above the list of jobs."""

import re
import uuid
from collections.abc import Mapping
from typing import Any

from django import forms
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _

from accounts import access
from accounts.models import User
from jobs.models import Job
from jobs.states import TERMINAL, JobState

_GROUPS = [("unfinished", _("Unfinished")), ("ended", _("Ended"))]


class JobFilterForm(forms.Form):
    """What of the visible jobs is listed. Every field may be empty; a value that makes no sense is ignored."""

    q = forms.CharField(
        label=_("Name or job id"),
        required=False,
        max_length=128,
        widget=forms.TextInput(attrs={"type": "search", "autocomplete": "off"}),
    )
    state = forms.ChoiceField(label=_("State"), required=False)
    project = forms.ChoiceField(label=_("Project"), required=False)
    partition = forms.ChoiceField(label=_("Partition"), required=False)
    scope = forms.ChoiceField(
        label=_("Whose"), required=False, choices=[("", _("My jobs")), ("all", _("All that I may see"))]
    )

    def __init__(self, data: Any, *, user: User, state_labels: Mapping[JobState, Any]) -> None:
        super().__init__(data, auto_id="filter_%s")
        self.user = user
        codes = access.visible_projects(user).order_by("code").values_list("code", flat=True)
        partitions = (
            access.usable_partitions(user).order_by("cluster__code", "name").values_list("cluster__code", "name")
        )
        states = [(state.value.lower(), label) for state, label in state_labels.items() if state is not JobState.DRAFT]
        self._set_choices("state", [("", _("Any state")), (_("Groups"), _GROUPS), (_("States"), states)])
        self._set_choices("project", [("", _("All projects")), *((code, code) for code in codes)])
        names = [f"{cluster}/{name}" for cluster, name in partitions]
        self._set_choices("partition", [("", _("All partitions")), *((name, name) for name in names)])

    @property
    def is_narrowed(self) -> bool:
        """Is anything filtered at all?"""
        return any(self._value(name) for name in ("q", "state", "project", "partition"))

    @property
    def shows_others(self) -> bool:
        """Are jobs of other people listed?"""
        return bool(self._value("scope") == "all")

    def apply(self) -> QuerySet[Job]:
        """The visible jobs that the filters leave; in no order."""
        jobs: QuerySet[Job] = Job.objects.visible_to(self.user)
        if not self.shows_others:
            jobs = jobs.filter(user=self.user)
        if state := self._value("state"):
            if state == "unfinished":
                jobs = jobs.unfinished()  # type: ignore[attr-defined]
            elif state == "ended":
                jobs = jobs.filter(state__in=TERMINAL)
            else:
                jobs = jobs.filter(state=state.upper())
        if project := self._value("project"):
            jobs = jobs.filter(project__code=project)
        if partition := self._value("partition"):
            cluster, _separator, name = partition.partition("/")
            jobs = jobs.filter(partition__cluster__code=cluster, partition__name=name)
        if text := self._value("q"):
            job_id = _read_uuid(text)
            # A regular expression, since the trigram index serves ~* but not the UPPER(…) LIKE of icontains.
            jobs = jobs.filter(name__iregex=re.escape(text)) if job_id is None else jobs.filter(pk=job_id)
        return jobs

    def _value(self, name: str) -> str:
        if not hasattr(self, "cleaned_data"):
            self.full_clean()
        return str(self.cleaned_data.get(name, ""))

    def _set_choices(self, name: str, choices: list[Any]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101 (for the type checker)
        field.choices = choices


def _read_uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
