"""The only writer of `AuditEvent`. Called in the transaction of the act itself: no act without its line."""

from collections.abc import Mapping
from typing import Any

from accounts.models import AuditEvent, Institution, Project
from accounts.services.acts import Act


def record(
    act: Act,
    action: str,
    *,
    target_kind: str,
    target: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    project: Project | None = None,
    institution: Institution | None = None,
    reason: str = "",
) -> AuditEvent:
    """Write one line. `before` and `after` hold JSON values of what changed; `institution` defaults to the project's.

    `action` is "<thing>.<verb>" ("request.approve", "policy.change"), `target` the thing's code, uuid or name.
    """
    if institution is None and project is not None:
        institution = project.institution
    return AuditEvent.objects.create(
        at=act.at,
        actor=act.actor,
        source=act.source,
        ip_address=act.ip_address,
        action=action,
        target_kind=target_kind,
        target=target[:200],
        institution=institution.code if institution else "",
        project=project.code if project else "",
        before=dict(before or {}),
        after=dict(after or {}),
        reason=reason[:500],
    )
