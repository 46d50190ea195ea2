"""Setting and removing policies: the only writer of `Policy`, each change with its line in the audit log."""

from collections.abc import Iterable, Mapping
from typing import Any

from django.db import transaction

from accounts.models import Policy, ResourceClass
from accounts.models.policies import LIMIT_FIELDS
from accounts.services import audit
from accounts.services.acts import Act


@transaction.atomic
def save_policy(policy: Policy, *, classes: Iterable[ResourceClass], act: Act, reason: str = "") -> Policy:
    """Store a new or changed policy.

    Raises:
        ValidationError: more than one scope, a scope that has its policy already, or a value that is not allowed.
    """
    policy.full_clean()
    before: Mapping[str, Any] = {}
    if policy.pk is not None:
        before = _describe(Policy.objects.select_for_update(of=("self",)).get(pk=policy.pk))
    policy.save()
    policy.allowed_classes.set(classes)
    action = "policy.change" if before else "policy.create"
    _record(policy, action, act, before=before, after=_describe(policy), reason=reason)
    return policy


@transaction.atomic
def delete_policy(policy_id: int, *, act: Act, reason: str = "") -> None:
    """Remove a policy; wider ones hold from then on.

    Raises:
        Policy.DoesNotExist: it is gone already.
    """
    policy = Policy.objects.select_for_update(of=("self",)).get(pk=policy_id)
    _record(policy, "policy.delete", act, before=_describe(policy), after={}, reason=reason)
    policy.delete()


def _record(
    policy: Policy, action: str, act: Act, *, before: Mapping[str, Any], after: Mapping[str, Any], reason: str
) -> None:
    audit.record(
        act,
        action,
        target_kind="policy",
        target=f"{policy.scope}: {_name(policy)}",
        before=before,
        after=after,
        project=policy.project,
        institution=policy.institution,
        reason=reason,
    )


def _name(policy: Policy) -> str:
    """What it is of, in a word that is the same in every language."""
    if policy.user is not None:
        return policy.user.username
    if policy.project is not None:
        return policy.project.code
    if policy.partition is not None:
        return f"{policy.partition.cluster.code}/{policy.partition.name}"
    if policy.institution is not None:
        return policy.institution.code
    return policy.job_kind or "centre"


def _describe(policy: Policy) -> dict[str, Any]:
    limits = {field: getattr(policy, field) for field in LIMIT_FIELDS}
    codes = sorted(policy.allowed_classes.values_list("code", flat=True))
    return {**limits, "allowed_classes": codes, "lead_may_approve": policy.lead_may_approve, "of": _name(policy)}
