"""Predicting tables of runs, and scoring predictions against what was measured."""

import csv
import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from jobs.estimation.accuracy import benchmark, format_benchmark, score_runs
from jobs.estimation.evaluation import evaluate_plans
from jobs.estimation.plan import PlanColumns
from jobs.estimation.prediction import EXTRA_COLUMNS, PUBLISHED_RUNS, predict_runs, predict_table
from jobs.estimation.run_table import MEASURED_COLUMNS, Run, parse_run, read_row
from jobs.estimation.validation import InvalidInput
from tests.estimation.test_run_table import LLAMA_8B, to_csv


@pytest.fixture(scope="module")
def some_published():
    """Every 20th published row with a plan, as text."""
    with PUBLISHED_RUNS.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["tp"] and row["pp"]]
    return rows[::20]


def write(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_back(path):
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def predict(tmp_path, rows):
    source = write(tmp_path / "runs.csv", rows)
    predict_table(source, str(tmp_path / "predicted.csv"))
    return read_back(tmp_path / "predicted.csv")


def predict_row(tmp_path, **changes):
    (row,) = predict(tmp_path, [LLAMA_8B | changes])
    return row


# --- The table -------------------------------------------------------------------------------------------------------


def test_the_output_has_the_columns_and_rows_of_the_input_in_order(tmp_path, some_published):
    predicted = predict(tmp_path, some_published)
    assert list(predicted[0]) == [*some_published[0], *EXTRA_COLUMNS]
    assert [row["id"] for row in predicted] == [row["id"] for row in some_published]
    untouched = [name for name in some_published[0] if name not in MEASURED_COLUMNS]
    assert [[row[name] for name in untouched] for row in predicted] == [
        [row[name] for name in untouched] for row in some_published
    ]


def test_every_row_is_either_predicted_or_refused_with_a_reason(tmp_path, some_published):
    for row in predict(tmp_path, some_published):
        numbers = [row[name] for name in (*MEASURED_COLUMNS, *EXTRA_COLUMNS[:4])]
        if row["refused"]:
            assert not any(numbers), row["id"]
        else:
            assert all(float(number) > 0 for number in numbers), row["id"]
            assert row["fits"] in ("true", "false")


def test_predictions_are_the_same_whatever_was_measured(tmp_path, some_published):
    blank = [{**row, **dict.fromkeys((*MEASURED_COLUMNS, "hfu_pct"), "")} for row in some_published]
    other = [{**row, **dict.fromkeys(MEASURED_COLUMNS, "123.4")} for row in some_published]
    missing = [{name: row[name] for name in row if name not in MEASURED_COLUMNS} for row in some_published]
    names = (*MEASURED_COLUMNS, *EXTRA_COLUMNS)
    expected, *others = (
        [[row[name] for name in names] for row in predict(tmp_path, rows)]
        for rows in (some_published, blank, other, missing)
    )
    assert all(answer == expected for answer in others)


def test_the_figures_of_a_row_agree_with_each_other(tmp_path):
    row = predict_row(tmp_path)
    step_s, rate = float(row["step_time_s"]), float(row["tokens_per_s_per_device"])
    assert rate == pytest.approx(128 * 8192 / 64 / step_s, rel=1e-4)
    # H100: 989 TFLOP/s dense in bf16; attention counted once.
    assert float(row["mfu_pct"]) == pytest.approx(100 * float(row["model_tflops_per_device"]) / 989.4, rel=2e-3)
    flop_per_token = 6 * (8.03e9 - 128256 * 4096) + 6 * 32 * 4096 * 8192
    assert float(row["model_tflops_per_device"]) == pytest.approx(rate * flop_per_token / 1e12, rel=0.01)
    assert float(row["step_time_s_p10"]) < step_s < float(row["step_time_s_p90"])
    assert float(row["memory_gb_p10"]) < float(row["memory_gb_per_device"]) < float(row["memory_gb_p90"])


def test_a_run_is_predicted_as_the_engine_evaluates_it(tmp_path):
    run = parse_run(LLAMA_8B)
    alone = evaluate_plans(run.workload, run.machine, PlanColumns.from_plans([run.plan]))
    row = predict_row(tmp_path)
    assert float(row["step_time_s"]) == pytest.approx(float(np.max(alone.step_s)), rel=1e-5)
    assert float(row["memory_gb_per_device"]) * 2**30 == pytest.approx(float(np.max(alone.memory_bytes)), rel=1e-5)


def test_rows_are_predicted_alike_alone_and_in_company(some_published):
    runs = [run for row in some_published if isinstance(run := read_row(row), Run)]
    together = predict_runs(runs)
    alone = [predict_runs([run])[0] for run in runs]
    for one, other in zip(together, alone, strict=True):
        assert one.step_s == pytest.approx(other.step_s, rel=1e-9)
        assert one.memory_bytes == pytest.approx(other.memory_bytes, rel=1e-9)
        assert one.plan == other.plan


def test_unknown_recomputation_is_the_least_that_fits_and_said(tmp_path):
    roomy = predict_row(tmp_path, recompute="")
    assert "recompute=none" in roomy["assumed"]
    assert roomy["step_time_s"] == predict_row(tmp_path, recompute="none")["step_time_s"]
    # 128 sequences of 8,192 tokens in one micro-batch a rank need far more than a device has.
    tight = predict_row(tmp_path, recompute="", micro_batch="8", framework="Composer/FSDP")
    assert "recompute=full" in tight["assumed"]
    assert tight["fits"] == predict_row(tmp_path, recompute="full", micro_batch="8", framework="Composer/FSDP")["fits"]


def test_a_row_without_degrees_gets_the_best_plan_of_a_search(tmp_path):
    row = predict_row(tmp_path, tp="", pp="", dp="", cp="", zero_stage_fsdp="", devices="16")
    assert row["refused"] == ""
    assert row["fits"] == "true"
    assert "plan=tp" in row["assumed"]


def test_a_job_too_large_for_its_devices_does_not_fit(tmp_path):
    assert predict_row(tmp_path, tp="1", pp="1", dp="1", devices="1", global_batch_sequences="8")["fits"] == "false"
    assert predict_row(tmp_path)["fits"] == "true"


BAD_CELLS = [
    {"layers": "abc"},
    {"hidden": "nan"},
    {"devices": "-8"},
    {"seq_len": "0"},
    {"accelerator": "abacus"},
    {"global_batch_sequences": "1e400"},
    {"hidden": "", "model": "Nobody's"},
    {"tp": "3"},
    {"precision": "guess"},
]


def test_bad_rows_are_refused_in_their_place_and_the_batch_goes_on(tmp_path):
    rows = []
    for number, change in enumerate(BAD_CELLS):
        rows += [LLAMA_8B | {"id": f"good-{number}"}, LLAMA_8B | {"id": f"bad-{number}"} | change]
    predicted = predict(tmp_path, rows)
    assert [row["id"] for row in predicted] == [row["id"] for row in rows]
    for row, change in zip(predicted[1::2], BAD_CELLS, strict=True):
        assert row["refused"], change
        assert not row["step_time_s"]
    assert not any(row["refused"] for row in predicted[::2])
    assert len({row["step_time_s"] for row in predicted[::2]}) == 1


def test_half_a_row_is_refused_with_what_it_has(tmp_path):
    lines = to_csv(LLAMA_8B, LLAMA_8B | {"id": "half"}, LLAMA_8B).splitlines()
    lines[2] = ",".join(lines[2].split(",")[:5])
    source = tmp_path / "runs.csv"
    source.write_text("\n".join(lines), encoding="utf-8")
    summary = predict_table(source, str(tmp_path / "predicted.csv"))
    rows = read_back(tmp_path / "predicted.csv")
    assert (summary.rows, summary.predicted, summary.refused) == (3, 2, 1)
    assert (rows[1]["id"], bool(rows[1]["refused"]), rows[2]["refused"]) == ("half", True, "")
    assert summary.to_dict()["refusals"][0]["id"] == "half"


def test_absurd_but_readable_numbers_never_crash(tmp_path):
    extremes = ("1", "7", "100000", "99999999")
    shape = ("layers", "hidden", "heads", "kv_heads", "ffn_hidden", "vocab", "seq_len", "experts", "topk", "params_b")
    plan = ("devices_per_node", "tp", "pp", "vpp", "dp", "cp", "ep", "micro_batch", "global_batch_sequences")
    plain = LLAMA_8B | {"vpp": "", "ep": "", "experts": "", "topk": ""}
    rows = [plain | {name: value} for name in (*shape, *plan) for value in extremes]
    rows += [row | {"devices": "", "arch_family": "gpt", "model": "x"} for row in rows]
    for row in predict(tmp_path, rows):
        assert row["refused"] or math.isfinite(float(row["step_time_s"])), row


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_of_the_input_comes_back_byte_by_byte(tmp_path, end):
    note = 'a "quote", 显存 and\ta tab'
    source = tmp_path / "runs.csv"
    quoted = '"' + note.replace('"', '""') + '"'
    source.write_bytes(b"\xef\xbb\xbf" + to_csv(LLAMA_8B | {"notes": quoted}, end=end).encode())
    predict_table(source, str(tmp_path / "predicted.csv"))
    (row,) = read_back(tmp_path / "predicted.csv")
    assert row["notes"] == note
    assert next(iter(row)) == "id"


def test_notes_in_another_encoding_come_back_as_they_were(tmp_path):
    source = tmp_path / "runs.csv"
    source.write_bytes(to_csv(LLAMA_8B | {"notes": "NOTE"}).encode().replace(b"NOTE", "显存".encode("gbk")))
    predict_table(source, str(tmp_path / "predicted.csv"))
    assert "显存".encode("gbk") in (tmp_path / "predicted.csv").read_bytes()


def test_a_predicted_table_can_be_predicted_again(tmp_path):
    first = predict(tmp_path, [LLAMA_8B])
    again = predict(tmp_path, first)
    assert again == first


def test_a_table_is_not_written_over_itself(tmp_path):
    source = write(tmp_path / "runs.csv", [LLAMA_8B])
    before = source.read_bytes()
    with pytest.raises(InvalidInput, match="another file"):
        predict_table(source, str(source))
    assert source.read_bytes() == before


def test_an_output_that_cannot_be_written_is_an_error(tmp_path):
    source = write(tmp_path / "runs.csv", [LLAMA_8B])
    for target in (tmp_path / "none" / "predicted.csv", tmp_path):
        with pytest.raises(InvalidInput, match="out"):
            predict_table(source, str(target))


def test_a_bad_file_leaves_no_output_behind(tmp_path):
    source = tmp_path / "runs.csv"
    source.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="columns"):
        predict_table(source, str(tmp_path / "predicted.csv"))
    assert not (tmp_path / "predicted.csv").exists()


