"""The environment of a job: built from nothing, so that no variable of the portal's can slip in."""

import pwd
from pathlib import Path
from typing import Final

from jobs.backends.local.layout import METRICS_FILE_NAME
from jobs.backends.local.options import LocalOptions
from jobs.backends.local.processes import MARKER_VARIABLE
from jobs.backends.local.store import StoredJob

VISIBLE_DEVICES: Final = {
    "gpu": ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "SLURM_JOB_GPUS"),
    "npu": ("ASCEND_RT_VISIBLE_DEVICES",),
    "dcu": ("HIP_VISIBLE_DEVICES",),
    "mlu": ("MLU_VISIBLE_DEVICES",),
}
"""By the name of the GRES: the variables that tell a framework which devices are its own."""

_BASE: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "SHELL": "/bin/bash"}


def build_environment(job: StoredJob, options: LocalOptions, *, work_directory: Path) -> dict[str, str]:
    """All variables that the batch script starts with.

    Later wins: the base, HOME (the job's own directory), the operator's ENVIRONMENT, the job's own, and what
    Slurm sets. Device indices are those on the job's first node, where Slurm too runs the script.
    """
    spec = job.spec
    user = _user_name(options)
    environment = {**_BASE, "HOME": str(work_directory), "USER": user, "LOGNAME": user}
    environment.update(options.environment)
    environment.update(spec.environment)
    nodes = ",".join(job.node_names)
    environment.update(
        {
            "SLURM_JOB_ID": str(job.id),
            "SLURM_JOBID": str(job.id),
            "SLURM_JOB_NAME": spec.name,
            "SLURM_JOB_PARTITION": spec.partition,
            "SLURM_JOB_NUM_NODES": str(spec.nodes),
            "SLURM_NNODES": str(spec.nodes),
            "SLURM_JOB_NODELIST": nodes,
            "SLURM_NODELIST": nodes,
            "SLURMD_NODENAME": job.node_names[0],
            "SLURM_NODEID": "0",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "SLURM_SUBMIT_DIR": str(work_directory),
            "SLURM_GPUS_ON_NODE": str(spec.devices_per_node),
            "PORTAL_JOB_KEY": spec.key,
            "PORTAL_METRICS_FILE": str(work_directory / METRICS_FILE_NAME),
            MARKER_VARIABLE: job.marker,
        }
    )
    if spec.cpus_per_node is not None:
        environment["SLURM_CPUS_ON_NODE"] = str(spec.cpus_per_node)
    if spec.memory_bytes_per_node is not None:
        environment["SLURM_MEM_PER_NODE"] = str(spec.memory_bytes_per_node // 2**20)  # MiB, as Slurm counts
    if spec.slurm_account:
        environment["SLURM_JOB_ACCOUNT"] = spec.slurm_account
    if spec.qos:
        environment["SLURM_JOB_QOS"] = spec.qos
    indices = ",".join(map(str, job.placements[0].devices))
    for name in VISIBLE_DEVICES.get(spec.gres_name, ()):
        # Empty rather than unset without devices: a framework would take every device of the machine.
        environment[name] = indices
    return environment


def _user_name(options: LocalOptions) -> str:
    if options.run_as:
        return options.run_as
    try:
        return pwd.getpwuid(options.job_uid).pw_name
    except KeyError:  # a container may run as a number that has no name
        return str(options.job_uid)
