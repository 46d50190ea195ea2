"""The only place that answers "may this user …". Every query of an interface starts here."""

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q, QuerySet

from accounts.models import Allocation, Appointment, Institution, Membership, Office, Partition, Project, Role, User

_LEADING = (Role.PI, Role.MANAGER)


def visible_projects(user: User | AnonymousUser) -> QuerySet[Project]:
    """Projects that the person may see."""
    projects: QuerySet[Project] = Project.objects.visible_to(user)
    return projects


def visible_allocations(user: User | AnonymousUser) -> QuerySet[Allocation]:
    """Allocations that the person may see."""
    allocations: QuerySet[Allocation] = Allocation.objects.visible_to(user)
    return allocations


def submittable_projects(user: User | AnonymousUser) -> QuerySet[Project]:
    """Projects in which the person may submit jobs: active ones that they are a member of (staff too)."""
    if not user.is_authenticated or not user.is_active:
        return Project.objects.none()
    projects: QuerySet[Project] = Project.objects.active().filter(memberships__user=user)
    return projects


def usable_partitions(user: User | AnonymousUser) -> QuerySet[Partition]:
    """Partitions that the person may submit to."""
    if not user.is_authenticated or not user.is_active:
        return Partition.objects.none()
    return Partition.objects.select_related("cluster", "resource_class").filter(cluster__is_enabled=True)


def slurm_accounts_of(user: User) -> list[str]:
    """The charge labels on the clusters of the projects that the person is a member of."""
    pairs = Project.objects.active().filter(memberships__user=user).values_list("slurm_account", "code")
    return [account or code for account, code in pairs]


def visible_jobs_filter(user: User | AnonymousUser) -> Q:
    """A filter on anything with `user` and `project`: one's own, those of projects one leads, all for staff.

    A plain member doesn't see the jobs of team-mates: scripts and logs may hold what is not theirs to read.
    """
    if not user.is_authenticated or not user.is_active:
        return Q(pk__in=[])
    if user.is_staff:
        return Q()
    # Ids, not a subquery: PostgreSQL walks every job for "mine, or in a subquery", and uses its indexes for a list.
    led = list(Membership.objects.filter(user=user, role__in=_LEADING).values_list("project_id", flat=True))
    return Q(user=user) | Q(project__in=led) if led else Q(user=user)


def may_cancel_job(user: User | AnonymousUser, *, owner_id: int, project_id: int) -> bool:
    """The owner, those who lead the project, and staff."""
    if not user.is_authenticated or not user.is_active:
        return False
    return user.pk == owner_id or user.is_staff or leads_project(user, project_id)


def may_manage_clusters(user: User | AnonymousUser) -> bool:
    """Administrators see and mend what a cluster's scheduler has of the portal."""
    return is_administrator(user)


def leads_project(user: User | AnonymousUser, project_id: int) -> bool:
    """Is the person PI or manager of the project?"""
    return (
        user.is_authenticated
        and Membership.objects.filter(user=user, project_id=project_id, role__in=_LEADING).exists()
    )


def is_administrator(user: User | AnonymousUser) -> bool:
    """The centre's administrators may do all."""
    return user.is_authenticated and user.is_active and user.is_staff


def is_auditor(user: User | AnonymousUser) -> bool:
    """An auditor of the centre sees all and changes nothing."""
    return _holds(user, Office.AUDITOR)


def may_review(user: User | AnonymousUser) -> bool:
    """May the person decide on requests? The centre's reviewers and administrators."""
    return is_administrator(user) or _holds(user, Office.REVIEWER)


def sees_all(user: User | AnonymousUser) -> bool:
    """Administrators and auditors see what is everybody's."""
    return is_administrator(user) or is_auditor(user)


def managed_institutions(user: User | AnonymousUser) -> QuerySet[Institution]:
    """Institutions for which the person may act: those they are appointed to manage; all for administrators."""
    if is_administrator(user):
        return Institution.objects.all()
    if not user.is_authenticated or not user.is_active:
        return Institution.objects.none()
    return Institution.objects.filter(
        appointments__user=user, appointments__office=Office.INSTITUTION_MANAGER
    ).distinct()


def _holds(user: User | AnonymousUser, office: Office) -> bool:
    return user.is_authenticated and user.is_active and Appointment.objects.filter(user=user, office=office).exists()
