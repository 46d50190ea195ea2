"""Versions of slurmrestd's interface: what each writes and reads differently. https://slurm.schedmd.com/rest_api.html

Which is used is found out by asking the server; see `SUPPORTED`. Each release of Slurm offers several versions.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

from jobs.backends.base import SchedulerUnavailable
from jobs.backends.slurm.backend import Submission
from jobs.backends.slurm.directories import STDOUT_FILE
from jobs.backends.slurm.records import COMMENT_PREFIX, SlurmJob
from jobs.backends.slurm.rest_answers import Record

MIB: Final = 1024 * 1024


class RestVersion(Protocol):
    """One version of the interface. Pure; reading raises SchedulerUnavailable for what is no such answer."""

    @property
    def name(self) -> str:
        """As in the server's paths, such as "v0.0.40"."""

    def write_submission(self, submission: Submission, script: str) -> Mapping[str, Any]:
        """The body of a request to job/submit."""

    def read_ping(self, item: Record) -> bool:
        """Whether a controller is up."""

    def read_state(self, item: Record) -> str:
        """Slurm's word for how a job in the queue stands."""

    def read_queue_job(self, item: Record) -> SlurmJob:
        """A record of the queue."""

    def read_run(self, item: Record) -> SlurmJob:
        """One run in accounting."""

    def read_partition_nodes(self, item: Record) -> str:
        """The nodes of a partition, as a host list."""

    def read_partition_is_up(self, item: Record) -> bool:
        """Whether a partition takes and starts jobs."""

    def read_partition_limit(self, item: Record) -> int | None:
        """The longest job of a partition in minutes; None without a limit."""


def common_properties(submission: Submission) -> dict[str, Any]:
    """What all versions write alike. Directives in the script are not read by slurmrestd."""
    spec = submission.spec
    properties: dict[str, Any] = {
        "name": spec.name,
        "comment": f"{COMMENT_PREFIX}{spec.key}",
        "current_working_directory": submission.directory,
        "partition": spec.partition,
        "tasks_per_node": 1,
        "standard_output": f"{submission.directory}/{STDOUT_FILE}",
        "standard_input": "/dev/null",
        "requeue": False,
    }
    cpus = spec.cpus_per_node
    if spec.gres_name == "cpu":
        # Processors are no generic resource to Slurm.
        cpus = spec.devices_per_node or cpus
    if cpus is not None:
        properties["cpus_per_task"] = cpus
    if spec.qos:
        properties["qos"] = spec.qos
    if spec.slurm_account:
        properties["account"] = spec.slurm_account
    return properties


def environment_of(submission: Submission) -> dict[str, str]:
    """All that the job gets: nothing is added by slurmrestd but Slurm's own variables."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": submission.home,
        "SHELL": submission.shell,
        "USER": submission.user,
        "LOGNAME": submission.user,
        "LANG": "C.UTF-8",
        **submission.environment,
    }


def gres_of(submission: Submission) -> str:
    """The accelerators of one node, such as "gpu:a800:8"; "" for none."""
    spec = submission.spec
    if spec.gres_name == "cpu" or not spec.devices_per_node:
        return ""
    kind = f":{spec.gres_type}" if spec.gres_type else ""
    return f"{spec.gres_name}{kind}:{spec.devices_per_node}"


def memory_mib_of(submission: Submission) -> int | None:
    """Memory of one node in MiB, rounded up."""
    size = submission.spec.memory_bytes_per_node
    return None if size is None else -(-size // MIB)


def read_tres_list(item: Record) -> dict[str, int]:
    """Counts by name, such as {"cpu": 4, "gres/gpu": 2}, of what a run in accounting held. Alike in all versions."""
    found = {}
    for entry in item.record("tres").optional_records("allocated"):
        kind, name = entry.text("type"), entry.text("name")
        if kind and entry.has("count"):
            found[f"{kind}/{name}" if name else kind] = entry.number("count")
    return found


def read_cpu_s(times: Record) -> float:
    """Seconds of processor time that a run used. Alike in all versions."""
    total = times.record("total")
    return total.number("seconds") + total.number("microseconds") / 1e6


def nodes_of_run(item: Record) -> str:
    """Where a run was; "" for one that never started."""
    nodes = item.text("nodes")
    return "" if nodes == "None assigned" else nodes


_FLAGS: Final = (
    *("COMPLETING", "STAGE_OUT", "CONFIGURING", "RESIZING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD"),
    *("SPECIAL_EXIT", "STOPPED", "REVOKED", "RESV_DEL_HOLD", "SIGNALING"),
)
"""Flags beside a job's base state that say more than it does, in the order in which squeue prefers them."""


def single_state(words: list[str], item: Record) -> str:
    """The one that squeue would print of several, such as ["CANCELLED", "COMPLETING"]."""
    if not words:
        raise SchedulerUnavailable(f"slurmrestd's answer has no state of job {item.number('job_id')}")
    return next((flag for flag in _FLAGS if flag in words), words[0])


def read_queue_record(item: Record, *, word: str, exit_status: tuple[int, int | None]) -> SlurmJob:
    """A job of the queue, whose fields have the same names in all versions."""
    return SlurmJob(
        job_id=item.identity("job_id"),
        user=item.text("user_name"),
        word=word,
        work_directory=item.text("current_working_directory"),
        comment=item.text("comment"),
        submitted_at=item.time("submit_time"),
        started_at=item.time("start_time"),
        ended_at=item.time("end_time"),
        # The description says more: of drained nodes the reason has only "Resources". squeue does so, too.
        reason=item.text("state_description") or item.text("state_reason"),
        nodes=item.text("nodes"),
        exit_code=exit_status[0],
        exit_signal=exit_status[1],
        time_limit_minutes=item.optional_number("time_limit"),
    )
