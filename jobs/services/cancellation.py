"""Ending jobs on request."""

from datetime import datetime

from django.db import transaction

from accounts import access
from accounts.models import ActSource, User
from accounts.services import audit
from accounts.services.acts import Act
from jobs.models import EventKind, Job
from jobs.services.lifecycle import record_event, transition
from jobs.services.settlement import settle_job
from jobs.states import TERMINAL, WAITING, JobState


class CancelForbidden(Exception):
    """The person may see the job, but not end it."""


@transaction.atomic
def cancel_job(
    *, job: Job, user: User, at: datetime, source: ActSource = ActSource.PAGE, ip_address: str | None = None
) -> bool:
    """End a job that waits at once; ask for the end of one that the scheduler may have. Repeating is harmless.

    A LOST job is written off by staff: what was lost of it is not charged, and its hold is given back.

    Returns False if the job had already ended.

    Raises:
        CancelForbidden: for anyone but the owner, those who lead the project, and staff.
    """
    if not access.may_cancel_job(user, owner_id=job.user_id, project_id=job.project_id):
        raise CancelForbidden(str(job.pk))
    current = Job.objects.select_for_update(of=("self",)).with_names().get(pk=job.pk)
    if current.state in TERMINAL:
        return False
    is_new = current.cancel_requested_at is None
    if is_new:
        Job.objects.filter(pk=current.pk).update(cancel_requested_at=at, cancel_requested_by=user)
        record_event(current, EventKind.CANCEL_REQUESTED, at=at, actor=user)
    act = Act(actor=user, at=at, source=source, ip_address=ip_address)
    if current.state == JobState.LOST and user.is_staff:
        _write_down(act, "job.write_off", current)
        # Nobody will ever account for it: only an administrator may write it off and give the hold back.
        current.segments.filter(accounted_at__isnull=True).update(accounted_at=at)
        transition(current, JobState.CANCELLED, at=at, reason="written_off", actor=user)
        settle_job(current, at=at)
        return True
    if is_new and user.pk != current.user_id:
        _write_down(act, "job.cancel", current)
    if current.state in WAITING:
        transition(current, JobState.CANCELLED, at=at, reason="cancelled", actor=user)
    return True


def _write_down(act: Act, action: str, job: Job) -> None:
    """Ending what is somebody else's is an act of office; ending one's own job is not."""
    audit.record(
        act,
        action,
        target_kind="job",
        target=str(job.pk),
        before={"state": job.state, "owner": job.user.username, "name": job.name},
        project=job.project,
    )
