"""Whose limits to show, and the limits of a policy."""

from decimal import Decimal
from typing import Any

from django import forms
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _

from accounts import access
from accounts.models import JobKind, Partition, Policy, Project, User
from accounts.models.policies import NO_SCOPE

HOUR_S = 3600


class LimitsForm(forms.Form):
    """A person, a project of theirs, a partition and a kind of job. Only who sees all may choose the person."""

    person = forms.CharField(label=_("Person (user name)"), required=False, max_length=150)
    project = forms.ModelChoiceField(
        Project.objects.none(), label=_("Project"), to_field_name="code", required=False, empty_label=_("the first")
    )
    partition = forms.ModelChoiceField(
        Partition.objects.none(), label=_("Partition"), required=False, empty_label=_("the first")
    )
    kind = forms.ChoiceField(label=_("Kind of job"), choices=JobKind.choices, required=False)

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        if access.sees_all(user):
            projects: QuerySet[Project] = Project.objects.active()
        else:
            del self.fields["person"]
            projects = access.submittable_projects(user)
        self.projects = projects.select_related("institution").order_by("code")
        self.partitions = access.usable_partitions(user).order_by("cluster__code", "name")
        self.fields["project"].queryset = self.projects  # type: ignore[attr-defined] # a ModelChoiceField
        self.fields["partition"].queryset = self.partitions  # type: ignore[attr-defined]

    def clean_person(self) -> User:
        """The person of that user name; nothing typed: oneself."""
        name = self.cleaned_data["person"]
        if not name:
            return self.user
        person = User.objects.filter(username=name).first()
        if person is None:
            raise forms.ValidationError(_("There is no person “%(value)s”.") % {"value": name}, code="unknown")
        return person

    def chosen(self) -> dict[str, Any] | None:
        """What to explain, the first of all that was not chosen; None if there is nothing, or it makes no sense."""
        if self.is_bound and not self.is_valid():
            return None
        data = self.cleaned_data if self.is_bound else {}
        user = data.get("person") or self.user
        own = self.projects.filter(memberships__user=user).first() or self.projects.first()
        project = data.get("project") or own
        partition = data.get("partition") or self.partitions.first()
        if project is None or partition is None:
            return None
        kind = data.get("kind") or JobKind.TRAINING
        return {"user": user, "project": project, "partition": partition, "kind": kind}


class PolicyForm(forms.ModelForm):  # type: ignore[type-arg] # not subscriptable at run time
    """Limits at one scope. Approval is asked for in accelerator-hours."""

    approval_above_hours = forms.DecimalField(
        label=_("Approval needed above (accelerator-hours)"),
        required=False,
        min_value=Decimal(0),
        max_value=Decimal(10**9),
        max_digits=12,
        decimal_places=2,
    )
    reason = forms.CharField(label=_("Reason for the audit log"), required=False, max_length=500)

    class Meta:
        model = Policy
        fields = (
            "user",
            "project",
            "job_kind",
            "partition",
            "institution",
            "max_queued_jobs",
            "max_running_jobs",
            "max_accelerators_in_use",
            "max_accelerators_per_job",
            "max_time_limit_minutes",
            "max_jobs_per_day",
            "allowed_classes",
            "lead_may_approve",
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.approval_above_s is not None:
            self.initial["approval_above_hours"] = Decimal(self.instance.approval_above_s) / HOUR_S
        for name in ("user", "project"):  # thousands of people: a name is typed, not picked
            self.fields[name].widget = forms.TextInput()
            self.fields[name].to_field_name = "username" if name == "user" else "code"  # type: ignore[attr-defined]
            value = getattr(self.instance, name)
            self.initial[name] = "" if value is None else (value.username if name == "user" else value.code)

    def clean(self) -> dict[str, Any]:
        """At most one scope."""
        cleaned = super().clean() or {}
        scopes = [name for name in ("user", "project", "job_kind", "partition", "institution") if cleaned.get(name)]
        if len(scopes) > 1:
            message = _("Choose one of user, project, job kind, partition and institution; none: the whole centre.")
            self.add_error(scopes[1], message)
        if not cleaned.get("job_kind"):
            cleaned["job_kind"] = None
        above = cleaned.get("approval_above_hours")
        self.instance.approval_above_s = None if above is None else int(above * HOUR_S)
        wants_centre = not scopes and not self.errors
        if wants_centre and Policy.objects.filter(NO_SCOPE).exclude(pk=self.instance.pk).exists():
            self.add_error(None, _("The whole centre has its policy already: change that one."))
        return cleaned
