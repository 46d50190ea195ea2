"""Who may do what: one row for each page and endpoint with each of its methods.

To add a page: add its `Row`. `who` are those for whom it works (`ok` is the answer that they get); everybody else gets
`refused`, those in `others` what stands there, and who isn't signed in is sent to sign in (pages) or gets 401 (API).
A path parameter that `PARAMETERS` doesn't know, or that is another thing here, goes into `path`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.security.role_world import World

PEOPLE: Final = {
    "anonymous": "not signed in",
    "stranger": "PI of another project",
    "member": "member",
    "owner": "owner",
    "manager": "project manager",
    "pi": "PI",
    "institution": "institution manager",
    "foreign": "manager of another institution",
    "reviewer": "reviewer",
    "auditor": "auditor",
    "administrator": "administrator",
}
"""In relation to one project and to one job in it, which “owner” has submitted as a plain member."""

EVERYBODY: Final = frozenset(PEOPLE)
SIGNED_IN: Final = EVERYBODY - {"anonymous"}
IN_PROJECT: Final = frozenset({"member", "owner", "manager", "pi"})
SEES_PROJECT: Final = IN_PROJECT | {"institution", "reviewer", "auditor", "administrator"}
READS_JOB: Final = frozenset({"owner", "manager", "pi", "administrator"})
SEES_JOB: Final = READS_JOB | {"auditor"}
LEADS: Final = frozenset({"manager", "pi", "administrator"})
SEES_ALL: Final = frozenset({"auditor", "administrator"})
ADMINISTRATOR: Final = frozenset({"administrator"})
# Whoever leads any project, or manages any institution, has a log: of that.
HAS_LOG: Final = frozenset({"stranger", "manager", "pi", "institution", "foreign", "auditor", "administrator"})

Maker = Callable[[World], Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One page or endpoint with one method."""

    act: str
    """What it is for, in words: a line of docs/admin/roles.md."""
    name: str
    method: str = "GET"
    who: frozenset[str]
    ok: int | tuple[int, ...] = 200
    refused: int = 404
    others: Mapping[str, int] = field(default_factory=dict)
    data: Maker | None = None
    path: Mapping[str, Maker] = field(default_factory=dict)
    is_own: bool = False
    """Does it concern nothing but the person who asks? Then an auditor may do it, too."""

    def allowed(self, person: str) -> tuple[int, ...] | None:
        """The answers that a person may get for whom it works; None if it doesn't."""
        if person not in self.who:
            return None
        return self.ok if isinstance(self.ok, tuple) else (self.ok,)


PARAMETERS: Final[dict[str, Maker]] = {
    "job_id": lambda world: world.job.pk,
    "uuid": lambda world: world.allocation.uuid,
    "slug": lambda world: "refused",
    "code": lambda world: world.project.code,
    "cluster": lambda world: world.partition.cluster.code,
    "name": lambda world: world.partition.name,
    "user_id": lambda world: world.people["member"].pk,
    "username": lambda world: world.people["member"].username,
    "pk": lambda world: world.appointment.pk,
}
_CLUSTER: Final[dict[str, Maker]] = {"code": lambda world: world.partition.cluster.code}
_NEW: Final[Maker] = lambda world: {"person": world.newcomer.username, "role": "MEMBER"}  # noqa: E731

