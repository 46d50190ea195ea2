"""Back-office of jobs: to look at, and to end them. What they are is written by services alone."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.admin import TabularInline

from accounts.admin import ReadOnlyAdmin
from jobs.models import Estimate, Job, JobEvent, JobSegment, UsageRecord
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
        now = timezone.now()
        ended = sum(cancel_job(job=job, user=request.user, at=now) for job in queryset)  # type: ignore[arg-type]
        nudge_after_commit(cancelled=True)
        messages.success(
            request,
            ngettext("%(count)d job is being cancelled.", "%(count)d jobs are being cancelled.", ended)
            % {"count": ended},
        )


@admin.register(Estimate)
class EstimateAdmin(ReadOnlyAdmin):
    list_display = ("job", "fits", "memory_bytes", "step_s", "duration_s", "engine_version", "created_at")
    list_select_related = ("job",)


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    list_display = ("segment", "devices", "elapsed_s", "charged_s", "shortfall_s", "max_rss_bytes", "ended_at")
    list_select_related = ("segment",)
