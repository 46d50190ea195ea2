"""Administrators hear of what needs them: once, and nobody else does."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from accounts.models import Cluster, Notification
from accounts.services.notification_wording_alarms import WORDS
from jobs.models import Job, JobSegment
from jobs.services.alarms import raise_alarms
from jobs.states import JobState
from tests.factories import make_user
from tests.jobs.conftest import Centre


def told() -> list[tuple[str, str]]:
    return sorted(Notification.objects.values_list("user__username", "kind"))


def run_to_its_end(centre: Centre) -> Job:
    job = centre.submit()
    centre.tick()
    centre.tick(3600)
    job.refresh_from_db()
    return job


def test_all_is_well(centre: Centre) -> None:
    make_user("root", is_staff=True)
    run_to_its_end(centre)
    assert raise_alarms(at=centre.now() + timedelta(days=1)) == 0
    assert told() == []


def test_usage_that_accounting_owes_is_told_after_an_hour_and_once(centre: Centre) -> None:
    make_user("root", is_staff=True)
    job = run_to_its_end(centre)
    segment = JobSegment.objects.get(job=job)
    JobSegment.objects.filter(pk=segment.pk).update(accounted_at=None)
    assert segment.ended_at is not None
    assert raise_alarms(at=segment.ended_at + timedelta(minutes=59)) == 0
    news = [raise_alarms(at=segment.ended_at + timedelta(minutes=minutes)) for minutes in (60, 65, 70)]
    assert news == [1, 0, 0]
    assert told() == [("root", "usage_overdue")]
    notice = Notification.objects.get()
    assert (notice.path, notice.figures["native_id"]) == (job.get_absolute_url(), segment.native_id)


def test_a_lost_job_and_a_silent_cluster_are_told_to_administrators_alone(centre: Centre) -> None:
    make_user("root", is_staff=True)
    make_user("gone", is_staff=True, is_active=False)
    job = centre.submit()
    Job.objects.filter(pk=job.pk).update(state=JobState.LOST)
    since = centre.now()
    Cluster.objects.update(unavailable_since_at=since, last_error="connection refused")
    assert raise_alarms(at=since + timedelta(minutes=9)) == 1
    assert raise_alarms(at=since + timedelta(minutes=10)) == 1
    assert raise_alarms(at=since + timedelta(minutes=15)) == 0
    assert told() == [("root", "cluster_unavailable"), ("root", "job_lost")]
    Cluster.objects.update(unavailable_since_at=since + timedelta(days=1))
    raise_alarms(at=since + timedelta(days=2))
    assert told().count(("root", "cluster_unavailable")) == 2, "another outage is news again"


def test_old_news_keeps_nobody_from_hearing_what_is_new(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.services.alarms._AT_ONCE", 2)
    make_user("root", is_staff=True)
    for number in range(5):
        Job.objects.filter(pk=centre.submit(name=f"job-{number}").pk).update(state=JobState.LOST)
    assert [raise_alarms(at=centre.now()) for _ in range(4)] == [2, 2, 1, 0]
    assert len({notice.path for notice in Notification.objects.all()}) == 5


def test_administrators_read_them_in_the_back_office(centre: Centre, client: Client) -> None:
    root = make_user("root", is_staff=True, is_superuser=True)
    Cluster.objects.update(unavailable_since_at=centre.now(), last_error="<b>refused</b>")
    raise_alarms(at=centre.now() + timedelta(hours=1))
    client.force_login(root)
    listed = client.get("/admin/accounts/notification/").content.decode()
    assert "Cluster dummy doesn&#x27;t answer" in listed
    page = client.get(f"/admin/accounts/notification/{Notification.objects.get().pk}/change/").content.decode()
    assert "Last error: &lt;b&gt;refused&lt;/b&gt;" in page


def test_each_alarm_has_words_for_its_figures(centre: Centre) -> None:
    figures: dict[str, Any] = dict.fromkeys(("job", "name", "cluster", "native_id", "error"), "x")
    for subject, text in WORDS.values():
        assert "%(" not in subject % figures + text % figures
