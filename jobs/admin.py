"""Back-office of jobs: to look at, and to end them. What they are is written by services alone."""

from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.admin import TabularInline

from accounts.acting import act_of
from accounts.admin import ReadOnlyAdmin
from accounts.models import ActSource
from accounts.services import audit
from accounts.services.acts import Act
from jobs.models import CalibrationVersion, Estimate, Job, JobEvent, JobSegment, Measurement, UsageRecord
from jobs.services.calibration import OtherEngine, activate_version, deactivate
from jobs.services.cancellation import cancel_job
from jobs.tasks import nudge_after_commit


class _LookOnly(TabularInline):
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class SegmentInline(_LookOnly):
    model = JobSegment
    fields = ("number", "cluster", "key", "native_id", "accepted_at", "started_at", "ended_at")


class EventInline(_LookOnly):
    model = JobEvent
    fields = ("at", "kind", "from_state", "to_state", "reason", "detail", "actor")


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    list_display = ("name", "user", "project", "partition", "state", "state_reason", "submitted_at", "settled_at")
    list_filter = ("state", "partition", "project")
    list_select_related = ("user", "project", "partition")
    search_fields = ("id__exact", "name", "user__username", "project__code")
    ordering = ("-submitted_at", "-id")
    show_full_result_count = False
    inlines = (SegmentInline, EventInline)
    actions = ("cancel_selected",)

    @admin.action(description=_("Cancel the selected jobs"))
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        act = act_of(request, ActSource.ADMIN)
        who: dict[str, Any] = {"user": act.actor, "at": act.at, "source": act.source, "ip_address": act.ip_address}
        ended = sum(cancel_job(job=job, **who) for job in queryset)
        nudge_after_commit(cancelled=True)
        messages.success(
            request,
            ngettext("%(count)d job is being cancelled.", "%(count)d jobs are being cancelled.", ended)
            % {"count": ended},
        )


@admin.register(Estimate)
class EstimateAdmin(ReadOnlyAdmin):
    list_display = (
        "job",
        "fits",
        "memory_bytes",
        "step_s",
        "duration_s",
        "engine_version",
        "calibration",
        "created_at",
    )
    list_select_related = ("job", "calibration")


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    list_display = ("segment", "devices", "elapsed_s", "charged_s", "shortfall_s", "max_rss_bytes", "ended_at")
    list_select_related = ("segment",)


@admin.register(Measurement)
class MeasurementAdmin(ReadOnlyAdmin):
    list_display = ("job", "step_s", "steps", "memory_bytes", "refusal", "measured_at")
    list_filter = ("refusal",)
    list_select_related = ("job",)
    ordering = ("-pk",)


@admin.register(CalibrationVersion)
class CalibrationVersionAdmin(ReadOnlyAdmin):
    list_display = (
        *("id", "is_active", "created_at", "created_by", "engine_version", "jobs_used"),
        *("activated_at", "activated_by", "note"),
    )
    list_filter = ("is_active", "engine_version")
    list_select_related = ("created_by", "activated_by")
    ordering = ("-pk",)
    actions = ("use_selected", "use_none")

    def get_queryset(self, request: HttpRequest) -> QuerySet[CalibrationVersion]:
        versions: QuerySet[CalibrationVersion] = super().get_queryset(request)
        return versions.defer("factors")

    @admin.action(description=_("Use this version"))
    def use_selected(self, request: HttpRequest, queryset: QuerySet[CalibrationVersion]) -> None:
        if len(chosen := list(queryset)) != 1:
            messages.error(request, _("Select one version: only one can be in use."))
            return
        act = act_of(request, ActSource.ADMIN)
        try:
            with transaction.atomic():
                version = activate_version(chosen[0].pk, at=act.at, by=act.actor)
                _record(act, "calibration.activate", version.pk)
        except OtherEngine as error:
            messages.error(
                request,
                _("Version %(version)s was learnt for engine %(engine)s; it can't correct this one.")
                % {"version": error.version.pk, "engine": error.version.engine_version},
            )
        else:
            messages.success(request, _("Calibration version %(version)s is in use.") % {"version": version.pk})

    @admin.action(description=_("Use none: estimates are the engine's own"))
    def use_none(self, request: HttpRequest, queryset: QuerySet[CalibrationVersion]) -> None:
        act = act_of(request, ActSource.ADMIN)
        with transaction.atomic():
            version = deactivate(by=act.actor)
            if version is not None:
                _record(act, "calibration.deactivate", version)
        if version is None:
            messages.info(request, _("No calibration was in use."))
        else:
            messages.success(request, _("Calibration version %(version)s is out of use.") % {"version": version})


def _record(act: Act, action: str, version: int) -> None:
    audit.record(act, action, target_kind="calibration", target=str(version))
