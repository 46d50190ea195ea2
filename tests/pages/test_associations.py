"""The page of a cluster's Slurm accounts: what differs, and a button that makes exactly that."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client
from django.urls import reverse
from django.utils import translation

from accounts.models import AssociationChange, User
from jobs.backends.associations import SlurmAccount, UserAssociation
from jobs.backends.dummy_associations import DummyAssociations
from jobs.services.association_plan import Finding
from jobs.services.association_setup import AssociationSetup, setups
from jobs.services.association_wording import describe_finding
from tests.factories import make_allocation, make_project, make_user
from tests.jobs.conftest import Centre
from tests.pages.conftest import SignIn

Counter = Callable[..., Any]
PAGE = "/clusters/dummy/associations/"


@pytest.fixture
def slurm(centre: Centre, settings: LazySettings) -> Iterator[DummyAssociations]:
    """A cluster's accounting, in memory."""
    admin = DummyAssociations("dummy", {})
    settings.SCHEDULERS = {**settings.SCHEDULERS, "dummy": {**settings.SCHEDULERS["dummy"], "ASSOCIATIONS": {}}}
    setups["dummy"] = AssociationSetup(
        admin=admin, applies=False, mark="training-portal", parent_account="root", qos_prefix=""
    )
    yield admin
    del setups["dummy"]


@pytest.fixture
def staff(slurm: DummyAssociations, sign_in: SignIn) -> Client:
    return sign_in(make_user("root-of-all", is_staff=True, unix_username=""))


def text_of(client: Client, url: str = PAGE) -> str:
    answer = client.get(url)
    assert answer.status_code == 200
    return answer.content.decode()


def press(client: Client, what: str, **data: str) -> str:
    answer = client.post(f"{PAGE}{what}", data, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def shown_fingerprint(client: Client) -> str:
    return str(client.get(PAGE).context["fingerprint"])


def test_it_is_for_staff_alone(
    slurm: DummyAssociations, staff: Client, owner: Client, lead: User, sign_in: SignIn
) -> None:
    for url, act in ((PAGE, "get"), (f"{PAGE}look", "post"), (f"{PAGE}apply", "post")):
        assert getattr(Client(), act)(url).status_code == 302
        assert getattr(owner, act)(url).status_code == 403
        assert getattr(sign_in(lead), act)(url).status_code == 403
    assert slurm.changes_made == 0
    assert "Not looked yet" in text_of(staff)
    for action in ("look", "apply"):
        assert staff.get(f"{PAGE}{action}").status_code == 405


def test_a_form_without_its_token_is_refused(slurm: DummyAssociations, staff: Client) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.get(username="root-of-all"))
    assert client.post(f"{PAGE}apply").status_code == 403


def test_a_cluster_whose_accounts_are_not_kept_has_no_page(centre: Centre, sign_in: SignIn) -> None:
    client = sign_in(make_user("boss", is_staff=True))
    assert client.get(PAGE).status_code == 404
    assert client.get("/clusters/nothing/associations/").status_code == 404
    assert PAGE not in text_of(client, reverse("cluster-list"))


def test_staff_find_it_on_the_page_of_clusters(staff: Client, owner: Client) -> None:
    assert PAGE in text_of(staff, reverse("cluster-list"))
    assert PAGE not in text_of(owner, reverse("cluster-list"))


def test_what_is_shown_is_what_is_applied(slurm: DummyAssociations, staff: Client) -> None:
    page = press(staff, "look")
    assert page.index("Create account") < page.index("Add user")
    assert "nlp/lin" in page
    page = press(staff, "apply", fingerprint=shown_fingerprint(staff))
    assert "3 changes were made." in page
    assert "In step" in page
    assert {(item.account, item.user) for item in slurm.state.associations} == {("nlp", "lin"), ("nlp", "chen")}
    assert set(AssociationChange.objects.values_list("actor__username", "origin")) == {("root-of-all", "PAGE")}
    made = slurm.changes_made
    assert "There was nothing to do." in press(staff, "apply", fingerprint=shown_fingerprint(staff))
    assert slurm.changes_made == made


def test_what_was_not_shown_is_not_applied(slurm: DummyAssociations, staff: Client, centre: Centre) -> None:
    press(staff, "look")
    shown = shown_fingerprint(staff)
    centre.project.memberships.create(user=make_user("late"))
    assert "Nothing was applied" in press(staff, "apply", fingerprint=shown)
    assert "Nothing was applied" in press(staff, "apply")
    assert slurm.changes_made == 0


