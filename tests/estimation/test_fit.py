"""The fit: what it ships follows from its rows and priors, it improves on where it starts, and no constant is idle."""

import math
from itertools import product

import numpy as np
import pytest

from jobs.estimation.columns import make_columns, stack_columns
from jobs.estimation.constants import load_constants
from jobs.estimation.evaluation import evaluate_columns
from jobs.estimation.hardware import Machine, accelerators
from jobs.estimation.plan import ParallelPlan, PlanColumns
from jobs.estimation.prediction import predict_runs
from jobs.estimation.uncertainty import load_evidence
from jobs.estimation.workload import Workload
from tests.estimation.fit import DEGREES_OF_FREEDOM, SIGMA_LOG, build_problem, fit, is_scored, log_ratios
from tests.estimation.priors import FITTED_FAMILIES, PRIORS, base_table
from tests.estimation.published_runs import is_weighed, read_scored_runs
from tests.estimation.sensitivity import (
    LEAST_MOVE,
    Laboratory,
    change_constant,
    compute_determination,
    encode_table,
    format_mutations,
    get_constant,
    list_constants,
)

REMEDY = "run: python -m tests.estimation.fit --write --left-out"


@pytest.fixture(scope="module")
def runs():
    return [run for run in read_scored_runs() if is_scored(run)]


@pytest.fixture(scope="module")
def problem(runs):
    return build_problem(runs, base_table())


@pytest.fixture(scope="module")
def laboratory():
    return Laboratory()


@pytest.fixture(scope="module")
def determination(problem):
    return compute_determination(problem, base_table(), load_constants())


def compute_loss(problem, table):
    """What the fit minimises, up to a constant: Student's t for the rows, a normal prior for the constants."""
    residuals = log_ratios(problem, table) / SIGMA_LOG
    nu = DEGREES_OF_FREEDOM
    rows = np.sum(problem.weight * 0.5 * (nu + 1) * np.log1p(residuals**2 / nu))
    return float(rows + 0.5 * np.sum(encode_table(table) ** 2))


# --- The fit ---------------------------------------------------------------------------------------------------------


def test_the_fit_evaluates_rows_as_the_engine_does(problem):
    columns = problem.columns
    rows = [(run.workload, run.machine, columns.plans.plan(row)) for row, run in enumerate(problem.runs)]
    expected = evaluate_columns(stack_columns(rows)).step_s
    assert log_ratios(problem, load_constants()) == pytest.approx(np.log(problem.measured_s / expected), abs=1e-9)


def test_the_shipped_constants_are_those_that_the_fit_finds(problem):
    shipped = load_constants()
    found, _ = fit(problem, base_table(), start=encode_table(shipped), rounds=2)
    keys = [(prior.group, prior.member, prior.name) for prior in PRIORS]
    moved = {key: get_constant(found, key) / get_constant(shipped, key) - 1 for key in keys}
    assert {key: move for key, move in moved.items() if abs(move) > 0.01} == {}, REMEDY


def test_what_is_not_fitted_ships_as_the_priors_say():
    shipped, base = load_constants(), base_table()
    fitted = {(prior.group, prior.member, prior.name) for prior in PRIORS}
    others = [key for key in list_constants(shipped) if key not in fitted]
    assert len(others) > 100
    assert {
        key for key in others if get_constant(shipped, key) != pytest.approx(get_constant(base, key), 1e-3)
    } == set()


def test_a_fit_without_a_source_moves_downhill_from_its_priors_and_explains_the_source_better(runs):
    source = "MosaicML llm-foundry"
    base = base_table()
    inside = build_problem([run for run in runs if run.source != source][::4], base)
    outside = build_problem([run for run in runs if run.source == source], base)
    table, theta = fit(inside, base, rounds=4)
    assert compute_loss(inside, table) < 0.9 * compute_loss(inside, base)
    assert np.max(np.abs(theta)) < 6
    before, after = (np.median(np.abs(log_ratios(outside, values))) for values in (base, table))
    assert after < before


def test_every_weight_of_a_source_falls_as_its_rows_grow(problem):
    weights = {run.source: weight for run, weight in zip(problem.runs, problem.weight, strict=True)}
    counts = {name: sum(run.source == name for run in problem.runs) for name in weights}
    for name, weight in weights.items():
        assert weight * counts[name] == pytest.approx(counts[name] ** 0.4)
    assert min(weights.values()) < 0.1 < max(weights.values()) == 1


