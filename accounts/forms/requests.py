"""What people ask for, and what reviewers decide. Hours at the edge, accelerator-seconds within."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import access
from accounts.models import (
    HOURS_KINDS,
    MAX_REQUEST_S,
    AllocationRequest,
    Institution,
    Membership,
    Project,
    RequestKind,
    RequestLine,
    RequestState,
    ResourceClass,
    Role,
    User,
)
from accounts.services import estimate_snapshots
from accounts.services.request_rules import HOUR_S, Draft, RequestProblem, hours_to_seconds
from accounts.services.requests import Decision

_LONGEST_HOURS: Final = 20
_FIELDS: Final = {"start_at": "start_on", "end_at": "end_on"}
"""Fields of services that have another name in forms."""


def write_hours(amount_s: int) -> str:
    """As it stands in a field: exact, without grouping."""
    hours = Decimal(amount_s) / HOUR_S
    return f"{hours.quantize(Decimal(1)) if hours == hours.to_integral_value() else round(hours, 6).normalize():f}"


class HoursField(forms.Field):
    """Accelerator-hours, as people write them; its value is whole accelerator-seconds, or None."""

    widget = forms.TextInput(attrs={"inputmode": "decimal", "maxlength": _LONGEST_HOURS, "autocomplete": "off"})

    def __init__(self, *, may_be_zero: bool = False, **kwargs: Any) -> None:
        self.may_be_zero = may_be_zero
        super().__init__(**kwargs)

    def to_python(self, value: Any) -> int | None:
        text = re.sub(r"[\s,_]", "", unicodedata.normalize("NFKC", "" if value is None else str(value)))
        if not text:
            return None
        try:
            if len(text) > _LONGEST_HOURS:
                raise ValueError(text)
            hours = Decimal(text)
            if hours.is_finite() and hours >= 0 and abs(hours) <= MAX_REQUEST_S // HOUR_S:
                seconds = hours_to_seconds(hours)
                if seconds > 0 or (self.may_be_zero and seconds == 0):
                    return seconds
            elif not hours.is_finite():
                raise ValueError(text)
        except (ValueError, InvalidOperation):
            message = _("“%(value)s” is not an amount of hours; write it as 12000 or 0.5, in whole seconds.")
            raise ValidationError(message, code="invalid", params={"value": text[:40]}) from None
        message = _("“%(value)s” hours are not allowed; allowed: above zero, at most %(high)s.")
        if self.may_be_zero:
            message = _("“%(value)s” hours are not allowed; allowed: from 0 to %(high)s.")
        params = {"value": text[:40], "high": f"{MAX_REQUEST_S // HOUR_S:,}"}
        raise ValidationError(message, code="invalid_amount", params=params)


class CodeChoiceField(forms.ModelChoiceField):  # type: ignore[type-arg] # not subscriptable at run time
    """One of the rows that may be chosen, by code."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, to_field_name="code", **kwargs)

    def to_python(self, value: Any) -> Any:
        if isinstance(value, str) and "\x00" in value:
            # The database would refuse the question itself.
            raise ValidationError(self.error_messages["invalid_choice"], code="invalid_choice", params={"value": "–"})
        return super().to_python(value)


class _ServiceForm(forms.Form):
    """A form whose service checks it once more: what that finds is shown beside the fields."""

    def add_problems(self, problems: Iterable[RequestProblem]) -> None:
        for problem in problems:
            name = _FIELDS.get(problem.field, problem.field)
            if name.startswith("amounts."):
                name = f"hours_{name.removeprefix('amounts.')}"
            self.add_error(name if name in self.fields else None, problem.message)

    def _amounts(self) -> dict[str, int]:
        return {
            name.removeprefix("hours_"): value
            for name, value in self.cleaned_data.items()
            if name.startswith("hours_") and value is not None
        }


def _date_field(label: Any, help_text: Any = "") -> forms.DateField:
    return forms.DateField(
        label=label,
        help_text=help_text,
        widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
        input_formats=["%Y-%m-%d"],
        error_messages={
            "invalid": gettext_lazy("This is not a date; write it as 2026-06-30."),
            "required": gettext_lazy("Say from when to when the hours are wanted."),
        },
    )


def _start_of(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time()))


def _clean_period(form: forms.Form) -> tuple[datetime | None, datetime | None]:
    """From the first day's beginning to the last day's end, in the reader's time zone."""
    start, end = form.cleaned_data.get("start_on"), form.cleaned_data.get("end_on")
    if start and end and end < start:
        words = _("The period ends (%(end)s) before it starts (%(start)s).")
        form.add_error("end_on", words % {"end": end, "start": start})
    try:
        return (_start_of(start) if start else None, _start_of(end + timedelta(days=1)) if end else None)
    except OverflowError:
        form.add_error("end_on", _("This is not a date; write it as 2026-06-30."))
        return None, None


