"""What projects, members and policies come to in a cluster's accounting."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.exceptions import ImproperlyConfigured

from accounts.models import Project, ProjectState, User
from jobs.backends.slurm.sacctmgr import SacctmgrAssociations
from jobs.services.association_plan import Wanted, WantedAccount
from jobs.services.association_setup import NotManaged, SetupHandler
from jobs.services.wanted_associations import wanted_associations
from tests.factories import (
    NOW,
    make_allocation,
    make_partition,
    make_policy,
    make_project,
    make_resource_class,
    make_user,
)
from tests.jobs.conftest import Centre

Counter = Callable[..., Any]


def wanted_on(centre: Centre, *, qos_prefix: str = "") -> Wanted:
    return wanted_associations(centre.cluster, qos_prefix=qos_prefix, at=NOW)


def the_account(centre: Centre, *, qos_prefix: str = "") -> WantedAccount:
    (account,) = wanted_on(centre, qos_prefix=qos_prefix).accounts
    return account


def test_a_project_that_may_spend_here_is_an_account_with_its_members(centre: Centre) -> None:
    account = the_account(centre)
    assert (account.name, [user.name for user in account.users]) == ("nlp", ["chen", "lin"])


def test_projects_that_may_not_spend_here_are_none(centre: Centre) -> None:
    make_project("without-allocation")
    other = make_partition("cpu", cluster=None, resource_class=make_resource_class("cpu"), gres_name="cpu")
    elsewhere = make_project("elsewhere")
    make_allocation(elsewhere, make_resource_class("of-no-partition"))
    ended = make_project("ended")
    make_allocation(ended, other.resource_class, end_at=NOW, start_at=NOW - timedelta(days=9))
    closed = make_project("closed", state=ProjectState.CLOSED)
    make_allocation(closed, other.resource_class)
    assert [account.name for account in wanted_on(centre).accounts] == ["nlp"]


def test_people_who_can_not_run_jobs_are_left_out_and_told_of(centre: Centre) -> None:
    for name, fields in (
        ("gone", {"is_active": False}),
        ("nameless", {"unix_username": ""}),
        ("system", {"unix_username": "root"}),
    ):
        centre.project.memberships.create(user=make_user(name, **fields))
    wanted = wanted_on(centre)
    assert [user.name for user in wanted.accounts[0].users] == ["chen", "lin"]
    assert [(item.code, item.target) for item in wanted.findings] == [
        ("no_unix_name", "nameless"),
        ("unusable_unix_name", "root"),
    ]


def test_the_account_has_the_name_that_jobs_are_charged_to(centre: Centre) -> None:
    Project.objects.update(slurm_account="nlp-lab")
    assert the_account(centre).name == "nlp-lab"


def test_an_account_that_two_projects_want_is_nobodys(centre: Centre) -> None:
    other = make_project("vision", slurm_account="nlp")
    make_allocation(other, centre.partition.resource_class)
    wanted = wanted_on(centre)
    assert (wanted.accounts, wanted.kept) == ((), frozenset({"nlp"}))
    assert [(item.code, item.target, item.detail) for item in wanted.findings] == [
        ("shared_account", "nlp", "nlp, vision")
    ]


def test_a_projects_policy_is_on_its_account(centre: Centre) -> None:
    make_policy(project=centre.project, max_running_jobs=4, max_accelerators_in_use=32, max_queued_jobs=9)
    assert the_account(centre).limits == {
        "GrpJobs": 4,
        "GrpTRES:gres/gpu": 32,
        "MaxTRESPerJob:gres/gpu": None,
        "MaxWall": None,
    }


def test_a_job_is_bounded_by_the_tighter_of_project_and_person(centre: Centre) -> None:
    make_policy(project=centre.project, max_accelerators_per_job=16, max_time_limit_minutes=600)
    make_policy(max_accelerators_per_job=8, max_time_limit_minutes=1000)
    make_policy(user=centre.user, max_accelerators_per_job=64)
    account = the_account(centre)
    assert account.limits["MaxTRESPerJob:gres/gpu"] == 8
    assert account.limits["MaxWall"] == 600
    limits = {user.name: user.limits for user in account.users}
    assert limits["chen"] == {"MaxTRESPerJob:gres/gpu": None, "MaxWall": None}
    assert limits["lin"] == {"MaxTRESPerJob:gres/gpu": 16, "MaxWall": None}


def test_slurm_never_refuses_what_one_partition_allows(centre: Centre) -> None:
    make_policy(max_time_limit_minutes=60)
    long = make_partition("long", cluster=centre.cluster)
    make_policy(partition=long, max_time_limit_minutes=6000)
    assert the_account(centre).limits["MaxWall"] == 6000


def test_what_people_may_use_over_all_projects_is_on_qos(centre: Centre) -> None:
    make_policy(max_running_jobs=2, max_accelerators_in_use=16)
    make_policy(user=centre.user, max_running_jobs=5)
    wanted = wanted_on(centre, qos_prefix="tp_")
    assert {item.name: item.limits for item in wanted.qos} == {
        "tp_standard": {"MaxJobsPerUser": 2, "MaxTRESPerUser:gres/gpu": 16},
        "tp_user-lin": {"MaxJobsPerUser": 5, "MaxTRESPerUser:gres/gpu": 16},
    }
    account = wanted.accounts[0]
    assert account.qos == "tp_standard"
    assert {user.name: user.qos for user in account.users} == {"chen": "", "lin": "tp_user-lin"}


def test_without_a_prefix_no_qos_is_wanted(centre: Centre) -> None:
    make_policy(max_running_jobs=2)
    wanted = wanted_on(centre)
    assert (wanted.qos, wanted.is_qos_managed, wanted.accounts[0].qos) == ((), False, "")


def test_queries_do_not_grow_with_projects(centre: Centre, django_assert_num_queries: Counter) -> None:
    for number in range(10):
        project = make_project(f"many{number}", members=tuple(make_user() for _ in range(3)))
        make_allocation(project, centre.partition.resource_class)
        make_policy(project=project, max_running_jobs=number)
    for user in User.objects.all()[:5]:
        make_policy(user=user, max_running_jobs=3)
    cluster = centre.cluster
    with django_assert_num_queries(4):
        assert len(wanted_associations(cluster, qos_prefix="tp_", at=NOW).accounts) == 11


# How a cluster is set up


def set_up(settings: LazySettings, **associations: Any) -> SetupHandler:
    settings.SCHEDULERS = {
        "main": {
            "BACKEND": "jobs.backends.slurm.SlurmCliBackend",
            "OPTIONS": {"JOBS_DIRECTORY": "/jobs", "SLURM_CONF": "/etc/slurm/main.conf"},
            "ASSOCIATIONS": associations,
        },
        "other": {"BACKEND": "jobs.backends.slurm.SlurmCliBackend"},
    }
    return SetupHandler()


def test_a_cluster_is_only_looked_at_unless_it_is_set_otherwise(settings: LazySettings) -> None:
    setup = set_up(settings)["main"]
    assert isinstance(setup.admin, SacctmgrAssociations)
    assert (setup.applies, setup.mark, setup.parent_account, setup.qos_prefix) == (False, "training-portal", "root", "")
    assert set_up(settings, MODE="apply")["main"].applies


def test_where_slurm_is_need_not_be_said_twice(settings: LazySettings) -> None:
    assert set_up(settings)["main"].admin.options == {"SLURM_CONF": "/etc/slurm/main.conf"}
    own = set_up(settings, OPTIONS={"SLURM_CONF": "/etc/slurm/admin.conf"})["main"]
    assert own.admin.options == {"SLURM_CONF": "/etc/slurm/admin.conf"}


def test_a_cluster_without_the_setting_is_not_kept(settings: LazySettings) -> None:
    with pytest.raises(NotManaged):
        set_up(settings)["other"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODE", "always"),
        ("MODE", True),
        ("MARK", "x"),
        ("MARK", "a,b=c"),
        ("PARENT_ACCOUNT", "Root"),
        ("QOS_PREFIX", "a,"),
        ("QOS_PREFIX", "a"),
        ("TYPO", "x"),
        ("BACKEND", "nowhere.Nothing"),
    ],
)
def test_settings_that_are_not_allowed_are_named(settings: LazySettings, name: str, value: object) -> None:
    handler = set_up(settings, **{name: value})
    with pytest.raises(ImproperlyConfigured, match=name):
        handler["main"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("CLUSTER_NAME", "a,b"), ("CLUSTER_NAME", 3), ("SLURM_CONF", "x"), ("TIMEOUT_S", 0), ("TYPO", 1)],
)
def test_options_that_are_not_allowed_are_named(settings: LazySettings, name: str, value: object) -> None:
    handler = set_up(settings, OPTIONS={name: value})
    with pytest.raises(ImproperlyConfigured, match=name):
        handler["main"]
