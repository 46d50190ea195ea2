"""Projects become accounts of a real Slurm, and stay so: everything here runs sacctmgr against slurmdbd."""

import json
import shutil
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.management import call_command
from django.db import DatabaseError, connections, transaction
from django.utils import timezone

from accounts.models import (
    AssociationChange,
    AssociationReview,
    ChangeOrigin,
    ChangeOutcome,
    Cluster,
    Project,
    ProjectState,
    User,
)
from jobs.backends.associations import Change, ChangeKind, ChangeRefused, SchedulerUnavailable, Setting
from jobs.backends.slurm.sacctmgr import SacctmgrAssociations
from jobs.services.association_plan import Plan, rows_of
from jobs.services.association_setup import setups
from jobs.services.associations import (
    Applied,
    ApplyInProgress,
    PlanChanged,
    apply_associations,
    plan_associations,
    sync_associations,
)
from jobs.tasks import sync_associations as sync_task
from tests.factories import make_allocation, make_partition, make_policy, make_project, make_resource_class, make_user
from tests.integration.slurm.lab import LabError, SlurmLab
from tests.integration.slurm.layout import ALICE, BOB, CAROL, CLUSTER_NAME, PORTAL_USER
from tests.integration.slurm.sharing import take_turn

pytestmark = [pytest.mark.slurm, pytest.mark.django_db]

QOS_PREFIX = "tptest-"
ASSOCIATION_FIELDS = "account,user,partition,parentname,grptres,maxtres,maxwall,grpjobs,grpsubmitjobs,maxsubmitjobs,qos"