class RequestForm(_ServiceForm):
    """A request of one kind."""

    project = CodeChoiceField(Project.objects.none(), label=gettext_lazy("Project"), empty_label=None)
    institution = CodeChoiceField(Institution.objects.none(), label=gettext_lazy("Institution"))
    project_code = forms.CharField(
        label=gettext_lazy("Project code"),
        max_length=32,
        help_text=gettext_lazy("Short and lasting: it is in addresses and on Slurm. Letters a–z, digits, “_” and “-”."),
    )
    project_title = forms.CharField(label=gettext_lazy("Title"), max_length=200)
    field_of_science = forms.CharField(label=gettext_lazy("Field of science"), max_length=100, required=False)
    new_pi = forms.ChoiceField(
        label=gettext_lazy("New principal investigator"),
        help_text=gettext_lazy("A member of the project. The present one stays as a manager."),
    )
    start_on = _date_field(gettext_lazy("First day"))
    end_on = _date_field(gettext_lazy("Last day"))
    justification = forms.CharField(
        label=gettext_lazy("Justification"),
        max_length=8000,
        widget=forms.Textarea(attrs={"rows": 8}),
        help_text=gettext_lazy("What is to be found out, which runs it takes, and how you come to the hours."),
    )
    estimate = forms.CharField(required=False, max_length=8000, widget=forms.HiddenInput)

    def __init__(self, data: Any = None, *, kind: RequestKind, user: User, initial: Mapping[str, Any]) -> None:
        super().__init__(data, initial=dict(initial))
        self.kind = kind
        self.classes = list(ResourceClass.objects.order_by("code")) if kind in HOURS_KINDS else []
        self.projects: list[Project] = []
        if kind == RequestKind.NEW_PROJECT:
            self._choose_from("institution", Institution.objects.order_by("code"))
            self._drop("project")
        else:
            projects = access.requestable_projects(user).order_by("code")
            self._choose_from("project", projects)
            self._drop("institution", "project_code", "project_title", "field_of_science")
        if kind == RequestKind.CHANGE_OF_PI:
            self._list_members(access.requestable_projects(user))
        else:
            self._drop("new_pi")
        if kind not in HOURS_KINDS:
            self._drop("start_on", "end_on", "estimate")
        for one in self.classes:
            self.fields[f"hours_{one.code}"] = HoursField(label=str(one), required=False)

    @property
    def hours_fields(self) -> list[Any]:
        return [self[f"hours_{one.code}"] for one in self.classes]

    @property
    def snapshot(self) -> dict[str, Any] | None:
        """The attached estimate, if it is one of this portal's."""
        return estimate_snapshots.read(str(self["estimate"].value() or "")) if "estimate" in self.fields else None

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if self.kind in HOURS_KINDS:
            cleaned["start_at"], cleaned["end_at"] = _clean_period(self)
            wrong = any(name.startswith("hours_") for name in self.errors)
            if not self._amounts() and not wrong and self.classes:
                self.add_error(
                    f"hours_{self.classes[0].code}",
                    _("Give an amount above zero for at least one resource class."),
                )
            if cleaned.get("estimate") and self.snapshot is None:
                self.add_error(
                    None, _("The attached estimate can't be read, or is older than 30 days. Attach it anew.")
                )
        return cleaned

    def to_draft(self) -> Draft:
        """What the valid form asks for."""
        values = self.cleaned_data
        amounts = self._amounts()
        return Draft(
            kind=self.kind,
            justification=values["justification"],
            project=values.get("project"),
            institution=values.get("institution"),
            project_code=values.get("project_code", ""),
            project_title=values.get("project_title", ""),
            field_of_science=values.get("field_of_science", ""),
            new_pi=User.objects.filter(username=values["new_pi"]).first() if "new_pi" in self.fields else None,
            amounts={one: amounts[one.code] for one in self.classes if one.code in amounts},
            start_at=values.get("start_at"),
            end_at=values.get("end_at"),
            estimate=self.snapshot,
        )

    def _list_members(self, projects: Any) -> None:
        """Members of all projects that may be chosen, by project; the service refuses one of another project."""
        groups: dict[str, list[tuple[str, str]]] = {}
        rows = Membership.objects.filter(project__in=projects, user__is_active=True).exclude(role=Role.PI)
        for row in rows.select_related("project", "user").order_by("project__code", "user__username")[:1000]:
            groups.setdefault(row.project.code, []).append((row.user.username, f"{row.user} ({row.user.username})"))
        field = self.fields["new_pi"]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101 (for the type checker)
        field.choices = [("", _("Choose …")), *groups.items()]

    def _choose_from(self, name: str, queryset: Any) -> None:
        field = self.fields[name]
        assert isinstance(field, CodeChoiceField)  # noqa: S101 (for the type checker)
        field.queryset = queryset

    def _drop(self, *names: str) -> None:
        for name in names:
            del self.fields[name]


