"""Command line: `python -m jobs.estimation estimate|search|models|accelerators`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from jobs.estimation.evaluation import Estimate, estimate
from jobs.estimation.hardware import PRECISIONS, Machine, accelerators
from jobs.estimation.plan import RECOMPUTATIONS, ParallelPlan
from jobs.estimation.plan_search import SearchResult, search
from jobs.estimation.presets import presets
from jobs.estimation.validation import InvalidInput
from jobs.estimation.workload import ATTENTION_KERNELS, LORA_TARGETS, OPTIMIZERS, TASKS, Workload

EXIT_FITS: Final = 0
EXIT_DOES_NOT_FIT: Final = 1
EXIT_BAD_INPUT: Final = 2

_MAX_CONFIG_BYTES: Final = 2**20
_PLAN_FIELDS: Final = (
    "tensor_parallel",
    "pipeline_parallel",
    "data_parallel",
    "context_parallel",
    "virtual_stages",
    "zero_stage",
    "micro_batch_size",
    "recomputation",
    "sequence_parallel",
)
_WORKLOAD_FIELDS: Final = (
    "tokens",
    "task",
    "sequence_length",
    "global_batch_size",
    "precision",
    "optimizer",
    "lora_rank",
    "lora_targets",
    "attention_kernel",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0 if the job fits, 1 if not, 2 for bad input."""
    options = _build_parser().parse_args(arguments)
    try:
        if options.command == "models":
            return _print_models()
        if options.command == "accelerators":
            return _print_accelerators()
        return _run(options)
    except InvalidInput as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _run(options: argparse.Namespace) -> int:
    workload = _read_workload(options)
    machine = Machine.from_catalog(options.accelerator, devices_per_node=options.devices_per_node)
    given = {name: getattr(options, name) for name in _PLAN_FIELDS if getattr(options, name, None) is not None}
    if options.command == "estimate" and given:
        result: Estimate | None = estimate(workload, machine, _complete_plan(given, options.devices))
        found = None
    else:
        found = search(workload, machine, options.devices, top=getattr(options, "top", 1))
        result = found.best or found.least_bad
    if options.json:
        answer = found if options.command == "search" and found is not None else result
        json.dump(None if answer is None else answer.to_dict(), sys.stdout, indent=2)
        print()
    elif options.command == "search" and found is not None:
        _print_search(found)
    elif result is not None:
        _print_estimate(result)
    elif found is not None:
        print("No plan is possible: " + "; ".join(item.text for item in found.rejected))
    return EXIT_FITS if result is not None and result.fits else EXIT_DOES_NOT_FIT


