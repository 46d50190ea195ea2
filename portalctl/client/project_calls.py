"""Projects, their members, what they are granted and use, and what is asked for."""

import uuid
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Any

from portalctl.client import models
from portalctl.client.calls import Calls, as_code, as_time, as_uuid, check_key

RequestId = uuid.UUID | str


class ProjectCalls(Calls):
    """Calls on projects, requests, reports and the audit log."""

    def projects(self) -> Iterator[models.Project]:
        return self._rows(models.Project, "/projects")

    def project(self, code: str) -> models.ProjectDetail:
        return self._call(models.ProjectDetail, "GET", f"/projects/{as_code(code)}")

    def members(self, project: str) -> Iterator[models.Member]:
        """Who is in a project, newest first."""
        return self._rows(models.Member, f"/projects/{as_code(project)}/members")

    def add_member(
        self, project: str, person: str, *, role: str = "MEMBER", idempotency_key: str | None = None
    ) -> models.Member:
        """Take a person (user name or e-mail address) into a project that you lead."""
        body = {"person": person, "role": role}
        return self._call(
            models.Member, "POST", f"/projects/{as_code(project)}/members", body=body, key=check_key(idempotency_key)
        )

    def change_member(
        self, project: str, username: str, *, role: str, idempotency_key: str | None = None
    ) -> models.Member:
        path = f"/projects/{as_code(project)}/members/{as_code(username)}"
        return self._call(models.Member, "POST", path, body={"role": role}, key=check_key(idempotency_key))

    def remove_member(self, project: str, username: str, *, idempotency_key: str | None = None) -> None:
        """Take a member out. Their running jobs go on; those that wait are rejected."""
        path = f"/projects/{as_code(project)}/members/{as_code(username)}"
        self._send("DELETE", path, key=check_key(idempotency_key))

    # Hours

    def allocations(
        self, *, project: str | None = None, resource_class: str | None = None, active: bool | None = None
    ) -> Iterator[models.Allocation]:
        """Earliest end first: the order in which they are spent."""
        query = {"project": project, "resource_class": resource_class, "active": active}
        return self._rows(models.Allocation, "/allocations", query)

    def allocation(self, allocation_id: uuid.UUID | str) -> models.AllocationDetail:
        return self._call(models.AllocationDetail, "GET", f"/allocations/{as_uuid(allocation_id)}")

    def entries(self, allocation_id: uuid.UUID | str) -> Iterator[models.LedgerEntry]:
        """The ledger of an allocation, newest first."""
        return self._rows(models.LedgerEntry, f"/allocations/{as_uuid(allocation_id)}/entries")

    def usage_report(
        self,
        *,
        first_day: date | None = None,
        last_day: date | None = None,
        group_by: str | None = None,
        **filters: str | None,
    ) -> models.UsageReport:
        """What was used, by whom and for what. `filters` are the API's: project, user, institution, partition,
        field, model_family, end_state.
        """
        days = {"from": first_day and first_day.isoformat(), "to": last_day and last_day.isoformat()}
        return self._call(models.UsageReport, "GET", "/reports/usage", {**days, "group_by": group_by, **filters})

    # Requests

    def requests(
        self,
        *,
        state: str | None = None,
        kind: str | None = None,
        project: str | None = None,
        is_open: bool | None = None,
        is_mine: bool | None = None,
    ) -> Iterator[models.Request]:
        """Requests that you may see, newest first."""
        query = {"state": state, "kind": kind, "project": project, "open": is_open, "mine": is_mine}
        return self._rows(models.Request, "/requests", query)

    def request(self, request_id: RequestId) -> models.RequestDetail:
        return self._call(models.RequestDetail, "GET", f"/requests/{as_uuid(request_id)}")

    def ask(self, request: Mapping[str, Any], *, idempotency_key: str | None = None) -> models.RequestDetail:
        """Ask for a project, for hours, for another PI or for an end."""
        key = check_key(idempotency_key)
        return self._call(models.RequestDetail, "POST", "/requests", body=dict(request), key=key)

    def answer_request(self, request_id: RequestId, words: str) -> models.RequestDetail:
        """Answer what a reviewer asked back."""
        return self._step(f"/requests/{as_uuid(request_id)}/answer", {"words": words})

    def withdraw_request(self, request_id: RequestId) -> models.RequestDetail:
        return self._step(f"/requests/{as_uuid(request_id)}/withdraw", None)

    def approve_request(
        self,
        request_id: RequestId,
        *,
        reason: str,
        amounts: Mapping[str, int] | None = None,
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        takes_rest: bool | None = None,
    ) -> models.RequestDetail:
        """Grant what was asked for, or `amounts` (accelerator-seconds by resource class; 0 refuses a line)."""
        period = {"start_at": as_time(start_at), "end_at": as_time(end_at)}
        given = {"reason": reason, "amounts": amounts and dict(amounts), **period, "takes_rest": takes_rest}
        body = {name: value for name, value in given.items() if value is not None}
        return self._step(f"/requests/{as_uuid(request_id)}/approve", body)

    def reject_request(self, request_id: RequestId, *, reason: str) -> models.RequestDetail:
        return self._step(f"/requests/{as_uuid(request_id)}/reject", {"reason": reason})

    def ask_back(self, request_id: RequestId, words: str) -> models.RequestDetail:
        """Ask who made the request for more."""
        return self._step(f"/requests/{as_uuid(request_id)}/ask-back", {"words": words})

    def _step(self, path: str, body: Any) -> models.RequestDetail:
        # The state of the request keeps a repeated step from counting twice.
        return self._call(models.RequestDetail, "POST", path, body=body, key=check_key(None))

    # Acts

    def audit(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        text: str | None = None,
        **filters: str | None,
    ) -> Iterator[models.AuditEvent]:
        """Administrative acts that you may see, newest first. `filters` are the API's: actor, action, target,
        project, institution.
        """
        query = {"since": as_time(since), "until": as_time(until), "q": text, **filters}
        return self._rows(models.AuditEvent, "/audit", query)
