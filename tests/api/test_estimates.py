"""Estimates: the whole answer, and that nothing is written."""

from collections.abc import Callable
from typing import Any

import pytest
from rest_framework.throttling import SimpleRateThrottle

from accounts.models import LedgerEntry, Partition
from jobs.estimation import Estimate, Machine, Workload, estimate_best
from jobs.models import Estimate as StoredEstimate
from jobs.models import Job
from tests.api.conftest import ApiClient, Site
from tests.factories import HOUR_S

Check = Callable[..., dict[str, Any]]
WORKLOAD = {"model": {"preset": "llama-2-7b"}, "tokens": 10**9}

MIXTRAL = {
    "model_type": "mixtral",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
}


def run(**fields: Any) -> dict[str, Any]:
    return {
        "cluster": "dummy",
        "partition": "a800",
        "nodes": 1,
        "devices_per_node": 8,
        "workload": WORKLOAD,
        **fields,
    }


def test_an_estimate_is_the_engines_and_says_its_advice_in_words(api: ApiClient) -> None:
    answer = api.post("estimates", run())
    assert answer.status_code == 200
    got = answer.json()["estimate"]
    machine = Machine.from_catalog("a800-80g", devices_per_node=8)
    expected = estimate_best(Workload.from_dict(WORKLOAD), machine, 8).to_dict()
    assert got["plan"] == expected["plan"]
    assert got["duration_s"] == pytest.approx(expected["duration_s"])
    assert set(expected) <= set(got)
    assert got["accelerator_hours"] == pytest.approx(expected["accelerator_s"] / HOUR_S, abs=0.01)
    assert all(item["text"] and item["text"] != item["code"] for item in got["advice"] + got["assumptions"])


def test_what_the_engine_gets_back_is_what_it_said(api: ApiClient) -> None:
    got = api.post("estimates", run()).json()["estimate"]
    del got["accelerator_hours"], got["basis_text"]
    assert got.pop("calibration") is None
    for item in got["advice"]:
        del item["text"]
    got["assumptions"] = [item["code"] for item in got["assumptions"]]
    assert Estimate.from_dict(got).fits is True


def test_the_effect_on_the_quota_is_that_of_a_job_with_the_suggested_time_limit(api: ApiClient) -> None:
    body = api.post("estimates", run(project="nlp")).json()
    quota = body["quota"]
    assert quota["suggested_time_limit_minutes"] * 60 >= body["estimate"]["duration_p90_s"]
    assert quota["reserved_s"] == quota["suggested_time_limit_minutes"] * 60 * 8
    assert quota["available_s"] == 1000 * HOUR_S
    assert quota["share_of_available"] == pytest.approx(quota["reserved_s"] / quota["available_s"])
    assert (quota["is_within_partition_limit"], quota["is_covered"]) == (True, True)


def test_a_run_that_is_too_long_is_an_answer_not_an_error(api: ApiClient) -> None:
    quota = api.post("estimates", run(project="nlp", workload={**WORKLOAD, "tokens": 10**12})).json()["quota"]
    assert quota["is_within_partition_limit"] is False
    assert quota["reserved_s"] == 7 * 24 * HOUR_S * 8
    assert quota["is_covered"] is False


def test_a_model_that_does_not_fit_is_an_answer_with_advice(api: ApiClient) -> None:
    answer = api.post("estimates", run(workload={"model": {"preset": "gpt3-175b"}, "tokens": 10**9}))
    assert answer.status_code == 200
    estimate = answer.json()["estimate"]
    assert estimate["fits"] is False
    assert estimate["advice"][0]["code"] == "out_of_memory"
    assert estimate["advice"][0]["severity"] == "error"


def test_without_a_project_the_quota_is_unknown(site: Site) -> None:
    quota = site.api(site.stranger).post("estimates", run()).json()["quota"]
    assert quota["available_s"] is quota["share_of_available"] is quota["is_covered"] is None
    assert quota["reserved_s"] > 0


def test_a_given_plan_is_estimated_as_it_is(api: ApiClient) -> None:
    plan = {"tensor_parallel": 8, "micro_batch_size": 1, "sequence_parallel": True}
    assert api.post("estimates", run(plan=plan)).json()["estimate"]["plan"]["tensor_parallel"] == 8


@pytest.mark.parametrize(
    ("preset", "accelerator", "nodes"), [("deepseek-v3", "h800-80g", 32), ("mixtral-8x7b", "a800-80g", 8)]
)
def test_a_mixture_of_experts_is_spread_over_accelerators(
    site: Site, api: ApiClient, preset: str, accelerator: str, nodes: int
) -> None:
    Partition.objects.update(accelerator=accelerator, nodes=32)
    answer = api.post("estimates", run(nodes=nodes, workload={"model": {"preset": preset}, "tokens": 10**11}))
    assert answer.status_code == 200
    estimate = answer.json()["estimate"]
    assert estimate["fits"] is True
    assert estimate["plan"]["expert_parallel"] > 1
    assert estimate["active_parameters"] < estimate["parameters"] / 3
    assert "expert_parallel" in estimate["step_parts_s"]