def _complete_plan(given: dict[str, Any], devices: int) -> ParallelPlan:
    """A plan from the options; data parallelism defaults to what is left of the devices."""
    if "data_parallel" not in given:
        degrees = ("tensor_parallel", "pipeline_parallel", "context_parallel")
        product = 1
        for name in degrees:
            product *= max(1, given.get(name, 1))
        if devices % product:
            raise InvalidInput("devices", devices, f"a multiple of the plan's {product}")
        given = {**given, "data_parallel": devices // product}
    plan = ParallelPlan(**given)
    if plan.devices != devices:
        raise InvalidInput("devices", devices, f"the plan's product, {plan.devices}")
    return plan


def _read_workload(options: argparse.Namespace) -> Workload:
    model: dict[str, Any] = {"preset": options.model}
    if options.config is not None:
        model = {"config": _read_config(Path(options.config))}
    given = {name: getattr(options, name) for name in _WORKLOAD_FIELDS if getattr(options, name) is not None}
    return Workload.from_dict({"model": model, **given})


def _read_config(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise InvalidInput("config", str(path), f"a file of at most {_MAX_CONFIG_BYTES} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInput("config", str(path), f"a readable JSON file ({error})") from None


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.estimation", description="What does a training job need?")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("models", help="list model presets")
    commands.add_parser("accelerators", help="list accelerators")
    shared = argparse.ArgumentParser(add_help=False)
    model = shared.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", help="a preset's name (see the command models)")
    model.add_argument("--config", metavar="FILE", help="a Hugging Face config.json")
    shared.add_argument("--accelerator", required=True, help="a code (see the command accelerators)")
    shared.add_argument("--devices", required=True, type=int)
    shared.add_argument("--devices-per-node", type=int)
    shared.add_argument("--tokens", required=True, type=float, help="for example 1e12")
    shared.add_argument("--task", choices=TASKS)
    shared.add_argument("--sequence-length", type=int)
    shared.add_argument("--global-batch-size", type=int, help="in sequences")
    shared.add_argument("--precision", choices=PRECISIONS)
    shared.add_argument("--optimizer", choices=OPTIMIZERS)
    shared.add_argument("--lora-rank", type=int)
    shared.add_argument("--lora-targets", choices=LORA_TARGETS)
    shared.add_argument("--attention-kernel", choices=ATTENTION_KERNELS)
    shared.add_argument("--json", action="store_true", help="print JSON")
    one = commands.add_parser("estimate", parents=[shared], help="one plan, or the best if none is given")
    for name in _PLAN_FIELDS[:-2]:
        one.add_argument(f"--{name.replace('_', '-')}", type=int)
    one.add_argument("--recomputation", choices=RECOMPUTATIONS)
    one.add_argument("--sequence-parallel", action="store_true", default=None)
    many = commands.add_parser("search", parents=[shared], help="rank all plans")
    many.add_argument("--top", type=int, default=10)
    return parser


def describe_plan(plan: ParallelPlan) -> str:
    """A plan in one line, in the short names of the literature."""
    text = f"TP{plan.tensor_parallel} PP{plan.pipeline_parallel} DP{plan.data_parallel}"
    if plan.context_parallel > 1:
        text += f" CP{plan.context_parallel}"
    if plan.virtual_stages > 1:
        text += f" VPP{plan.virtual_stages}"
    text += f" ZeRO-{plan.zero_stage} micro-batch {plan.micro_batch_size} recompute {plan.recomputation}"
    return text + (" SP" if plan.sequence_parallel else "")


def _print_models() -> int:
    for preset in presets().values():
        print(f"{preset.name:24} {preset.architecture.parameters / 1e9:9.3f} B  {preset.title}")
    return EXIT_FITS


def _print_accelerators() -> int:
    for code, item in accelerators().items():
        peak = max(item.peak_flop_per_s.values()) / 1e12
        print(f"{code:16} {peak:8.2f} TFLOP/s {item.memory_bytes / 2**30:5.0f} GiB  {item.title}")
    return EXIT_FITS


def _print_estimate(item: Estimate) -> None:
    gib = 2**30
    print(f"plan        {describe_plan(item.plan)}  ({item.devices} devices)")
    print(
        f"memory      {item.memory_bytes / gib:.1f} of {item.memory_capacity_bytes / gib:.0f} GiB a device: "
        + ("fits" if item.fits else "DOES NOT FIT")
    )
    for name, value in item.memory_parts_bytes.items():
        print(f"    {name:20} {value / gib:9.2f} GiB")
    print(f"step        {item.step_s:.4g} s x {item.steps} steps")
    for name, value in item.step_parts_s.items():
        print(f"    {name:20} {100 * value / item.step_s:8.1f} %")
    print(f"throughput  {item.tokens_per_s:,.0f} tokens/s, {item.tokens_per_s_per_device:,.1f} a device")
    print(f"MFU         {100 * item.mfu:.1f} % ({item.model_flop_per_s_per_device / 1e12:,.3g} TFLOP/s a device)")
    days = [value / 86_400 for value in (item.duration_s, item.duration_p10_s, item.duration_p90_s)]
    print(f"duration    {days[0]:,.3g} days (80 % range {days[1]:,.3g} to {days[2]:,.3g})")
    print(f"use         {item.accelerator_s / 3600:,.0f} device-hours, {item.energy_j / 3.6e6:,.0f} kWh")
    print(
        f"checkpoint  {item.checkpoint_bytes / 1e9:,.3g} GB in {item.checkpoint_write_s:,.3g} s, "
        f"every {item.checkpoint_interval_s / 60:,.3g} min; goodput {100 * item.expected_goodput:.1f} %"
    )
    print(f"data        {item.dataset_bytes / 1e9:,.3g} GB, read at {item.read_bytes_per_s / 1e6:,.3g} MB/s")
    for advice in item.advice:
        print(f"{advice.severity:11} {advice.text}")
    print(f"basis       {item.basis}, engine {item.engine_version}")


def _print_search(found: SearchResult) -> None:
    print(f"{found.plans_evaluated} plans in {1e3 * found.search_s:.1f} ms")
    for item in found.ranked:
        days = item.duration_s / 86_400
        print(
            f"{days:10.3f} days  MFU {100 * item.mfu:4.1f} %  {item.memory_bytes / 2**30:6.1f} GiB  "
            f"{describe_plan(item.plan)}"
        )
    if found.least_bad is not None:
        print("Nothing fits. Least memory:")
        _print_estimate(found.least_bad)
    for rejection in found.rejected:
        print(f"not ranked  {rejection.text}")