def test_slurm_being_away_is_told_beside_what_was_seen_last(slurm: DummyAssociations, staff: Client) -> None:
    press(staff, "look")
    shown = shown_fingerprint(staff)
    slurm.is_away = True
    assert "doesn&#x27;t answer" in press(staff, "apply", fingerprint=shown)
    page = press(staff, "look")
    assert "connection refused" in page
    assert "nlp/lin" in page
    slurm.is_away = False
    assert "didn&#x27;t answer" not in press(staff, "look")


def test_drift_and_what_is_left_to_people_are_shown(slurm: DummyAssociations, staff: Client, centre: Centre) -> None:
    press(staff, "look")
    press(staff, "apply", fingerprint=shown_fingerprint(staff))
    accounts = {**slurm.state.accounts}
    accounts["nlp"] = replace(accounts["nlp"], limits={"GrpJobs": 99})
    guest = UserAssociation(account="nlp", user="guest")
    slurm.state = replace(slurm.state, accounts=accounts, associations=(*slurm.state.associations, guest))
    page = press(staff, "look")
    assert "<code>GrpJobs</code> 99 → not set" in page
    assert "nlp/guest was added by somebody else" in page


def test_a_removal_that_waits_for_jobs_says_so(slurm: DummyAssociations, staff: Client, centre: Centre) -> None:
    press(staff, "look")
    press(staff, "apply", fingerprint=shown_fingerprint(staff))
    slurm.has_jobs.add(("nlp", "lin"))
    centre.project.memberships.filter(user=centre.user).delete()
    press(staff, "look")
    page = press(staff, "apply", fingerprint=shown_fingerprint(staff))
    assert "waits for jobs to end" in page
    assert "Job(s) active" in page


def test_names_and_words_are_escaped(slurm: DummyAssociations, staff: Client) -> None:
    slurm.state = replace(
        slurm.state,
        accounts={**slurm.state.accounts, "nlp": SlurmAccount(name="nlp", is_marked=True)},
        associations=(UserAssociation(account="nlp", user="<script>alert(1)</script>"),),
    )
    page = press(staff, "look")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_the_log_can_be_read_and_not_changed_in_the_back_office(staff: Client, sign_in: SignIn) -> None:
    press(staff, "look")
    press(staff, "apply", fingerprint=shown_fingerprint(staff))
    client = sign_in(User.objects.create_superuser("super", "super@example.org", "x"))
    listing = reverse("admin:accounts_associationchange_changelist")
    assert "nlp/lin" in text_of(client, listing)
    row = AssociationChange.objects.first()
    assert row is not None
    assert client.post(reverse("admin:accounts_associationchange_delete", args=[row.pk])).status_code == 403
    assert client.get(reverse("admin:accounts_associationchange_add")).status_code == 403


def test_it_speaks_chinese(staff: Client) -> None:
    press(staff, "look")
    staff.cookies["django_language"] = "zh-hans"
    page = text_of(staff)
    assert "新建账户" in page
    for english in ("Create account", "Differences", "Look now", "Apply"):
        assert f">{english}<" not in page


@pytest.mark.parametrize(
    "code",
    [
        *("foreign_account", "foreign_qos", "foreign_association", "foreign_association_differs"),
        *("partition_association", "administrator", "has_accounts_below", "no_unix_name", "unusable_unix_name"),
        *("unusable_account_name", "shared_account"),
    ],
)
def test_every_finding_has_words_in_both_languages(code: str) -> None:
    finding = Finding(code, "nlp/lin", "vision")
    shown = {"code": finding.code, "target": finding.target, "detail": finding.detail}
    english = describe_finding(shown)
    with translation.override("zh-hans"):
        chinese = describe_finding(shown)
    assert "nlp/lin" in english
    assert "nlp/lin" in chinese
    assert english != chinese


def test_its_queries_do_not_grow(
    slurm: DummyAssociations, staff: Client, centre: Centre, django_assert_max_num_queries: Counter
) -> None:
    for number in range(12):
        project = make_project(f"many{number}", members=tuple(make_user() for _ in range(3)))
        make_allocation(project, centre.partition.resource_class)
    with django_assert_max_num_queries(16):
        staff.post(f"{PAGE}look")
    with django_assert_max_num_queries(6):
        assert len(staff.get(PAGE).context["changes"]) == 3 + 12 * 4
