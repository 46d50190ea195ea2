"""Pages of requests: the list, the form, one request with its steps, and what may be done with it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, cast
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import F, Prefetch, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import access
from accounts.acting import act_of
from accounts.forms import DecisionForm, ReasonForm, RequestFilterForm, RequestForm, WordsForm, write_hours
from accounts.models import (
    HOURS_KINDS,
    OPEN_STATES,
    Allocation,
    AllocationRequest,
    RequestKind,
    RequestLine,
    RequestState,
    User,
)
from accounts.services import estimate_snapshots, requests
from accounts.services.request_history import look_back
from accounts.services.request_rules import (
    GrantRefused,
    InvalidAllocationRequest,
    RequestClosed,
    RequestError,
    RequestForbidden,
)

PAGE_SIZE: Final = 50
_YEAR: Final = timedelta(days=364)

_SLUGS: Final = {kind.value.lower().replace("_", "-"): kind for kind in RequestKind}
_ORDERS: Final[dict[str, tuple[Any, ...]]] = {
    "newest": ("-submitted_at", "-pk"),
    "oldest": ("submitted_at", "pk"),
    "project": ("project_code", "-submitted_at"),
    "state": (F("decided_at").desc(nulls_first=True), "-submitted_at"),
}


@login_required
@require_safe
def request_list(request: HttpRequest) -> HttpResponse:
    """Requests that the person may see: for reviewers those to decide first."""
    user = cast(User, request.user)
    may_review = access.may_review(user)
    form = RequestFilterForm(request.GET, may_review=may_review)
    found = _narrow(access.visible_requests(user), form, user)
    sort = request.GET.get("sort", "newest")
    sort = sort if sort in _ORDERS else "newest"
    lines = Prefetch("lines", RequestLine.objects.select_related("resource_class").order_by("pk"))
    rows = found.with_names().prefetch_related(lines).order_by(*_ORDERS[sort])  # type: ignore[attr-defined]
    context = {
        "form": form,
        "page_obj": Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page")),
        "sort": sort,
        "may_review": may_review,
        "may_verify": access.may_verify(user),
    }
    return render(request, "accounts/request_list.html", context)


@login_required
@require_safe
def choose_kind(request: HttpRequest) -> HttpResponse:
    """The kinds of requests, each with what it is for. What is prefilled is passed on."""
    leads = access.requestable_projects(request.user).exists()
    kinds = [
        (slug, kind.label, _MEANINGS[kind](), kind == RequestKind.NEW_PROJECT or leads) for slug, kind in _SLUGS.items()
    ]
    return render(request, "accounts/request_choose.html", {"kinds": kinds, "query": request.GET.urlencode()})


@login_required
@require_http_methods(["GET", "POST"])
def new_request(request: HttpRequest, kind: str) -> HttpResponse:
    """Show the form of one kind, or take what was filled in."""
    user = cast(User, request.user)
    chosen = _SLUGS.get(kind)
    if chosen is None:
        raise Http404
    if request.method == "POST":
        form = RequestForm(request.POST, kind=chosen, user=user, initial={})
        if form.is_valid():
            try:
                made = requests.submit(act_of(request), form.to_draft())
            except InvalidAllocationRequest as error:
                form.add_problems(error.problems)
            except RequestError as error:
                form.add_error(None, str(error))
            else:
                messages.success(request, _("Your request is sent. You are told here and by mail when it is decided."))
                return redirect(made)
    else:
        form = RequestForm(kind=chosen, user=user, initial=_initial(request, chosen, user))
    is_without = chosen != RequestKind.NEW_PROJECT and not access.requestable_projects(user).exists()
    context = {"form": form, "kind": chosen, "meaning": _MEANINGS[chosen](), "has_no_project": is_without}
    return render(request, "accounts/request_new.html", context)


@login_required
@require_safe
def request_page(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """One request with its steps; for those who decide with the project's history and the form of a decision."""
    return _render_page(request, _get(request, uuid))


