"""Command line: `python -m jobs.estimation estimate|search|predict|benchmark|models|accelerators`."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from jobs.estimation.accuracy import benchmark, format_benchmark
from jobs.estimation.evaluation import Estimate, estimate
from jobs.estimation.hardware import PRECISIONS, Accelerator, Machine, accelerators, find_accelerator
from jobs.estimation.plan import OFFLOADS, RECOMPUTATIONS, SCHEDULES, ParallelPlan
from jobs.estimation.plan_search import SearchResult, search
from jobs.estimation.prediction import PUBLISHED_RUNS, predict_table
from jobs.estimation.presets import presets
from jobs.estimation.run_table import MAX_FILE_BYTES
from jobs.estimation.validation import InvalidInput
from jobs.estimation.workload import ATTENTION_KERNELS, FRAMEWORKS, LORA_TARGETS, OPTIMIZERS, TASKS, Workload

EXIT_FITS: Final = 0
EXIT_DOES_NOT_FIT: Final = 1
EXIT_BAD_INPUT: Final = 2
EXIT_BROKEN_PIPE: Final = 141

# Hoffmann 2022 (arXiv 2203.15556): the tokens that make most of the compute.
_TOKENS_PER_PARAMETER: Final = 20
_MAX_CONFIG_BYTES: Final = 2**20
_PLAN_FIELDS: Final = (
    "tensor_parallel",
    "pipeline_parallel",
    "data_parallel",
    "context_parallel",
    "expert_parallel",
    "virtual_stages",
    "zero_stage",
    "zero_group",
    "micro_batch_size",
    "recomputed_layers",
    "recomputation",
    "pipeline_schedule",
    "offload",
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
    "framework",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0 if the job fits (or the table was written), 1 if not, 2 for bad input."""
    options = _build_parser().parse_args(arguments)
    commands: Mapping[str, Callable[[argparse.Namespace], int]] = {
        "models": _print_models,
        "accelerators": _print_accelerators,
        "predict": _run_predict,
        "benchmark": _run_benchmark,
        "estimate": _run,
        "search": _run,
    }
    try:
        return commands[options.command](options)
    except InvalidInput as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        # The reader of a pipe left (`| head`); what Python would still flush has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


def _run(options: argparse.Namespace) -> int:
    accelerator = find_accelerator(options.accelerator)
    workload, assumed = _read_workload(options, accelerator)
    machine = Machine(accelerator=accelerator, devices_per_node=options.devices_per_node)
    given = {name: getattr(options, name) for name in _PLAN_FIELDS if getattr(options, name, None) is not None}
    if options.command == "estimate" and given:
        result: Estimate | None = estimate(workload, machine, _complete_plan(given, options.devices))
        found = None
    else:
        found = search(workload, machine, options.devices, top=getattr(options, "top", 1))
        result = found.best or found.least_bad
    if options.json:
        answer = found if options.command == "search" and found is not None else result
        _print_json(None if answer is None else {**answer.to_dict(), "assumed": assumed})
    elif options.command == "search" and found is not None:
        _print_search(found)
        _print_assumed(assumed)
    elif result is not None:
        _print_estimate(result)
        _print_assumed(assumed)
    elif found is not None:
        print("No plan is possible: " + "; ".join(item.text for item in found.rejected))
    return EXIT_FITS if result is not None and result.fits else EXIT_DOES_NOT_FIT


def _run_predict(options: argparse.Namespace) -> int:
    summary = predict_table(Path(options.runs), options.out)
    # With the table itself on standard output, the summary goes where it disturbs nobody.
    stream = sys.stderr if options.out == "-" else sys.stdout
    if options.json:
        json.dump(summary.to_dict(), stream, indent=2)
        print(file=stream)
    if summary.refused:
        print(f"{summary.refused} of {summary.rows} rows refused; the column refused says why", file=sys.stderr)
    return EXIT_FITS