@dataclass
class Site:
    """A centre with one project, on a cluster that is a real Slurm. Names are new for each test."""

    lab: SlurmLab
    cluster: Cluster
    project: Project
    carol: User
    calls: Path

    def plan(self) -> Plan:
        return plan_associations(self.cluster, at=timezone.now())

    def apply(self, **options: Any) -> Applied:
        return apply_associations(self.cluster, now=timezone.now, origin=ChangeOrigin.COMMAND, **options)

    def changing_calls(self) -> list[str]:
        """What sacctmgr was told to change, as its own wrapper wrote it down."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line for line in lines if "--readonly" not in line]

    def sacctmgr(self, *words: str, check: bool = True) -> str:
        """As an operator does."""
        return self.lab.run("sacctmgr", "--immediate", *words, check=check)

    def show(self, *words: str) -> list[str]:
        return _show(self.lab, *words)

    @property
    def default_qos(self) -> str:
        """What an association of the lab's own has: everything that is not the portal's."""
        return self.show("assoc", f"user={ALICE}", "woplimits", "format=qos")[0]

    def associations(self, account: str) -> list[str]:
        return self.show("assoc", f"account={account}", "woplimits", f"format={ASSOCIATION_FIELDS}")

    def everything_but(self, *ours: str) -> list[str]:
        """All accounts, associations, users and QOS that are not of these names, with all that the portal could set."""
        rows = self.show("assoc", f"format={ASSOCIATION_FIELDS},defaultqos,share")
        rows += [f"account {row}" for row in self.show("account", "format=account,description,organization")]
        rows += [f"user {row}" for row in self.show("user", "format=user,adminlevel,defaultaccount")]
        rows += [f"qos {row}" for row in self.show("qos", "format=name,description,priority,maxjobspu,maxtrespu")]
        return [row for row in rows if not any(name in row for name in ours)]

    def add_project(self, **fields: Any) -> Project:
        """Another project that may use the cluster."""
        project = make_project(f"p{uuid.uuid4().hex[:8]}", **fields)
        mine = self.project.allocations.get()
        make_allocation(project, mine.resource_class, start_at=mine.start_at, end_at=mine.end_at)
        return project

    def submit(self, user: str, *options: str) -> str:
        command = ("sbatch", "--parsable", f"--account={self.project.code}", "--output=/dev/null", "--chdir=/")
        return self.lab.run(*command, *options, "--wrap=sleep 60", user=user).strip()


@pytest.fixture
def site(slurm_lab: SlurmLab, settings: LazySettings, tmp_path: Path) -> Iterator[Site]:
    calls = tmp_path / "calls"
    with take_turn(slurm_lab):
        mark = f"portal-{uuid.uuid4().hex[:8]}"
        settings.SCHEDULERS = {
            "lab": {
                "BACKEND": "jobs.backends.slurm.SlurmRestBackend",  # who submits doesn't matter here
                "ASSOCIATIONS": {
                    "MODE": "apply",
                    "MARK": mark,
                    "OPTIONS": {
                        "SLURM_CONF": str(slurm_lab.layout.slurm_conf),
                        "PATH": f"{_wrap_sacctmgr(tmp_path, calls)}:/usr/bin:/bin",
                    },
                },
            }
        }
        _forget_setups()
        before = _names(slurm_lab)
        cluster = Cluster.objects.create(code="lab", title="Lab")
        a800 = make_resource_class("a800")
        make_partition("gpu-a800", cluster=cluster, resource_class=a800)
        carol = make_user("carol", unix_username=CAROL)
        project = make_project(f"p{uuid.uuid4().hex[:8]}", pi=carol)
        now = timezone.now()
        make_allocation(project, a800, start_at=now - timedelta(days=1), end_at=now + timedelta(days=30))
        yield Site(slurm_lab, cluster, project, carol, calls)
        slurm_lab.cancel_all()
        _restore(slurm_lab, before)
        _forget_setups()


def _wrap_sacctmgr(directory: Path, calls: Path, *, user: str = "root") -> Path:
    """A sacctmgr that writes down its arguments, then is the real one, as `user`."""
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    wrapper = programs / "sacctmgr"
    log = f'line="$(printf "%s|" "$@")"\necho "$line" >> {calls}\n'  # at once: several run at the same time
    wrapper.write_text(f'#!/bin/sh\n{log}exec {shutil.which("runuser")} -u {user} -- /usr/bin/sacctmgr "$@"\n')
    wrapper.chmod(0o755)
    return programs


def _forget_setups() -> None:
    setups.__dict__.pop("settings", None)
    setups._settings = None  # type: ignore[attr-defined]
    if hasattr(setups._connections, "lab"):  # type: ignore[attr-defined]
        del setups["lab"]


def _names(lab: SlurmLab) -> dict[str, set[str]]:
    """All users, accounts and QOS there are."""
    questions = {"user": "format=user", "account": "format=account", "qos": "format=name"}
    return {kind: set(_show(lab, kind, words)) for kind, words in questions.items()}


def _show(lab: SlurmLab, *words: str) -> list[str]:
    return lab.run("sacctmgr", "--noheader", "--parsable2", "show", *words).splitlines()


def _restore(lab: SlurmLab, before: dict[str, set[str]]) -> None:
    """Remove what a test has left in accounting."""

    def is_as_before() -> bool:
        left = {kind: names - before[kind] for kind, names in _names(lab).items()}
        for kind in ("user", "account", "qos"):
            if left[kind]:
                what = f"name={','.join(sorted(left[kind]))}"
                lab.run("sacctmgr", "--immediate", "delete", kind, "where", what, check=False)
        return not any(left.values())

    lab.wait_until(is_as_before, "accounting to be as it was")


def test_from_nothing_to_in_step_and_then_no_call_more(site: Site) -> None:
    make_policy(project=site.project, max_running_jobs=5, max_accelerators_in_use=16, max_accelerators_per_job=8)
    assert [change.kind for change in site.plan().changes] == ["add_account", "add_user"]
    applied = site.apply()
    assert {result.outcome for result in applied.results} == {ChangeOutcome.DONE}
    assert applied.remaining is not None
    assert applied.remaining.changes == ()
    code = site.project.code
    assert site.associations(code) == [f"{code}|||root|gres/gpu=16|gres/gpu=8||5|||", f"{code}|{CAROL}|||||||||"]
    made = len(site.changing_calls())
    assert made == 2
    assert site.apply().results == ()
    assert len(site.changing_calls()) == made


def test_a_member_may_submit_and_nobody_else_may(site: Site) -> None:
    with pytest.raises(LabError, match="Invalid account"):
        site.submit(CAROL)
    site.apply()
    assert site.submit(CAROL).isdigit()
    with pytest.raises(LabError, match="Invalid account"):
        site.submit(BOB)


def test_a_limit_of_the_project_holds_in_slurm(site: Site) -> None:
    make_policy(project=site.project, max_accelerators_in_use=2)
    site.apply()
    job = site.submit(CAROL, "--gres=gpu:4")
    site.lab.wait_until(
        lambda: "AssocGrpGRES" in site.lab.run("squeue", "--noheader", f"--jobs={job}", "--format=%r"), "the reason"
    )


def test_a_former_member_with_a_running_job_is_stopped_at_once_and_removed_when_it_has_ended(site: Site) -> None:
    dave = make_user("dave", unix_username=BOB)
    membership = site.project.memberships.create(user=dave)
    site.apply()
    job = site.submit(BOB)
    membership.delete()
    applied = site.apply()
    assert [result.outcome for result in applied.results] == [ChangeOutcome.DONE, ChangeOutcome.WAITING]
    assert "Job(s) active" in applied.results[1].words
    with pytest.raises(LabError, match="AssocMaxSubmitJobLimit"):
        site.submit(BOB)
    site.lab.run("scancel", job)
    site.lab.wait_until(lambda: not site.lab.run("squeue", "--noheader", f"--user={BOB}"), "the job to end")
    site.lab.wait_until(lambda: site.apply().remaining == Plan(), "the association to go")
    assert [row.split("|")[1] for row in site.associations(site.project.code)] == ["", CAROL]
    assert f"labb|{BOB}|||||||||{site.default_qos}" in site.associations("labb")


def test_a_closed_project_starts_nothing_new_and_an_open_one_does_again(site: Site) -> None:
    site.apply()
    Project.objects.filter(pk=site.project.pk).update(state=ProjectState.CLOSED)
    site.apply()
    with pytest.raises(LabError, match="AssocGrpSubmitJobsLimit"):
        site.submit(CAROL)
    Project.objects.filter(pk=site.project.pk).update(state=ProjectState.ACTIVE)
    site.apply()
    assert site.submit(CAROL).isdigit()


def test_a_closed_projects_account_is_deleted_only_when_asked(site: Site) -> None:
    site.apply()
    Project.objects.filter(pk=site.project.pk).update(state=ProjectState.CLOSED)
    site.apply()
    assert site.associations(site.project.code)
    applied = site.apply(delete_closed=True)
    assert applied.remaining == Plan()
    assert site.associations(site.project.code) == []


def test_a_limit_changed_behind_the_portals_back_is_shown_and_put_right(site: Site) -> None:
    make_policy(project=site.project, max_running_jobs=5)
    site.apply()
    site.sacctmgr("modify", "account", "where", f"name={site.project.code}", "set", "GrpJobs=500", "GrpTRES=cpu=64")
    plan = site.plan()
    assert [(item.name, item.before, item.after) for item in plan.changes[0].settings] == [("GrpJobs", 500, 5)]
    site.apply()
    # CPUs are nothing that the portal limits: an operator's limit on them stays.
    assert site.associations(site.project.code)[0] == f"{site.project.code}|||root|cpu=64|||5|||"
    assert site.plan() == Plan()


def test_nothing_of_others_is_touched_whatever_its_name(site: Site) -> None:
    code = site.project.code
    site.sacctmgr("add", "account", f"name={code}", "organization=physics", "description=theirs", "GrpJobs=7")
    site.sacctmgr("add", "user", f"name={BOB}", f"account={code}")
    site.sacctmgr("add", "account", "name=other", "organization=physics")
    site.sacctmgr("add", "qos", "theirs", "MaxJobsPerUser=1")
    before = site.everything_but()
    plan = site.plan()
    assert plan.changes == ()
    assert [(finding.code, finding.target) for finding in plan.findings] == [("foreign_account", code)]
    site.apply()
    site.apply(delete_closed=True)
    assert site.everything_but() == before
    assert site.changing_calls() == []


def test_the_rest_of_the_cluster_is_as_it_was_after_all_kinds_of_changes(site: Site, settings: LazySettings) -> None:
    settings.SCHEDULERS["lab"]["ASSOCIATIONS"]["QOS_PREFIX"] = QOS_PREFIX
    before = site.everything_but()
    alice = make_user("alice", unix_username=ALICE)
    membership = site.project.memberships.create(user=alice)
    make_policy(max_running_jobs=3)
    policy = make_policy(user=alice, max_running_jobs=9)
    site.apply()
    policy.delete()
    membership.delete()
    site.apply()
    Project.objects.filter(pk=site.project.pk).update(state=ProjectState.CLOSED)
    assert site.apply(delete_closed=True).remaining == Plan()
    # sacctmgr keeps the bare name of an account for other clusters.
    assert site.everything_but(QOS_PREFIX, f"account {site.project.code}|") == before


def test_a_user_put_into_the_portals_account_by_an_operator_stays(site: Site) -> None:
    site.apply()
    site.sacctmgr("add", "user", f"name={BOB}", f"account={site.project.code}", "MaxSubmitJobs=3")
    plan = site.plan()
    assert plan.changes == ()
    assert [(item.code, item.target) for item in plan.findings] == [
        ("foreign_association", f"{site.project.code}/{BOB}")
    ]
    site.apply()
    Project.objects.filter(pk=site.project.pk).update(state=ProjectState.CLOSED)
    site.apply(delete_closed=True)
    assert f"{site.project.code}|{BOB}||||||||3|" in site.associations(site.project.code)


def test_people_are_limited_over_all_their_projects_by_qos_of_the_portals(site: Site, settings: LazySettings) -> None:
    settings.SCHEDULERS["lab"]["ASSOCIATIONS"]["QOS_PREFIX"] = QOS_PREFIX
    site.project.memberships.create(user=make_user("dave", unix_username=BOB))
    make_policy(max_running_jobs=1, max_accelerators_in_use=8)
    make_policy(user=site.carol, max_running_jobs=2)
    site.apply()
    assert site.plan() == Plan()
    rows = site.show("qos", "format=name,maxjobspu,maxtrespu")
    assert f"{QOS_PREFIX}standard|1|gres/gpu=8" in rows
    assert f"{QOS_PREFIX}user-{CAROL}|2|gres/gpu=8" in rows
    site.submit(BOB)
    second = site.submit(BOB)
    shown = site.lab.run("squeue", "--noheader", f"--jobs={second}", "--format=%q")
    assert shown.strip() == f"{QOS_PREFIX}standard"
    site.lab.wait_until(
        lambda: "QOSMaxJobsPerUserLimit" in site.lab.run("squeue", "--noheader", f"--jobs={second}", "--format=%r"),
        "the reason",
    )
    with pytest.raises(LabError, match="Invalid qos"):
        site.lab.run("sbatch", f"--account={site.project.code}", "--qos=normal", "--wrap=true", user=CAROL)


def test_a_qos_of_others_with_the_portals_prefix_is_left_alone_and_not_used(site: Site, settings: LazySettings) -> None:
    settings.SCHEDULERS["lab"]["ASSOCIATIONS"]["QOS_PREFIX"] = QOS_PREFIX
    site.sacctmgr("add", "qos", f"{QOS_PREFIX}standard", "MaxJobsPerUser=77")
    make_policy(max_running_jobs=1)
    applied = site.apply()
    assert applied.remaining is not None
    assert [item.code for item in applied.remaining.findings] == ["foreign_qos"]
    assert f"{QOS_PREFIX}standard|77" in site.show("qos", "format=name,maxjobspu")
    assert site.associations(site.project.code)[0].endswith("||")


NASTY_TITLES = (
    'x\' "y" where name=root set GrpJobs=0',
    "a, b\nadd account evil\r\n",
    "AdminLevel=Administrator cluster=all $(reboot) `id` ; --help",
    "大模型训练\u2028项目[1-9]|\\",
)
NASTY_NAMES = ("a,b", "-i", "a b", "a\nb", "a[1-2]", "Root", "a'b", "项目", "root")


def test_text_of_people_never_reaches_sacctmgr(site: Site) -> None:
    before = site.everything_but()
    User.objects.update(first_name=NASTY_TITLES[0], last_name=NASTY_TITLES[1])
    Project.objects.update(title=NASTY_TITLES[0], field_of_science=NASTY_TITLES[1])
    projects = [site.project, *(site.add_project(title=title, field_of_science=title) for title in NASTY_TITLES[1:])]
    site.apply()
    assert site.plan() == Plan()
    codes = [project.code for project in projects]
    assert site.everything_but(*codes, CAROL) == before
    mark = setups["lab"].mark
    wanted = [
        f"--immediate|add|account|name={code}|cluster={CLUSTER_NAME}|parent=root|description={mark}|organization={mark}|"
        for code in codes
    ]
    wanted.append(f"--immediate|add|user|name={CAROL}|account={codes[0]}|cluster={CLUSTER_NAME}|")
    assert sorted(site.changing_calls()) == sorted(wanted)


def test_names_that_sacctmgr_would_read_otherwise_are_refused_before_it(site: Site) -> None:
    for name in NASTY_NAMES:
        site.add_project(slurm_account=name)
        site.project.memberships.create(user=make_user(unix_username=name))
    for system_user in ("slurm", "nobody"):
        site.project.memberships.create(user=make_user(unix_username=system_user))
    before = site.everything_but()
    site.apply()
    assert len(site.changing_calls()) == 2
    assert site.everything_but(site.project.code, CAROL) == before
    found = [item.code for item in site.plan().findings]
    # "Root" and "root" are one account to sacctmgr.
    assert found.count("unusable_account_name") == len(NASTY_NAMES) - 1
    assert found.count("unusable_unix_name") == len(NASTY_NAMES) + 2


def test_a_name_that_is_a_word_of_sacctmgrs_is_only_a_name(site: Site) -> None:
    Project.objects.update(slurm_account="set")
    site.apply()
    assert [row.split("|")[:2] for row in site.associations("set")] == [["set", ""], ["set", CAROL]]


def test_two_projects_with_one_account_are_told_of_and_neither_is_written(site: Site) -> None:
    other = site.add_project(slurm_account=site.project.code)
    site.apply()
    assert site.changing_calls() == []
    found = site.plan().findings
    both = ", ".join(sorted([other.code, site.project.code]))
    assert [(item.code, item.detail) for item in found] == [("shared_account", both)]


def test_what_was_done_is_written_down_and_can_not_be_changed(site: Site) -> None:
    site.apply(actor=site.carol)
    rows = list(AssociationChange.objects.order_by("pk").values_list("kind", "target", "outcome", "actor__username"))
    code = site.project.code
    assert rows == [
        ("add_account", code, "STARTED", "carol"),
        ("add_account", code, "DONE", "carol"),
        ("add_user", f"{code}/{CAROL}", "STARTED", "carol"),
        ("add_user", f"{code}/{CAROL}", "DONE", "carol"),
    ]
    assert "Adding Account(s)" in AssociationChange.objects.get(kind="add_account", outcome="DONE").words
    for act in (lambda: AssociationChange.objects.update(words=""), AssociationChange.objects.all().delete):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            act()


def test_a_run_that_was_cut_off_is_finished_by_the_next(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    real = SacctmgrAssociations.apply
    calls = []

    def dies_after_the_call(self: SacctmgrAssociations, *args: Any, **options: Any) -> str:
        calls.append(real(self, *args, **options))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return calls[-1]

    with monkeypatch.context() as patch:
        patch.setattr(SacctmgrAssociations, "apply", dies_after_the_call)
        with pytest.raises(KeyboardInterrupt):
            site.apply()
    # Made, but its line in the log says only that it was begun: it is the portal's all the same.
    assert site.plan() == Plan()
    site.project.memberships.all().delete()
    assert site.apply().remaining == Plan()
    assert [row.split("|")[1] for row in site.associations(site.project.code)] == [""]


def test_accounting_that_is_away_is_told_and_nothing_is_claimed(site: Site) -> None:
    site.lab.stop("slurmdbd")
    try:
        with pytest.raises(SchedulerUnavailable):
            site.apply()
        sync_associations(now=timezone.now)
        assert AssociationReview.objects.get().error
        errors = StringIO()
        with pytest.raises(Exception, match="doesn't answer"):
            call_command("sync_associations", "--cluster", "lab", stderr=errors)
    finally:
        site.lab.start("slurmdbd")
    assert not AssociationChange.objects.exists()
    sync_task()
    review = AssociationReview.objects.get()
    assert (review.error, review.plan) == ("", rows_of(Plan()))
    assert [row.split("|")[1] for row in site.associations(site.project.code)] == ["", CAROL]


def test_the_hourly_task_only_looks_unless_told_to_apply(site: Site, settings: LazySettings) -> None:
    settings.SCHEDULERS["lab"]["ASSOCIATIONS"]["MODE"] = "show"
    sync_task()
    assert site.changing_calls() == []
    plan = AssociationReview.objects.get().plan
    assert [change["kind"] for change in plan["changes"]] == ["add_account", "add_user"]


def test_the_command_shows_applies_and_says_by_its_exit_code_what_is_left(site: Site) -> None:
    def run(*options: str) -> tuple[int, str]:
        out = StringIO()
        try:
            call_command("sync_associations", "--cluster", "lab", *options, stdout=out)
        except SystemExit as end:
            return int(str(end.code)), out.getvalue()
        return 0, out.getvalue()

    code, text = run()
    assert code == 3
    assert f"to do      add_account         {site.project.code}" in text
    assert site.changing_calls() == []
    assert len(json.loads(run("--json")[1])["changes"]) == 2
    code, text = run("--apply")
    assert (code, text.splitlines()[-1]) == (0, "in step: nothing to do")
    assert run() == (0, "in step: nothing to do\n")


def test_a_plan_that_is_no_longer_the_one_shown_is_not_applied(site: Site) -> None:
    shown = site.plan().fingerprint
    site.project.memberships.create(user=make_user("dave", unix_username=BOB))
    with pytest.raises(PlanChanged):
        site.apply(fingerprint=shown)
    assert site.changing_calls() == []
    assert site.apply(fingerprint=site.plan().fingerprint).remaining == Plan()


@pytest.mark.django_db(transaction=True)
def test_two_who_apply_at_once_do_not_race(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    real = SacctmgrAssociations.read
    is_reading, may_go_on = threading.Event(), threading.Event()

    def slow_read(self: SacctmgrAssociations, *, mark: str) -> Any:
        is_reading.set()
        assert may_go_on.wait(30)
        return real(self, mark=mark)

    monkeypatch.setattr(SacctmgrAssociations, "read", slow_read)
    done: list[Applied] = []

    def first() -> None:
        try:
            done.append(site.apply())
        finally:
            connections.close_all()

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert is_reading.wait(30)
        with pytest.raises(ApplyInProgress):
            site.apply()
    finally:
        may_go_on.set()
        thread.join(60)
    assert done[0].remaining == Plan()
    assert site.apply().results == ()


@pytest.mark.parametrize("right", ["operator", "coordinator"])
def test_rights_that_suffice(site: Site, settings: LazySettings, tmp_path: Path, right: str) -> None:
    """The whole life of a project, by a portal that isn't root: sacctmgr runs as another Unix user."""
    config = settings.SCHEDULERS["lab"]["ASSOCIATIONS"]
    if right == "operator":
        _wrap_sacctmgr(tmp_path, site.calls, user=PORTAL_USER)
    else:
        config["PARENT_ACCOUNT"] = _make_coordinator(site, BOB)
        _wrap_sacctmgr(tmp_path, site.calls, user=BOB)
    make_policy(max_running_jobs=3)
    make_policy(project=site.project, max_running_jobs=5, max_accelerators_in_use=16)
    membership = site.project.memberships.create(user=make_user("alice", unix_username=ALICE))
    outcomes = {result.outcome for result in site.apply().results}
    membership.delete()
    outcomes |= {result.outcome for result in site.apply().results}
    site.submit(CAROL)
    site.lab.cancel_all()
    Project.objects.filter(pk=site.project.pk).update(state=ProjectState.CLOSED)
    outcomes |= {result.outcome for result in site.apply().results}
    applied = site.apply(delete_closed=True)
    assert outcomes | {result.outcome for result in applied.results} == {ChangeOutcome.DONE}
    assert site.associations(site.project.code) == []


