"""What a training job needs: a library of its own (NumPy and the standard library only).

    workload = Workload.from_dict({"model": {"preset": "llama-2-13b"}, "tokens": 1_000_000_000_000})
    machine = Machine.from_catalog("a800-80g")
    result = search(workload, machine, devices=64)
    print(result.best.duration_s, result.best.plan)

Bad input raises InvalidInput, which names the field. Units are SI base units; suffixes say which.
"""

from jobs.estimation.advice import ADVICE_TEXT, ASSUMPTION_TEXT, Advice
from jobs.estimation.architecture import Architecture
from jobs.estimation.device_exploration import explore_devices, fewest_devices
from jobs.estimation.evaluation import ENGINE_VERSION, Estimate, estimate
from jobs.estimation.flops import count_flop_6nd, count_model_flop_per_step, to_pflop_per_s_days
from jobs.estimation.hardware import Accelerator, Machine, accelerators
from jobs.estimation.inverse_search import largest_batch, largest_preset, largest_shape
from jobs.estimation.memory import MEMORY_PARTS
from jobs.estimation.nearest_plan import explain_impossible
from jobs.estimation.plan import RECOMPUTATIONS, ParallelPlan
from jobs.estimation.plan_search import Rejection, SearchResult, estimate_best, search
from jobs.estimation.presets import Preset, presets
from jobs.estimation.step_time import STEP_PARTS
from jobs.estimation.validation import InvalidInput
from jobs.estimation.workload import LORA_TARGETS, OPTIMIZERS, TASKS, Workload

__all__ = [
    "ADVICE_TEXT",
    "ASSUMPTION_TEXT",
    "ENGINE_VERSION",
    "LORA_TARGETS",
    "MEMORY_PARTS",
    "OPTIMIZERS",
    "RECOMPUTATIONS",
    "STEP_PARTS",
    "TASKS",
    "Accelerator",
    "Advice",
    "Architecture",
    "Estimate",
    "InvalidInput",
    "Machine",
    "ParallelPlan",
    "Preset",
    "Rejection",
    "SearchResult",
    "Workload",
    "accelerators",
    "count_flop_6nd",
    "count_model_flop_per_step",
    "estimate",
    "estimate_best",
    "explain_impossible",
    "explore_devices",
    "fewest_devices",
    "largest_batch",
    "largest_preset",
    "largest_shape",
    "presets",
    "search",
    "to_pflop_per_s_days",
]
