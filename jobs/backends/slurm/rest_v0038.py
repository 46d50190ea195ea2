"""v0.0.38, which came with Slurm 22.05. Tested on a real slurmrestd 22.05.8.

https://slurm.schedmd.com/archive/slurm-22.05-latest/rest_api.html
"""

from collections.abc import Mapping
from typing import Any, Final

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
)
from jobs.backends.slurm.states import read_wait_status


class RestV0038:
    """Plain numbers, one word for a state, and the raw status of wait(2) as exit code."""

    name: Final = "v0.0.38"

    def write_submission(self, submission: Submission, script: str) -> Mapping[str, Any]:
        properties = common_properties(submission) | {
            "nodes": submission.spec.nodes,
            "time_limit": submission.spec.time_limit_minutes,
            "open_mode": "append",
            "environment": environment_of(submission),
        }
        # The name differs from what is read; "tres_per_node" is an unknown key here.
        if gres := gres_of(submission):
            properties["gres"] = gres
        memory_mib = memory_mib_of(submission)
        if memory_mib is not None:
            properties["memory_per_node"] = memory_mib
        return {"script": script, "job": properties}

    def read_ping(self, item: Record) -> bool:
        return item.text("ping") == "UP" or (item.has("status") and item.number("status") == 0)

    def read_state(self, item: Record) -> str:
        return item.text("job_state")

    def read_queue_job(self, item: Record) -> SlurmJob:
        return read_queue_record(
            item, word=self.read_state(item), exit_status=read_wait_status(item.number("exit_code"))
        )

    def read_run(self, item: Record) -> SlurmJob:
        """This version says SUCCESS of jobs that failed: a code is believed only if it is none."""
        word = item.record("state").text("current")
        status = item.record("exit_code")
        is_known = word == "COMPLETED" or status.text("status") not in ("", "SUCCESS")
        signal = status.record("signal").number("signal_id") if is_known else 0
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
            exit_code=status.number("return_code") if is_known else None,
            exit_signal=signal or None,
            elapsed_s=times.number("elapsed"),
            tres=read_tres_list(item),
            cpu_s=read_cpu_s(times),
        )

    def read_partition_nodes(self, item: Record) -> str:
        return item.text("nodes")

    def read_partition_is_up(self, item: Record) -> bool:
        return item.text("state") == "UP"

    def read_partition_limit(self, item: Record) -> int | None:
        limit = item.number("max_time_limit")
        return limit if limit > 0 else None