PAGES: Final = (
    Row(act="Dashboard", name="dashboard", who=SIGNED_IN),
    Row(act="Dashboard, live part", name="dashboard-live", who=SIGNED_IN),
    Row(act="List of one's own jobs, and of those one may see", name="job-list", who=SIGNED_IN),
    Row(act="Form of a new job", name="job-new", who=SIGNED_IN),
    Row(act="Send the form of a new job", name="job-new", method="POST", who=SIGNED_IN, ok=(200, 422), is_own=True),
    Row(act="Live estimate", name="job-estimate", method="POST", who=SIGNED_IN, is_own=True),
    Row(act="Preview of the script", name="job-script-preview", method="POST", who=SIGNED_IN, is_own=True),
    Row(act="See a job: what it asked for, used and cost", name="job-detail", who=SEES_JOB),
    Row(act="The same, live", name="job-live", who=SEES_JOB),
    Row(act="Cancel a job", name="job-cancel", method="POST", who=READS_JOB, ok=302, others={"auditor": 403}),
    Row(act="Read a job's log", name="job-log", who=READS_JOB),
    Row(act="Download a job's log", name="job-log-download", who=READS_JOB),
    Row(act="Read a job's metrics", name="job-metrics", who=READS_JOB),
    Row(act="List of projects", name="project-list", who=SIGNED_IN),
    Row(act="See a project, its members and allocations", name="project-detail", who=SEES_PROJECT),
    Row(act="See a project's use (plain members: their own)", name="project-usage", who=SEES_PROJECT),
    Row(act="See a project's ledger", name="project-ledger", who=SEES_PROJECT),
    Row(act="Manage members", name="project-members", who=LEADS),
    Row(act="Add a member", name="project-member-add", method="POST", who=LEADS, ok=302, data=_NEW),
    Row(
        act="Change a member's role",
        name="project-member-role",
        method="POST",
        who=LEADS,
        ok=302,
        data=lambda world: {"role": "MANAGER"},
    ),
    Row(act="Remove a member", name="project-member-remove", method="POST", who=LEADS, ok=302),
    Row(act="Clusters", name="cluster-list", who=SIGNED_IN),
    Row(act="Clusters, live part", name="cluster-list-live", who=SIGNED_IN),
    Row(act="A partition", name="partition-detail", who=SIGNED_IN),
    Row(act="A partition, live part", name="partition-live", who=SIGNED_IN),
    Row(act="See a cluster's Slurm accounts", name="cluster-associations", who=SEES_ALL, path=_CLUSTER),
    Row(
        act="Look at Slurm's accounts now",
        name="cluster-associations-look",
        method="POST",
        who=ADMINISTRATOR,
        ok=302,
        path=_CLUSTER,
    ),
    Row(
        act="Apply changes to Slurm's accounts",
        name="cluster-associations-apply",
        method="POST",
        who=ADMINISTRATOR,
        ok=302,
        path=_CLUSTER,
    ),
    Row(act="See who holds which office", name="appointment-list", who=SEES_ALL),
    Row(
        act="Appoint somebody",
        name="appointment-appoint",
        method="POST",
        who=ADMINISTRATOR,
        ok=302,
        data=lambda world: {"person": world.newcomer.username, "office": "REVIEWER"},
    ),
    Row(act="End an appointment", name="appointment-end", method="POST", who=ADMINISTRATOR, ok=302),
    Row(act="Audit log (of what one manages or leads)", name="audit-list", who=HAS_LOG),
    Row(act="Audit log as CSV", name="audit-export", who=HAS_LOG),
    Row(act="One's profile", name="profile", who=SIGNED_IN),
    Row(act="Change one's profile", name="profile", method="POST", who=SIGNED_IN, ok=302, is_own=True),
    Row(act="Health of the portal", name="healthz", who=EVERYBODY, ok=(200, 503)),
)