# --- What it leaves behind -------------------------------------------------------------------------------------------


def test_the_evidence_is_that_of_the_scored_runs():
    evidence = load_evidence()
    runs = {run.id: run for run in read_scored_runs()}
    assert set(evidence.ids) == set(runs), REMEDY
    for row, name in enumerate(evidence.ids):
        run = runs[name]
        arch, accelerator = run.workload.architecture, run.machine.accelerator
        assert (evidence.sources[row], evidence.accelerators[row]) == (run.source, accelerator.code)
        assert (evidence.families[row], evidence.frameworks[row]) == (accelerator.family, run.workload.framework)
        assert bool(evidence.is_moe[row]) == arch.is_moe
        assert evidence.log_parameters[row] == pytest.approx(math.log(arch.parameters))
        assert math.isfinite(evidence.log_step[row]) == is_scored(run)
        assert math.isfinite(evidence.log_memory[row]) == is_weighed(run)


def test_the_evidence_of_memory_is_what_the_engine_says():
    evidence = load_evidence()
    rows = {name: row for row, name in enumerate(evidence.ids)}
    runs = [run for run in read_scored_runs() if is_weighed(run)]
    shipped = [evidence.log_memory[rows[run.id]] for run in runs]
    assert np.log(
        [run.memory_bytes / item.memory_bytes for run, item in zip(runs, predict_runs(runs), strict=True)]
    ) == (pytest.approx(shipped, abs=2e-3)), REMEDY


@pytest.mark.parametrize("source", ["GPT-NeoX-20B", "Megatron-LM SC21 Table 2"])
def test_the_evidence_of_a_source_is_what_a_fit_without_it_says(source, runs):
    evidence = load_evidence()
    rows = {name: row for row, name in enumerate(evidence.ids)}
    base = base_table()
    inside = build_problem([run for run in runs if run.source != source], base)
    outside = build_problem([run for run in runs if run.source == source], base)
    table, _ = fit(inside, base, start=encode_table(load_constants()), rounds=6)
    shipped = [evidence.log_step[rows[run.id]] for run in outside.runs]
    assert log_ratios(outside, table) == pytest.approx(shipped, abs=0.01), REMEDY


def test_leaving_a_source_out_makes_it_no_better_in_the_mean():
    evidence = load_evidence()
    runs = [run for run in read_scored_runs() if is_scored(run)]
    rows = {name: row for row, name in enumerate(evidence.ids)}
    own = np.abs(log_ratios(build_problem(runs, base_table()), load_constants()))
    left_out = np.abs([evidence.log_step[rows[run.id]] for run in runs])
    assert np.mean(left_out) >= np.mean(own)


# --- Sensitivity -----------------------------------------------------------------------------------------------------


def test_a_constant_that_the_rows_determine_moves_a_row(laboratory, determination):
    determined = [key for key, share in determination.items() if share >= 0.02]
    assert len(determined) > 50
    assert [key for key in determined if laboratory.mutate(key).largest_move <= LEAST_MOVE] == []


def test_a_constant_that_no_row_depends_on_stands_at_its_prior(laboratory, determination):
    base = base_table()
    free = [key for key, share in determination.items() if share < 1e-6]
    assert free
    for key in free:
        # Shipped with four digits.
        assert get_constant(laboratory.table, key) == pytest.approx(get_constant(base, key), rel=1e-3), key


def test_most_constants_with_a_prior_move_some_row(laboratory, determination):
    moving = [key for key in determination if laboratory.mutate(key).largest_move > LEAST_MOVE]
    assert len(moving) > 0.75 * len(determination)


def test_the_rows_determine_fewer_constants_than_there_are_sources_times_two(determination, runs):
    assert all(-1e-9 <= share < 1 for share in determination.values())
    assert 10 < sum(determination.values()) < 2 * len({run.source for run in runs})