def test_an_operator_may_make_no_qos_and_is_told_so(site: Site, settings: LazySettings, tmp_path: Path) -> None:
    _wrap_sacctmgr(tmp_path, site.calls, user=PORTAL_USER)
    settings.SCHEDULERS["lab"]["ASSOCIATIONS"]["QOS_PREFIX"] = QOS_PREFIX
    applied = site.apply()
    assert [result.outcome for result in applied.results] == [ChangeOutcome.REFUSED, None, None]
    assert "Access/permission denied" in applied.results[0].words
    assert len(site.changing_calls()) == 1


def test_slurm_itself_keeps_a_coordinator_from_all_but_its_own_accounts(site: Site) -> None:
    parent = _make_coordinator(site, BOB)
    code = site.project.code
    here = f"cluster={CLUSTER_NAME}"

    def as_coordinator(*words: str) -> str:
        return site.lab.run("sacctmgr", "--immediate", *words, user=BOB)

    as_coordinator("add", "account", f"name={code}", here, f"parent={parent}", "organization=portal")
    before = site.everything_but()
    for forbidden in (
        ("add", "account", "name=elsewhere", here, "parent=root"),
        ("modify", "account", "where", "name=laba", here, "set", "GrpJobs=1"),
        ("add", "user", f"name={CAROL}", "account=laba", here),
        ("delete", "user", "where", f"name={ALICE}", "account=laba", here),
        ("modify", "account", "where", f"name={code}", here, "set", "QOS=high"),
        ("modify", "account", "where", f"name={parent}", here, "set", "GrpJobs=1"),
        ("add", "qos", f"name={QOS_PREFIX}x"),
        ("modify", "user", "where", f"name={BOB}", "set", "adminlevel=Administrator"),
    ):
        with pytest.raises(LabError):
            as_coordinator(*forbidden)
    assert [row for row in site.everything_but() if "elsewhere" not in row] == before