class DecisionForm(_ServiceForm):
    """What a reviewer grants; for requests without hours the reason alone."""

    start_on = _date_field(gettext_lazy("First day"))
    end_on = _date_field(gettext_lazy("Last day"))
    takes_rest = forms.BooleanField(
        label=gettext_lazy("Take what the project has left now; otherwise it stays, unspent, until it expires"),
        required=False,
    )
    reason = forms.CharField(
        label=gettext_lazy("Reason for the decision"),
        max_length=500,
        widget=forms.Textarea(attrs={"rows": 3, "maxlength": 500}),
    )

    def __init__(self, data: Any = None, *, request: AllocationRequest, lines: list[RequestLine]) -> None:
        initial: dict[str, Any] = {}
        if request.asks_for_hours and request.start_at is not None and request.end_at is not None:
            initial["start_on"] = timezone.localtime(request.start_at).date()
            initial["end_on"] = timezone.localtime(request.end_at - timedelta(microseconds=1)).date()
        super().__init__(data, initial=initial, auto_id="decide_%s")
        self.lines = lines if request.asks_for_hours else []
        if not request.asks_for_hours:
            del self.fields["start_on"], self.fields["end_on"]
        if request.kind != RequestKind.END_OF_PROJECT:
            del self.fields["takes_rest"]
        for line in self.lines:
            self.fields[f"hours_{line.resource_class.code}"] = HoursField(
                label=str(line.resource_class), initial=write_hours(line.amount_s), may_be_zero=True
            )

    @property
    def hours_fields(self) -> list[Any]:
        return [self[f"hours_{line.resource_class.code}"] for line in self.lines]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if self.lines:
            cleaned["start_at"], cleaned["end_at"] = _clean_period(self)
        return cleaned

    def to_decision(self) -> Decision:
        """What the valid form decides."""
        values = self.cleaned_data
        return Decision(
            reason=values["reason"],
            amounts=self._amounts(),
            start_at=values.get("start_at"),
            end_at=values.get("end_at"),
            takes_rest=values.get("takes_rest", False),
        )


class WordsForm(_ServiceForm):
    """A question, an answer, or why something is withdrawn."""

    words = forms.CharField(
        label=gettext_lazy("Words"), max_length=4000, widget=forms.Textarea(attrs={"rows": 3, "maxlength": 4000})
    )


class ReasonForm(_ServiceForm):
    """Why a request is rejected."""

    reason = forms.CharField(
        label=gettext_lazy("Reason for the decision"),
        max_length=500,
        widget=forms.Textarea(attrs={"rows": 3, "maxlength": 500}),
    )


class RequestFilterForm(forms.Form):
    """What of the visible requests is listed. A value that makes no sense is ignored."""

    scope = forms.ChoiceField(label=gettext_lazy("Whose"), required=False)
    state = forms.ChoiceField(
        label=gettext_lazy("State"),
        required=False,
        choices=[("", gettext_lazy("Any state")), ("open", gettext_lazy("Still open")), *RequestState.choices],
    )
    kind = forms.ChoiceField(
        label=gettext_lazy("Kind"),
        required=False,
        choices=[("", gettext_lazy("Any kind")), *RequestKind.choices],
    )
    q = forms.CharField(
        label=gettext_lazy("Project"),
        required=False,
        max_length=100,
        widget=forms.TextInput(attrs={"type": "search", "autocomplete": "off"}),
    )

    def __init__(self, data: Any, *, may_review: bool) -> None:
        # A reviewer comes to decide.
        self.default_scope = "to-decide" if may_review else ""
        super().__init__({"scope": self.default_scope, **data.dict()}, auto_id="filter_%s")
        choices = [("", _("All requests that I may see")), ("mine", _("My requests"))]
        if may_review:
            choices.insert(0, ("to-decide", _("To decide")))
        field = self.fields["scope"]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101 (for the type checker)
        field.choices = choices

    def value(self, name: str) -> str:
        if not hasattr(self, "cleaned_data"):
            self.full_clean()
        return str(self.cleaned_data.get(name, ""))

    @property
    def is_narrowed(self) -> bool:
        return any(self.value(name) for name in ("state", "kind", "q")) or self.value("scope") != self.default_scope


class VerifyForm(_ServiceForm):
    """Who is a researcher of which institution."""

    person = forms.CharField(
        label=gettext_lazy("User name or e-mail address"),
        max_length=254,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    institution = CodeChoiceField(Institution.objects.none(), label=gettext_lazy("Institution"))

    def __init__(self, data: Any = None, *, user: User) -> None:
        super().__init__(data)
        field = self.fields["institution"]
        assert isinstance(field, CodeChoiceField)  # noqa: S101 (for the type checker)
        field.queryset = access.managed_institutions(user).order_by("code")
