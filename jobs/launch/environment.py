"""The variables every job starts with: the portal's, the plan's, the user's."""

import shlex

from jobs.launch.directives import METRICS_FILE
from jobs.launch.request import LaunchRequest, Plan


def render_environment(request: LaunchRequest) -> list[str]:
    """Return the lines that export variables. The user's come last and are quoted word by word.

    Values that a backend may have set already (metrics file, checkpoint directory) are kept.
    OMP_NUM_THREADS is the processors of a node shared out over its accelerators, so that neither one process
    per accelerator nor a CPU-only job runs more threads than it was given; the user's own value wins.
    """
    portal: dict[str, str] = {"PORTAL_JOB_KEY": request.key, "PORTAL_NODES": str(request.nodes)}
    portal["PORTAL_DEVICES_PER_NODE"] = str(request.devices_per_node)
    if request.plan is not None:
        portal |= _list_plan_variables(request.plan)
    if request.cpus_per_node is not None:
        portal["OMP_NUM_THREADS"] = str(max(1, request.cpus_per_node // max(1, request.devices_per_node)))
    lines = [
        # --export=NONE also tells srun to start with an empty environment; the job's steps want this one.
        "unset SLURM_EXPORT_ENV",
        'export PATH="${PATH:-/usr/local/bin:/usr/bin:/bin}"',
        f'export PORTAL_METRICS_FILE="${{PORTAL_METRICS_FILE:-$PWD/{METRICS_FILE}}}"',
        'export PORTAL_CHECKPOINT_DIR="${PORTAL_CHECKPOINT_DIR:-$PWD/checkpoints}"',
    ]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in portal.items()]
    if request.environment:
        lines += ["", "# The user's variables"]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(request.environment.items())]
    return lines


def _list_plan_variables(plan: Plan) -> dict[str, str]:
    variables: dict[str, str] = {
        "PORTAL_TENSOR_PARALLEL": str(plan.tensor_parallel),
        "PORTAL_PIPELINE_PARALLEL": str(plan.pipeline_parallel),
        "PORTAL_DATA_PARALLEL": str(plan.data_parallel),
        "PORTAL_CONTEXT_PARALLEL": str(plan.context_parallel),
        "PORTAL_EXPERT_PARALLEL": str(plan.expert_parallel),
        "PORTAL_MICRO_BATCH_SIZE": str(plan.micro_batch_size),
        "PORTAL_GRADIENT_ACCUMULATION_STEPS": str(plan.gradient_accumulation_steps),
        "PORTAL_GLOBAL_BATCH_SIZE": str(plan.global_batch_size),
        "PORTAL_ZERO_STAGE": str(plan.zero_stage),
    }
    if plan.sequence_length:
        variables["PORTAL_SEQUENCE_LENGTH"] = str(plan.sequence_length)
    if plan.recomputation:
        variables["PORTAL_RECOMPUTATION"] = plan.recomputation
    if plan.precision:
        variables["PORTAL_PRECISION"] = plan.precision
    # What few programs know, and few plans have: exported only where the plan has it.
    rare: dict[str, object] = {
        "PORTAL_VIRTUAL_STAGES": plan.virtual_stages if plan.virtual_stages > 1 else "",
        "PORTAL_SEQUENCE_PARALLEL": 1 if plan.sequence_parallel else "",
        "PORTAL_RECOMPUTED_LAYERS": plan.recomputed_layers or "",
        "PORTAL_ZERO_GROUP": plan.zero_group or "",
        "PORTAL_PIPELINE_SCHEDULE": "" if plan.pipeline_schedule == "1f1b" else plan.pipeline_schedule,
        "PORTAL_OFFLOAD": "" if plan.offload == "none" else plan.offload,
    }
    return variables | {name: str(value) for name, value in rare.items() if value != ""}
