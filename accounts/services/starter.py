"""Verifying researchers, and the starter allocation with which open access begins that day."""

from datetime import timedelta

from django.db import transaction
from django.utils.translation import gettext as _

from accounts import access
from accounts.models import (
    Institution,
    InstitutionDomain,
    Membership,
    Project,
    Role,
    StarterGrant,
    StarterPolicy,
    User,
    Verification,
)
from accounts.services import audit, ledger, notifications
from accounts.services.acts import Act
from accounts.services.request_rules import RESERVED_PREFIX, GrantRefused, RequestForbidden


@transaction.atomic
def verify(act: Act, user: User, institution: Institution) -> StarterGrant | None:
    """Somebody says that this person is a researcher of the institution; they get the starter allocation, if any.

    Repeated it changes nothing, but gives a starter allocation that was not to be had the first time.

    Raises:
        RequestForbidden: the institution is not the actor's to speak for, or they'd verify themselves.
        GrantRefused: the ledger doesn't take the starter allocation.
    """
    if act.actor is None or act.actor.pk == user.pk:
        raise RequestForbidden(_("Nobody verifies themselves."))
    if not access.managed_institutions(act.actor).filter(pk=institution.pk).exists():
        raise RequestForbidden(_("You can't speak for %(institution)s.") % {"institution": institution})
    return _verify(act, user, institution, by=act.actor)


@transaction.atomic
def verify_by_email(act: Act, user: User, email: str) -> StarterGrant | None:
    """The person has shown that a mail address is theirs: that is enough if its domain is an institution's.

    The caller has had the address confirmed. Raises GrantRefused as `verify`.
    """
    domain = email.rpartition("@")[2].lower()
    found = InstitutionDomain.objects.select_related("institution").filter(domain=domain).first()
    return None if found is None else _verify(act, user, found.institution, by=None)


def _verify(act: Act, user: User, institution: Institution, *, by: User | None) -> StarterGrant | None:
    # One at a time for one person: a second call waits here, and finds what the first has made.
    user = User.objects.select_for_update().get(pk=user.pk)
    if not user.is_active:
        raise RequestForbidden(_("The account of %(name)s is closed.") % {"name": user})
    verification, is_new = Verification.objects.get_or_create(
        user=user, defaults={"institution": institution, "at": act.at, "verified_by": by}
    )
    if is_new:
        audit.record(
            act,
            "researcher.verify",
            target_kind="user",
            target=user.get_username(),
            after={"institution": institution.code, "by_mail_address": by is None},
            institution=institution,
        )
    return _give_starter(act, user, verification.institution)


def _give_starter(act: Act, user: User, institution: Institution) -> StarterGrant | None:
    """Once per person, ever: also not again when the project is gone or its hours have expired."""
    policy = StarterPolicy.objects.filter(is_enabled=True).select_related("resource_class", "institution").first()
    if policy is None or StarterGrant.objects.filter(user=user).exists():
        return None
    project = Project.objects.create(
        code=_free_code(user),
        title=f"{user} · starter"[:200],
        institution=policy.institution or institution,
    )
    Membership.objects.create(project=project, user=user, role=Role.PI)
    end_at = act.at + timedelta(days=policy.validity_days)
    try:
        allocation = ledger.grant(
            project_id=project.pk,
            resource_class_id=policy.resource_class_id,
            amount_s=policy.amount_s,
            start_at=act.at,
            end_at=end_at,
            at=act.at,
            actor=act.actor,
            reason="starter allocation",
        )
    except ledger.LedgerError as error:
        words = _("The starter allocation is refused by the ledger: %(why)s")
        raise GrantRefused(words % {"why": error}) from error
    grant = StarterGrant.objects.create(user=user, allocation=allocation, at=act.at)
    audit.record(
        act,
        "starter.grant",
        target_kind="user",
        target=user.get_username(),
        after={
            "granted_s": policy.amount_s,
            "resource_class": policy.resource_class.code,
            "end_at": end_at.isoformat(),
        },
        project=project,
    )
    notifications.notify(
        [user],
        "starter.granted",
        at=act.at,
        figures={
            "granted_s": policy.amount_s,
            "resource_class": policy.resource_class.code,
            "project": project.code,
            "end_at": end_at.isoformat(),
        },
        path=f"/projects/{project.code}/",
        once="starter",
    )
    return grant


def _free_code(user: User) -> str:
    """Nobody can ask for such a code; an administrator may have given it all the same."""
    code, number = f"{RESERVED_PREFIX}{user.pk}", 1
    while Project.objects.filter(code=code).exists():
        number += 1
        code = f"{RESERVED_PREFIX}{user.pk}-{number}"
    return code
