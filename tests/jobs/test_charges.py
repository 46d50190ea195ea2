"""Refunds by policy, members' caps, and the explanation of a charge."""

from io import StringIO

from django.core.management import call_command

from accounts.models import AuditEvent, MemberCap, Membership
from jobs.states import JobState
from tests.factories import HOUR_S
from tests.jobs.conftest import Centre, native_id


def test_a_node_failure_is_refunded_where_the_resource_class_says_so_and_explained(centre: Centre) -> None:
    centre.partition.resource_class.refunds_node_failures = True
    centre.partition.resource_class.save()
    job = centre.submit()
    centre.tick()
    centre.backend.set_outcome(native_id(job), elapsed_s=60, state=JobState.NODE_FAIL)
    for _ in range(2):
        centre.tick(61)
    assert centre.balance() == (0, 0)
    line = AuditEvent.objects.get(action="job.refund")
    assert (line.actor, line.after) == (None, {"refunded_s": 480})
    out = StringIO()
    call_command("explain_charge", str(job.pk), stdout=out)
    assert "8 devices × 60 s" in out.getvalue()
    assert "REFUND   held +0 used -480" in out.getvalue()
    assert "used 480, paid 0, held now 0" in out.getvalue()


def test_a_job_beyond_its_owners_cap_is_refused_with_the_figures(centre: Centre) -> None:
    job = centre.submit()
    cap = Membership.objects.get(user=job.user, project=job.project)
    MemberCap.objects.create(membership=cap, cap_s=HOUR_S)
    centre.admit()
    job.refresh_from_db()
    assert (job.state, job.state_reason) == (JobState.REJECTED, "member_cap")
    assert job.state_detail == {"needed_s": 8 * HOUR_S, "taken_s": 0, "cap_s": HOUR_S}
