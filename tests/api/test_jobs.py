"""Following jobs: lists, details, events, logs, metrics, scripts; and ending and repeating them."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.utils import timezone

from accounts.models import Membership, Role
from jobs.models import Job
from jobs.states import JobState
from tests.api.conftest import ApiClient, Site
from tests.earlier_estimates import FIRST_ENGINE, store_as_by_the_first_engine
from tests.factories import HOUR_S

Check = Callable[..., dict[str, Any]]
WORKLOAD = {"model": {"preset": "char-transformer-demo"}, "tokens": 10**6}


def test_an_estimate_of_an_earlier_engine_is_still_told(site: Site, api: ApiClient) -> None:
    job = site.submit(workload=WORKLOAD)
    site.tick()
    stored = store_as_by_the_first_engine(job)
    answer = api.get(f"jobs/{job.pk}")
    assert answer.status_code == 200
    estimate, plan = answer.json()["estimate"], answer.json()["plan"]
    assert (estimate["engine_version"], estimate["duration_s"]) == (FIRST_ENGINE, stored["duration_s"])
    assert estimate["step_p10_s"] is estimate["active_parameters"] is estimate["calibration"] is None
    assert estimate["losses_s"] == estimate["rests_on"] == {}
    assert estimate["basis_text"].startswith("Rests on")
    assert (plan["offload"], plan["pipeline_schedule"], plan["zero_group"]) == ("none", "1f1b", 0)
    assert api.post(f"jobs/{job.pk}/resubmit").status_code == 201


def names(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [row["name"] for row in answer.json()["results"]]


class TestList:
    def test_the_newest_come_first_in_pages(self, site: Site, api: ApiClient) -> None:
        for number in range(5):
            site.submit(name=f"job{number}")
        first = api.get("jobs?limit=2")
        assert names(first) == ["job4", "job3"]
        assert first.json()["has_more"] is True
        second = api.get(first.json()["next"])
        assert names(second) == ["job2", "job1"]
        assert names(api.get(second.json()["next"])) == ["job0"]
        assert names(api.get(second.json()["previous"])) == ["job4", "job3"]

    def test_one_sees_ones_own_jobs_and_those_of_projects_one_leads(self, site: Site) -> None:
        site.submit(name="mine")
        site.submit(site.teammate, name="theirs")
        assert names(site.api(site.owner).get("jobs")) == ["mine"]
        assert names(site.api(site.teammate).get("jobs")) == ["theirs"]
        assert names(site.api(site.pi).get("jobs")) == ["theirs", "mine"]
        assert names(site.api(site.staff).get("jobs")) == ["theirs", "mine"]
        assert names(site.api(site.stranger).get("jobs")) == []

    def test_a_list_can_be_narrowed(self, site: Site) -> None:
        api = site.api(site.pi)
        early = site.submit(name="alpha-1")
        Job.objects.filter(pk=early.pk).update(submitted_at=timezone.now() - timedelta(days=2))
        site.tick()
        site.submit(site.teammate, name="beta-1")
        yesterday = (timezone.now() - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert names(api.get("jobs?state=SUBMITTED")) == ["beta-1"]
        assert names(api.get("jobs?state=SUBMITTED&state=PENDING&state=RUNNING")) == ["beta-1", "alpha-1"]
        assert names(api.get("jobs?user=lin")) == ["alpha-1"]
        assert names(api.get("jobs?q=ETA")) == ["beta-1"]
        assert names(api.get("jobs?project=nlp&cluster=dummy&partition=a800")) == ["beta-1", "alpha-1"]
        assert names(api.get("jobs?project=other")) == []
        assert names(api.get(f"jobs?submitted_after={yesterday}")) == ["beta-1"]
        assert names(api.get(f"jobs?submitted_before={yesterday}")) == ["alpha-1"]
        api.post(f"jobs/{early.pk}/cancel")
        site.tick()  # the cluster is asked to end it
        site.tick()  # and says that it has ended
        assert names(api.get("jobs?unfinished=true")) == ["beta-1"]
        assert names(api.get("jobs?unfinished=false")) == ["alpha-1"]

    def test_a_list_costs_few_queries_however_long(
        self, site: Site, api: ApiClient, django_assert_max_num_queries: Any
    ) -> None:
        for _ in range(8):
            site.submit(workload=WORKLOAD)
        with django_assert_max_num_queries(7):
            assert len(api.get("jobs").json()["results"]) == 8

    @pytest.mark.parametrize(
        ("query", "name"),
        [
            ("state=DONE", "state[0]"),
            ("colour=red", "colour"),
            ("project=a&project=b", "project"),
            ("submitted_after=yesterday", "submitted_after"),
            ("unfinished=maybe", "unfinished"),
            ("limit=0", "limit"),
            ("limit=201", "limit"),
            ("limit=x", "limit"),
            ("cursor=x", "cursor"),
            ("cursor=WyJuIiwgIngiLCAieSJd", "cursor"),
            ("q=%00", "q"),
            ("format=xml", "format"),
            ("%00=1", "\\0"),
        ],
    )
    def test_a_bad_parameter_is_named(self, api: ApiClient, query: str, name: str, assert_problem: Check) -> None:
        answer = api.get(f"jobs?{query}")
        problem = assert_problem(answer, 400, "invalid-request", name=name)
        assert problem["invalid_params"][0]["allowed"]


class TestDetail:
    def test_a_finished_job_shows_what_it_used_beside_its_estimate(self, site: Site, api: ApiClient) -> None:
        job = site.submit(workload=WORKLOAD, time_limit_minutes=60)
        site.tick()
        site.backend.set_outcome(site.native_id(job), elapsed_s=600)
        site.tick(1)
        site.tick(600)
        body = api.get(f"jobs/{job.pk}").json()
        assert (body["state"], body["state_label"], body["is_terminal"]) == ("COMPLETED", "Completed", True)
        assert body["exit_code"] == 0
        assert body["usage"]["elapsed_s"] == 600
        assert body["usage"]["accelerator_s"] == body["usage"]["charged_s"] == body["charged_s"] == 4800
        assert body["charged_hours"] == round(4800 / HOUR_S, 2)
        assert body["estimate"]["plan"] == body["plan"]
        assert body["usage"]["elapsed_over_estimated"] == pytest.approx(600 / body["estimate"]["duration_s"])
        (segment,) = body["segments"]
        assert segment["key"] == f"{job.pk}-1"
        assert segment["native_id"] == "1"
        for name in ("submitted_at", "queued_at", "started_at", "ended_at", "settled_at"):
            assert body[name].endswith("Z"), name

    def test_a_rejected_job_says_why_in_words_and_figures(self, site: Site, api: ApiClient) -> None:
        job = site.submit(workload={"model": {"preset": "gpt3-175b"}, "tokens": 10**9}, time_limit_minutes=60)
        site.tick()
        body = api.get(f"jobs/{job.pk}").json()
        assert (body["state"], body["reason"]) == ("REJECTED", "does_not_fit")
        assert "GiB" in body["reason_text"]
        assert body["reason_detail"]["memory_bytes"] > body["reason_detail"]["capacity_bytes"]
        assert body["estimate"]["fits"] is False
        assert (body["charged_s"], body["usage"]) == (0, None)

    def test_what_was_asked_is_told(self, site: Site, api: ApiClient) -> None:
        entry = {"kind": "command", "command": ["train.py", "--lr", "0.1"], "launcher": "torchrun"}
        job = site.submit(entry=entry, environment={"SEED": "1"}, checkpoint_lead_s=60)
        body = api.get(f"jobs/{job.pk}").json()
        assert (body["entry"], body["environment"], body["checkpoint_lead_s"]) == (entry, {"SEED": "1"}, 60)

    def test_its_links_lead_somewhere(self, site: Site, api: ApiClient) -> None:
        body = api.get(f"jobs/{site.submit().pk}").json()
        assert api.get(body["url"]).status_code == 200
        for name in ("events", "log", "metrics", "script"):
            assert api.get(body["links"][name]).status_code == 200, name
        for name in ("cancel", "resubmit"):
            assert api.post(body["links"][name]).status_code in (201, 202), name

    def test_one_job_costs_a_constant_number_of_queries(
        self, site: Site, api: ApiClient, django_assert_max_num_queries: Any
    ) -> None:
        job = site.submit(workload=WORKLOAD, time_limit_minutes=60)
        site.tick()
        with django_assert_max_num_queries(7):
            api.get(f"jobs/{job.pk}")

    def test_words_are_in_the_readers_language(self, site: Site, api: ApiClient) -> None:
        answer = api.get(f"jobs/{site.submit().pk}", Accept_Language="zh-hans")
        assert answer["Content-Language"] == "zh-hans"
        assert "Accept-Language" in answer["Vary"]

    @pytest.mark.parametrize("what", ["", "/events", "/log", "/metrics", "/script"])
    def test_what_is_not_ones_to_see_does_not_exist(self, site: Site, what: str, assert_problem: Check) -> None:
        job = site.submit()
        for user in (site.stranger, site.teammate):
            assert_problem(site.api(user).get(f"jobs/{job.pk}{what}"), 404, "not-found")
        assert_problem(site.api(site.owner).get(f"jobs/{uuid.uuid4()}{what}"), 404, "not-found")


class TestEvents:
    def test_the_timeline_is_told_in_words_oldest_first(self, site: Site, api: ApiClient) -> None:
        job = site.submit()
        site.tick()
        site.tick(1)
        rows = api.get(f"jobs/{job.pk}/events").json()["results"]
        states = [row["to_state"] for row in rows]
        assert states == ["SUBMITTED", "QUEUED", "DISPATCHING", "PENDING", "RUNNING"]
        assert rows[0]["actor"] == "lin"
        assert all(row["text"] for row in rows)

    def test_new_events_are_the_next_page(self, site: Site, api: ApiClient) -> None:
        job = site.submit()
        site.tick()
        page, states = api.get(f"jobs/{job.pk}/events?limit=1").json(), []
        while page["next"]:
            page = api.get(page["next"]).json()
            states += [row["to_state"] for row in page["results"]]
        assert states == ["QUEUED", "DISPATCHING", "PENDING"]


class TestCancel:
    def test_a_job_that_waits_ends_at_once_and_repeating_is_harmless(self, site: Site, api: ApiClient) -> None:
        job = site.submit()
        for _ in range(2):
            answer = api.post(f"jobs/{job.pk}/cancel")
            assert (answer.status_code, answer.json()["state"]) == (202, "CANCELLED")
        events = api.get(f"jobs/{job.pk}/events").json()["results"]
        assert [event["kind"] for event in events].count("cancel_requested") == 1

    def test_a_job_that_runs_is_asked_to_end(self, site: Site, api: ApiClient) -> None:
        job = site.submit()
        site.tick()
        site.tick(1)
        body = api.post(f"jobs/{job.pk}/cancel").json()
        assert body["state"] == "RUNNING"
        assert body["cancel_requested_at"] is not None
        site.tick()
        site.tick()
        assert api.get(f"jobs/{job.pk}").json()["state"] == "CANCELLED"

    def test_those_who_lead_the_project_and_staff_may_end_a_job(self, site: Site) -> None:
        for user in (site.pi, site.staff):
            job = site.submit()
            assert site.api(user).post(f"jobs/{job.pk}/cancel").json()["state"] == "CANCELLED"

    def test_others_may_not_and_do_not_learn_of_it(self, site: Site, assert_problem: Check) -> None:
        job = site.submit()
        for user in (site.stranger, site.teammate):
            assert_problem(site.api(user).post(f"jobs/{job.pk}/cancel"), 404, "not-found")
        job.refresh_from_db()
        assert job.state == JobState.SUBMITTED

    def test_a_body_with_fields_is_refused(self, site: Site, api: ApiClient, assert_problem: Check) -> None:
        answer = api.post(f"jobs/{site.submit().pk}/cancel", {"force": True})
        assert_problem(answer, 400, "invalid-request", name="force")

    def test_workers_are_nudged_once_the_transaction_is_through(
        self, site: Site, api: ApiClient, django_capture_on_commit_callbacks: Any
    ) -> None:
        with (
            patch("jobs.tasks.estimate_submitted_jobs.apply_async") as estimate,
            patch("jobs.tasks.reconcile_clusters.apply_async") as reconcile,
            django_capture_on_commit_callbacks(execute=True),
        ):
            job = site.submit()
            api.post(f"jobs/{job.pk}/cancel")
            estimate.assert_not_called()
        estimate.assert_called_once()
        reconcile.assert_called_once()


class TestResubmit:
    def test_the_new_job_asks_for_the_same(self, site: Site, api: ApiClient) -> None:
        job = site.submit(workload=WORKLOAD, time_limit_minutes=33, environment={"SEED": "1"})
        site.tick()
        answer = api.post(f"jobs/{job.pk}/resubmit")
        assert answer.status_code == 201
        old, new = api.get(f"jobs/{job.pk}").json(), answer.json()
        assert answer["Location"] == new["url"]
        assert new["id"] != old["id"]
        assert new["cloned_from"] == old["id"]
        for name in (
            "name",
            "project",
            "partition",
            "devices",
            "time_limit_minutes",
            "entry",
            "environment",
            "workload",
        ):
            assert new[name] == old[name], name

    def test_a_key_makes_it_once(self, site: Site, api: ApiClient) -> None:
        job = site.submit()
        first = api.post(f"jobs/{job.pk}/resubmit", Idempotency_Key="again")
        second = api.post(f"jobs/{job.pk}/resubmit", Idempotency_Key="again")
        assert first.json()["id"] == second.json()["id"]
        assert second["Idempotency-Replayed"] == "true"
        assert Job.objects.count() == 2

    def test_who_left_the_project_may_not(self, site: Site, api: ApiClient, assert_problem: Check) -> None:
        job = site.submit()
        Membership.objects.filter(user=site.owner).delete()
        assert_problem(api.post(f"jobs/{job.pk}/resubmit"), 400, "invalid-request", name="project")

    def test_a_job_that_a_leader_resubmits_is_theirs(self, site: Site) -> None:
        job = site.submit()
        Membership.objects.filter(user=site.teammate).update(role=Role.MANAGER)
        assert site.api(site.teammate).post(f"jobs/{job.pk}/resubmit").json()["user"] == "wang"


class TestScript:
    def test_the_rendered_script_is_served_and_says_whether_it_may_change(self, site: Site, api: ApiClient) -> None:
        job = site.submit(workload=WORKLOAD)
        before = api.get(f"jobs/{job.pk}/script").json()
        assert before["is_final"] is False
        assert before["script"].startswith("#!/bin/bash\n#SBATCH")
        site.tick()
        after = api.get(f"jobs/{job.pk}/script").json()
        job.refresh_from_db()
        assert after == {"script": job.rendered_script, "is_final": True}


class TestLog:
    @pytest.fixture
    def job(self, site: Site) -> Job:
        job = site.submit()
        site.tick()
        site.tick(1)
        return job

    def write(self, site: Site, job: Job, data: bytes, file: Any = "stdout") -> None:
        site.backend.write_output(site.native_id(job), data, file=file)

    def test_a_log_is_read_piece_by_piece_without_loss(self, site: Site, api: ApiClient, job: Job) -> None:
        text = "loss 损失 0.5 🚀\n" * 40
        self.write(site, job, text.encode())
        offset, pieces = 0, []
        while True:
            piece = api.get(f"jobs/{job.pk}/log?offset={offset}&limit=17").json()
            assert piece["offset"] == offset
            pieces.append(piece["text"])
            offset = piece["next_offset"]
            if piece["is_end"]:
                break
        assert "".join(pieces) == text
        assert offset == len(text.encode()) == piece["size"]

    def test_a_character_that_is_half_written_is_left_for_later(self, site: Site, api: ApiClient, job: Job) -> None:
        rocket = "🚀".encode()
        self.write(site, job, b"go " + rocket[:2])
        piece = api.get(f"jobs/{job.pk}/log").json()
        assert (piece["text"], piece["next_offset"], piece["size"]) == ("go ", 3, 5)
        self.write(site, job, rocket[2:])
        assert api.get(f"jobs/{job.pk}/log?offset=3").json()["text"] == "🚀"

    def test_when_the_job_has_ended_half_a_character_is_replaced(self, site: Site, api: ApiClient, job: Job) -> None:
        self.write(site, job, b"go \xf0\x9f")
        site.backend.set_outcome(site.native_id(job), elapsed_s=1)
        site.tick(5)
        piece = api.get(f"jobs/{job.pk}/log").json()
        assert (piece["text"], piece["next_offset"]) == ("go �", 5)

    def test_bytes_that_are_no_text_are_replaced_and_counted(self, site: Site, api: ApiClient, job: Job) -> None:
        self.write(site, job, b"\xff\xfeab\x00\x80")
        piece = api.get(f"jobs/{job.pk}/log").json()
        assert piece["text"] == "��ab\x00�"
        assert piece["next_offset"] == 6

    def test_a_negative_offset_reads_the_tail_from_a_whole_character(
        self, site: Site, api: ApiClient, job: Job
    ) -> None:
        self.write(site, job, "训练结束".encode())
        piece = api.get(f"jobs/{job.pk}/log?offset=-5").json()
        assert (piece["text"], piece["offset"], piece["next_offset"]) == ("束", 9, 12)

    def test_standard_error_is_a_file_of_its_own(self, site: Site, api: ApiClient, job: Job) -> None:
        self.write(site, job, b"warning", "stderr")
        assert api.get(f"jobs/{job.pk}/log?file=stderr").json()["text"] == "warning"
        assert api.get(f"jobs/{job.pk}/log").json()["text"] == ""

    def test_a_job_without_output_has_an_empty_log(self, site: Site, api: ApiClient) -> None:
        empty = {"text": "", "offset": 0, "next_offset": 0, "size": 0, "is_end": True}
        assert api.get(f"jobs/{site.submit().pk}/log").json() == empty

    def test_a_cluster_that_does_not_answer_is_told_with_when_to_ask_again(
        self, site: Site, api: ApiClient, job: Job, assert_problem: Check
    ) -> None:
        site.backend.set_available(False)
        for path in ("log", "metrics"):
            answer = api.get(f"jobs/{job.pk}/{path}")
            assert_problem(answer, 503, "scheduler-unavailable")
            assert int(answer["Retry-After"]) > 0

    @pytest.mark.parametrize(
        ("query", "name"),
        [
            ("file=metrics", "file"),
            ("file=../../etc/passwd", "file"),
            ("limit=3", "limit"),
            ("limit=99999999", "limit"),
            ("offset=x", "offset"),
            ("offset=99999999999999999999999", "offset"),
            ("offset=1&follow=1", "follow"),
        ],
    )
    def test_a_bad_parameter_is_named(
        self, api: ApiClient, job: Job, query: str, name: str, assert_problem: Check
    ) -> None:
        assert_problem(api.get(f"jobs/{job.pk}/log?{query}"), 400, "invalid-request", name=name)

    def test_metrics_are_points_with_a_step(self, site: Site, api: ApiClient, job: Job) -> None:
        self.write(site, job, b'{"step": 1, "loss": 2.5}\nnoise\n{"step": 2, "loss": 2.0}\n{"step": 3,', "metrics")
        body = api.get(f"jobs/{job.pk}/metrics").json()
        assert body["points"] == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}]
        self.write(site, job, b' "loss": 1.5}\n', "metrics")
        later = api.get(f"jobs/{job.pk}/metrics?offset={body['next_offset']}").json()
        assert later["points"] == [{"step": 3, "loss": 1.5}]
