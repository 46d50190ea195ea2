"""A person's messages."""

from dataclasses import dataclass
from typing import Final, cast

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST, require_safe

from accounts.models import Notification, User
from accounts.services.notification_wording import Wording, describe

PAGE_SIZE: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A notification with its words."""

    notification: Notification
    words: Wording


@login_required
@require_safe
def notification_list(request: HttpRequest) -> HttpResponse:
    """One's own messages, newest first."""
    own = Notification.objects.filter(user=cast(User, request.user))
    is_unread_only = request.GET.get("show") == "unread"
    shown = own.filter(read_at__isnull=True) if is_unread_only else own
    page = Paginator(shown.order_by("-at", "-pk"), PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        "page_obj": page,
        "rows": [Message(notification=one, words=describe(one)) for one in page],
        "is_unread_only": is_unread_only,
    }
    return render(request, "accounts/notification_list.html", context)


@login_required
@require_POST
def read_one(request: HttpRequest, pk: int) -> HttpResponse:
    """Mark one as read, and go to what it is about."""
    found = get_object_or_404(Notification, user=cast(User, request.user), pk=pk)
    if found.read_at is None:
        found.read_at = timezone.now()
        found.save(update_fields=["read_at"])
    if "stay" not in request.POST and found.path and url_has_allowed_host_and_scheme(found.path, allowed_hosts=None):
        return redirect(found.path)
    return redirect("notification-list")


@login_required
@require_POST
def read_all(request: HttpRequest) -> HttpResponse:
    """Mark all as read."""
    Notification.objects.filter(user=cast(User, request.user), read_at__isnull=True).update(read_at=timezone.now())
    return redirect("notification-list")
