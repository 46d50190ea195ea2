"""Reports of use, for programs."""

from typing import Any

from django.http import StreamingHttpResponse
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.base import ApiView
from accounts.api.errors import InvalidParam, InvalidParams
from accounts.api.fields import HoursField
from accounts.api.validation import StrictSerializer
from jobs.services.report_exports import COLUMNS, cells_of, write_csv
from jobs.services.usage_reports import (
    FILTERS,
    GROUPS,
    LONGEST_PERIOD_DAYS,
    ReportQuery,
    UsageFigures,
    default_period,
    report_usage,
)
from jobs.states import TERMINAL

_DAY = "A day of UTC, as 2026-06-01."


class UsageReportQuery(StrictSerializer):
    """Which use, and grouped by what."""

    group_by = serializers.ChoiceField(sorted(GROUPS), default="project")
    institution = serializers.CharField(required=False, max_length=32, help_text="Code of an institution.")
    project = serializers.CharField(required=False, max_length=32, help_text="Code of a project.")
    user = serializers.CharField(required=False, max_length=150, help_text="A user name.")
    partition = serializers.RegexField(r"\A[^/]+/[^/]+\Z", required=False, help_text="As cluster/partition.")
    field = serializers.CharField(required=False, max_length=100, help_text="Field of science.")
    model_family = serializers.CharField(required=False, max_length=32)
    end_state = serializers.ChoiceField(sorted(TERMINAL), required=False)
    format = serializers.ChoiceField(["json", "csv"], default="json")

    def get_fields(self) -> dict[str, Any]:
        """With `from`, which is a word of Python's own, and `to`."""
        days = {
            "from": serializers.DateField(required=False, input_formats=["%Y-%m-%d"], help_text=_DAY),
            "to": serializers.DateField(
                required=False, input_formats=["%Y-%m-%d"], help_text=f"{_DAY} Included. Without both: 30 days."
            ),
        }
        return {**super().get_fields(), **days}


class UsageFiguresSerializer(serializers.Serializer[UsageFigures]):
    """Sums of a group. Accelerator-seconds as billed, but `used_s`, which is not weighted."""

    jobs = serializers.IntegerField(help_text="Jobs that ended and are charged.")
    used_s = serializers.IntegerField()
    charged_s = serializers.IntegerField()
    reserved_s = serializers.IntegerField(help_text="Held for jobs that started.")
    failed_s = serializers.IntegerField(help_text="Charged to jobs that failed, timed out, or lost memory or a node.")
    idle_s = serializers.IntegerField(help_text="Held and not used.")
    wasted_s = serializers.IntegerField(help_text="The two before together.")
    shortfall_s = serializers.IntegerField(help_text="Used beyond what any allocation could cover.")
    charged_hours = HoursField(source="charged_s")
    wasted_hours = HoursField(source="wasted_s")
    mean_wait_s = serializers.FloatField(allow_null=True, help_text="From admission to the start.")
    time_error = serializers.FloatField(allow_null=True, help_text="0.2: a factor of 1.2 either way, typically.")
    time_bias = serializers.FloatField(allow_null=True, help_text="0.2: jobs ran a fifth longer than estimated.")
    time_jobs = serializers.IntegerField(help_text="Jobs behind the two before.")
    memory_error = serializers.FloatField(allow_null=True)
    memory_bias = serializers.FloatField(allow_null=True)
    memory_jobs = serializers.IntegerField()


class ReportRowSerializer(serializers.Serializer[Any]):
    """A group."""

    key = serializers.CharField(help_text="What the filter of the same name takes, or the first day. May be empty.")
    name = serializers.CharField()
    figures = UsageFiguresSerializer()


class UsageReportSerializer(serializers.Serializer[Any]):
    """All groups that have a use: times in their order, others by what was charged."""

    group_by = serializers.ChoiceField(sorted(GROUPS), source="query.group_by")
    first_day = serializers.DateField(source="query.first_day")
    last_day = serializers.DateField(source="query.last_day")
    total = UsageFiguresSerializer()
    results = ReportRowSerializer(many=True, source="rows")


class UsageReportView(ApiView):
    """Use."""

    query_serializers = {"GET": UsageReportQuery}

    @extend_schema(
        operation_id="report_usage",
        tags=["reports"],
        summary="Report use",
        parameters=[UsageReportQuery],
        responses={(200, "application/json"): UsageReportSerializer, (200, "text/csv"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> Any:
        """Used, reserved and wasted time, waiting, and how good estimates were: of what you may see, by day of UTC."""
        query = _read_period(self.query)
        report = report_usage(request.user, query)
        if self.query["format"] == "csv":
            lines = write_csv(COLUMNS, [cells_of(row) for row in report.rows], with_mark=False)
            return StreamingHttpResponse(lines, content_type="text/csv; charset=utf-8")
        return Response(UsageReportSerializer(report).data)


def _read_period(given: dict[str, Any]) -> ReportQuery:
    """Raises InvalidParams for a period that ends before it starts or is too long."""
    first, last = default_period(timezone.now().date())
    last = given.get("to", last)
    first = given.get("from", default_period(last)[0])
    reason = allowed = ""
    if last < first:
        reason, allowed = _("The last day is before the first."), _("a day from %(day)s on") % {"day": first}
    elif (last - first).days >= LONGEST_PERIOD_DAYS:
        allowed = _("a period of at most %(days)s days") % {"days": LONGEST_PERIOD_DAYS}
        reason = _("A period may have %(days)s days at most.") % {"days": LONGEST_PERIOD_DAYS}
    if reason:
        name = "to" if "to" in given or (last < first and "from" not in given) else "from"
        value = str(given.get(name, ""))
        raise InvalidParams([InvalidParam(name=name, code="invalid", reason=reason, value=value, allowed=allowed)])
    filters = {name: given.get(name, "") for name in (*FILTERS, "partition")}
    return ReportQuery(group_by=given["group_by"], first_day=first, last_day=last, **filters)
