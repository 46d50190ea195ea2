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

SEES_STATEMENTS: Final = frozenset({"manager", "pi", "institution", "auditor", "administrator"})
SEES_REQUEST: Final = SEES_STATEMENTS | {"reviewer"}
DECIDES: Final = frozenset({"reviewer", "administrator"})
VERIFIES: Final = frozenset({"institution", "foreign", "administrator"})

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
    query: str = ""
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
    "policy_id": lambda world: world.policy.pk,
    "month": lambda world: "2026-06",
    "kind": lambda world: "new-project",
}
_CLUSTER: Final[dict[str, Maker]] = {"code": lambda world: world.partition.cluster.code}
_NEW: Final[Maker] = lambda world: {"person": world.newcomer.username, "role": "MEMBER"}  # noqa: E731

_REQUEST: Final[dict[str, Maker]] = {"uuid": lambda world: world.request.uuid}
_ASKED: Final[dict[str, Maker]] = {"uuid": lambda world: world.asked.uuid}
_REASON: Final[Maker] = lambda world: {"reason": "it is time", "confirmed": "yes"}  # noqa: E731
_WORDS: Final[Maker] = lambda world: {"words": "because"}  # noqa: E731
# Who sees a request and may not take the step is brought back to it, and told.
_STEP: Final[dict[str, Any]] = {
    "method": "POST",
    "who": DECIDES,
    "ok": 302,
    "others": dict.fromkeys(SEES_REQUEST - DECIDES, 302),
    "path": _REQUEST,
}
_OWN_STEP: Final[dict[str, Any]] = {
    "method": "POST",
    "who": frozenset({"manager", "pi"}),
    "ok": 302,
    "others": dict.fromkeys(SEES_REQUEST - {"manager", "pi"}, 302),
    "path": _ASKED,
}
_API_STEP: Final[dict[str, Any]] = {**_STEP, "ok": 200, "others": dict.fromkeys(SEES_REQUEST - DECIDES, 403)}
_API_OWN_STEP: Final[dict[str, Any]] = {
    **_OWN_STEP,
    "ok": 200,
    "others": dict.fromkeys(SEES_REQUEST - {"manager", "pi"}, 403),
}

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
    Row(act="Forecast of a project's allocations", name="project-forecast", who=SEES_PROJECT),
    Row(act="Monthly statements of a project", name="project-statements", who=SEES_STATEMENTS),
    Row(act="One of them", name="project-statement", who=SEES_STATEMENTS),
    Row(act="Report of use (of what one leads or manages, else one's own)", name="usage-report", who=SIGNED_IN),
    Row(act="The same as a file", name="usage-report-export", who=SIGNED_IN),
    Row(act="Which limits hold for oneself", name="limits", who=SIGNED_IN),
    Row(act="See the policies", name="policy-list", who=SEES_ALL),
    Row(act="Form of a new policy", name="policy-new", who=ADMINISTRATOR),
    Row(act="Make a policy", name="policy-new", method="POST", who=ADMINISTRATOR, ok=200),  # an empty form
    Row(act="Form of a policy", name="policy-edit", who=ADMINISTRATOR),
    Row(act="Change a policy", name="policy-edit", method="POST", who=ADMINISTRATOR, ok=200),
    Row(act="Remove a policy", name="policy-delete", method="POST", who=ADMINISTRATOR, ok=302),
    Row(act="List of jobs to approve (that one may decide)", name="job-approvals", who=SIGNED_IN),
    Row(
        act="Approve or refuse a large job",
        name="job-decide",
        method="POST",
        who=DECIDES,
        ok=302,
        path={"job_id": lambda world: world.big_job.pk},
    ),
    Row(act="List of requests that concern one", name="request-list", who=SIGNED_IN),
    Row(act="Choose what to ask for", name="request-choose", who=SIGNED_IN),
    Row(act="Form of a request", name="request-new", who=SIGNED_IN),
    Row(act="Ask for a new project", name="request-new", method="POST", who=SIGNED_IN, is_own=True),  # an empty form
    Row(act="See a request", name="request-detail", who=SEES_REQUEST, path=_REQUEST),
    Row(act="Approve a request", name="request-approve", data=_REASON, **_STEP),
    Row(act="Reject a request", name="request-reject", data=_REASON, **_STEP),
    Row(act="Ask back", name="request-ask-back", data=_WORDS, **_STEP),
    Row(act="Answer what was asked back", name="request-answer", data=_WORDS, **_OWN_STEP),
    Row(act="Withdraw a request", name="request-withdraw", **_OWN_STEP),
    Row(act="Verify a researcher: form", name="researcher-verify", who=VERIFIES),
    Row(act="Verify a researcher", name="researcher-verify", method="POST", who=VERIFIES),  # an empty form
    Row(act="One's messages", name="notification-list", who=SIGNED_IN),
    Row(
        act="Mark a message as read",
        name="notification-read",
        method="POST",
        who=frozenset({"member"}),
        ok=302,
        path={"pk": lambda world: world.notification.pk},
        is_own=True,
    ),
    Row(
        act="Mark all messages as read", name="notification-read-all", method="POST", who=SIGNED_IN, ok=302, is_own=True
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
    Row(act="API: report of use", name="api-usage-report", who=SIGNED_IN, query="?from=2026-05-01&to=2026-06-01"),
    Row(act="API: requests", name="api-requests", who=SIGNED_IN),
    Row(
        act="API: ask for a project, hours or a change",
        name="api-requests",
        method="POST",
        who=frozenset({"manager", "pi", "institution", "administrator"}),
        ok=201,
        refused=400,
        data=lambda world: world.request_body(),
    ),
    Row(act="API: a request", name="api-request", who=SEES_REQUEST, path=_REQUEST),
    Row(
        act="API: approve a request",
        name="api-request-approve",
        data=lambda world: {"reason": "it is time"},
        **_API_STEP,
    ),
    Row(act="API: reject a request", name="api-request-reject", data=lambda world: {"reason": "not now"}, **_API_STEP),
    Row(act="API: ask back", name="api-request-ask-back", data=_WORDS, **_API_STEP),
    Row(act="API: answer what was asked back", name="api-request-answer", data=_WORDS, **_API_OWN_STEP),
    Row(act="API: withdraw a request", name="api-request-withdraw", **_API_OWN_STEP),
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
        *("accounts.cohort", "accounts.institutiondomain", "accounts.notification", "accounts.starterpolicy"),
        *("accounts.verification",),
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
