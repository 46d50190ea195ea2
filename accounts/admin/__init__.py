"""Back-office of people, resources and allocations. Amounts change through the ledger's services alone."""

import uuid
from datetime import datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import transaction
from django.forms import BaseInlineFormSet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin, TabularInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from accounts.acting import act_of
from accounts.admin.auditing import AuditedAdmin, record_change
from accounts.forms import HoursField, write_hours
from accounts.models import (
    ActSource,
    Allocation,
    Appointment,
    AssociationChange,
    AuditEvent,
    Cluster,
    Cohort,
    CohortShare,
    Institution,
    InstitutionDomain,
    LedgerEntry,
    Membership,
    Notification,
    Partition,
    Policy,
    Project,
    ResourceClass,
    StarterPolicy,
    User,
    Verification,
)
from accounts.services import cohorts, ledger, notification_wording

HOUR_S = 3600

admin.site.unregister(Group)  # rights come from memberships and is_staff


class ReadOnlyAdmin(ModelAdmin):
    """To look at only: facts that services write."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _is_superuser(request: HttpRequest) -> bool:
    return bool(getattr(request.user, "is_superuser", False))


def _may_touch(request: HttpRequest, user: User | None) -> bool:
    """A superuser's account is for superusers: whoever sets its password or address can become it."""
    return user is None or not user.is_superuser or _is_superuser(request)


@admin.register(User)
class UserAdmin(AuditedAdmin, DjangoUserAdmin[User]):
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "unix_username", "is_active", "is_staff", "last_login")
    list_filter = ("is_active", "is_staff")
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        (_("Person"), {"fields": ("first_name", "last_name", "email", "time_zone", "language")}),
        (_("Cluster"), {"fields": ("unix_username",)}),
        (_("Rights"), {"fields": ("is_active", "is_staff", "is_superuser")}),
    )
    filter_horizontal = ()

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        # Nobody gives rights, to oneself or to others, that go beyond one's own.
        return () if _is_superuser(request) else ("is_staff", "is_superuser")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _may_touch(request, obj) and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _may_touch(request, obj) and super().has_delete_permission(request, obj)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """That a password was set by somebody else is written down; what it is, is not."""
        with transaction.atomic():
            answer: HttpResponse = super().user_change_password(request, id, form_url)
            if request.method == "POST" and answer.status_code == HTTPStatus.FOUND:
                record_change(request, User.objects.get(pk=id), "set_password", before={}, after={})
        return answer


@admin.register(Institution)
class InstitutionAdmin(AuditedAdmin):
    list_display = ("code", "name", "name_zh")
    search_fields = ("code", "name", "name_zh")


class MembershipInline(TabularInline):
    model = Membership
    extra = 0
    autocomplete_fields = ("user",)


@admin.register(Project)
class ProjectAdmin(AuditedAdmin):
    list_display = ("code", "title", "institution", "state", "created_at")
    list_filter = ("state", "institution")
    list_select_related = ("institution",)
    search_fields = ("code", "title")
    inlines = (MembershipInline,)


@admin.register(ResourceClass)
class ResourceClassAdmin(AuditedAdmin):
    list_display = ("code", "title", "title_zh", "billing_weight")
    search_fields = ("code", "title")


@admin.register(Cluster)
class ClusterAdmin(AuditedAdmin):
    list_display = ("code", "title", "is_enabled", "unavailable_since_at", "last_polled_at", "last_error")
    readonly_fields = ("consecutive_failures", "unavailable_since_at", "retry_at", "last_error", "last_polled_at")


@admin.register(AssociationChange)
class AssociationChangeAdmin(ReadOnlyAdmin):
    list_display = ("at", "cluster", "kind", "target", "outcome", "actor", "origin", "words")
    list_filter = ("cluster", "outcome", "kind", "origin")
    list_select_related = ("cluster", "actor")
    search_fields = ("target", "call__exact")
    ordering = ("-pk",)
    show_full_result_count = False


@admin.register(Notification)
class NotificationAdmin(ReadOnlyAdmin):
    """What people were told, in the reader's language."""

    list_display = ("at", "subject", "user")
    fields = ("at", "user", "subject", "text", "path")
    list_filter = ("kind",)
    list_select_related = ("user",)
    ordering = ("-pk",)
    show_full_result_count = False

    @admin.display(description=_("subject"))
    def subject(self, notice: Notification) -> str:
        return notification_wording.describe(notice).subject

    @admin.display(description=_("text"))
    def text(self, notice: Notification) -> str:
        return notification_wording.describe(notice).text


@admin.register(Partition)
class PartitionAdmin(AuditedAdmin):
    list_display = (
        "name",
        "cluster",
        "accelerator",
        "nodes",
        "devices_per_node",
        "is_up",
        "devices_in_use",
        "synced_at",
    )
    list_filter = ("cluster", "is_up")
    list_select_related = ("cluster",)
    readonly_fields = ("is_up", "devices_in_use", "jobs_pending", "jobs_running", "synced_at")


