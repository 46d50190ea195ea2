"""Submitting jobs, and the table of what people may send that is refused."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.throttling import SimpleRateThrottle

from accounts.models import Allocation, LedgerEntry, ProjectState
from accounts.services import ledger
from jobs.models import Job, JobEvent
from jobs.spec import MAX_SCRIPT_BYTES
from tests.api.conftest import ApiClient, Site
from tests.factories import HOUR_S, make_policy, make_project

Check = Callable[..., dict[str, Any]]
WORKLOAD = {"model": {"preset": "char-transformer-demo"}, "tokens": 10**6}


def written() -> tuple[Any, ...]:
    """All that a refused request must leave as it was."""
    balances = Allocation.objects.order_by("pk").values_list("granted_s", "reserved_s", "used_s")
    return Job.objects.count(), JobEvent.objects.count(), LedgerEntry.objects.count(), list(balances)


def test_a_job_is_taken_in_and_says_where_it_is(site: Site, api: ApiClient) -> None:
    answer = api.post("jobs", site.body())
    assert answer.status_code == 201
    body = answer.json()
    assert answer["Location"] == body["url"] == f"http://testserver/api/v1/jobs/{body['id']}"
    assert (body["state"], body["user"], body["project"]) == ("SUBMITTED", "lin", "nlp")
    assert (body["devices"], body["reserved_s"], body["charged_s"]) == (8, 8 * HOUR_S, None)
    assert api.get(answer["Location"]).json() == body


def test_a_command_runs_through_the_same_door(site: Site, api: ApiClient) -> None:
    entry = {"kind": "command", "command": ["python", "train.py", "--name", "二 号"], "launcher": "none"}
    assert api.post("jobs", site.body(entry=entry)).json()["entry"] == entry


def test_a_time_limit_comes_from_the_estimate_if_none_is_given(site: Site, api: ApiClient) -> None:
    workload = {"model": {"preset": "llama-2-7b"}, "tokens": 10**8}
    body = api.post("jobs", site.body(workload=workload, time_limit_minutes=None)).json()
    assert body["time_limit_minutes"] > 5
    assert body["reserved_s"] == body["time_limit_minutes"] * 60 * 8


def test_submitting_costs_a_constant_number_of_queries(
    site: Site, api: ApiClient, django_assert_max_num_queries: Any
) -> None:
    site.submit()
    with django_assert_max_num_queries(24):
        assert api.post("jobs", site.body(), Idempotency_Key="k").status_code == 201


class TestValidateOnly:
    def test_it_says_what_submitting_would_do_and_writes_nothing(self, site: Site, api: ApiClient) -> None:
        before = written()
        answer = api.post("jobs?validate_only=true", site.body(workload=WORKLOAD))
        assert answer.status_code == 200
        body = answer.json()
        assert (body["time_limit_minutes"], body["devices"], body["reserved_s"]) == (60, 8, 8 * HOUR_S)
        assert (body["available_s"], body["available_hours"]) == (1000 * HOUR_S, 1000)
        assert body["script"].startswith("#!/bin/bash\n#SBATCH")
        assert body["estimate"]["plan"] == body["plan"]
        assert body["warnings"] == []
        assert written() == before

    def test_remarks_on_the_script_are_in_words(self, site: Site, api: ApiClient) -> None:
        script = "#!/bin/bash\r\n#SBATCH --nodes=99\r\necho\r\n"
        body = api.post("jobs?validate_only=1", site.body(entry={"kind": "script", "script": script})).json()
        assert {item["code"] for item in body["warnings"]} == {"crlf", "user_directives_ignored"}
        assert all(item["text"] and item["text"] != item["code"] for item in body["warnings"])

    def test_it_refuses_what_submitting_refuses(self, site: Site, api: ApiClient, assert_problem: Check) -> None:
        make_policy(max_queued_jobs=0)
        assert_problem(api.post("jobs?validate_only=true", site.body()), 409, "policy-limit", name="project")

    def test_without_a_workload_there_is_no_estimate(self, site: Site, api: ApiClient) -> None:
        assert api.post("jobs?validate_only=true", site.body()).json()["estimate"] is None


def script(text: str) -> dict[str, Any]:
    return {"entry": {"kind": "script", "script": text}}


def command(*words: Any, **more: Any) -> dict[str, Any]:
    return {"entry": {"kind": "command", "command": list(words), **more}}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "vocab_size": 96,
}


def config(**fields: Any) -> dict[str, Any]:
    return {"workload": {"model": {"config": {**LLAMA, **fields}}, "tokens": 1000}}


BAD = [
    # The workload.
    ({"workload": {"model": {"preset": "gpt-9"}, "tokens": 1}}, "workload.model.preset"),
    ({"workload": {"model": {"preset": 7}, "tokens": 1}}, "workload.model.preset"),
    ({"workload": {"model": {"preset": "llama-2-7b", "config": {}}, "tokens": 1}}, "workload.model"),
    ({"workload": {"model": "llama-2-7b", "tokens": 1}}, "workload.model"),
    ({"workload": {"model": {"config": []}, "tokens": 1}}, "workload.model.config"),
    ({"workload": {"model": {"config": {}}, "tokens": 1}}, "workload.model.config.model_type"),
    ({"workload": {"model": {"architecture": {"family": "x"}}, "tokens": 1}}, None),
    (config(model_type="alexnet"), "workload.model.config.model_type"),
    (config(hidden_size="64"), "workload.model.config.hidden_size"),
    (config(hidden_size=-64), "workload.model.config.hidden_size"),
    (config(hidden_size=10**300), "workload.model.config.hidden_size"),
    (config(num_hidden_layers=10**8), "workload.model.architecture.num_hidden_layers"),
    (config(num_attention_heads=5), "workload.model.config.num_attention_heads"),
    (config(num_local_experts=8), "workload.model.config.num_local_experts"),
    ({"workload": {**WORKLOAD, "tokens": -5}}, "workload.tokens"),
    ({"workload": {**WORKLOAD, "tokens": 0}}, "workload.tokens"),
    ({"workload": {**WORKLOAD, "tokens": 1.5}}, "workload.tokens"),
    ({"workload": {**WORKLOAD, "tokens": 10**4000}}, "workload.tokens"),
    ({"workload": {**WORKLOAD, "tokens": True}}, "workload.tokens"),
    ({"workload": {**WORKLOAD, "sequence_length": 10**9}}, "workload.sequence_length"),
    ({"workload": {**WORKLOAD, "colour": "red"}}, "workload.colour"),
    ({"workload": {"model": {"preset": "llama-2-7b"}}}, "workload.tokens"),
    ({"workload": []}, "workload"),
    ({"workload": "llama"}, "workload"),
    ({"workload": {**WORKLOAD, "note": "x" * 300_000}}, "workload"),
    ({"plan": {"tensor_parallel": 8}}, "plan"),
    ({"workload": WORKLOAD, "plan": {"tensor_parallel": 3}}, "plan"),
    ({"workload": WORKLOAD, "plan": {"data_parallel": 0}}, "plan.data_parallel"),
    ({"workload": WORKLOAD, "plan": {"dp": 8}}, "plan.dp"),
    # Where, and how much.
    ({"project": "vision"}, "project"),
    ({"project": 5}, "project"),
    ({"project": ""}, "project"),
    ({"partition": "h200"}, "partition"),
    ({"cluster": "mars"}, "partition"),
    ({"nodes": 9}, "nodes"),
    ({"nodes": 0}, "nodes"),
    ({"nodes": -1}, "nodes"),
    ({"nodes": "8"}, "nodes"),
    ({"nodes": 1.5}, "nodes"),
    ({"nodes": True}, "nodes"),
    ({"nodes": None}, "nodes"),
    ({"nodes": 10**4000}, "nodes"),
    ({"devices_per_node": 16}, "devices_per_node"),
    ({"devices_per_node": 2**63}, "devices_per_node"),
    ({"time_limit_minutes": 7 * 24 * 60 + 1}, "time_limit_minutes"),
    ({"time_limit_minutes": 0}, "time_limit_minutes"),
    ({"time_limit_minutes": 10**12}, "time_limit_minutes"),
    ({"checkpoint_lead_s": 3600}, "checkpoint_lead_s"),
    ({"checkpoint_lead_s": -1}, "checkpoint_lead_s"),
    ({"time_limit_minutes": None, "workload": {**WORKLOAD, "tokens": 10**15}}, "time_limit_minutes"),
    # What to run.
    ({"name": "two words"}, "name"),
    ({"name": "-x"}, "name"),
    ({"name": "n" * 129}, "name"),
    ({"name": "a\nb"}, "name"),
    ({"name": ["x"]}, "name"),
    (script("#!/bin/bash\n" + "x" * 1024 * 1024), "entry.script"),
    (script("#!/bin/bash\n" + "字" * (MAX_SCRIPT_BYTES // 3)), "entry.script"),
    (script("echo hello"), "entry.script"),
    (script(""), "entry.script"),
    (script("#!/bin/bash\necho \x00"), "entry.script"),
    (script("#!/bin/bash\necho \ud800"), "entry.script"),
    ({"entry": {"kind": "script", "script": ["#!/bin/bash"]}}, "entry.script"),
    ({"entry": {"kind": "script"}}, "entry.script"),
    ({"entry": {"kind": "script", "script": "#!/bin/sh\n", "launcher": "none"}}, "entry.launcher"),
    ({"entry": {"kind": "notebook"}}, "entry.kind"),
    ({"entry": {"kind": ["script"]}}, "entry.kind"),
    ({"entry": {}}, "entry.kind"),
    ({"entry": "script"}, "entry"),
    ({"entry": None}, "entry"),
    (command(), "entry.command"),
    (command("python", 5), "entry.command[1]"),
    (command("python", "a\nb"), "entry.command[1]"),
    (command("python", "a\x00b"), "entry.command[1]"),
    (command("--oops"), "entry.command[0]"),
    (command("python", "train.py", launcher="torchrun"), "entry.command[0]"),
    (command("python", launcher="mpirun"), "entry.launcher"),
    ({"entry": {"kind": "command", "command": "python train.py"}}, "entry.command"),
    ({"environment": {"LD_PRELOAD": "x"}}, "environment.LD_PRELOAD"),
    ({"environment": {"1A": "x"}}, "environment"),
    ({"environment": {"A": 5}}, "environment.A"),
    ({"environment": {"A": "b\nc"}}, "environment.A"),
    ({"environment": {"A": None}}, "environment.A"),
    ({"environment": {"A\x00": "x"}}, "environment.A\\0"),
    ({"environment": ["A"]}, "environment"),
    ({"override_estimate": "yes"}, "override_estimate"),
    ({"override_estimate": 1}, "override_estimate"),
    # What there is not.
    ({"gpus": 8}, "gpus"),
    ({"user": "chen"}, "user"),
    ({"cloned_from": "x"}, "cloned_from"),
    ({"state": "RUNNING"}, "state"),
]


@pytest.mark.parametrize(("fields", "name"), BAD, ids=[f"{number}-{name}" for number, (_, name) in enumerate(BAD)])
def test_what_is_not_allowed_is_named_and_nothing_is_written(
    site: Site, api: ApiClient, fields: dict[str, Any], name: str | None, assert_problem: Check
) -> None:
    before = written()
    body = json.dumps(site.body(**fields))
    problems = []
    for path in ("jobs", "jobs?validate_only=true"):
        problem = assert_problem(api.call("POST", path, body=body), 400, "invalid-request", name=name)
        assert all(param["allowed"] for param in problem["invalid_params"]), problem
        problems.append(problem)
    assert problems[0] == problems[1]
    assert written() == before


@pytest.mark.parametrize("name", ["project", "cluster", "partition", "name", "nodes", "devices_per_node", "entry"])
def test_what_is_missing_is_named(site: Site, api: ApiClient, name: str, assert_problem: Check) -> None:
    body = site.body()
    del body[name]
    problem = assert_problem(api.post("jobs", body), 400, "invalid-request", name=name)
    assert problem["invalid_params"][0]["code"] == "required"


def test_all_that_is_wrong_is_named_at_once(site: Site, api: ApiClient, assert_problem: Check) -> None:
    body = site.body(nodes="x", colour="red", entry={"kind": "command", "command": [], "shell": True})
    problem = assert_problem(api.post("jobs", body), 400, "invalid-request")
    names = {param["name"] for param in problem["invalid_params"]}
    assert names == {"nodes", "colour", "entry.command", "entry.shell"}


def test_an_answer_stays_small_however_much_is_wrong(site: Site, api: ApiClient, assert_problem: Check) -> None:
    body = site.body(**{f"x{number}": 1 for number in range(20_000)})
    problem = assert_problem(api.post("jobs", body), 400, "invalid-request")
    assert len(problem["invalid_params"]) == 50


def test_an_error_shows_the_value_and_what_is_allowed(site: Site, api: ApiClient, assert_problem: Check) -> None:
    (param,) = assert_problem(api.post("jobs", site.body(nodes=9)), 400, "invalid-request")["invalid_params"]
    assert (param["code"], param["value"], param["allowed"]) == ("out_of_range", 9, "1–8")
    (param,) = assert_problem(api.post("jobs", site.body(gpus=8)), 400, "invalid-request")["invalid_params"]
    assert (param["code"], param["value"]) == ("unknown_field", 8)
    assert "devices_per_node" in param["allowed"]


@pytest.mark.parametrize("path", ["jobs", "jobs?validate_only=true"])
class TestRefusals:
    def test_a_spent_allocation(self, site: Site, api: ApiClient, path: str, assert_problem: Check) -> None:
        ledger.reserve(
            project_id=site.project.pk,
            resource_class_id=site.partition.resource_class_id,
            reference="other",
            amount_s=993 * HOUR_S,
            at=timezone.now(),
        )
        before = written()
        problem = assert_problem(api.post(path, site.body()), 409, "insufficient-allocation", name="project")
        (param,) = problem["invalid_params"]
        assert (param["value"], param["allowed"]) == ("8.00", "7.00")
        assert written() == before

    def test_no_allocation(self, site: Site, api: ApiClient, path: str, assert_problem: Check) -> None:
        make_project("bare", members=(site.owner,))
        before = written()
        assert_problem(api.post(path, site.body(project="bare")), 409, "no-allocation", name="project")
        assert written() == before

    def test_an_allocation_whose_period_is_over(
        self, site: Site, api: ApiClient, path: str, assert_problem: Check
    ) -> None:
        Allocation.objects.update(end_at=timezone.now() - timedelta(seconds=1))
        assert_problem(api.post(path, site.body()), 409, "no-allocation", name="project")

    def test_a_limit_of_policy(self, site: Site, api: ApiClient, path: str, assert_problem: Check) -> None:
        make_policy(project=site.project, max_accelerators_per_job=4)
        before = written()
        problem = assert_problem(api.post(path, site.body()), 409, "policy-limit", name="devices_per_node")
        assert problem["invalid_params"][0]["code"] == "max_accelerators_per_job"
        assert written() == before

    def test_a_project_that_one_is_not_in(self, site: Site, path: str, assert_problem: Check) -> None:
        for user in (site.stranger, site.staff):
            answer = site.api(user).post(path, site.body())
            assert_problem(answer, 400, "invalid-request", name="project")
        assert Job.objects.count() == 0

    def test_a_project_that_is_closed(self, site: Site, api: ApiClient, path: str, assert_problem: Check) -> None:
        site.project.state = ProjectState.CLOSED
        site.project.save()
        assert_problem(api.post(path, site.body()), 400, "invalid-request", name="project")


def test_submissions_are_throttled_by_person_and_lists_are_not(
    site: Site, api: ApiClient, monkeypatch: pytest.MonkeyPatch, assert_problem: Check
) -> None:
    monkeypatch.setitem(SimpleRateThrottle.THROTTLE_RATES, "submissions", "1/min")
    assert api.post("jobs", site.body()).status_code == 201
    assert_problem(api.post("jobs", site.body()), 429, "too-many-requests")
    assert [api.get("jobs").status_code for _ in range(3)] == [200, 200, 200]
