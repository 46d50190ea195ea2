"""The only place that answers "may this user …". Every query of an interface starts here."""

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q, QuerySet

from accounts.models import (
    Allocation,
    AllocationRequest,
    Appointment,
    AuditEvent,
    Institution,
    Membership,
    Office,
    Partition,
    Project,
    Role,
    User,
)

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

    A plain member doesn't see the jobs of team-mates: scripts and logs may hold what is not theirs to read. An
    auditor sees that a job was there and what it cost, and not what it ran: see `readable_jobs_filter`.
    """
    return Q() if is_auditor(user) else readable_jobs_filter(user)


def readable_jobs_filter(user: User | AnonymousUser) -> Q:
    """The jobs whose contents (script, command, environment, log, metrics) the person may read."""
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
    return Institution.objects.filter(pk__in=user.managed_institution_ids)


def _holds(user: User | AnonymousUser, office: Office) -> bool:
    return user.is_authenticated and user.is_active and user.holds(office)


def visible_requests(user: User | AnonymousUser) -> QuerySet[AllocationRequest]:
    """One's own requests, those of projects that one leads or whose PI one is to be, and of institutions that one
    manages; all for reviewers, administrators and auditors."""
    requests: QuerySet[AllocationRequest] = AllocationRequest.objects.all()
    if not user.is_authenticated or not user.is_active:
        return requests.none()
    if user.is_staff or user.holds(Office.REVIEWER, Office.AUDITOR):
        return requests
    theirs = Q(requester=user) | Q(new_pi=user)
    theirs |= Q(project__in=Membership.objects.filter(user=user, role__in=_LEADING).values("project"))
    if user.holds(Office.INSTITUTION_MANAGER):
        theirs |= Q(institution__in=managed_institutions(user).values("pk"))
    return requests.filter(theirs)


def requestable_projects(user: User | AnonymousUser) -> QuerySet[Project]:
    """Active projects for which the person may ask: those that they lead, and of institutions that they manage."""
    if not user.is_authenticated or not user.is_active:
        return Project.objects.none()
    projects: QuerySet[Project] = Project.objects.active()
    led = Membership.objects.filter(user=user, role__in=_LEADING).values("project")
    return projects.filter(Q(pk__in=led) | Q(institution__in=managed_institutions(user).values("pk")))


def is_party_to(user: User | AnonymousUser, request: AllocationRequest) -> bool:
    """Does the person ask, or gain by it? Then they don't decide."""
    if user.pk in (request.requester_id, request.new_pi_id):
        return True
    return request.project_id is not None and leads_project(user, request.project_id)


def may_decide(user: User | AnonymousUser, request: AllocationRequest) -> bool:
    """Reviewers and administrators, but nobody on what is their own."""
    return may_review(user) and not is_party_to(user, request)


def may_answer(user: User | AnonymousUser, request: AllocationRequest) -> bool:
    """Who asked, and who leads the project, may answer and withdraw."""
    if not user.is_authenticated or not user.is_active:
        return False
    is_leading = request.project_id is not None and leads_project(user, request.project_id)
    return user.pk == request.requester_id or is_leading


def reviewers() -> QuerySet[User]:
    """Everybody who may decide on requests."""
    return (
        User.objects.filter(is_active=True)
        .filter(Q(is_staff=True) | Q(appointments__office=Office.REVIEWER))
        .distinct()
        .order_by("pk")
    )


def may_verify(user: User | AnonymousUser) -> bool:
    """May the person say that somebody is a researcher? Administrators, and managers for their institutions."""
    return managed_institutions(user).exists()


def leaders_of(project_id: int) -> list[User]:
    """The PI and managers of a project."""
    return list(User.objects.filter(memberships__project=project_id, memberships__role__in=_LEADING).order_by("pk"))


def may_manage_policies(user: User | AnonymousUser) -> bool:
    """Administrators set the rules; auditors read them (`sees_all`)."""
    return is_administrator(user)


