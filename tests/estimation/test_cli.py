"""The command line."""

import csv
import io
import json
import subprocess
import sys

import pytest

from jobs.estimation import accelerators, presets
from jobs.estimation.cli import describe_plan, main
from jobs.estimation.plan import ParallelPlan
from tests.estimation.test_run_table import LLAMA_8B, to_csv

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


def test_tokens_default_to_twenty_a_parameter_and_say_so(capsys):
    without = [item for item in COMMON if item not in ("--tokens", "1e12")]
    assert main(["estimate", *without, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["assumed"] == [f"tokens={20 * answer['parameters']}: 20 a parameter (--tokens says otherwise)"]
    assert main(["estimate", *COMMON, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["assumed"] == []
    assert main(["estimate", *without]) == 0
    assert "20 a parameter" in capsys.readouterr().out


def test_an_accelerator_without_bf16_gets_what_it_has(capsys):
    arguments = ["--model", "gpt2-small", "--accelerator", "V100", "--devices", "8", "--tokens", "1e9", "--json"]
    assert main(["estimate", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["assumed"] == ["precision=fp16: v100-32g has no bf16"]


def test_accelerators_are_found_by_their_usual_names(capsys):
    answers = []
    for name in ("h100-80g", "H100-SXM5-80GB", "NVIDIA H100"):
        arguments = ["--model", "llama-2-7b", "--accelerator", name, "--devices", "8", "--tokens", "1e9", "--json"]
        assert main(["estimate", *arguments]) == 0
        answers.append(json.loads(capsys.readouterr().out)["step_s"])
    assert len(set(answers)) == 1


def test_the_search_for_a_large_model_prints_what_programs_read(capsys):
    arguments = ["--model", "llama-3.1-405b", "--accelerator", "H100-SXM5-80GB", "--devices", "16384", "--json"]
    assert main(["search", *arguments]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["plans_evaluated"] > 1000
    assert 0 < answer["search_s"] < 30
    assert answer["best"]["devices"] == 16384
    assert answer["best"]["fits"]
    assert answer["pareto"]


def test_every_part_of_a_plan_can_be_given(capsys):
    plan = {
        "tensor_parallel": 2,
        "pipeline_parallel": 2,
        "data_parallel": 16,
        "context_parallel": 1,
        "expert_parallel": 1,
        "virtual_stages": 1,
        "zero_stage": 1,
        "zero_group": 8,
        "micro_batch_size": 2,
        "recomputation": "full",
        "recomputed_layers": 3,
        "pipeline_schedule": "zero_bubble",
        "offload": "optimizer",
    }
    options = [text for name, value in plan.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    batch = ["--global-batch-size", "512", "--framework", "deepspeed", "--json"]
    assert main(["estimate", *COMMON, *options, "--sequence-parallel", *batch]) in (0, 1)
    shown = json.loads(capsys.readouterr().out)["plan"]
    assert {name: shown[name] for name in plan} == plan
    assert shown["sequence_parallel"]
    text = describe_plan(ParallelPlan.from_dict(shown))
    for word in ("TP2", "PP2", "DP16", "over 8", "3 layers", "zero_bubble", "offload optimizer", "SP"):
        assert word in text


def test_the_framework_changes_the_estimate(capsys):
    steps = set()
    for framework in ("megatron", "deepspeed"):
        assert main(["estimate", *COMMON, "--zero-stage", "1", "--framework", framework, "--json"]) in (0, 1)
        steps.add(json.loads(capsys.readouterr().out)["step_s"])
    assert len(steps) == 2


# --- Tables ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(to_csv(LLAMA_8B, LLAMA_8B | {"id": "bad", "layers": "NaN"}), encoding="utf-8")
    return path


def test_predict_writes_every_row_and_counts_the_refused_ones(table, tmp_path, capsys):
    out = tmp_path / "predicted.csv"
    assert main(["predict", str(table), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "1 of 2 rows refused; the column refused says why\n"
    with out.open(encoding="utf-8", newline="") as file:
        good, bad = csv.DictReader(file)
    assert float(good["step_time_s"]) > 0
    assert "layers" in bad["refused"]
    assert "NaN" in bad["refused"]


def test_predict_summarises_as_json(table, tmp_path, capsys):
    assert main(["predict", str(table), "--out", str(tmp_path / "predicted.csv"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["predicted"], summary["refused"]) == (2, 1, 1)
    assert summary["refusals"][0]["id"] == "bad"


def test_predict_writes_to_standard_output(table, capfdbinary):
    assert main(["predict", str(table), "--out", "-", "--json"]) == 0
    captured = capfdbinary.readouterr()
    rows = list(csv.DictReader(io.StringIO(captured.out.decode())))
    assert [row["id"] for row in rows] == ["row-1", "bad"]
    assert b'"refused": 1' in captured.err


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\x00\x01binary"])
def test_a_file_that_is_no_table_returns_2_and_is_named(content, tmp_path, capsys):
    path = tmp_path / "bad-file.csv"
    path.write_bytes(content)
    assert main(["predict", str(path), "--out", str(tmp_path / "out.csv")]) == 2
    assert main(["benchmark", "--runs", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 2
    assert "bad-file.csv" in error


def test_a_missing_table_returns_2(tmp_path, capsys):
    assert main(["predict", str(tmp_path / "none.csv")]) == 2
    assert "none.csv" in capsys.readouterr().err


def test_a_reader_that_leaves_a_pipe_is_no_crash(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(to_csv(*[LLAMA_8B] * 3000), encoding="utf-8")
    command = f'"{sys.executable}" -m jobs.estimation predict "{path}" | head -n 1'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith("id,")
    assert "Traceback" not in done.stderr


def test_benchmark_prints_tables_or_json(capsys):
    assert main(["benchmark"]) == 0
    assert "mean over sources" in capsys.readouterr().out
    assert main(["benchmark", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["throughput"]["in_sample"]["mean_of_source_medians_pct"] > 0
    assert result["refused"]["rows"] == result["rows"] - result["rows_read"]


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


def test_lists_are_json_on_request(capsys):
    assert main(["models", "--json"]) == 0
    assert [item["name"] for item in json.loads(capsys.readouterr().out)] == list(presets())
    assert main(["accelerators", "--json"]) == 0
    assert [item["code"] for item in json.loads(capsys.readouterr().out)] == list(accelerators())


def test_the_library_loads_neither_django_nor_celery():
    code = "import sys, jobs.estimation; print(sorted({'django', 'celery', 'rest_framework'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert output.strip() == "[]"
