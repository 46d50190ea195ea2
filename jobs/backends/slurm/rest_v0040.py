"""v0.0.40 to v0.0.42, which came with Slurm 23.11, 24.05 and 24.11 and are alike in what is used here.

Never tested on a real slurmrestd.

Made from the specification as clients generated from it show it
(https://github.com/mever-team/slurm-rest-py/blob/main/docs/V0040JobDescMsg.md;
https://github.com/coldfront/slurm-python-sdk, docs/V0042JobInfo.md, V0042Job.md, V0042JobDescMsg.md,
V0042PartitionInfo.md, V0042ControllerPing.md), and from answers that real slurmrestd 23.11.10, 24.05.3 and 24.11.0-0rc2
gave in v0.0.40 (https://github.com/rackslab/Slurm-web, slurmweb/tests/assets/slurmrestd).
"""

from collections.abc import Mapping
from typing import Any

from jobs.backends.slurm.backend import Submission
from jobs.backends.slurm.rest_answers import Record
from jobs.backends.slurm.rest_v0039 import RestV0039


class RestV0040(RestV0039):
    """States are lists, exit codes objects, and the script is one of the job's properties."""

    name = "v0.0.40"
    gres_prefix = "gres/"

    def write_submission(self, submission: Submission, script: str) -> Mapping[str, Any]:
        return {"job": self.write_job(submission) | {"script": script}}

    def read_exit_status(self, item: Record) -> tuple[int, int | None]:
        status = item.record("exit_code")
        return status.optional_number("return_code") or 0, status.record("signal").optional_number("id") or None


class RestV0041(RestV0040):
    """As v0.0.40."""

    name = "v0.0.41"


class RestV0042(RestV0040):
    """As v0.0.40, with more ways to say that a controller answers."""

    name = "v0.0.42"

    def read_ping(self, item: Record) -> bool:
        return item.flag("responding") or item.text("pinged") == "UP"