def _make_coordinator(site: Site, user: str) -> str:
    """An account of the centre's, below which this user may make accounts."""
    parent = f"par{uuid.uuid4().hex[:6]}"
    site.sacctmgr("add", "account", f"name={parent}", "organization=centre")
    site.sacctmgr("add", "coordinator", f"account={parent}", f"names={user}")
    return parent


def test_a_refusal_is_told_in_slurms_words_and_what_depends_on_it_is_not_tried(
    site: Site, settings: LazySettings
) -> None:
    settings.SCHEDULERS["lab"]["ASSOCIATIONS"]["PARENT_ACCOUNT"] = "nowhere"
    applied = site.apply()
    assert [result.outcome for result in applied.results] == [ChangeOutcome.REFUSED, None]
    assert "Parent account 'nowhere' doesn't exist" in applied.results[0].words
    assert len(site.changing_calls()) == 1


def test_an_answer_that_can_not_be_read_for_certain_is_not_planned_on(site: Site) -> None:
    site.sacctmgr("add", "account", "name=odd|\nname", "organization=odd")
    try:
        with pytest.raises(SchedulerUnavailable, match="can't be read"):
            site.plan()
    finally:
        site.sacctmgr("delete", "account", "name=odd|\nname")


def test_the_adapter_refuses_what_no_plan_may_hold(site: Site) -> None:
    admin = setups["lab"].admin
    for change in (
        Change(kind=ChangeKind.SET_ACCOUNT, account="root", settings=(Setting("GrpJobs", None, 1),)),
        Change(kind=ChangeKind.REMOVE_USER, account="laba", user="root"),
        Change(kind=ChangeKind.SET_ACCOUNT, account="laba", settings=(Setting("Fairshare", None, 1),)),
        Change(kind=ChangeKind.SET_USER, account="laba", user=ALICE, settings=(Setting("AdminLevel", None, 3),)),
        Change(kind=ChangeKind.SET_ACCOUNT, account="laba", settings=(Setting("GrpTRES:gres/gpu,cpu", None, 1),)),
        Change(kind=ChangeKind.SET_ACCOUNT, account="laba", settings=(Setting("GrpJobs", None, "1 set"),)),
        Change(kind=ChangeKind.ADD_QOS, qos="a,b"),
    ):
        with pytest.raises(ChangeRefused):
            admin.apply(change, mark="training-portal", parent_account="root")
    assert site.changing_calls() == []
