"""Job files: what they say becomes a submission, and each mistake is named with its line."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from django.conf import settings

from jobs.api.job_serializers import CommandEntrySerializer, JobRequestSerializer, ScriptEntrySerializer
from portalctl.jobfile import EntryPart, JobFile, build_estimate, build_job, job_schema, read_source
from portalctl.session import BadInput
from tests.portalctl.conftest import Wrote

SCHEMA_FILE = Path(settings.BASE_DIR) / "docs" / "portalctl-job.schema.json"
WHOLE = """\
project: nlp
cluster: demo
partition: a800
name: train
nodes: 2
devices_per_node: 8
entry:
  command: [train.py, --lr, "0.1"]
  launcher: torchrun
time_limit_minutes: 90
checkpoint_lead_s: 120
environment:
  OMP_NUM_THREADS: 8
workload:
  model: {preset: llama-2-7b}
  tokens: 1e9
  sequence_length: 4096
override_estimate: true
"""


def build(path: Path, **overrides: Any) -> dict[str, Any]:
    return build_job(read_source(path), overrides, {name: f"--{name}" for name in overrides})


def errors_of(path: Path, **overrides: Any) -> tuple[str, ...]:
    with pytest.raises(BadInput) as caught:
        build(path, **overrides)
    return tuple(error.removeprefix(f"{path}") for error in caught.value.errors)


def test_a_file_becomes_the_body_of_a_submission(job_file: Wrote) -> None:
    assert build(job_file(WHOLE)) == {
        "project": "nlp",
        "cluster": "demo",
        "partition": "a800",
        "name": "train",
        "nodes": 2,
        "devices_per_node": 8,
        "entry": {"kind": "command", "command": ["train.py", "--lr", "0.1"], "launcher": "torchrun"},
        "time_limit_minutes": 90,
        "checkpoint_lead_s": 120,
        "environment": {"OMP_NUM_THREADS": "8"},
        "workload": {"model": {"preset": "llama-2-7b"}, "tokens": 10**9, "sequence_length": 4096},
        "override_estimate": True,
    }


def test_files_that_it_names_are_read_from_its_own_directory(job_file: Wrote, tmp_path: Path) -> None:
    (tmp_path / "train.sh").write_text("#!/bin/bash\necho 你好\n", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    text = WHOLE.replace('command: [train.py, --lr, "0.1"]\n  launcher: torchrun', "script_file: train.sh")
    body = build(job_file(text.replace("preset: llama-2-7b", "config_file: config.json")))
    assert body["entry"] == {"kind": "script", "script": "#!/bin/bash\necho 你好\n"}
    assert body["workload"]["model"] == {"config": {"model_type": "llama"}}


def test_an_option_replaces_what_the_file_says_and_fills_what_it_leaves_out(job_file: Wrote) -> None:
    file = job_file(WHOLE.replace("name: train\n", ""))
    assert errors_of(file) == (": name is missing",)
    body = build(file, name="other", nodes=4)
    assert (body["name"], body["nodes"]) == ("other", 4)


def test_an_estimate_takes_what_it_needs_of_the_same_file(job_file: Wrote) -> None:
    body = build_estimate(read_source(job_file(WHOLE)), {}, {})
    assert set(body) == {"project", "cluster", "partition", "nodes", "devices_per_node", "workload"}


MISTAKES = {
    "a typing error": ("nodes: 2", "node: 2", (":5: node: there is no such field",)),
    "a field of a part": ("launcher: torchrun", "runner: torchrun", (":9: entry.runner: there is no such field",)),
    "no number": ("nodes: 2", "nodes: two", (":5: nodes: 'two': should be a valid integer",)),
    "too small": ("nodes: 2", "nodes: 0", (":5: nodes: 0: should be greater than or equal to 1",)),
    "a half": ("nodes: 2", "nodes: 1.5", (":5: nodes: 1.5: should be a valid integer",)),
    "text that YAML reads as a number": ("name: train", "name: 12", (":4: name: 12: should be a valid string",)),
    "text that YAML reads as no": ("name: train", "name: no", (":4: name: False: should be a valid string",)),
    "a word of a list": ('"0.1"', "0.1", (":8: entry.command[2]: 0.1: should be a valid string",)),
    "a variable": ("OMP_NUM_THREADS: 8", "DEBUG: yes", (":13: environment.DEBUG: True: should be a valid string",)),
    "deep": ("preset: llama-2-7b", "presets: a", (":15: workload.model.presets: there is no such field",)),
    "no model": ("model: {preset: llama-2-7b}", "model: {}", (":15: workload.model: give one of preset",)),
    "two entries": ("launcher: torchrun", "script: a", (":7: entry: give one of script, script_file and command",)),
    "a kind that is another": (
        "launcher: torchrun",
        "kind: script",
        (":7: entry: kind is script, but there is a com",),
    ),
    "a date": ("name: train", "name: 2026-06-01", (":4: YAML does not read name as text; put it in quotes.",)),
    "no number at all": ("tokens: 1e9", "tokens: .inf", (":16: workload.tokens: put .inf in quotes.",)),
    "an octal number in a variable": (
        "OMP_NUM_THREADS: 8",
        "MODE: 010",
        (":13: environment.MODE: put 010 in quotes.",),
    ),
    "a time in a variable": ("OMP_NUM_THREADS: 8", "AT: 1:30", (":13: environment.AT: put 1:30 in quotes.",)),
    "several": (
        "nodes: 2\ndevices_per_node: 8",
        "nodes: 0\ndevices_per_node: x",
        (":5: nodes: 0", ":6: devices_per_node: 'x'"),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_line_field_and_what_is_allowed(job_file: Wrote, name: str) -> None:
    right, wrong, expected = MISTAKES[name]
    assert right in WHOLE
    found = errors_of(job_file(WHOLE.replace(right, wrong)))
    for error, start in zip(sorted(found), expected, strict=True):
        assert error.startswith(start)


def test_a_mistake_of_an_option_is_named_by_the_option(job_file: Wrote) -> None:
    with pytest.raises(BadInput) as caught:
        build(job_file(WHOLE), nodes=0)
    assert caught.value.errors == ("option --nodes: nodes: 0: should be greater than or equal to 1",)


BROKEN = {
    "nothing": ("", "a job file has fields"),
    "a list": ("- a\n", "a job file has fields"),
    "half a list": ("name: [a\n", ":2: not YAML: expected"),
    "a tab": ("entry:\n\tscript: a\n", ":2: not YAML: found character"),
    "a key twice": ("name: a\nnodes: 1\nname: b\n", ":3: name stands twice; first in line 1."),
    "a name that is no text": ("1: a\n", ":1: 1: YAML does not read this name as text"),
    "an object of Python": ("name: !!python/object/apply:os.system [id]\n", ":1: YAML does not read name as text"),
    "a control character": ("name: \x01\n", "not YAML"),
    "two documents": ("name: a\n---\nname: b\n", "not YAML"),
    "holding itself": ("name: &a [*a]\n", "nested too deeply, or holds itself"),
    "deep": (f"name: {'[' * 1100}\n", "nested too deeply"),
    "a bomb": (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{n}: &{n} [{','.join(f'*{p}' for _ in range(10))}]\n" for p, n in zip("abcdefg", "bcdefgh", strict=True)
        ),
        "may hold 100000 values",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_job_file_is_told_for_what_it_is(job_file: Wrote, name: str) -> None:
    text, expected = BROKEN[name]
    assert expected in errors_of(job_file(text))[0]


def test_files_that_cannot_be_read_are_named(job_file: Wrote, tmp_path: Path) -> None:
    assert errors_of(tmp_path / "absent.yaml")[0].endswith("can't be read: No such file or directory.")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    assert "is not UTF-8: byte 6" in errors_of(tmp_path / "latin.yaml")[0]
    text = WHOLE.replace('command: [train.py, --lr, "0.1"]\n  launcher: torchrun', "script_file: absent.sh")
    (found,) = errors_of(job_file(text))
    assert found == ":8: entry.script_file: absent.sh can't be read: No such file or directory"
    bad = WHOLE.replace("preset: llama-2-7b", "config_file: job.yaml")
    assert ":15: workload.model.config_file: job.yaml is not JSON" in errors_of(job_file(bad))[0]


# The published schema


def test_the_published_schema_is_the_one_that_the_code_makes() -> None:
    assert json.loads(SCHEMA_FILE.read_text(encoding="utf-8")) == job_schema(), (
        "python -m portalctl schema > docs/portalctl-job.schema.json"
    )


def test_the_published_schema_takes_what_the_command_takes_and_refuses_what_it_refuses() -> None:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    right = {**yaml.safe_load(WHOLE), "environment": {"A": "8"}}
    right["workload"]["tokens"] = 10**9
    assert list(checker.iter_errors(right)) == []
    for wrong in ({"nodes": 0}, {"node": 1}, {"entry": {}}, {"entry": {"script": "a", "command": ["b"]}}):
        assert list(checker.iter_errors({**right, **wrong})), wrong


def test_a_job_file_has_the_fields_of_the_api() -> None:
    assert set(JobFile.model_fields) == set(JobRequestSerializer().fields)
    of_the_api = {*ScriptEntrySerializer().fields, *CommandEntrySerializer().fields}
    assert set(EntryPart.model_fields) == of_the_api | {"script_file"}