API: Final = (
    Row(act="API: sign in", name="api-token", method="POST", who=EVERYBODY, ok=400, is_own=True),  # an empty body
    Row(act="API: sign out", name="api-token", method="DELETE", who=SIGNED_IN, ok=204, is_own=True),
    Row(act="API: who am I", name="api-me", who=SIGNED_IN),
    Row(act="API: projects", name="api-projects", who=SIGNED_IN),
    Row(act="API: a project", name="api-project", who=SEES_PROJECT),
    Row(act="API: members", name="api-project-members", who=SEES_PROJECT),
    Row(
        act="API: add a member",
        name="api-project-members",
        method="POST",
        who=LEADS,
        ok=201,
        others=dict.fromkeys(SEES_PROJECT - LEADS, 403),
        data=_NEW,
    ),
    Row(
        act="API: change a member's role",
        name="api-project-member",
        method="POST",
        who=LEADS,
        others=dict.fromkeys(SEES_PROJECT - LEADS, 403),
        data=lambda world: {"role": "MANAGER"},
    ),
    Row(
        act="API: remove a member",
        name="api-project-member",
        method="DELETE",
        who=LEADS,
        ok=204,
        others=dict.fromkeys(SEES_PROJECT - LEADS, 403),
    ),
    Row(act="API: allocations", name="api-allocations", who=SIGNED_IN),
    Row(act="API: an allocation", name="api-allocation", who=SEES_PROJECT),
    Row(act="API: an allocation's ledger", name="api-allocation-entries", who=SEES_PROJECT),
    Row(act="API: audit log", name="api-audit", who=HAS_LOG),
    Row(act="API: clusters", name="api-clusters", who=SIGNED_IN),
    Row(act="API: partitions", name="api-partitions", who=SIGNED_IN),
    Row(act="API: presets", name="api-presets", who=SIGNED_IN),
    Row(act="API: accelerators", name="api-accelerators", who=SIGNED_IN),
    Row(
        act="API: estimate for a project",
        name="api-estimates",
        method="POST",
        who=IN_PROJECT,
        refused=400,
        data=lambda world: world.estimate_body(),
    ),
    Row(act="API: jobs", name="api-jobs", who=SIGNED_IN),
    Row(
        act="API: submit a job",
        name="api-jobs",
        method="POST",
        who=IN_PROJECT,
        ok=201,
        refused=400,
        data=lambda world: world.job_body(),
    ),
    Row(act="API: a job", name="api-job", who=SEES_JOB),
    Row(
        act="API: cancel a job",
        name="api-job-cancel",
        method="POST",
        who=READS_JOB,
        ok=202,
        others={"auditor": 403},
    ),
    Row(
        act="API: submit a job again",
        name="api-job-resubmit",
        method="POST",
        who=READS_JOB - ADMINISTRATOR,
        ok=201,
        others={"administrator": 400},  # they see it, but aren't in the project
    ),
    Row(act="API: a job's events", name="api-job-events", who=SEES_JOB),
    Row(act="API: a job's log", name="api-job-log", who=READS_JOB),
    Row(act="API: a job's metrics", name="api-job-metrics", who=READS_JOB),
    Row(act="API: a job's script", name="api-job-script", who=READS_JOB),
    Row(act="API: description, JSON", name="api-openapi-json", who=EVERYBODY),
    Row(act="API: description, YAML", name="api-openapi-yaml", who=EVERYBODY),
    Row(act="API: documentation", name="api-docs", who=EVERYBODY),
    Row(act="API: reference", name="api-redoc", who=EVERYBODY),
    Row(act="API: a kind of problem", name="api-problem", who=EVERYBODY),
)
ROWS: Final = (*PAGES, *API)

BORROWED: Final = frozenset(
    {
        *("account_login", "account_logout", "account_inactive", "account_signup", "account_reauthenticate"),
        *("account_email", "account_email_verification_sent", "account_change_password", "account_set_password"),
        *("account_reset_password", "account_confirm_login_code", "account_confirm_email"),
        *("account_reset_password_from_key_done", "account_reset_password_from_key", "account_reset_password_done"),
        "set_language",
        "api-unknown",
    }
)
"""Routes of django-allauth and Django, and the API's answer to unknown paths: they have tests of their own."""

BACK_OFFICE: Final = frozenset(
    {
        *("accounts.allocation", "accounts.appointment", "accounts.associationchange", "accounts.auditevent"),
        *("accounts.cluster", "accounts.institution", "accounts.ledgerentry", "accounts.partition"),
        *("accounts.policy", "accounts.project", "accounts.resourceclass", "accounts.user"),
        *("jobs.calibrationversion", "jobs.estimate", "jobs.job", "jobs.measurement", "jobs.usagerecord"),
        *("account.emailaddress", "knox.authtoken"),
    }
)
"""Models with pages in the back-office: for administrators to whom a superuser gave the permission."""


def write_table() -> str:
    """The table of docs/admin/roles.md."""
    heads = list(PEOPLE.values())
    lines = ["| act | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    lines += [
        f"| {row.act} | " + " | ".join("✓" if person in row.who else "–" for person in PEOPLE) + " |" for row in ROWS
    ]
    return "\n".join(lines) + "\n"