def test_a_long_table_is_not_held_in_memory(tmp_path):
    predict_row(tmp_path)  # What is loaded once doesn't count.
    bad = ",".join((LLAMA_8B | {"layers": "x", "notes": "y" * 2000}).values())
    source = tmp_path / "runs.csv"
    with source.open("w", encoding="utf-8") as file:
        file.write(",".join((*LLAMA_8B, "notes")) + "\n")
        for _ in range(6_000):
            file.write(bad + "\n")
    tracemalloc.start()
    try:
        summary = predict_table(source, str(tmp_path / "predicted.csv"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert summary.rows == 6_000
    assert source.stat().st_size > 11e6
    assert peak < 6e6


# --- Scores ----------------------------------------------------------------------------------------------------------


def with_measured(step_s, memory_gib=None, **changes):
    row = {**LLAMA_8B, "tier": "A", "use_for": "time+memory", **changes, "step_time_s": f"{step_s:.9g}"}
    if memory_gib:
        row["memory_gb_per_device"] = f"{memory_gib:.9g}"
    return row


@pytest.fixture(scope="module")
def exact():
    (item,) = predict_runs([parse_run(LLAMA_8B)])
    return item


def test_a_score_compares_with_what_was_measured(exact):
    (score,) = score_runs([parse_run(with_measured(1.25 * exact.step_s, exact.memory_bytes / 2**30 / 0.8))])
    assert score.step_ratio == pytest.approx(1.25)
    assert score.memory_ratio == pytest.approx(0.8)
    assert score.held_out_step_ratio is None


def test_the_benchmark_counts_rows_by_tier_and_use(tmp_path, exact):
    rows = [
        with_measured(exact.step_s, id="right"),
        with_measured(1.5 * exact.step_s, id="too fast", source="Other"),
        with_measured(9 * exact.step_s, id="not to be scored", tier="D"),
        with_measured(9 * exact.step_s, id="coarse", use_for="throughput-coarse"),
        with_measured(exact.step_s, id="bad", layers="x"),
    ]
    path = write(tmp_path / "runs.csv", [{"memory_gb_per_device": "", **row} for row in rows])
    result = benchmark(path)
    table = result["throughput"]["in_sample"]
    assert (result["rows"], result["rows_read"], result["rows_scored"]) == (5, 4, 2)
    assert table["all"]["rows"] == 2
    assert table["by_source"]["A source"]["median_error_pct"] == pytest.approx(0, abs=1e-5)
    assert table["by_source"]["Other"]["median_error_pct"] == pytest.approx(50, rel=1e-5)
    assert table["by_source"]["Other"]["bias_pct"] == pytest.approx(50, rel=1e-5)
    assert table["mean_of_source_medians_pct"] == pytest.approx(25, rel=1e-5)
    assert list(result["refused"]["reasons"]) == ["bad"]
    # Rows that no fit has seen have no leave-one-source-out figure.
    assert "leave_one_source_out" not in result["throughput"]


def test_the_benchmark_tells_runs_that_ran_from_those_that_did_not(tmp_path, exact):
    small = {"tp": "1", "pp": "1", "dp": "8", "devices": "8", "global_batch_sequences": "64"}
    rows = [
        with_measured(exact.step_s, id="fits"),
        with_measured(1, id="ran, but can't", **{**small, "dp": "1", "devices": "1"}),
        with_measured(1, id="failed", **{**small, "dp": "1", "devices": "1"}, notes="OOM", use_for="context only"),
        with_measured(1, id="names a failure", **small, notes="same case with PP1DP8TP1 is OOM", micro_batch="8"),
    ]
    names = sorted({name for row in rows for name in row})
    path = write(tmp_path / "runs.csv", [{name: row.get(name, "") for name in names} for row in rows])
    feasibility = benchmark(path)["feasibility"]
    assert "ran, but can't" in feasibility["ran_but_called_impossible_ids"]
    assert "fits" not in feasibility["ran_but_called_impossible_ids"]
    assert feasibility["out_of_memory_cases"] == 2
    assert feasibility["out_of_memory_cases_called_so"] == 2


def test_regret_is_what_the_chosen_plan_costs(tmp_path):
    plans = [{"tp": "1", "pp": "1", "dp": "8"}, {"tp": "2", "pp": "1", "dp": "4"}, {"tp": "8", "pp": "1", "dp": "1"}]
    runs = [parse_run({**LLAMA_8B, "devices": "8", **plan}) for plan in plans]
    steps = [item.step_s for item in predict_runs(runs)]
    # Measured: the plan that is predicted fastest is 20 % slower than another.
    measured = [1.2 if step == min(steps) else 1.0 for step in steps]
    rows = [with_measured(s, devices="8", **plan) for s, plan in zip(measured, plans, strict=True)]
    choice = benchmark(write(tmp_path / "runs.csv", rows))["plan_choice"]
    assert choice == {"grids": 1, "mean_regret_pct": pytest.approx(20), "worst_regret_pct": pytest.approx(20)}


@pytest.fixture(scope="module")
def published_benchmark():
    return benchmark()


def test_the_shipped_runs_are_scored_in_sample_and_left_out(published_benchmark):
    throughput = published_benchmark["throughput"]
    assert throughput["in_sample"]["all"]["rows"] > 750
    assert throughput["leave_one_source_out"]["all"]["rows"] > 700
    for sample in throughput.values():
        assert sum(table["rows"] for table in sample["by_source"].values()) == sample["all"]["rows"]
        assert sum(table["rows"] for table in sample["by_framework"].values()) == sample["all"]["rows"]
    assert 0 < published_benchmark["coverage"]["step_time"] <= 1


def test_the_benchmark_prints_every_source_and_says_what_is_in_sample(published_benchmark):
    text = format_benchmark(published_benchmark)
    assert "in sample" in text
    assert "leave one source out" in text
    for source in published_benchmark["throughput"]["in_sample"]["by_source"]:
        assert source[:40] in text
    assert json.loads(json.dumps(published_benchmark)) == published_benchmark