@admin.register(Policy)
class PolicyAdmin(ReadOnlyAdmin):
    """To look at only: policies are set on their own pages, where each change leaves its line in the audit log."""

    list_display = (
        "__str__",
        "max_queued_jobs",
        "max_running_jobs",
        "max_accelerators_in_use",
        "max_accelerators_per_job",
        "max_time_limit_minutes",
        "max_jobs_per_day",
        "approval_above_s",
    )
    list_select_related = ("user", "project", "partition", "institution")


class AllocationForm(forms.ModelForm[Allocation]):
    """A new grant in hours; an existing one can only be raised or lowered, with a reason."""

    hours = forms.DecimalField(
        label=_("accelerator-hours"),
        decimal_places=2,
        max_digits=12,
        help_text=_("The grant; for an existing allocation: how much to add, or, below zero, to take away."),
    )
    reason = forms.CharField(label=_("reason"), max_length=500)

    class Meta:
        model = Allocation
        fields = ("project", "resource_class", "start_at", "end_at")

    def clean_hours(self) -> Decimal:
        hours: Decimal = self.cleaned_data["hours"]
        if hours == 0 or (hours < 0 and self.instance.pk is None):
            raise ValidationError(_("A grant is above zero."))
        if -hours * HOUR_S > self.instance.available_s:
            raise ValidationError(
                _("At most %(hours).2f hours can be taken away: the rest is used or held.")
                % {"hours": self.instance.available_s / HOUR_S}
            )
        return hours

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        start, end = cleaned.get("start_at"), cleaned.get("end_at")
        if start and end and end <= start:
            self.add_error("end_at", _("The period ends before it starts."))
        if not self.errors:
            self._try()
        return cleaned

    def _try(self) -> None:
        """Write and take back, so that what the ledger refuses is an error of the form."""
        try:
            with transaction.atomic():
                self.write(self.instance, at=timezone.now(), actor=None)
                transaction.set_rollback(True)
        except ledger.InstitutionShareExceeded as error:
            figures = {
                "limit": error.limit_s / HOUR_S,
                "granted": error.granted_s / HOUR_S,
                "asked": error.requested_s / HOUR_S,
            }
            words = _(
                "The institution's share of this period is %(limit).2f hours: %(granted).2f are granted, and "
                "%(asked).2f more would be too many."
            )
            raise ValidationError(words % figures) from error
        except ledger.LedgerError as error:
            raise ValidationError(str(error)) from error

    def write(self, allocation: Allocation, *, at: datetime, actor: User | None) -> Allocation:
        """Grant, or change what was granted, through the ledger.

        Raises:
            LedgerError: it refuses.
        """
        amount_s = int(self.cleaned_data["hours"] * HOUR_S)
        common: dict[str, Any] = {"at": at, "actor": actor, "reason": self.cleaned_data["reason"]}
        if allocation.pk is not None:
            ledger.adjust(allocation_id=allocation.pk, delta_s=amount_s, reference=str(uuid.uuid4()), **common)
            return allocation
        return ledger.grant(
            project_id=self.cleaned_data["project"].pk,
            resource_class_id=self.cleaned_data["resource_class"].pk,
            amount_s=amount_s,
            start_at=self.cleaned_data["start_at"],
            end_at=self.cleaned_data["end_at"],
            **common,
        )


@admin.register(Allocation)
class AllocationAdmin(AuditedAdmin):
    form = AllocationForm
    list_display = ("project", "resource_class", "start_at", "end_at", "granted", "reserved", "used", "available")
    list_filter = ("resource_class", "project__institution")
    list_select_related = ("project", "resource_class")
    search_fields = ("project__code",)
    autocomplete_fields = ("project",)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        balance = ("granted", "reserved", "used", "available")
        return ("project", "resource_class", "start_at", "end_at", *balance) if obj else ()

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        now = timezone.now()
        return {"start_at": now, "end_at": now + timedelta(days=365), **super().get_changeform_initial_data(request)}

    def store(self, request: HttpRequest, obj: Allocation, form: Any, change: bool) -> None:
        made = form.write(obj, at=timezone.now(), actor=request.user)
        obj.pk, obj.uuid = made.pk, made.uuid

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        try:
            answer: HttpResponse = super().changeform_view(request, object_id, form_url, extra_context)
        except ledger.LedgerError as error:  # somebody else was first since the form was checked
            self.message_user(request, str(error), messages.ERROR)
            return redirect(request.path)
        return answer

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description=_("granted (h)"))
    def granted(self, obj: Allocation) -> str:
        return f"{obj.granted_s / HOUR_S:,.2f}"

    @admin.display(description=_("reserved (h)"))
    def reserved(self, obj: Allocation) -> str:
        return f"{obj.reserved_s / HOUR_S:,.2f}"

    @admin.display(description=_("used (h)"))
    def used(self, obj: Allocation) -> str:
        return f"{obj.used_s / HOUR_S:,.2f}"

    @admin.display(description=_("available (h)"))
    def available(self, obj: Allocation) -> str:
        return f"{obj.available_s / HOUR_S:,.2f}"


