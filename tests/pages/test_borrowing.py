"""The choice of borrowed accelerators on the form, what a job's page says of them, and shares in the back-office."""

from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEvent, Cohort, CohortShare, Institution, Partition, Project
from jobs.models import Job
from tests.factories import make_allocation, make_institution, make_project, make_user
from tests.job_factories import make_job
from tests.jobs.conftest import Centre
from tests.pages.conftest import SignIn

FORM = {
    "model_source": "none",
    "nodes": "1",
    "devices_per_node": "8",
    "time_limit": "60 min",
    "entry_kind": "script",
    "script": "#!/bin/bash\necho hello\n",
}


@pytest.fixture
def cohort(centre: Centre) -> Cohort:
    """Of 64 accelerators the owner has 56, and the others the rest."""
    owner = make_project("owner", members=(centre.user,))
    make_allocation(owner, centre.partition.resource_class)
    made = Cohort.objects.create(partition=centre.partition, preemptible_weight=Decimal("0.25"), grace_s=120)
    CohortShare.objects.create(cohort=made, project=owner, nominal=56)
    return made


def fill_in(centre: Centre, **changes: str) -> dict[str, str]:
    return {"project": "nlp", "partition": f"dummy/{centre.partition.name}", **FORM, **changes}


@pytest.fixture
def owner(centre: Centre, sign_in: SignIn) -> Client:
    return sign_in(centre.user)


def test_the_choice_is_offered_with_its_price_and_its_risk(centre: Centre, owner: Client, cohort: Cohort) -> None:
    html = owner.post(reverse("job-estimate"), fill_in(centre)).content.decode()
    assert 'name="is_preemptible"' in html
    assert "At 25.0% of the price" in html
    assert "the job gets SIGUSR1 and 2" in html
    assert "Reserves 8.00 accelerator-hours" in html
    html = owner.post(reverse("job-estimate"), fill_in(centre, is_preemptible="on")).content.decode()
    assert "Reserves 2.00 accelerator-hours" in html
    assert 'aria-describedby="is_preemptible-help" checked' in html


def test_there_is_no_choice_where_nothing_is_lent(centre: Centre, owner: Client) -> None:
    html = owner.post(reverse("job-estimate"), fill_in(centre, is_preemptible="on")).content.decode()
    assert "is_preemptible" not in html
    assert owner.post(reverse("job-new"), fill_in(centre, is_preemptible="on")).status_code == 302
    assert not Job.objects.get().is_preemptible


def test_a_job_beyond_the_share_is_refused_with_what_would_do(centre: Centre, owner: Client, cohort: Cohort) -> None:
    html = owner.post(reverse("job-estimate"), fill_in(centre, nodes="2")).content.decode()
    assert "share of a800 is 8 accelerators; this job wants 16" in html
    html = owner.post(reverse("job-estimate"), fill_in(centre, nodes="2", is_preemptible="on")).content.decode()
    assert "this job wants 16" not in html


def test_a_borrowing_jobs_page_says_what_it_costs_and_how_often_it_made_room(
    centre: Centre, owner: Client, cohort: Cohort
) -> None:
    job = centre.submit(nodes=8, is_preemptible=True)
    centre.tick()
    centre.tick(1)
    html = owner.get(job.get_absolute_url()).content.decode()
    assert "preemptible" in html
    assert "25.0%" in html
    make_job(centre.user, Project.objects.get(code="owner"), centre.partition, at=centre.now(), nodes=7)
    centre.tick()
    for _ in range(4):
        centre.tick(61)
    html = owner.get(job.get_absolute_url()).content.decode()
    assert "the owners use their shares themselves now; it starts when something is idle" in html
    assert "It has made room for the owners of its accelerators 1 time." in html
    assert "it is told to write a checkpoint and make room" in html


def test_the_api_tells_the_same(centre: Centre, owner: Client, cohort: Cohort) -> None:
    job = centre.submit(is_preemptible=True)
    found: dict[str, Any] = owner.get(f"/api/v1/jobs/{job.pk}").json()
    assert found["is_preemptible"] is True
    assert (found["billing_weight"], found["preemptible_weight"]) == (0.25, 0.25)
    assert (found["preemptions"], found["is_overrun"]) == (0, False)


class TestBackOffice:
    @pytest.fixture
    def administrator(self, db: None, sign_in: SignIn) -> Client:
        return sign_in(make_user("root", is_staff=True, is_superuser=True))

    def post(
        self, client: Client, partition: Partition, cohort: Cohort | None, *shares: tuple[Institution, str, str]
    ) -> Any:
        data = {
            "partition": partition.pk,
            "is_enabled": "on",
            "preemptible_weight": "0.5",
            "grace_s": "60",
            "shares-TOTAL_FORMS": len(shares),
            "shares-INITIAL_FORMS": 0,
        }
        for number, (institution, nominal, lending) in enumerate(shares):
            data |= {
                f"shares-{number}-institution": institution.pk,
                f"shares-{number}-nominal": nominal,
                f"shares-{number}-lending_limit": lending,
            }
        address = reverse("admin:accounts_cohort_change", args=[cohort.pk]) if cohort else None
        return client.post(address or reverse("admin:accounts_cohort_add"), data)

    def test_shares_are_set_and_changed_with_a_line_in_the_audit(self, centre: Centre, administrator: Client) -> None:
        first, second = make_institution("first"), make_institution("second")
        answer = self.post(administrator, centre.partition, None, (first, "40", "10"), (second, "24", ""))
        assert answer.status_code == 302, answer.content
        cohort = Cohort.objects.get()
        assert self.post(administrator, centre.partition, cohort).status_code == 302
        made, changed = AuditEvent.objects.order_by("pk")
        assert (made.action, made.target) == ("cohort.create", "dummy/a800")
        assert made.after["shares"][0] == {
            "of": "institution first",
            "nominal": 40,
            "borrowing_limit": None,
            "lending_limit": 10,
        }
        assert (changed.action, changed.before["shares"]) == ("cohort.change", made.after["shares"])

    @pytest.mark.parametrize(
        ("nominal", "lending", "words"),
        [
            ("65", "", "The nominal shares are 65 accelerators in sum; the partition has 64."),
            ("8", "9", "A lending limit of 9 is more than the nominal share of 8."),
        ],
    )
    def test_shares_that_do_not_fit_are_refused_in_words(
        self, centre: Centre, administrator: Client, nominal: str, lending: str, words: str
    ) -> None:
        answer = self.post(administrator, centre.partition, None, (make_institution(), nominal, lending))
        assert answer.status_code == 200
        assert words in answer.content.decode()
        assert not Cohort.objects.exists()
        assert not AuditEvent.objects.exists()

    def test_a_researcher_has_no_way_in(self, centre: Centre, owner: Client) -> None:
        assert owner.get(reverse("admin:accounts_cohort_changelist")).status_code in (302, 403)
