"""What people write is shown as text, whatever it is made of, and pages hold no inline code."""

import re

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import Cluster, Institution, Partition, Project, ResourceClass
from jobs.models import Job
from tests.jobs.conftest import Centre, native_id
from tests.pages.conftest import filled_model_form

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@pytest.fixture
def evil_job(centre: Centre) -> Job:
    """Everything that holds text of people's holds markup."""
    job = centre.submit(
        script=f"#!/bin/sh\necho {EVIL}\n",
        environment={"WHY": EVIL},
        workload={"model": {"preset": "llama-2-7b"}, "tokens": 10**9},
    )
    centre.tick()
    centre.tick()
    centre.backend.write_output(native_id(job), EVIL.encode())
    Job.objects.update(name=EVIL, state_reason=EVIL[:64])
    job.segments.update(nodes=[EVIL])
    Project.objects.update(title=EVIL, field_of_science=EVIL)
    Institution.objects.update(name=EVIL)
    ResourceClass.objects.update(title=EVIL[:100])
    Partition.objects.update(title=EVIL[:100])
    Cluster.objects.update(title=EVIL[:100])
    centre.user.first_name = EVIL
    centre.user.save()
    return job


def pages_of(job: Job) -> list[str]:
    return [
        "/",
        "/live",
        "/jobs/",
        "/jobs/?scope=all",
        f"/jobs/?q={EVIL}",
        "/jobs/new",
        f"/jobs/new?clone={job.pk}",
        f"/jobs/new?preset={EVIL}",
        job.get_absolute_url(),
        reverse("job-live", args=[job.pk]),
        "/projects/",
        "/projects/nlp/",
        "/projects/nlp/usage",
        "/projects/nlp/ledger",
        "/clusters/",
        "/clusters/live",
        "/profile/",
    ]


def test_markup_in_names_is_text_on_every_page(owner: Client, evil_job: Job) -> None:
    for url in pages_of(evil_job):
        page = owner.get(url).content.decode()
        assert "<script>alert" not in page, url
        assert "<img src=x" not in page, url


def test_markup_typed_into_the_form_is_text(centre: Centre, owner: Client) -> None:
    data = filled_model_form(centre, name=EVIL, tokens=EVIL[:30], project=EVIL, environment=EVIL, command=EVIL)
    for url in ("/jobs/new", "/jobs/new/estimate", "/jobs/new/script"):
        page = owner.post(url, data).content.decode()
        assert "<script>alert" not in page, url
        assert "<img src=x" not in page, url


def test_a_log_travels_as_json_and_never_as_markup(owner: Client, evil_job: Job) -> None:
    answer = owner.get(reverse("job-log", args=[evil_job.pk]))
    assert answer["Content-Type"] == "application/json"
    assert answer.json()["text"] == EVIL


def test_no_page_holds_inline_code_or_style(centre: Centre, owner: Client, evil_job: Job) -> None:
    """The content security policy would block it."""
    bodies = {url: owner.get(url).content.decode() for url in pages_of(evil_job)}
    bodies["estimate"] = owner.post("/jobs/new/estimate", filled_model_form(centre, nodes="8")).content.decode()
    for url, page in bodies.items():
        tags = re.findall(r"<[a-z][^>]*>", page)
        assert not [tag for tag in tags if re.search(r"\sstyle=|\son[a-z]+=", re.sub(r'"[^"]*"', '""', tag))], url
        assert not re.findall(r"<style", page), url
        scripts = re.findall(r"<script([^>]*)>", page)
        assert all("src=" in script or "application/json" in script for script in scripts), url


def test_pages_carry_the_policy(owner: Client) -> None:
    assert "script-src 'self'" in owner.get("/")["Content-Security-Policy"]
