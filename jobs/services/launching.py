"""From a job to the batch script and the scheduler's description of it."""

from jobs.launch import Command, LaunchRequest, Plan, RenderedScript, UserScript, render_batch_script
from jobs.models import EntryKind, Job, JobSegment
from jobs.spec import JobSpec

CHECKPOINT_SIGNAL = "USR1"


def segment_key(job: Job, number: int) -> str:
    """The portal's identity of a segment; also the name of its working directory."""
    return f"{job.pk}-{number}"


def first_limit_minutes(job: Job) -> int:
    """Time limit of a job's first segment, which is mostly its only one."""
    return job.segment_time_limit_minutes or job.time_limit_minutes


def build_launch_request(job: Job, *, segment_number: int, time_limit_minutes: int) -> LaunchRequest:
    """What one segment's batch script is made from.

    Raises:
        InvalidSpec: naming the field that isn't allowed.
    """
    partition = job.partition
    entry = (
        UserScript(job.script)
        if job.entry_kind == EntryKind.SCRIPT
        else Command(tuple(job.command), "torchrun" if job.launcher == "torchrun" else "none")
    )
    return LaunchRequest(
        key=segment_key(job, segment_number),
        name=job.name,
        partition=partition.name,
        nodes=job.nodes,
        devices_per_node=job.devices_per_node,
        time_limit_minutes=time_limit_minutes,
        entry=entry,
        plan=_launch_plan(job),
        gres_name=partition.gres_name,
        gres_type=partition.gres_type,
        slurm_account=job.project.slurm_account or job.project.code,
        signal_name=CHECKPOINT_SIGNAL if job.checkpoint_lead_s or job.is_preemptible else "",
        signal_lead_s=job.checkpoint_lead_s,
        environment=job.environment,
        segment_number=segment_number if job.is_chain else 0,
        home_key=segment_key(job, 1) if job.is_chain else "",
    )


def render_first(job: Job) -> RenderedScript:
    """The batch script of a job's first segment. Raises InvalidSpec."""
    request = build_launch_request(job, segment_number=1, time_limit_minutes=first_limit_minutes(job))
    return render_batch_script(request)


def build_job_spec(job: Job, segment: JobSegment) -> JobSpec:
    """What the backend gets for one segment. Raises InvalidSpec."""
    limit = segment.time_limit_minutes or job.time_limit_minutes
    request = build_launch_request(job, segment_number=segment.number, time_limit_minutes=limit)
    script = render_batch_script(request).script
    return request.build_job_spec(script, unix_user=job.user.unix_username)


def _launch_plan(job: Job) -> Plan | None:
    """The estimate's plan in the launcher's words; None for a job without a model."""
    if not job.plan or not job.workload:
        return None
    plan, workload = job.plan, job.workload
    sequences_per_replica = workload["global_batch_size"] // plan["data_parallel"]
    return Plan(
        tensor_parallel=plan["tensor_parallel"],
        pipeline_parallel=plan["pipeline_parallel"],
        data_parallel=plan["data_parallel"],
        context_parallel=plan["context_parallel"],
        expert_parallel=plan["expert_parallel"],
        micro_batch_size=plan["micro_batch_size"],
        gradient_accumulation_steps=max(sequences_per_replica // plan["micro_batch_size"], 1),
        sequence_length=workload["sequence_length"],
        zero_stage=plan["zero_stage"],
        recomputation=plan["recomputation"],
        precision=workload["precision"],
        # Plans of jobs from before these were planned don't have them.
        virtual_stages=plan.get("virtual_stages", 1),
        sequence_parallel=plan.get("sequence_parallel", False),
        recomputed_layers=plan.get("recomputed_layers", 0),
        zero_group=plan.get("zero_group", 0),
        pipeline_schedule=plan.get("pipeline_schedule", ""),
        offload=plan.get("offload", ""),
    )