@login_required
@require_POST
def approve(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Grant it. The end of a project can't be undone: it is asked for twice."""
    found = _get(request, uuid)
    form = DecisionForm(request.POST, request=found, lines=_lines(found))
    if form.is_valid() and found.kind == RequestKind.END_OF_PROJECT and not _is_confirmed(request):
        return _ask_again(request, found, "approve", form)
    return _take(request, found, form, lambda: requests.approve(act_of(request), uuid, form.to_decision()), "decision")


@login_required
@require_POST
def reject(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Refuse it, asked for twice: it can't be taken back."""
    found = _get(request, uuid)
    form = ReasonForm(request.POST, auto_id="reject_%s")
    if form.is_valid() and not _is_confirmed(request):
        return _ask_again(request, found, "reject", form)
    step = lambda: requests.reject(act_of(request), uuid, form.cleaned_data["reason"])  # noqa: E731
    return _take(request, found, form, step, "rejection")


@login_required
@require_POST
def ask_back(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Ask the requester something."""
    form = WordsForm(request.POST, auto_id="ask_%s")
    step = lambda: requests.ask_back(act_of(request), uuid, form.cleaned_data["words"])  # noqa: E731
    return _take(request, _get(request, uuid), form, step, "question")


@login_required
@require_POST
def answer(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Answer what was asked back."""
    form = WordsForm(request.POST, auto_id="answer_%s")
    step = lambda: requests.answer(act_of(request), uuid, form.cleaned_data["words"])  # noqa: E731
    return _take(request, _get(request, uuid), form, step, "answer")


@login_required
@require_POST
def withdraw(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Take one's request back."""
    return _take(request, _get(request, uuid), None, lambda: requests.withdraw(act_of(request), uuid))


def _take(
    request: HttpRequest, found: AllocationRequest, form: Any, step: Callable[[], AllocationRequest], name: str = ""
) -> HttpResponse:
    """Do a step and show the request; with the form once more if something is wrong with it."""
    if form is None or form.is_valid():
        try:
            step()
        except (RequestForbidden, RequestClosed) as error:
            messages.warning(request, str(error))
            return redirect(found)
        except InvalidAllocationRequest as error:
            form.add_problems(error.problems)
        except GrantRefused as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, _("Done. Those concerned are told."))
            return redirect(found)
    return _render_page(request, found, **{name: form}, status=422)


def _render_page(request: HttpRequest, found: AllocationRequest, *, status: int = 200, **forms: Any) -> HttpResponse:
    user = cast(User, request.user)
    now = timezone.now()
    lines = _lines(found)
    may_decide = found.is_open and access.may_decide(user, found)
    may_answer = found.is_open and access.may_answer(user, found)
    context: dict[str, Any] = {
        "found": found,
        "lines": lines,
        "last_day": found.end_at - timedelta(microseconds=1) if found.end_at else None,
        "granted_last_day": found.granted_end_at - timedelta(microseconds=1) if found.granted_end_at else None,
        "events": found.events.select_related("actor").order_by("pk"),
        "may_decide": may_decide,
        "may_answer": may_answer,
        "is_asked_back": found.state == RequestState.ASKED_BACK,
        "history": look_back(found.project, now=now) if found.project is not None else None,
        "is_own": access.is_party_to(user, found) and access.may_review(user) and found.is_open,
    }
    if may_decide:
        context["decision"] = forms.get("decision") or DecisionForm(request=found, lines=lines)
        context["rejection"] = forms.get("rejection") or ReasonForm(auto_id="reject_%s")
        context["question"] = forms.get("question") or WordsForm(auto_id="ask_%s")
    if may_answer:
        context["answer"] = forms.get("answer") or WordsForm(auto_id="answer_%s")
    return render(request, "accounts/request.html", context, status=status)


def _ask_again(request: HttpRequest, found: AllocationRequest, step: str, form: Any) -> HttpResponse:
    context = {
        "found": found,
        "step": step,
        "values": [(name, form.data[name]) for name in form.fields if form.data.get(name)],
        "form": form,
    }
    return render(request, "accounts/request_confirm.html", context)


def _is_confirmed(request: HttpRequest) -> bool:
    return request.POST.get("confirmed") == "yes"


def _get(request: HttpRequest, uuid: UUID) -> AllocationRequest:
    visible = access.visible_requests(request.user)
    found: AllocationRequest = get_object_or_404(visible.with_names(), uuid=uuid)  # type: ignore[attr-defined]
    return found


def _lines(found: AllocationRequest) -> list[RequestLine]:
    return list(found.lines.select_related("resource_class").order_by("pk"))


def _narrow(found: QuerySet[AllocationRequest], form: RequestFilterForm, user: User) -> QuerySet[AllocationRequest]:
    scope = form.value("scope")
    if scope == "mine":
        found = found.filter(requester=user)
    elif scope == "to-decide":
        found = found.filter(state=RequestState.SUBMITTED).exclude(requester=user)
    if state := form.value("state"):
        found = found.filter(state__in=OPEN_STATES if state == "open" else [state])
    if kind := form.value("kind"):
        found = found.filter(kind=kind)
    if text := form.value("q"):
        found = found.filter(Q(project_code__icontains=text) | Q(project_title__icontains=text))
    return found


def _initial(request: HttpRequest, kind: RequestKind, user: User) -> dict[str, Any]:
    """What the form starts with. What the address says is checked as if it were typed: what makes no sense is left."""
    initial: dict[str, Any] = {}
    code = request.GET.get("project", "").replace("\x00", "")
    project = access.requestable_projects(user).filter(code=code).first()
    if project is not None:
        initial["project"] = project.code
    if kind not in HOURS_KINDS:
        return initial
    start = timezone.localdate()
    if kind == RequestKind.RENEWAL and project is not None:
        last = Allocation.objects.filter(project=project, granted_s__gt=0).order_by("-end_at").first()
        if last is not None:
            start = max(start, timezone.localtime(last.end_at - timedelta(microseconds=1)).date() + timedelta(days=1))
    initial |= {"start_on": start, "end_on": start + _YEAR}
    token = request.GET.get("estimate", "")
    snapshot = estimate_snapshots.read(token)
    if snapshot is not None:
        initial["estimate"] = token
        amount_s = snapshot.get("amount_s")
        if isinstance(amount_s, int) and amount_s > 0:
            initial[f"hours_{snapshot.get('resource_class')}"] = write_hours(amount_s)
    return initial


_MEANINGS: Final[dict[RequestKind, Callable[[], str]]] = {
    RequestKind.NEW_PROJECT: lambda: _("A project of your own, with its first hours. You become its PI."),
    RequestKind.RENEWAL: lambda: _("Hours for the time after the project's present allocation."),
    RequestKind.SUPPLEMENT: lambda: _("More hours for the time of the present allocation."),
    RequestKind.CHANGE_OF_PI: lambda: _("Another member leads the project; the present PI stays as a manager."),
    RequestKind.END_OF_PROJECT: lambda: _("The project is closed: no new jobs; jobs that wait or run go on."),
}
