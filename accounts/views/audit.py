"""The audit log: to look through, and as a file."""

from collections.abc import Iterator
from typing import Any, cast

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts import access
from accounts.forms.audit import AuditFilterForm
from accounts.querysets import AuditQuerySet
from accounts.services.audit_search import AuditFilter, Position, csv_lines, differences, read_page

PAGE_SIZE = 50


@login_required
@require_safe
def audit_page(request: HttpRequest) -> HttpResponse:
    """What was done, by whom, when and from where; addresses are for administrators and auditors."""
    events = _visible(request)
    form = AuditFilterForm(request.GET)
    is_valid = form.is_valid()
    page = read_page(
        (form.as_filter() if is_valid else AuditFilter()).apply(events),
        after=Position.parse(request.GET.get("after", "")),
        before=Position.parse(request.GET.get("before", "")),
        size=PAGE_SIZE,
        oldest_first=is_valid and form.cleaned_data["order"] == "oldest",
    )
    query = _query(request)
    context = {
        "form": form,
        "rows": [(event, differences(event.before, event.after)) for event in page.events] if is_valid else [],
        "previous_url": f"?{query}before={_quoted(page.previous)}" if page.previous else "",
        "next_url": f"?{query}after={_quoted(page.next)}" if page.next else "",
        "export_query": query.rstrip("&"),
        "is_narrowed": is_valid and form.is_narrowed,
        "is_valid": is_valid,
        "shows_addresses": access.sees_all(request.user),
    }
    return render(request, "accounts/audit.html", context)


@login_required
@require_safe
def audit_export(request: HttpRequest) -> StreamingHttpResponse:
    """All that the filters leave, as CSV."""
    events = _visible(request)
    form = AuditFilterForm(request.GET)
    if not form.is_valid():
        raise Http404
    lines = csv_lines(form.as_filter().apply(events), with_addresses=access.sees_all(request.user))
    name = f"audit-{timezone.now():%Y%m%d}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingHttpResponse(_encoded(lines), content_type="text/csv; charset=utf-8", headers=headers)


def _encoded(lines: Iterator[str]) -> Iterator[bytes]:
    for line in lines:
        yield line.encode("utf-8")


def _visible(request: HttpRequest) -> AuditQuerySet:
    events: Any = access.visible_audit(request.user)
    if events is None:
        raise Http404
    return cast(AuditQuerySet, events)


def _query(request: HttpRequest) -> str:
    """The filters of this request, to go before what else an address says."""
    parameters = request.GET.copy()
    for key in ("after", "before"):
        parameters.pop(key, None)
    text = parameters.urlencode()
    return f"{text}&" if text else ""


def _quoted(position: Position) -> str:
    return str(position).replace("+", "%2B")
