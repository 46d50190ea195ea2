"""Whatever a user sends, the answer names the field; it never is a crash."""

import pickle

import pytest

from jobs.estimation import Architecture, Estimate, InvalidInput, Machine, ParallelPlan, Workload, estimate, presets

GOOD = {"model": {"preset": "llama-2-7b"}, "tokens": 1e9}

BAD_WORKLOADS = [
    ({"model": {"preset": "llama-9"}}, "model.preset"),
    ({"model": {"preset": ["llama-2-7b"]}}, "model.preset"),
    ({"model": {}}, "model"),
    ({"model": "llama-2-7b"}, "model"),
    ({"model": None}, "model"),
    ({"model": {"preset": "llama-2-7b", "config": {}}}, "model"),
    ({"model": {"config": []}}, "model.config"),
    ({"model": {"config": {}}}, "model.config.model_type"),
    ({"model": {"name": "x"}}, "model.name"),
    ({"model": {"architecture": {"family": "x"}}}, "model.architecture"),
    ({"tokens": 0}, "tokens"),
    ({"tokens": -1}, "tokens"),
    ({"tokens": float("nan")}, "tokens"),
    ({"tokens": float("inf")}, "tokens"),
    ({"tokens": 1.5}, "tokens"),
    ({"tokens": "1e9"}, "tokens"),
    ({"tokens": True}, "tokens"),
    ({"tokens": None}, "tokens"),
    ({"tokens": 10**400}, "tokens"),
    ({"sequence_length": 0}, "sequence_length"),
    ({"sequence_length": [1]}, "sequence_length"),
    ({"sequence_length": "long"}, "sequence_length"),
    ({"global_batch_size": 10**9}, "global_batch_size"),
    ({"task": "alchemy"}, "task"),
    ({"task": ["lora"]}, "task"),
    ({"precision": "int4"}, "precision"),
    ({"framework": "excel"}, "framework"),
    ({"fp32_gradients": "yes"}, "fp32_gradients"),
    ({"software_year": 1999}, "software_year"),
    ({"optimizer": 3}, "optimizer"),
    ({"lora_rank": 0}, "lora_rank"),
    ({"lora_targets": "everything"}, "lora_targets"),
    ({"attention_kernel": "eager"}, "attention_kernel"),
    ({"bytes_per_token_on_disk": -1}, "bytes_per_token_on_disk"),
    ({"bytes_per_token_on_disk": float("nan")}, "bytes_per_token_on_disk"),
    ({"sequence_lenght": 4096}, "sequence_lenght"),
    ({"model": {"preset": "gpt2-small"}, "sequence_length": 2048}, "sequence_length"),
]


@pytest.mark.parametrize(("change", "field"), BAD_WORKLOADS)
def test_bad_workload_names_the_field(change, field):
    with pytest.raises(InvalidInput) as caught:
        Workload.from_dict({**GOOD, **change})
    assert caught.value.field == field or caught.value.field.startswith("architecture.")
    assert caught.value.allowed


@pytest.mark.parametrize("given", [None, [], "x", 1, {1: 2}])
def test_workload_must_be_an_object(given):
    with pytest.raises(InvalidInput) as caught:
        Workload.from_dict(given)
    assert caught.value.field == "workload"


@pytest.mark.parametrize("missing", ["model", "tokens"])
def test_missing_fields_are_named(missing):
    with pytest.raises(InvalidInput) as caught:
        Workload.from_dict({key: value for key, value in GOOD.items() if key != missing})
    assert caught.value.field == missing
    assert "required" in caught.value.allowed


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"tensor_parallel": 0}, "plan.tensor_parallel"),
        ({"tensor_parallel": True}, "plan.tensor_parallel"),
        ({"pipeline_parallel": 1.5}, "plan.pipeline_parallel"),
        ({"zero_stage": 4}, "plan.zero_stage"),
        ({"recomputation": "some"}, "plan.recomputation"),
        ({"sequence_parallel": 1}, "plan.sequence_parallel"),
        ({"sequence_parallel": True}, "plan.sequence_parallel"),
        ({"virtual_stages": 2}, "plan.virtual_stages"),
        ({"expert_parallel": 8}, "plan.expert_parallel"),
        ({"tp": 8}, "plan.tp"),
        ({"data_parallel": 10**6, "tensor_parallel": 8}, "plan"),
    ],
)
def test_bad_plan_names_the_field(given, field):
    with pytest.raises(InvalidInput) as caught:
        ParallelPlan.from_dict(given)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        ({"tensor_parallel": 16}, "plan.tensor_parallel"),
        ({"pipeline_parallel": 5, "virtual_stages": 2, "data_parallel": 8}, "plan.pipeline_parallel"),
        ({"data_parallel": 8, "micro_batch_size": 1000}, "plan.micro_batch_size"),
        ({"pipeline_parallel": 2, "data_parallel": 4, "zero_stage": 3}, "plan.zero_stage"),
        ({"data_parallel": 3}, "devices"),
        ({"data_parallel": 12}, "devices"),
    ],
)
def test_plan_that_workload_or_machine_rule_out_is_named(plan, field):
    with pytest.raises(InvalidInput) as caught:
        estimate(Workload.from_dict(GOOD), Machine.from_catalog("a100-80g"), ParallelPlan(**plan))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("code", "overrides", "field"),
    [
        ("tpu", {}, "machine.accelerator"),
        (None, {}, "machine.accelerator"),
        ("a100-80g", {"devices_per_node": 0}, "machine.devices_per_node"),
        ("a100-80g", {"devices_per_node": True}, "machine.devices_per_node"),
        ("a100-80g", {"inter_node_bytes_per_s": -1.0}, "machine.inter_node_bytes_per_s"),
        ("a100-80g", {"storage_bytes_per_s": float("nan")}, "machine.storage_bytes_per_s"),
        ("a100-80g", {"measured_peak_flop_per_s": 0}, "machine.measured_peak_flop_per_s"),
        ("a100-80g", {"mtbf_hours_per_device": "long"}, "machine.mtbf_hours_per_device"),
        ("a100-80g", {"colour": "red"}, "machine.colour"),
    ],
)
def test_bad_machine_names_the_field(code, overrides, field):
    with pytest.raises(InvalidInput) as caught:
        Machine.from_catalog(code, **overrides)
    assert caught.value.field == field


def test_a_precision_the_accelerator_lacks_is_named():
    workload = Workload.from_dict({**GOOD, "precision": "bf16"})
    with pytest.raises(InvalidInput) as caught:
        estimate(workload, Machine.from_catalog("v100-32g"), ParallelPlan(data_parallel=8))
    assert caught.value.field == "precision"
    assert "fp16" in caught.value.allowed


def test_absurd_architectures_are_refused():
    data = presets()["llama-2-7b"].architecture.to_dict()
    with pytest.raises(InvalidInput) as caught:
        Architecture.from_dict(
            {**data, "hidden_size": 10**6, "intermediate_size": 8 * 10**6, "num_hidden_layers": 2000}
        )
    assert "parameters" in str(caught.value)


def test_a_stored_estimate_with_missing_fields_is_refused():
    with pytest.raises(InvalidInput):
        Estimate.from_dict({"fits": True})


def test_errors_survive_pickling_and_stay_short():
    error = InvalidInput("tokens", "9" * 10_000, "a number")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (copy.field, copy.allowed) == ("tokens", "a number")
    assert len(str(copy)) < 200