# Jobs that together depend on every constant.
JOBS = (
    {"model": {"preset": "gpt2-small"}, "sequence_length": 512},
    {"model": {"preset": "gpt2-small"}, "sequence_length": 512, "attention_kernel": "standard"},
    {"model": {"preset": "llama-3.1-8b"}, "sequence_length": 2048},
    {"model": {"preset": "mixtral-8x7b"}, "sequence_length": 2048},
)
PLANS = (
    ParallelPlan(tensor_parallel=4, data_parallel=16, zero_stage=1, sequence_parallel=True),
    ParallelPlan(data_parallel=32, zero_stage=3, micro_batch_size=2),
    ParallelPlan(data_parallel=64),
    ParallelPlan(pipeline_parallel=2, data_parallel=16, recomputation="full"),
)


def list_jobs(key):
    """(workload, machine) on which a constant should matter: one of its family's devices, or its framework."""
    group, member, name = key
    family = member if group == "family" else "h100"
    frameworks = [member] if group == "framework" else ["megatron", "fsdp"]
    wanted = {"fp8", "fp4"} if name == "fp8_matmul_fraction" else {"bf16", "fp16"}
    devices = [item for item in accelerators().values() if item.family == family]
    # The device that knows the number format and, if there is one, has a ceiling of its own.
    devices.sort(key=lambda item: (not wanted & set(item.peak_flop_per_s), item.matmul_peak_fraction is None))
    for accelerator, framework, job in product(devices[:1], frameworks, JOBS):
        for precision in sorted(wanted & set(accelerator.peak_flop_per_s)):
            given = {**job, "tokens": 1e9, "global_batch_size": 64, "framework": framework, "precision": precision}
            yield Workload.from_dict(given), Machine(accelerator=accelerator)


def evaluate_job(workload, machine, table):
    evaluation = evaluate_columns(make_columns(workload, machine, PlanColumns.from_plans(PLANS), constants=table))
    return np.concatenate([evaluation.step_s, evaluation.memory_bytes])


def moves_a_job(table, key):
    value = get_constant(table, key)
    changed = change_constant(table, key, 1.1 * value if value else 1.0)
    return any(
        np.max(np.abs(evaluate_job(*job, changed) / evaluate_job(*job, table) - 1)) > 1e-6 for job in list_jobs(key)
    )


def has_use_for(family, name):
    """Whether any device of the family could depend on a constant."""
    devices = [item for item in accelerators().values() if item.family == family]
    if name == "matmul_ceiling":
        return any(item.matmul_peak_fraction is not None for item in devices)
    if name == "fp8_matmul_fraction":
        return any({"fp8", "fp4"} & set(item.peak_flop_per_s) for item in devices)
    return True


def test_every_constant_that_moves_no_published_run_moves_some_other_job(laboratory):
    table = laboratory.table
    keys = [key for key in list_constants(table) if key[0] != "family" or key[1] in FITTED_FAMILIES]
    idle = [key for key in keys if laboratory.mutate(key).largest_move <= LEAST_MOVE]
    assert len(idle) > 20
    dead = [key for key in idle if not moves_a_job(table, key)]
    assert [key for key in dead if key[0] != "family" or has_use_for(*key[1:])] == []


def test_the_report_lists_each_moving_constant_in_both_directions(laboratory):
    keys = [("family", "a100", "matmul_fraction"), ("family", "tianhe", "launch_factor")]
    short, full = (format_mutations(laboratory, keys, with_idle=with_idle) for with_idle in (False, True))
    assert short.count("family.a100.matmul_fraction") == 2
    assert "tianhe" not in short
    assert full.count("family.tianhe.launch_factor") == 2
    assert "1 of 2 constants move no row" in short


def test_faster_products_make_no_run_slower_and_more_runtime_memory_makes_none_smaller(laboratory):
    table = laboratory.table
    faster = change_constant(table, ("family", "a100", "matmul_fraction"), 0.9)
    step_s, memory_bytes = laboratory.evaluate(faster)
    assert np.all(step_s <= laboratory.step_s)
    assert np.any(step_s < laboratory.step_s)
    assert memory_bytes == pytest.approx(laboratory.memory_bytes)
    larger = change_constant(table, ("framework", "deepspeed", "runtime_gib"), 4.0)
    _, memory_bytes = laboratory.evaluate(larger)
    assert np.all(memory_bytes >= laboratory.memory_bytes)
    assert np.any(memory_bytes > laboratory.memory_bytes)
