"""Speed of the estimator on one core: a search, plans in bulk, one estimate, and importing it; beside baselines.

Baselines: a Python loop that estimates plan by plan, the null model (hardware FLOP over 46 % of the peak, times the
pipeline's bubble: what the simplest tools compute) as arrays, and importing NumPy alone.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from tempfile import TemporaryDirectory

import numpy as np

from jobs.estimation import Machine, Workload, estimate, estimate_best, search
from jobs.estimation.flops import count_model_flop_per_step, count_recomputed_flop_per_step
from jobs.estimation.plan import Floats, PlanColumns
from jobs.estimation.plan_enumeration import enumerate_plans
from jobs.estimation.plan_ranking import evaluate_in_bulk
from tests.benchmarks.measure import latency_row, measure_alternately, print_table, read_size

_CASES = (
    ("llama-3.1-405b", "h100-80g", 16_384, {}),
    ("llama-2-13b", "a800-80g", 64, {}),
    ("llama-2-7b", "a800-80g", 8, {"framework": "fsdp"}),
    ("deepseek-v3", "h800-80g", 2_048, {}),
    ("llama-3.1-405b", "h100-80g", 64, {}),
)
_SAMPLE = 100
_NULL_MODEL_SHARE = 0.46
_MODULES = {"import jobs.estimation": "import jobs.estimation", "import numpy": "import numpy", "nothing": ""}


def run() -> None:
    rounds = read_size("ROUNDS", 10)
    for preset, accelerator, devices, changes in _CASES:
        workload = Workload.from_dict({"model": {"preset": preset}, "tokens": 10**12, **changes})
        _measure_search(workload, Machine.from_catalog(accelerator), devices, rounds=rounds)
    _measure_imports(rounds=min(rounds, 5))


def _measure_search(workload: Workload, machine: Machine, devices: int, *, rounds: int) -> None:
    plans, _ = enumerate_plans(workload, machine, [devices])
    random = np.random.default_rng(0)
    sample = [plans.plan(int(row)) for row in random.choice(len(plans), min(_SAMPLE, len(plans)), replace=False)]
    calls: dict[str, Callable[[], object]] = {
        "loop of estimates": lambda: [estimate(workload, machine, plan) for plan in sample],
        "null model": lambda: _apply_null_model(workload, machine, plans),
        "plans in bulk": lambda: evaluate_in_bulk(workload, machine, plans),
        "search": lambda: search(workload, machine, devices),
        "best plan alone": lambda: estimate_best(workload, machine, devices),
    }
    seconds = measure_alternately(calls, rounds=rounds)
    found = search(workload, machine, devices)
    counts = {
        "loop of estimates": len(sample),
        "null model": len(plans),
        "plans in bulk": len(plans),
        "search": found.plans_evaluated,
        "best plan alone": found.plans_evaluated,
    }
    each = {name: np.array(values) / counts[name] for name, values in seconds.items()}
    loop_s = float(np.median(each["loop of estimates"]))
    rows = []
    for name, values in seconds.items():
        plan_s = float(np.median(each[name]))
        more = (str(counts[name]), f"{1e6 * plan_s:.2f}", f"{loop_s / plan_s:.1f}")
        rows.append(latency_row(name, values, seconds["null model"], *more))
    what = f"{workload.preset} ({workload.framework}) on {devices} {machine.accelerator.code}"
    answer = "nothing fits" if found.best is None else f"best step {found.best.step_s:.2f} s"
    header = ("", "p50 ms", "p95 ms", "/ null model", "plans", "us a plan", "plans a second / loop")
    print_table(f"search: {what}, {answer}", header, rows)
    assert counts["search"] >= len(plans), "the search left out plans that the rules allow"


def _apply_null_model(workload: Workload, machine: Machine, plans: PlanColumns) -> Floats:
    """Seconds of a step by the rule that scores well on famous tables and knows nothing (no memory, no links)."""
    devices = plans.tp * plans.pp * plans.dp * plans.cp
    micro_batches = workload.global_batch_size / (plans.dp * plans.micro)
    flop = count_model_flop_per_step(workload) + count_recomputed_flop_per_step(workload, plans)
    ideal_s = flop / (_NULL_MODEL_SHARE * machine.peak_flop_per_s(workload.precision) * devices)
    step_s: Floats = ideal_s * (1 + (plans.pp - 1) / (plans.virtual * micro_batches))
    return step_s


def _measure_imports(*, rounds: int) -> None:
    """Of an installed library: with its byte-code written, which the first round does."""
    with TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}

        def start(code: str) -> Callable[[], object]:
            command = [sys.executable, "-c", code]
            return lambda: subprocess.run(command, check=True, env=environment)

        seconds = measure_alternately({name: start(code) for name, code in _MODULES.items()}, rounds=rounds)
    nothing = float(np.median(seconds["nothing"]))
    net = {name: [max(value - nothing, 0.0) for value in values] for name, values in seconds.items()}
    rows = [latency_row(name, net[name], net["import numpy"]) for name in ("import jobs.estimation", "import numpy")]
    print_table("import, beyond starting Python", ("", "p50 ms", "p95 ms", "/ numpy"), rows)
