"""Odd values in every place of a request: the answer may be yes or no, but it is always an answer."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from rest_framework.throttling import SimpleRateThrottle

from jobs.models import Job
from tests.api.conftest import ApiClient, Site

ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    3,
    1.5,
    1e308,
    -(10**30),
    10**400,
    "",
    "x",
    "١",
    "🚀" * 200,
    [],
    [[]],
    {},
    {"a": {"b": []}},
]

CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
RUN = {
    "project": "nlp",
    "cluster": "dummy",
    "partition": "a800",
    "nodes": 1,
    "devices_per_node": 8,
    "workload": {
        "model": {"config": CONFIG},
        "tokens": 10**6,
        "task": "pretraining",
        "sequence_length": 64,
        "global_batch_size": 16,
        "precision": "bf16",
        "optimizer": "adamw",
        "lora_rank": 8,
        "lora_targets": "attention",
        "attention_kernel": "flash",
        "bytes_per_token_on_disk": 2,
    },
    "plan": {
        "tensor_parallel": 2,
        "pipeline_parallel": 1,
        "data_parallel": 4,
        "context_parallel": 1,
        "expert_parallel": 1,
        "virtual_stages": 1,
        "zero_stage": 1,
        "micro_batch_size": 2,
        "recomputation": "none",
        "sequence_parallel": True,
    },
}


def mutations(value: Any) -> Iterator[Any]:
    """Copies of `value` with one place replaced by something odd."""
    yield from ODD
    if isinstance(value, dict):
        for key, item in value.items():
            for changed in mutations(item):
                yield {**value, key: changed}
    elif isinstance(value, list):
        for index, item in enumerate(value):
            for changed in mutations(item):
                yield [*value[:index], changed, *value[index + 1 :]]


@pytest.fixture(autouse=True)
def _unthrottled(monkeypatch: pytest.MonkeyPatch) -> None:
    for scope in ("estimates", "submissions"):
        monkeypatch.setitem(SimpleRateThrottle.THROTTLE_RATES, scope, None)


def check(api: ApiClient, path: str, body: Any) -> None:
    answer = api.call("POST", path, body=json.dumps(body))
    assert answer.status_code in (200, 400, 409), (body, answer.content)
    if answer.status_code != 200:
        assert answer["Content-Type"] == "application/problem+json"
        for param in answer.json()["invalid_params"]:
            assert param["name"], body
            assert param["allowed"], (body, param)


@pytest.mark.parametrize("has_plan", [False, True])
def test_an_estimate_of_odd_values_is_answered(site: Site, api: ApiClient, has_plan: bool) -> None:
    run = RUN if has_plan else {key: value for key, value in RUN.items() if key != "plan"}
    check(api, "estimates", run)
    for body in mutations(run):
        check(api, "estimates", body)


@pytest.mark.parametrize("kind", ["script", "command"])
def test_a_job_of_odd_values_is_answered(site: Site, api: ApiClient, kind: str) -> None:
    entry = {
        "script": {"kind": "script", "script": "#!/bin/bash\n"},
        "command": {"kind": "command", "command": ["train.py", "--lr"], "launcher": "torchrun"},
    }[kind]
    body = site.body(entry=entry, environment={"SEED": "1"}, checkpoint_lead_s=60, override_estimate=False)
    for changed in mutations(body):
        check(api, "jobs?validate_only=true", changed)
    assert Job.objects.count() == 0