def _run_benchmark(options: argparse.Namespace) -> int:
    result = benchmark(Path(options.runs))
    if options.json:
        _print_json(result)
    else:
        print(format_benchmark(result))
    return EXIT_FITS


def _print_json(data: object) -> None:
    json.dump(data, sys.stdout, indent=2)
    print()


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


def _read_workload(options: argparse.Namespace, accelerator: Accelerator) -> tuple[Workload, list[str]]:
    """The workload, and as "field=value: why" what the options leave open."""
    model: dict[str, Any] = {"preset": options.model}
    if options.config is not None:
        model = {"config": _read_config(Path(options.config))}
    given = {name: getattr(options, name) for name in _WORKLOAD_FIELDS if getattr(options, name) is not None}
    workload = Workload.from_dict({"model": model, "tokens": 1, **given})
    assumed = []
    changes: dict[str, Any] = {}
    if "tokens" not in given:
        changes["tokens"] = _TOKENS_PER_PARAMETER * workload.architecture.parameters
        assumed.append(f"tokens={changes['tokens']}: {_TOKENS_PER_PARAMETER} a parameter (--tokens says otherwise)")
    peaks = accelerator.peak_flop_per_s
    if "precision" not in given and workload.precision not in peaks:
        changes["precision"] = next(name for name in ("fp16", "fp32", *peaks) if name in peaks)
        assumed.append(f"precision={changes['precision']}: {accelerator.code} has no {workload.precision}")
    return replace(workload, **changes), assumed


