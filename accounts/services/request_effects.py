"""What an approved request does: makes a project, grants, changes the PI, or ends the project."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _

from accounts.models import (
    Allocation,
    AllocationRequest,
    Membership,
    Project,
    ProjectState,
    RequestKind,
    RequestLine,
    Role,
)
from accounts.services import ledger
from accounts.services.acts import Act
from accounts.services.request_rules import (
    GrantRefused,
    InvalidAllocationRequest,
    RequestProblem,
    find_code_problems,
    find_overlaps,
    find_pi_problems,
)


def carry_out(
    act: Act,
    request: AllocationRequest,
    lines: list[RequestLine],
    *,
    amounts: Mapping[str, int],
    start_at: datetime | None,
    end_at: datetime | None,
    takes_rest: bool,
    reason: str,
) -> dict[str, Any]:
    """Do what was asked, in the caller's transaction. Returns what the audit line says of it.

    Raises:
        InvalidAllocationRequest: the project has changed since, so that it can't be done any more.
        GrantRefused: the ledger refuses.
    """
    project = _make_project(request) if request.kind == RequestKind.NEW_PROJECT else _lock_project(request)
    if request.asks_for_hours:
        if start_at is None or end_at is None:
            raise ValueError("a checked decision has a period")
        if request.kind == RequestKind.RENEWAL:
            granted = [line.resource_class for line in lines if amounts[line.resource_class.code]]
            _raise_if(find_overlaps(project, granted, start_at, end_at))
        return _grant(act, project, lines, amounts=amounts, start_at=start_at, end_at=end_at, reason=reason)
    if request.kind == RequestKind.CHANGE_OF_PI:
        return _change_pi(request, project)
    return _close(act, request, project, takes_rest=takes_rest, reason=reason)


def _make_project(request: AllocationRequest) -> Project:
    # Its own code is asked for by this request: only a project that has been made since takes it.
    if Project.objects.filter(code=request.project_code).exists():
        _raise_if(find_code_problems(request.project_code))
    project = Project.objects.create(
        code=request.project_code,
        title=request.project_title,
        institution=request.institution,
        field_of_science=request.field_of_science,
    )
    Membership.objects.create(project=project, user=request.requester, role=Role.PI)
    request.project = project
    return project


def _lock_project(request: AllocationRequest) -> Project:
    project: Project = (
        Project.objects.select_for_update(of=("self",)).select_related("institution").get(pk=request.project_id)
    )
    if project.state != ProjectState.ACTIVE:
        words = _("The project “%(code)s” is closed.") % {"code": project.code}
        _raise_if([RequestProblem(field="project", code="closed", message=words, value=project.code)])
    request.project = project
    return project


def _grant(
    act: Act,
    project: Project,
    lines: list[RequestLine],
    *,
    amounts: Mapping[str, int],
    start_at: datetime,
    end_at: datetime,
    reason: str,
) -> dict[str, Any]:
    for line in lines:
        line.granted_s = amounts[line.resource_class.code]
        if line.granted_s:
            try:
                line.allocation = ledger.grant(
                    project_id=project.pk,
                    resource_class_id=line.resource_class_id,
                    amount_s=line.granted_s,
                    start_at=start_at,
                    end_at=end_at,
                    at=act.at,
                    actor=act.actor,
                    reason=reason[:500],
                )
            except ledger.LedgerError as error:
                words = _("%(resource)s: the ledger refuses %(hours)s h: %(why)s")
                hours = f"{line.granted_s / 3600:,.2f}"
                raise GrantRefused(words % {"resource": line.resource_class, "hours": hours, "why": error}) from error
        line.save(update_fields=["granted_s", "allocation"])
    return {
        "granted": dict(amounts),
        "granted_s": sum(amounts.values()),
        "start_at": start_at.isoformat(),
        "end_at": end_at.isoformat(),
    }


def _change_pi(request: AllocationRequest, project: Project) -> dict[str, Any]:
    """The old PI stays as a manager: their jobs and what they know stay with the project."""
    _raise_if(find_pi_problems(project, request.new_pi))
    old = Membership.objects.filter(project=project, role=Role.PI).select_related("user").first()
    if old is not None:
        old.role = Role.MANAGER
        old.save(update_fields=["role"])
    Membership.objects.filter(project=project, user=request.new_pi).update(role=Role.PI)
    return {
        "old_pi": old.user.get_username() if old is not None else None,
        "new_pi": request.new_pi.get_username() if request.new_pi is not None else None,
    }


def _close(act: Act, request: AllocationRequest, project: Project, *, takes_rest: bool, reason: str) -> dict[str, Any]:
    """No new jobs; what jobs hold stays held. What is left stays until it expires, or is taken now."""
    project.state = ProjectState.CLOSED
    project.save(update_fields=["state"])
    taken_s = 0
    if takes_rest:
        # The locks first, in the ledger's order: else a job could hold more between looking and taking.
        rows = Allocation.objects.filter(project=project, end_at__gt=act.at).select_for_update()
        for allocation in rows.order_by("end_at", "pk"):
            left_s: int = allocation.available_s
            if left_s > 0:
                ledger.adjust(
                    allocation_id=allocation.pk,
                    delta_s=-left_s,
                    reference=f"request {request.uuid}",
                    at=act.at,
                    actor=act.actor,
                    reason=reason[:500],
                )
                taken_s += left_s
    return {"project_state": project.state, "taken_s": taken_s}


def _raise_if(problems: list[RequestProblem]) -> None:
    if problems:
        raise InvalidAllocationRequest(problems)