@admin.register(LedgerEntry)
class LedgerEntryAdmin(ReadOnlyAdmin):
    list_display = (
        "id",
        "at",
        "allocation",
        "kind",
        "reference",
        "granted_delta_s",
        "reserved_delta_s",
        "used_delta_s",
        "actor",
        "reason",
    )
    list_filter = ("kind",)
    list_select_related = ("allocation__project", "allocation__resource_class", "actor")
    search_fields = ("reference", "allocation__project__code")
    ordering = ("-id",)
    show_full_result_count = False


@admin.register(InstitutionDomain)
class InstitutionDomainAdmin(AuditedAdmin):
    list_display = ("domain", "institution")
    list_select_related = ("institution",)
    search_fields = ("domain", "institution__code")


@admin.register(Verification)
class VerificationAdmin(ReadOnlyAdmin):
    list_display = ("user", "institution", "at", "verified_by")
    list_select_related = ("user", "institution", "verified_by")
    search_fields = ("user__username", "institution__code")
    ordering = ("-at",)


class StarterPolicyForm(forms.ModelForm[StarterPolicy]):
    """The amount in hours."""

    hours = HoursField(label=_("accelerator-hours"))

    class Meta:
        model = StarterPolicy
        fields = ("is_enabled", "resource_class", "validity_days", "institution")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is not None:
            self.fields["hours"].initial = write_hours(self.instance.amount_s)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        others = StarterPolicy.objects.filter(is_enabled=True).exclude(pk=self.instance.pk)
        if cleaned.get("is_enabled") and others.exists():
            self.add_error("is_enabled", _("Another policy is in force; take that out of force first."))
        if cleaned.get("hours") is not None:
            self.instance.amount_s = cleaned["hours"]
        return cleaned


@admin.register(StarterPolicy)
class StarterPolicyAdmin(AuditedAdmin):
    form = StarterPolicyForm
    list_display = ("__str__", "is_enabled", "resource_class", "validity_days", "institution")
    list_select_related = ("resource_class", "institution")


class ShareFormSet(BaseInlineFormSet):  # type: ignore[type-arg] # made by the admin when it runs
    """All shares of one partition: each of one holder, and together no more than there is."""

    def clean(self) -> None:
        super().clean()
        rows = [
            form.cleaned_data
            for form in self.forms
            if getattr(form, "cleaned_data", None) and not form.cleaned_data.get("DELETE")
        ]
        for row in rows:
            _check_row(row)
        if self.instance.partition_id is None:
            return  # the partition itself is what is wrong
        try:
            cohorts.check_shares(self.instance, (row.get("nominal") or 0 for row in rows))
        except cohorts.SharesDontFit as error:
            raise ValidationError(str(error)) from error


def _check_row(row: dict[str, Any]) -> None:
    if (row.get("project") is None) == (row.get("institution") is None):
        raise ValidationError(gettext("A share is of one project or of one institution."))
    lending, nominal = row.get("lending_limit"), row.get("nominal") or 0
    if lending is not None and lending > nominal:
        raise ValidationError(
            gettext("A lending limit of %(lending)s is more than the nominal share of %(nominal)s.")
            % {"lending": lending, "nominal": nominal}
        )


class CohortShareInline(TabularInline):
    model = CohortShare
    formset = ShareFormSet
    extra = 0
    autocomplete_fields = ("project", "institution")


@admin.register(Cohort)
class CohortAdmin(ModelAdmin):
    list_display = ("partition", "is_enabled", "preemptible_weight", "grace_s", "may_overrun")
    list_select_related = ("partition__cluster",)
    inlines = (CohortShareInline,)

    def save_model(self, request: HttpRequest, obj: Cohort, form: Any, change: bool) -> None:
        form.before = cohorts.describe(Cohort.objects.get(pk=obj.pk)) if change else {}
        super().save_model(request, obj, form, change)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        act = act_of(request, ActSource.ADMIN)
        cohorts.record_change(act, form.instance, before=form.before, verb="change" if change else "create")

    def delete_model(self, request: HttpRequest, obj: Cohort) -> None:
        before = cohorts.describe(obj)
        cohorts.record_change(act_of(request, ActSource.ADMIN), obj, before=before, verb="delete")
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        for cohort in queryset:
            self.delete_model(request, cohort)


@admin.register(Appointment)
class AppointmentAdmin(ReadOnlyAdmin):
    """To look at: offices are given on the portal's own page, which tells the person."""

    list_display = ("user", "office", "institution", "since_at")
    list_filter = ("office",)
    list_select_related = ("user", "institution")


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    """To look at; the portal's own page searches."""

    list_display = ("at", "actor", "source", "action", "target_kind", "target", "project", "reason")
    list_select_related = ("actor",)
    ordering = ("-at", "-pk")
    show_full_result_count = False
