"""v0.0.39, which came with Slurm 23.02. Never tested on a real slurmrestd.

Made from the specification as clients generated from it show it
(https://github.com/mever-team/slurm-rest-py/blob/main/docs/V0039JobDescMsg.md), and from answers that a real
slurmrestd 23.02.8 gave (https://github.com/rackslab/Slurm-web, slurmweb/tests/assets/slurmrestd/23.02).
"""

from collections.abc import Mapping
from typing import Any

from jobs.backends.slurm.backend import Submission
from jobs.backends.slurm.records import SlurmJob
from jobs.backends.slurm.rest_answers import Record
from jobs.backends.slurm.rest_versions import (
    common_properties,
    environment_of,
    gres_of,
    memory_mib_of,
    nodes_of_run,
    read_cpu_s,
    read_queue_record,
    read_tres_list,
    single_state,
)
from jobs.backends.slurm.states import read_wait_status


class RestV0039:
    """Some numbers are objects; the raw status of wait(2) is still the exit code in the queue."""

    name = "v0.0.39"
    gres_prefix = "gres:"
    """What stands before a generic resource among the trackable resources of a node."""

    def write_submission(self, submission: Submission, script: str) -> Mapping[str, Any]:
        return {"script": script, "job": self.write_job(submission)}

    def write_job(self, submission: Submission) -> dict[str, Any]:
        """A job without its script."""
        properties = common_properties(submission) | {
            "nodes": str(submission.spec.nodes),
            "time_limit": write_number(submission.spec.time_limit_minutes),
            "open_mode": ["APPEND"],
            "environment": [f"{name}={value}" for name, value in environment_of(submission).items()],
        }
        if gres := gres_of(submission):
            properties["tres_per_node"] = f"{self.gres_prefix}{gres}"
        memory_mib = memory_mib_of(submission)
        if memory_mib is not None:
            properties["memory_per_node"] = write_number(memory_mib)
        return properties

    def read_ping(self, item: Record) -> bool:
        return item.text("pinged") == "UP"

    def read_state(self, item: Record) -> str:
        return single_state(item.words("job_state"), item)

    def read_exit_status(self, item: Record) -> tuple[int, int | None]:
        """Exit code and signal of a record of the queue."""
        return read_wait_status(item.optional_number("exit_code") or 0)

    def read_queue_job(self, item: Record) -> SlurmJob:
        return read_queue_record(item, word=self.read_state(item), exit_status=self.read_exit_status(item))

    def read_run(self, item: Record) -> SlurmJob:
        """A code is believed only if it is none: SUCCESS was seen of jobs that did not succeed, also in v0.0.40."""
        word = single_state(item.record("state").words("current"), item)
        exit_code, exit_signal = self.read_run_status(item.record("exit_code"), is_success=word == "COMPLETED")
        times = item.record("time")
        return SlurmJob(
            job_id=item.identity("job_id"),
            user=item.text("user"),
            word=word,
            work_directory=item.text("working_directory"),
            comment=item.record("comment").text("job"),
            submitted_at=times.time("submission"),
            started_at=times.time("start"),
            ended_at=times.time("end"),
            nodes=nodes_of_run(item),
            exit_code=exit_code,
            exit_signal=exit_signal,
            elapsed_s=times.optional_number("elapsed") or 0,
            tres=read_tres_list(item),
            cpu_s=read_cpu_s(times),
        )

    def read_run_status(self, status: Record, *, is_success: bool) -> tuple[int | None, int | None]:
        """Exit code and signal of a run in accounting, with None for what isn't known."""
        if not is_success and status.words("status") in ([], ["SUCCESS"]):
            return None, None
        signal = status.record("signal")
        exit_signal = signal.optional_number("signal_id") or signal.optional_number("id")
        return status.optional_number("return_code") or 0, exit_signal or None

    def read_partition_nodes(self, item: Record) -> str:
        return item.record("nodes").text("configured")

    def read_partition_is_up(self, item: Record) -> bool:
        """23.02 doesn't tell: such a partition counts as up, and a job for one that isn't is refused or waits."""
        return (item.record("partition").words("state") or ["UP"]) == ["UP"]

    def read_partition_limit(self, item: Record) -> int | None:
        return item.record("maximums").optional_number("time") or None


def write_number(value: int) -> dict[str, Any]:
    """A number as these versions write those that may be unset or infinite."""
    return {"set": True, "infinite": False, "number": value}