def test_a_config_of_experts_is_the_model_of_its_preset(api: ApiClient) -> None:
    answer = api.post("estimates", run(nodes=8, workload={"model": {"config": MIXTRAL}, "tokens": 10**11}))
    assert answer.status_code == 200
    named = api.post("estimates", run(nodes=8, workload={"model": {"preset": "mixtral-8x7b"}, "tokens": 10**11}))
    assert answer.json()["estimate"] == named.json()["estimate"]


def test_a_given_plan_may_have_all_that_the_engine_plans(api: ApiClient) -> None:
    plan = {"data_parallel": 64, "expert_parallel": 8, "zero_stage": 2, "recomputation": "full", "recomputed_layers": 8}
    workload = {"model": {"preset": "mixtral-8x7b"}, "tokens": 10**11, "framework": "megatron", "fp32_gradients": False}
    answer = api.post("estimates", run(nodes=8, plan={**plan, "offload": "optimizer"}, workload=workload))
    assert answer.status_code == 200
    assert plan.items() <= answer.json()["estimate"]["plan"].items()


def test_an_estimate_says_its_ranges_and_what_it_rests_on(api: ApiClient) -> None:
    got = api.post("estimates", run()).json()["estimate"]
    assert got["step_p10_s"] < got["step_s"] < got["step_p90_s"]
    assert got["memory_p10_bytes"] < got["memory_bytes"] < got["memory_p90_bytes"]
    assert got["rests_on"]["family"] > 0
    assert str(got["rests_on"]["family"]) in got["basis_text"]
    assert sum(got["losses_s"].values()) == pytest.approx(got["duration_s"] * (1 - got["expected_goodput"]), rel=0.05)


def test_nothing_is_written(api: ApiClient) -> None:
    before = (Job.objects.count(), StoredEstimate.objects.count(), LedgerEntry.objects.count())
    api.post("estimates", run(project="nlp"))
    assert (Job.objects.count(), StoredEstimate.objects.count(), LedgerEntry.objects.count()) == before


def test_estimates_are_throttled_by_person(
    site: Site, api: ApiClient, monkeypatch: pytest.MonkeyPatch, assert_problem: Check
) -> None:
    monkeypatch.setitem(SimpleRateThrottle.THROTTLE_RATES, "estimates", "2/min")
    assert [api.post("estimates", run()).status_code for _ in range(2)] == [200, 200]
    assert_problem(api.post("estimates", run()), 429, "too-many-requests")
    assert site.api(site.teammate).post("estimates", run()).status_code == 200


def test_an_estimate_costs_few_queries(api: ApiClient, django_assert_max_num_queries: Any) -> None:
    with django_assert_max_num_queries(6):
        api.post("estimates", run(project="nlp"))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"project": "none"}, "project"),
        ({"partition": "h200"}, "partition"),
        ({"nodes": 9}, "nodes"),
        ({"nodes": 0}, "nodes"),
        ({"nodes": "1"}, "nodes"),
        ({"devices_per_node": 16}, "devices_per_node"),
        ({"devices_per_node": 7}, "devices_per_node"),
        ({"workload": None}, "workload"),
        ({"workload": []}, "workload"),
        ({"workload": {}}, "workload.model"),
        ({"workload": {"model": {"preset": "gpt-9"}, "tokens": 1}}, "workload.model.preset"),
        ({"workload": {**WORKLOAD, "tokens": -1}}, "workload.tokens"),
        ({"workload": {**WORKLOAD, "colour": 1}}, "workload.colour"),
        ({"workload": {**WORKLOAD, "precision": "fp7"}}, "workload.precision"),
        ({"workload": {**WORKLOAD, "precision": "fp8"}}, "workload.precision"),
        ({"workload": {**WORKLOAD, "framework": "abacus"}}, "workload.framework"),
        ({"workload": {**WORKLOAD, "fp32_gradients": "yes"}}, "workload.fp32_gradients"),
        ({"plan": {"data_parallel": 8, "expert_parallel": 2}}, "plan.expert_parallel"),
        ({"plan": {"data_parallel": 8, "zero_group": 3}}, "plan.zero_group"),
        ({"plan": {"data_parallel": 8, "offload": "moon"}}, "plan.offload"),
        ({"plan": {"tensor_parallel": 3}}, "plan"),
        ({"plan": {"tensor_parallel": 8, "zero_stage": 9}}, "plan.zero_stage"),
        ({"plan": {"tensor": 8}}, "plan.tensor"),
        ({"plan": "best"}, "plan"),
        ({"time_limit_minutes": 5}, "time_limit_minutes"),
    ],
)
def test_bad_input_names_the_field(api: ApiClient, fields: dict[str, Any], name: str, assert_problem: Check) -> None:
    problem = assert_problem(api.post("estimates", run(**fields)), 400, "invalid-request", name=name)
    assert all(param["allowed"] for param in problem["invalid_params"])
