"""The command line."""

import json
import subprocess
import sys

import pytest

from jobs.estimation import presets
from jobs.estimation.cli import main

COMMON = ["--model", "llama-2-13b", "--accelerator", "a800-80g", "--devices", "64", "--tokens", "1e12"]


def test_estimate_prints_the_best_plan_in_words(capsys):
    assert main(["estimate", *COMMON]) == 0
    output = capsys.readouterr().out
    assert "fits" in output
    assert "MFU" in output


def test_estimate_takes_a_plan_and_prints_json(capsys):
    assert main(["estimate", *COMMON, "--tensor-parallel", "8", "--zero-stage", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["plan"]["tensor_parallel"], answer["plan"]["data_parallel"]) == (8, 8)


def test_search_prints_as_many_plans_as_asked_for(capsys):
    assert main(["search", *COMMON, "--top", "3", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["ranked"]) == 3


def test_a_job_that_does_not_fit_returns_1(capsys):
    arguments = [
        "search",
        "--model",
        "llama-3.1-405b",
        "--accelerator",
        "a100-80g",
        "--devices",
        "8",
        "--tokens",
        "1e9",
    ]
    assert main([*arguments, "--global-batch-size", "8"]) == 1
    assert "Nothing fits" in capsys.readouterr().out


def test_a_config_file_is_read(tmp_path, capsys):
    config = {
        "model_type": "gpt2",
        "n_layer": 12,
        "n_embd": 768,
        "n_head": 12,
        "n_positions": 1024,
        "vocab_size": 50257,
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    arguments = ["--config", str(path), "--accelerator", "a100-80g", "--devices", "8", "--tokens", "1e9", "--json"]
    assert main(["estimate", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 124_439_808


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (["--accelerator", "abacus"], "machine.accelerator"),
        (["--devices", "3"], "devices"),
        (["--tokens", "nan"], "tokens"),
        (["--tensor-parallel", "3"], "devices"),
    ],
)
def test_bad_input_is_one_line_and_returns_2(change, field, capsys):
    assert main(["estimate", *COMMON, *change]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {field}")
    assert error.count("\n") == 1


def test_an_unreadable_config_returns_2(tmp_path, capsys):
    arguments = ["--accelerator", "a100-80g", "--devices", "8", "--tokens", "1e9"]
    assert main(["estimate", "--config", str(tmp_path / "none.json"), *arguments]) == 2
    assert "config" in capsys.readouterr().err


def test_lists_name_every_entry(capsys):
    assert main(["models"]) == 0
    assert main(["accelerators"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in presets())
    assert "ascend910b-64g" in output


def test_the_library_loads_neither_django_nor_celery():
    code = "import sys, jobs.estimation; print(sorted({'django', 'celery', 'rest_framework'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert output.strip() == "[]"
