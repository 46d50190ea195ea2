"""Jobs that wait for approval, and the decision on them."""

import uuid
from typing import cast

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from accounts import access
from accounts.acting import act_of
from accounts.models import User
from jobs.models import Job
from jobs.services.approval import AlreadyDecided, ApprovalForbidden, ReasonMissing, approve_job, decidable, refuse_job
from jobs.tasks import nudge_after_commit


@login_required
@require_safe
def approval_list(request: HttpRequest) -> HttpResponse:
    """Those on which the person may decide, oldest first."""
    jobs = decidable(cast(User, request.user)).with_names().without_contents()
    return render(request, "jobs/approvals.html", {"page_obj": Paginator(jobs, 50).get_page(request.GET.get("page"))})


@login_required
@require_POST
def job_decide(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """Approve or refuse one."""
    user = cast(User, request.user)
    reason = request.POST.get("reason", "")
    is_visible = access.may_review(user) or Job.objects.visible_to(user).filter(pk=job_id).exists()
    try:
        if not is_visible:
            raise Http404
        if request.POST.get("decision") == "refuse":
            refuse_job(job_id=job_id, act=act_of(request), reason=reason)
            messages.success(request, _("The job is refused; its owner is told why."))
        else:
            approve_job(job_id=job_id, act=act_of(request), reason=reason)
            nudge_after_commit()
            messages.success(request, _("The job is approved; it goes on by itself."))
    except (Job.DoesNotExist, ApprovalForbidden) as error:
        raise Http404 from error
    except AlreadyDecided:
        messages.info(request, _("This job doesn't wait for approval any more."))
    except ReasonMissing:
        messages.error(request, _("Say why the job is refused: its owner reads it."))
    return redirect("job-approvals")