def reportable_usage_filter(user: User | AnonymousUser) -> Q:
    """A filter on sums of use with `user` and `project`: whose use the person may see in reports.

    Administrators and auditors see all, managers of an institution its projects, those who lead a project all of it,
    everybody their own.
    """
    if not user.is_authenticated or not user.is_active:
        return Q(pk__in=[])
    if sees_all(user):
        return Q()
    projects = set(Membership.objects.filter(user=user, role__in=_LEADING).values_list("project_id", flat=True))
    institutions = managed_institutions(user).values("pk")
    projects |= set(Project.objects.filter(institution__in=institutions).values_list("pk", flat=True))
    return Q(user=user) | Q(project__in=projects) if projects else Q(user=user)


def statement_projects(user: User | AnonymousUser) -> QuerySet[Project]:
    """Projects whose statements the person may read: those they lead or whose institution they manage, or all."""
    if not user.is_authenticated or not user.is_active:
        return Project.objects.none()
    if sees_all(user):
        return Project.objects.all()
    led = Membership.objects.filter(user=user, role__in=_LEADING).values("project")
    return Project.objects.filter(Q(pk__in=led) | Q(institution__in=managed_institutions(user).values("pk")))


def reportable_projects(user: User | AnonymousUser) -> QuerySet[Project]:
    """Projects in which there may be use that the person sees in reports: those of statements, and their own."""
    if not user.is_authenticated or not user.is_active:
        return Project.objects.none()
    if sees_all(user):
        return Project.objects.all()
    own = Membership.objects.filter(user=user).values("project")
    return Project.objects.filter(Q(pk__in=own) | Q(institution__in=managed_institutions(user).values("pk")))


def may_read_job(user: User | AnonymousUser, *, owner_id: int, project_id: int) -> bool:
    """May the person read what a job runs and writes? Its owner, those who lead the project, administrators."""
    return may_cancel_job(user, owner_id=owner_id, project_id=project_id)


def sees_whole_use(user: User | AnonymousUser, project: Project) -> bool:
    """May the person see what each member used? Those who lead the project, manage its institution, or decide."""
    if not user.is_authenticated or not user.is_active:
        return False
    return (
        may_review(user)
        or is_auditor(user)
        or project.institution_id in user.managed_institution_ids
        or leads_project(user, project.pk)
    )


def oversees(user: User | AnonymousUser, project: Project) -> bool:
    """May the person read the audit log of a project by an office of theirs?"""
    if not user.is_authenticated or not user.is_active:
        return False
    return sees_all(user) or project.institution_id in user.managed_institution_ids


def may_see_cluster_setup(user: User | AnonymousUser) -> bool:
    """Administrators and auditors see what a cluster's scheduler has of the portal."""
    return sees_all(user)


def may_manage_members(user: User | AnonymousUser, project_id: int) -> bool:
    """Those who lead the project, and administrators."""
    return is_administrator(user) or (user.is_authenticated and user.is_active and leads_project(user, project_id))


def visible_appointments(user: User | AnonymousUser) -> QuerySet[Appointment]:
    """Who holds which office: for administrators and auditors."""
    return Appointment.objects.all() if sees_all(user) else Appointment.objects.none()


def visible_audit(user: User | AnonymousUser) -> QuerySet[AuditEvent] | None:
    """What the person may read of the audit log: all, or what concerns their institutions and projects.

    None for those who have neither: there is no log for them.
    """
    events: QuerySet[AuditEvent] = AuditEvent.objects.all()
    if sees_all(user):
        return events
    if not user.is_authenticated or not user.is_active:
        return None
    led = Membership.objects.filter(user=user, role__in=_LEADING)
    projects = list(led.values_list("project__code", flat=True))
    institutions = list(managed_institutions(user).values_list("code", flat=True)) if user.offices else []
    if not projects and not institutions:
        return None
    narrowed: QuerySet[AuditEvent] = AuditEvent.objects.within(institutions=institutions, projects=projects)
    return narrowed
