"""Who is in a project, and as what. The only writer of `Membership` beside the back-office and decided requests.

The PI isn't touched here: who leads a project changes by a request that the centre decides. What jobs of a person who
leaves do is a rule of its own (`owner_may_not_submit`): running ones go on, waiting ones are rejected.
"""

from typing import Final

from django.db import transaction
from django.utils.translation import gettext as _

from accounts import access
from accounts.models import Membership, Project, ProjectState, Role, User
from accounts.services import audit
from accounts.services.acts import Act
from accounts.services.notifications import notify
from accounts.services.people import find_person
from accounts.services.refusals import ActForbidden, ActRefused, Refusal

GIVEN_ROLES: Final = (Role.MEMBER, Role.MANAGER)
"""What members can be made here."""

GIVEN_ROLE_CHOICES: Final = [(role.value, role.label) for role in GIVEN_ROLES]


@transaction.atomic
def add_member(project: Project, *, person: str, role: str, act: Act) -> Membership:
    """Take a person, by user name or e-mail address, into a project.

    Raises:
        ActForbidden: for anyone but those who lead the project, and administrators.
        ActRefused: nobody has that name, the person is in it already, the role isn't given here, or it is closed.
    """
    project = _lock(project, act)
    _check_role(role)
    if project.state != ProjectState.ACTIVE:
        raise _refusal("person", "project_closed", _("The project is closed: nobody can join it."), person)
    found = find_person(person)
    if found is None:
        message = _("There is nobody with this user name or e-mail address.")
        allowed = _("the user name or e-mail address of somebody who has signed up")
        raise _refusal("person", "unknown_person", message, person, allowed)
    if Membership.objects.filter(project=project, user=found).exists():
        raise _refusal("person", "already_member", _("This person is in the project already."), person)
    membership = Membership.objects.create(project=project, user=found, role=role)
    audit.record(act, "member.add", target_kind="member", target=found.username, after={"role": role}, project=project)
    _tell(found, "member.added", project, act, role=role)
    return membership


@transaction.atomic
def change_role(project: Project, *, user_id: int, role: str, act: Act) -> Membership:
    """Make a member something else. Raises ActForbidden and ActRefused; Membership.DoesNotExist."""
    project = _lock(project, act)
    _check_role(role)
    membership = _get(project, user_id)
    if membership.role == role:
        return membership
    before = membership.role
    membership.role = role
    membership.save(update_fields=["role"])
    audit.record(
        act,
        "member.change",
        target_kind="member",
        target=membership.user.username,
        before={"role": before},
        after={"role": role},
        project=project,
    )
    _tell(membership.user, "member.changed", project, act, role=role)
    return membership


@transaction.atomic
def remove_member(project: Project, *, user_id: int, act: Act) -> User:
    """Take a member out. Raises ActForbidden and ActRefused; Membership.DoesNotExist."""
    project = _lock(project, act)
    membership = _get(project, user_id)
    membership.delete()
    audit.record(
        act,
        "member.remove",
        target_kind="member",
        target=membership.user.username,
        before={"role": membership.role},
        project=project,
    )
    _tell(membership.user, "member.removed", project, act)
    return membership.user


def _lock(project: Project, act: Act) -> Project:
    """The project's row first: two managers at once follow each other, and the right is as it is now."""
    locked: Project = Project.objects.select_for_update(of=("self",)).select_related("institution").get(pk=project.pk)
    if act.actor is not None and not access.may_manage_members(act.actor, locked.pk):
        raise ActForbidden(locked.code)
    return locked


def _get(project: Project, user_id: int) -> Membership:
    membership = Membership.objects.select_related("user").get(project=project, user_id=user_id)
    if membership.role == Role.PI:
        message = _("The principal investigator changes by a request that the centre decides.")
        raise _refusal("role", "is_pi", message, membership.user.username)
    return membership


def _check_role(role: str) -> None:
    if role not in [given.value for given in GIVEN_ROLES]:
        allowed = ", ".join(given.value for given in GIVEN_ROLES)
        message = _("This role can't be given here; allowed: %(allowed)s.") % {"allowed": allowed}
        raise _refusal("role", "invalid_choice", message, role, allowed)


def _refusal(field: str, code: str, message: str, value: str, allowed: str = "") -> ActRefused:
    return ActRefused(Refusal(field=field, code=code, message=message, value=value, allowed=allowed))


def _tell(person: User, kind: str, project: Project, act: Act, *, role: str = "") -> None:
    if act.actor is not None and act.actor.pk == person.pk:
        return
    figures = {"project": project.code, "title": project.title, "by": str(act.actor or "")}
    if role:
        figures["role"] = Role(role).value
    notify([person], kind, at=act.at, figures=figures, path=f"/projects/{project.code}/")
