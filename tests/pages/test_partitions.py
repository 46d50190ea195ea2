"""The page of a partition, and what other pages say of partitions: what works, what is reserved, how long one waits."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from accounts.models import Cluster, Membership, Node, User
from jobs.backends.base import NodeState, QosInfo, ReservationInfo
from jobs.services.clusters import record_failure, sync_inventory
from jobs.states import JobState
from tests.factories import NOW, make_partition, make_project, make_user
from tests.jobs.conftest import Centre, native_id
from tests.jobs.test_waiting import add_jobs
from tests.pages.conftest import SignIn

PAGE = "/clusters/dummy/a800/"


def sync(centre: Centre) -> None:
    sync_inventory(at=centre.now())


def words(client: Client, url: str = PAGE) -> str:
    """The page as its reader sees it, without markup."""
    answer = client.get(url)
    assert answer.status_code == 200
    text = re.sub(r"<(script|style)\b.*?</\1>", "", answer.content.decode(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).replace("\u00a0", " ").split())


def reservation(name: str, **changes: Any) -> ReservationInfo:
    values = {"start_at": NOW - timedelta(hours=1), "end_at": NOW + timedelta(hours=2), "nodes": ("a800-01",)}
    return ReservationInfo(name=name, **{**values, **changes})


@pytest.fixture
def staff() -> User:
    return make_user("root", is_staff=True)


def test_it_says_what_is_free_used_and_out_of_service(centre: Centre, owner: Client) -> None:
    centre.submit(devices_per_node=8)
    centre.tick()
    centre.tick(1)
    centre.backend.set_node_state("a800-05", NodeState.DRAINED, reason="disk <full>", by="operator7")
    centre.backend.set_node_state("a800-06", NodeState.DOWN, reason="fan")
    sync(centre)
    page = words(owner)
    assert "40 of 64 accelerators free" in page
    assert "8 in use" in page
    assert "16 out of service" in page
    assert "Idle 5 · In use 1 · Drained 1 · Down 1" in page
    assert "disk &lt;full&gt;" in page
    assert "1 running, 0 pending" in page
    assert "a800-07" not in page


def test_who_took_a_node_out_of_service_is_for_staff(
    centre: Centre, owner: Client, sign_in: SignIn, staff: User
) -> None:
    centre.backend.set_node_state("a800-05", NodeState.DRAINED, reason="disk", by="operator7")
    sync(centre)
    assert "operator7" not in words(owner)
    assert "operator7" in words(sign_in(staff))


def test_all_nodes_can_be_listed_and_sorted(centre: Centre, owner: Client) -> None:
    centre.backend.set_node_state("a800-05", NodeState.DOWN, reason="fan")
    sync(centre)

    def order(query: str) -> list[str]:
        return [node.name for node in owner.get(f"{PAGE}?{query}").context["page_obj"]]

    assert order("") == ["a800-05"]
    assert order("nodes=all") == [f"a800-{number:02d}" for number in range(1, 9)]
    assert order("nodes=all&sort=since")[0] == "a800-05"
    assert order("nodes=all&sort=state")[0] == "a800-05"
    assert order("nodes=' OR 1=1&sort=password&page=999") == ["a800-05"]


def test_many_nodes_come_in_pages(centre: Centre, owner: Client) -> None:
    Node.objects.bulk_create(
        Node(partition=centre.partition, name=f"n{number:03d}", state="idle", devices=8, devices_in_use=0)
        for number in range(120)
    )
    page = owner.get(f"{PAGE}?nodes=all&page=3").context["page_obj"]
    assert [node.name for node in page] == [f"n{number:03d}" for number in range(100, 120)]


def test_reservations_say_when_and_whether_one_s_own_projects_may_use_them(
    centre: Centre, owner: Client, sign_in: SignIn, staff: User
) -> None:
    centre.backend.set_reservations(
        reservation("own", accounts=("nlp",)),
        reservation("others", accounts=("secret-project",)),
        reservation("downtime", start_at=NOW + timedelta(days=1), end_at=NOW + timedelta(days=2), is_maintenance=True),
        reservation("over", start_at=NOW - timedelta(days=2), end_at=NOW - timedelta(days=1)),
    )
    sync(centre)
    rows = {row.reservation.name: row for row in owner.get(PAGE).context["reservations"]}
    assert set(rows) == {"own", "others", "downtime"}
    assert (rows["own"].is_on, rows["own"].is_for_reader) == (True, True)
    assert (rows["others"].is_on, rows["others"].is_for_reader) == (True, False)
    assert not rows["downtime"].is_on
    page = words(owner)
    assert "secret-project" not in page
    assert "You or a project of yours" in page
    assert "1 of 8" in page
    assert "secret-project" in words(sign_in(staff))
    assert "maintenance from 2026-06-02" in words(owner, "/clusters/")


def test_a_reader_without_a_unix_account_is_no_holder_of_a_reservation_without_users(
    centre: Centre, sign_in: SignIn
) -> None:
    user = make_user("nobody", unix_username="")
    Membership.objects.create(project=make_project("other"), user=user)
    centre.backend.set_reservations(reservation("odd", users=("",)))
    sync(centre)
    (row,) = sign_in(user).get(PAGE).context["reservations"]
    assert not row.is_for_reader


def test_the_typical_wait_is_told_before_choosing(centre: Centre, owner: Client) -> None:
    add_jobs(centre, *[90.0] * 6)
    add_jobs(centre, *[7200.0] * 4, nodes=3)
    sync(centre)
    page = words(owner)
    assert "1 node 1 min 30 s 6 jobs 1 min 30 s" in page
    assert "2–4 nodes not enough jobs yet" in page
    for url in ("/clusters/", "/jobs/new"):
        text = words(owner, url)
        assert "1 node 1 min 30 s" in text
        assert "2–4 nodes 2 h" not in text


def test_a_partition_without_any_job_says_so(centre: Centre, owner: Client) -> None:
    for url in (PAGE, "/clusters/", "/jobs/new"):
        assert "not enough jobs yet" in words(owner, url)


def test_service_levels_are_listed_by_priority(centre: Centre, owner: Client) -> None:
    centre.backend.set_qos(
        QosInfo(name="low", priority=1), QosInfo(name="high", priority=9, preempts=("low",), max_devices_per_user=8)
    )
    sync(centre)
    assert [level.name for level in owner.get(PAGE).context["levels"]] == ["high", "low"]
    assert "high 9 low – – 8 –" in words(owner)


def test_a_cluster_that_is_away_says_since_when_and_when_it_is_asked_again(centre: Centre, owner: Client) -> None:
    record_failure(centre.cluster, ValueError("secret address"), at=NOW)
    for url in (PAGE, "/clusters/"):
        page = words(owner, url)
        assert "doesn't answer since" in page.replace("&#x27;", "'")
        assert "asked again at" in page
        assert "secret address" not in page


def test_an_empty_inventory_has_words_of_its_own(centre: Centre, owner: Client) -> None:
    page = words(owner)
    assert "The scheduler has not said yet which nodes there are." in page
    assert "Nothing is reserved, now or later." in page
    assert "This cluster has no service levels." in page


@pytest.mark.parametrize("suffix", ["", "live"])
def test_partitions_that_one_may_not_use_are_not_there(centre: Centre, owner: Client, suffix: str) -> None:
    closed = Cluster.objects.create(code="closed", title="Closed", is_enabled=False)
    make_partition("old", cluster=closed)
    assert owner.get(f"/clusters/closed/old/{suffix}").status_code == 404
    assert owner.get(f"/clusters/dummy/nowhere/{suffix}").status_code == 404
    assert Client().get(f"{PAGE}{suffix}").status_code == 302
    assert owner.get(f"{PAGE}{suffix}").status_code == 200


@pytest.mark.parametrize(
    ("sort", "first"), [("name", "alpha"), ("free", "a800"), ("jobs", "alpha"), ("wait", "zulu"), ("nonsense", "alpha")]
)
def test_the_overview_is_sorted_as_asked(centre: Centre, owner: Client, sort: str, first: str) -> None:
    waits = {"7": {"1": {"jobs": 9, "median_s": 5.0, "p90_s": 9.0}}}
    make_partition("alpha", cluster=centre.cluster, title="Alpha", nodes=1, jobs_pending=0)
    make_partition("zulu", cluster=centre.cluster, title="Zulu", nodes=2, typical_wait=waits, jobs_pending=3)
    centre.partition.title, centre.partition.jobs_pending = "Middle", 1
    centre.partition.save()
    ((_, rows),) = owner.get(f"/clusters/?sort={sort}").context["clusters"]
    assert rows[0].partition.name == first


def test_a_job_that_an_operator_holds_says_so_and_what_to_do(centre: Centre, owner: Client) -> None:
    job = centre.submit()
    centre.tick()
    centre.backend.set_state(native_id(job), JobState.PENDING, reason="JobHeldAdmin")
    centre.reconcile()
    page = words(owner, job.get_absolute_url())
    assert "held by an operator of the cluster" in page
    assert "It waits until an operator releases it: ask the centre why." in page
