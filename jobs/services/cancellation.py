"""Ending jobs on request."""

from datetime import datetime

from django.db import transaction

from accounts import access
from accounts.models import User
from accounts.services import ledger
from jobs.models import EventKind, Job
from jobs.services.lifecycle import record_event, transition
from jobs.states import TERMINAL, WAITING, JobState


class CancelForbidden(Exception):
    """The person may see the job, but not end it."""


@transaction.atomic
def cancel_job(*, job: Job, user: User, at: datetime) -> bool:
    """End a job that waits at once; ask for the end of one that the scheduler may have. Repeating is harmless.

    A LOST job is written off by staff: it ends uncharged, and its hold is given back.

    Returns False if the job had already ended.

    Raises:
        CancelForbidden: for anyone but the owner, those who lead the project, and staff.
    """
    if not access.may_cancel_job(user, owner_id=job.user_id, project_id=job.project_id):
        raise CancelForbidden(str(job.pk))
    current = Job.objects.select_for_update(of=("self",)).with_names().get(pk=job.pk)
    if current.state in TERMINAL:
        return False
    if current.cancel_requested_at is None:
        Job.objects.filter(pk=current.pk).update(cancel_requested_at=at, cancel_requested_by=user)
        record_event(current, EventKind.CANCEL_REQUESTED, at=at, actor=user)
    if current.state == JobState.LOST and user.is_staff:
        # Nobody will ever account for it: only an administrator may write it off and give the hold back.
        ledger.release(reference=current.reference, at=at, actor=user, reason="written off")
        transition(current, JobState.CANCELLED, at=at, reason="written_off", actor=user, settled_at=at, charged_s=0)
    elif current.state in WAITING:
        transition(current, JobState.CANCELLED, at=at, reason="cancelled", actor=user)
    return True
