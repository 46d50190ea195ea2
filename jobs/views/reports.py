"""Reports of use: the page, its exports, and a project's forecast."""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, cast

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext, pgettext
from django.views.decorators.http import require_safe

from accounts import access
from accounts.models import User
from accounts.models.identity import choose_by_language
from accounts.services.forecasts import Forecast, forecast_allocations
from jobs.forms.reports import GROUP_LABELS, ReportForm
from jobs.presentation import STATE_LABELS
from jobs.services.report_exports import cells_of, write_csv, write_xlsx
from jobs.services.usage_reports import TIME_GROUPS, ReportRow, UsageReport, report_usage
from jobs.states import JobState

ROWS_PER_PAGE: Final = 50
_ROWS_IN_CHART: Final = 15
_TIMES_IN_CHART: Final = 62
_XLSX: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

_ORDERS: Final[Mapping[str, Callable[[ReportRow], Any]]] = {
    "name": lambda row: row.name.casefold(),
    "jobs": lambda row: -row.figures.jobs,
    "used": lambda row: -row.figures.used_s,
    "charged": lambda row: -row.figures.charged_s,
    "reserved": lambda row: -row.figures.reserved_s,
    "wasted": lambda row: -row.figures.wasted_s,
    "wait": lambda row: -(row.figures.mean_wait_s or 0),
    "accuracy": lambda row: -(row.figures.time_error or 0),
}


@login_required
@require_safe
def usage_report(request: HttpRequest) -> HttpResponse:
    """The page: figures, chart and table of the period."""
    user = cast(User, request.user)
    form = ReportForm(request.GET, user=user, today=timezone.localdate(), state_labels=STATE_LABELS)
    context: dict[str, Any] = {"form": form, "periods": _periods(), "sees_all": access.sees_all(user)}
    if not form.is_valid():
        return render(request, "jobs/usage_report.html", context, status=422)
    query = form.to_query()
    report = report_usage(user, query)
    sort = request.GET.get("sort", "")
    rows = _sorted(report.rows, sort if sort in _ORDERS else "")
    page = Paginator(rows, ROWS_PER_PAGE).get_page(request.GET.get("page"))
    context |= {
        "report": report,
        "page_obj": page,
        "rows": [(row, label_of(query.group_by, row)) for row in page.object_list],
        "group_label": GROUP_LABELS[query.group_by],
        "sort": sort,
        "chart": _chart(report),
        "wasted_share": report.total.wasted_s / max(report.total.charged_s + report.total.idle_s, 1),
    }
    return render(request, "jobs/usage_report.html", context)


@login_required
@require_safe
def usage_report_export(request: HttpRequest) -> HttpResponseBase:
    """The report's rows as a file: `format` is csv or xlsx."""
    user = cast(User, request.user)
    form = ReportForm(request.GET, user=user, today=timezone.localdate(), state_labels=STATE_LABELS)
    kind = request.GET.get("format", "csv")
    if not form.is_valid() or kind not in ("csv", "xlsx"):
        context = {"form": form, "periods": _periods(), "unknown_format": kind if kind not in ("csv", "xlsx") else ""}
        return render(request, "jobs/usage_report.html", context, status=422)
    query = form.to_query()
    report = report_usage(user, query)
    header = _headings(str(GROUP_LABELS[query.group_by]))
    rows = (_with_label(query.group_by, row) for row in report.rows)
    name = f"usage-{query.group_by}-{query.first_day}-{query.last_day}.{kind}"
    disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
    if kind == "xlsx":
        return HttpResponse(write_xlsx(_("Use"), header, rows), content_type=_XLSX, headers=disposition)
    # Read before the first byte is sent: a generator would look up words in whatever language is on by then.
    lines = write_csv(header, list(rows), with_mark=True)
    return StreamingHttpResponse(lines, content_type="text/csv; charset=utf-8", headers=disposition)