def _read_config(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise InvalidInput("config", str(path), f"a file of at most {_MAX_CONFIG_BYTES} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInput("config", str(path), f"a readable JSON file ({error})") from None


_PREDICT_HELP: Final = f"""\
RUNS.csv is a table with the columns of jobs/estimation/catalog/published_runs.csv; the measured ones may be empty
or missing, and are not read. PRED.csv has the same rows and columns, with predictions in step_time_s,
tokens_per_s_per_device, model_tflops_per_device, mfu_pct and memory_gb_per_device, and these columns after them:
step_time_s_p10, step_time_s_p90, memory_gb_p10, memory_gb_p90 (what is measured lies between in 80 % of all cases),
fits, refused (empty, or why the row can't be predicted; the others go on) and assumed (what the row left open).

Memory is in GiB (2^30 bytes), in spite of the column's name: nvidia-smi and PyTorch print GiB as "GB", and so do most
of the sources. It is the worst device's peak, with what the driver and libraries keep. mfu_pct counts causal attention
once and no recomputation, against the dense peak of the row's precision.

A file of more than {MAX_FILE_BYTES // 10**6} MB, a binary file, or one without the needed columns is an error (exit 2).
"""


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.estimation", description="What does a training job need?")
    commands = parser.add_subparsers(dest="command", required=True)
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true", help="print JSON")
    commands.add_parser("models", parents=[output], help="list model presets")
    commands.add_parser("accelerators", parents=[output], help="list accelerators")
    shared = _build_shared_options(output)
    one = commands.add_parser("estimate", parents=[shared], help="one plan, or the best if none is given")
    _add_plan_options(one)
    many = commands.add_parser("search", parents=[shared], help="rank all plans")
    many.add_argument("--top", type=int, default=10)
    predict = commands.add_parser(
        "predict",
        parents=[output],
        help="predict every run of a CSV table",
        description=_PREDICT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    predict.add_argument("runs", metavar="RUNS.csv")
    predict.add_argument("--out", metavar="PRED.csv", default="-", help='where to write; "-" (default): here')
    accuracy = commands.add_parser("benchmark", parents=[output], help="accuracy on published runs, by source")
    accuracy.add_argument("--runs", metavar="FILE", default=str(PUBLISHED_RUNS), help="default: those in the catalogue")
    return parser


def _build_shared_options(output: argparse.ArgumentParser) -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False, parents=[output])
    model = shared.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", help="a preset's name (see the command models)")
    model.add_argument("--config", metavar="FILE", help="a Hugging Face config.json")
    shared.add_argument("--accelerator", required=True, help="a code (see the command accelerators) or usual name")
    shared.add_argument("--devices", required=True, type=int)
    shared.add_argument("--devices-per-node", type=int)
    shared.add_argument(
        "--tokens", type=float, help=f"for example 1e12; default: {_TOKENS_PER_PARAMETER} for each parameter"
    )
    shared.add_argument("--task", choices=TASKS)
    shared.add_argument("--sequence-length", type=int)
    shared.add_argument("--global-batch-size", type=int, help="in sequences")
    shared.add_argument("--precision", choices=PRECISIONS)
    shared.add_argument("--optimizer", choices=OPTIMIZERS)
    shared.add_argument("--lora-rank", type=int)
    shared.add_argument("--lora-targets", choices=LORA_TARGETS)
    shared.add_argument("--attention-kernel", choices=ATTENTION_KERNELS)
    shared.add_argument("--framework", choices=FRAMEWORKS, help="family of the training software")
    return shared


def _add_plan_options(parser: argparse.ArgumentParser) -> None:
    choices = {"recomputation": RECOMPUTATIONS, "pipeline_schedule": SCHEDULES, "offload": OFFLOADS}
    for name in _PLAN_FIELDS:
        option = f"--{name.replace('_', '-')}"
        if name == "sequence_parallel":
            parser.add_argument(option, action="store_true", default=None)
        elif name in choices:
            parser.add_argument(option, choices=choices[name])
        else:
            parser.add_argument(option, type=int)


def describe_plan(plan: ParallelPlan) -> str:
    """A plan in one line, in the short names of the literature."""
    text = f"TP{plan.tensor_parallel} PP{plan.pipeline_parallel} DP{plan.data_parallel}"
    if plan.context_parallel > 1:
        text += f" CP{plan.context_parallel}"
    if plan.expert_parallel > 1:
        text += f" EP{plan.expert_parallel}"
    if plan.virtual_stages > 1:
        text += f" VPP{plan.virtual_stages}"
    text += f" ZeRO-{plan.zero_stage}"
    if plan.zero_group:
        text += f" over {plan.zero_group}"
    text += f" micro-batch {plan.micro_batch_size} recompute {plan.recomputation}"
    if plan.recomputed_layers:
        text += f" {plan.recomputed_layers} layers"
    if plan.pipeline_schedule != SCHEDULES[0]:
        text += f" {plan.pipeline_schedule}"
    if plan.offload != OFFLOADS[0]:
        text += f" offload {plan.offload}"
    return text + (" SP" if plan.sequence_parallel else "")


def _print_models(options: argparse.Namespace) -> int:
    if options.json:
        _print_json(
            [
                {"name": item.name, "title": item.title, "parameters": item.architecture.parameters}
                for item in presets().values()
            ]
        )
        return EXIT_FITS
    for preset in presets().values():
        print(f"{preset.name:24} {preset.architecture.parameters / 1e9:9.3f} B  {preset.title}")
    return EXIT_FITS


def _print_accelerators(options: argparse.Namespace) -> int:
    if options.json:
        _print_json(
            [
                {
                    "code": code,
                    "title": item.title,
                    "aliases": list(item.aliases),
                    "memory_bytes": item.memory_bytes,
                    "peak_flop_per_s": dict(item.peak_flop_per_s),
                }
                for code, item in accelerators().items()
            ]
        )
        return EXIT_FITS
    for code, item in accelerators().items():
        peak = max(item.peak_flop_per_s.values()) / 1e12
        print(f"{code:16} {peak:8.2f} TFLOP/s {item.memory_bytes / 2**30:5.0f} GiB  {item.title}")
    return EXIT_FITS


def _print_assumed(assumed: Sequence[str]) -> None:
    for text in assumed:
        print(f"assumed     {text}")


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
