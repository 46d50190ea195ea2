"""Back-office of people, resources and allocations. Amounts change through the ledger's services alone."""

import uuid
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin, TabularInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from accounts.models import (
    Allocation,
    AssociationChange,
    Cluster,
    Institution,
    LedgerEntry,
    Membership,
    Notification,
    Partition,
    Policy,
    Project,
    ResourceClass,
    User,
)
from accounts.services import ledger
from accounts.services.notification_wording_alarms import WORDS

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
class UserAdmin(DjangoUserAdmin[User], ModelAdmin):
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "unix_username", "is_active", "is_staff", "last_login")
    list_filter = ("is_active", "is_staff")
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        (_("Person"), {"fields": ("first_name", "last_name", "email", "time_zone")}),
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


@admin.register(Institution)
class InstitutionAdmin(ModelAdmin):
    list_display = ("code", "name", "name_zh")
    search_fields = ("code", "name", "name_zh")


class MembershipInline(TabularInline):
    model = Membership
    extra = 0
    autocomplete_fields = ("user",)


@admin.register(Project)
class ProjectAdmin(ModelAdmin):
    list_display = ("code", "title", "institution", "state", "created_at")
    list_filter = ("state", "institution")
    list_select_related = ("institution",)
    search_fields = ("code", "title")
    inlines = (MembershipInline,)


@admin.register(ResourceClass)
class ResourceClassAdmin(ModelAdmin):
    list_display = ("code", "title", "title_zh", "billing_weight")
    search_fields = ("code", "title")


@admin.register(Cluster)
class ClusterAdmin(ModelAdmin):
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
        return _say(notice, 0)

    @admin.display(description=_("text"))
    def text(self, notice: Notification) -> str:
        return _say(notice, 1)


def _say(notice: Notification, part: int) -> str:
    words = WORDS.get(notice.kind)
    return gettext(words[part]) % notice.figures if words else notice.kind


@admin.register(Partition)
class PartitionAdmin(ModelAdmin):
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
class PolicyAdmin(ModelAdmin):
    list_display = (
        "__str__",
        "max_queued_jobs",
        "max_running_jobs",
        "max_accelerators_in_use",
        "max_accelerators_per_job",
        "max_time_limit_minutes",
    )
    list_select_related = ("user", "project", "partition")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)

        class OneScope(form):  # type: ignore[misc,valid-type] # made by the admin when it runs
            def clean(self) -> Any:
                cleaned = super().clean()
                if sum(cleaned.get(scope) is not None for scope in ("user", "project", "partition")) > 1:
                    raise ValidationError(_("Choose one of user, project and partition, or none for the whole centre."))
                return cleaned

        return OneScope


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
        return cleaned


@admin.register(Allocation)
class AllocationAdmin(ModelAdmin):
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

    def save_model(self, request: HttpRequest, obj: Allocation, form: Any, change: bool) -> None:
        amount_s = int(form.cleaned_data["hours"] * HOUR_S)
        common: dict[str, Any] = {
            "at": timezone.now(),
            "actor": request.user,
            "reason": form.cleaned_data["reason"],
        }
        if change:
            ledger.adjust(allocation_id=obj.pk, delta_s=amount_s, reference=str(uuid.uuid4()), **common)
            return
        made = ledger.grant(
            project_id=obj.project_id,
            resource_class_id=obj.resource_class_id,
            amount_s=amount_s,
            start_at=obj.start_at,
            end_at=obj.end_at,
            **common,
        )
        obj.pk, obj.uuid = made.pk, made.uuid

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