@login_required
@require_safe
def project_forecast(request: HttpRequest, code: str) -> HttpResponse:
    """When the project's current allocations run out: a part of its page."""
    project = get_object_or_404(access.visible_projects(request.user), code=code)
    now = timezone.now()
    allocations = access.visible_allocations(request.user).filter(project=project, start_at__lte=now, end_at__gt=now)
    forecasts = forecast_allocations(allocations.select_related("resource_class").order_by("end_at", "pk"), at=now)
    rows = [(one, json.dumps(_forecast_chart(one), ensure_ascii=False)) for one in forecasts]
    return render(request, "jobs/_project_forecast.html", {"project": project, "rows": rows})


def label_of(group_by: str, row: ReportRow) -> str:
    """A group's name for the reader."""
    if group_by == "end_state":
        return str(STATE_LABELS[JobState(row.key)]) if row.key else _("not yet at its end")
    if group_by == "model_family" and not row.key:
        return _("no model given")
    if group_by == "field" and not row.key:
        return _("not said")
    if group_by == "month":
        return row.key[:7]
    return choose_by_language(row.name, row.name_zh)


def _sorted(rows: list[ReportRow], sort: str) -> list[ReportRow]:
    return sorted(rows, key=_ORDERS[sort]) if sort else rows


def _with_label(group_by: str, row: ReportRow) -> list[Any]:
    key, _name, *figures = cells_of(row)
    return [key, label_of(group_by, row), *figures]


def _headings(group: str) -> list[str]:
    return [
        _("Key"),
        group,
        _("Jobs"),
        _("Used (accelerator-hours, not weighted)"),
        _("Charged (accelerator-hours)"),
        _("Reserved (accelerator-hours)"),
        _("Charged to failed jobs (accelerator-hours)"),
        _("Reserved and not used (accelerator-hours)"),
        _("Wasted (accelerator-hours)"),
        _("Used beyond every allocation (accelerator-hours)"),
        _("Mean wait (s)"),
        _("Error of estimated time"),
        _("Bias of estimated time"),
        _("Jobs with compared time"),
        _("Error of estimated memory"),
        _("Bias of estimated memory"),
        _("Jobs with compared memory"),
    ]


def _periods() -> list[tuple[str, str, str]]:
    """Label, first and last day of periods that are often wanted, as the reader's calendar has them."""
    today = timezone.localdate()
    month = today.replace(day=1)
    last_month_end = month - timedelta(days=1)
    periods = [
        (ngettext("%(count)s day", "%(count)s days", days) % {"count": days}, today - timedelta(days=days - 1), today)
        for days in (7, 30, 90, 365)
    ]
    periods.append((_("This month"), month, today))
    periods.append((_("Last month"), last_month_end.replace(day=1), last_month_end))
    periods.append((_("This year"), today.replace(month=1, day=1), today))
    return [(label, first.isoformat(), last.isoformat()) for label, first, last in periods]


def _chart(report: UsageReport) -> dict[str, Any]:
    group_by = report.query.group_by
    is_time = group_by in TIME_GROUPS
    shown = report.rows[-_TIMES_IN_CHART:] if is_time else report.rows[:_ROWS_IN_CHART]
    return {
        "unit": pgettext("accelerator-hours", "h"),
        "categories": [label_of(group_by, row) for row in shown],
        "series": [
            {
                "name": _("Used by other jobs"),
                "values": _hours(r.figures.charged_s - r.figures.failed_s for r in shown),
            },
            {"name": _("Used by jobs that failed"), "values": _hours(row.figures.failed_s for row in shown)},
            {"name": _("Reserved and not used"), "values": _hours(row.figures.idle_s for row in shown)},
        ],
    }


def _hours(amounts_s: Iterable[int]) -> list[float]:
    return [round(amount_s / 3600, 2) for amount_s in amounts_s]


def _forecast_chart(forecast: Forecast) -> dict[str, Any] | None:
    """What is left, day by day: so far, and as it may go on."""
    if not forecast.is_known:
        return None
    series = [{"name": _("Left so far"), "points": [list(point) for point in forecast.history_h]}]
    for name, points in (
        (_("Fast use (P90)"), forecast.fast_h),
        (_("Typical use"), forecast.typical_h),
        (_("Slow use (P10)"), forecast.slow_h),
    ):
        series.append({"name": name, "points": [list(point) for point in points], "style": "dashed"})
    return {
        "x_label": _("days from today"),
        "y_label": _("left (accelerator-hours)"),
        "decimals": 1,
        "series": series,
    }
