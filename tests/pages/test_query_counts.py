"""Pages ask the database a constant number of times, however much there is."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from jobs.models import Job, JobEvent
from tests.factories import make_allocation, make_partition, make_resource_class, make_user
from tests.jobs.conftest import Centre
from tests.pages.conftest import SignIn, filled_model_form

Counter = Callable[..., Any]

# Two of each are for the header: how many messages are unread, and which offices the person holds.
LIMITS = {
    "/": 10,
    "/jobs/new": 8,
    "/jobs/": 8,
    "/jobs/?scope=all&state=unfinished&q=cop": 8,
    "job": 9,
    "/projects/nlp/": 8,
    "/projects/": 7,
    "/projects/nlp/ledger": 8,
    "/projects/nlp/usage": 7,
    "/clusters/": 6,
    "/clusters/dummy/a800/": 10,
    "/clusters/dummy/a800/?nodes=all": 10,
    "/profile/": 5,
    "/projects/nlp/forecast": 6,
    "/reports/?from=2026-05-01&to=2026-06-01&group_by=user": 11,
    "/reports/export?from=2026-05-01&to=2026-06-01&group_by=week": 10,
}


@pytest.fixture
def busy(centre: Centre) -> Centre:
    """60 jobs, several members, partitions and allocations."""
    job = centre.submit(name="template", workload={"model": {"preset": "llama-2-7b"}, "tokens": 10**9})
    centre.tick()
    centre.tick()
    fields = [field.attname for field in Job._meta.fields if field.name not in ("id", "submission_key")]
    template = Job.objects.get()
    Job.objects.bulk_create(
        Job(**{**{name: getattr(template, name) for name in fields}, "name": f"copy-{number}"}) for number in range(60)
    )
    for number in range(20):
        JobEvent.objects.create(
            job=job, at=centre.now(), kind="transition", to_state="PENDING", actor=make_user(f"actor{number}")
        )
    for number in range(5):
        make_partition(f"p{number}", cluster=centre.cluster)
        make_allocation(centre.project, make_resource_class())
        centre.project.memberships.create(user=make_user(f"member{number}"))
    return centre


@pytest.mark.parametrize("url", LIMITS)
def test_pages_stay_within_their_queries(
    busy: Centre, owner: Client, url: str, django_assert_max_num_queries: Counter
) -> None:
    template = Job.objects.get(name="template")
    with django_assert_max_num_queries(LIMITS[url]):
        assert owner.get(template.get_absolute_url() if url == "job" else url).status_code == 200
    assert LIMITS[url] <= 15


def test_the_list_is_as_cheap_for_a_lead(
    busy: Centre, sign_in: SignIn, lead: User, django_assert_max_num_queries: Counter
) -> None:
    client = sign_in(lead)
    with django_assert_max_num_queries(8):
        assert len(client.get("/jobs/?scope=all").context["rows"]) == 50


def test_the_live_estimate_is_cheap(busy: Centre, owner: Client, django_assert_max_num_queries: Counter) -> None:
    data = filled_model_form(busy, time_limit="")
    with django_assert_max_num_queries(14):
        assert "Fits" in owner.post("/jobs/new/estimate", data).content.decode()


@pytest.mark.parametrize(("part", "limit"), [("live", 8), ("log", 6), ("metrics", 6)])
def test_what_is_polled_is_cheap(
    busy: Centre, owner: Client, part: str, limit: int, django_assert_max_num_queries: Counter
) -> None:
    template = Job.objects.get(name="template")
    with django_assert_max_num_queries(limit):
        assert owner.get(f"{template.get_absolute_url()}/{part}").status_code == 200
