"""Nonsense from Slurm's commands: programs in their place that print it."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.backends.base import SchedulerUnavailable, SubmissionRejected
from jobs.backends.slurm import processes
from jobs.backends.slurm.cli import CliClient
from jobs.backends.slurm.commands import CommandRunner
from jobs.backends.slurm.errors import DuplicateSubmission
from jobs.backends.slurm.records import add_up_runs
from jobs.backends.slurm.text import (
    count_devices,
    expand_hosts,
    read_duration_s,
    read_gres,
    read_size_bytes,
    read_time,
    read_tres,
)
from tests.backends.recorded_answers import make_submission

TIMEOUT_S = 1.0
COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "sinfo", "scontrol")
QUESTIONS: dict[str, Callable[[CliClient], object]] = {
    "ping": lambda client: client.ping(),
    "queue": lambda client: client.list_queue(None),
    "one job": lambda client: client.list_queue([1]),
    "accounting": lambda client: client.list_accounting(since=datetime.now(UTC)),
    "partitions": lambda client: client.partitions(),
    "submission": lambda client: client.submit(make_submission(unix_user="")),
}


class ClientOfPrograms(CliClient):
    """Slurm's commands are these shell scripts, all of them the same."""

    def __init__(self, directory: Path, script: str) -> None:
        for name in COMMANDS:
            (directory / name).write_text(f"#!/bin/sh\n{script}\n")
            (directory / name).chmod(0o755)
        environment = {"PATH": f"{directory}:/usr/bin:/bin"}
        super().__init__(
            CommandRunner(run_as=("env", "-u", "{user}"), environment=environment, timeout_s=TIMEOUT_S, min_uid=1000)
        )


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(
    "script",
    [
        "echo '<html><body>login</body></html>'",
        "printf '1|RUNNING'",
        "printf '1|2|3\\n\\377\\376\\n'",
        "echo Segmentation fault >&2; exit 139",
        "exit 1",
        "kill -9 $$",
        "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1",
        "head -c 100000 /dev/urandom",
    ],
)
def test_what_is_no_answer_is_unavailability(tmp_path: Path, question: str, script: str, as_nobody_else: None) -> None:
    with pytest.raises(SchedulerUnavailable):
        QUESTIONS[question](ClientOfPrograms(tmp_path, script))


@pytest.fixture
def as_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The researcher of these tests has no account on this machine, and the programs care about nobody."""
    monkeypatch.setattr(CommandRunner, "is_self", lambda self, user: True)


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_command_that_drips_is_killed_when_its_whole_time_is_over(
    tmp_path: Path, question: str, as_nobody_else: None
) -> None:
    client = ClientOfPrograms(tmp_path, "while true; do printf x; sleep 0.05; done")
    began = time.monotonic()
    with pytest.raises(SchedulerUnavailable, match="did not answer within 1 s"):
        QUESTIONS[question](client)
    assert TIMEOUT_S * 0.9 <= time.monotonic() - began <= TIMEOUT_S * 2


def test_a_command_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MAX_OUTPUT_BYTES", 10 * 2**20)
    with pytest.raises(SchedulerUnavailable, match="more than"):
        ClientOfPrograms(tmp_path, "head -c 52428800 /dev/zero").list_queue(None)


def test_a_command_that_does_not_read_its_input_answers_all_the_same(tmp_path: Path, as_nobody_else: None) -> None:
    client = ClientOfPrograms(tmp_path, "exec 0<&-; sleep 0.1; echo 17")
    script = "#!/bin/bash\n" + "#" * 500_000
    assert client.submit(make_submission(script=script, unix_user="")) == 17


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        (["Batch job submission failed: Invalid qos specification"], SubmissionRejected),
        (["no such name here", "Batch job submission failed: Unspecified error"], SubmissionRejected),
        (["Batch job submission failed: Unspecified error"], SchedulerUnavailable),
        (["Batch job submission failed: Socket timed out on send/recv operation"], SchedulerUnavailable),
        (["Batch job submission failed: I/O error writing script/environment to file"], SchedulerUnavailable),
        (["job 3 has the key", "Batch job submission failed: Duplicate job id"], DuplicateSubmission),
    ],
)
def test_only_slurms_own_refusals_are_refusals(
    tmp_path: Path, errors: list[str], expected: type[Exception], as_nobody_else: None
) -> None:
    lines = "; ".join(f"echo 'sbatch: error: {line}' >&2" for line in errors)
    with pytest.raises(expected) as caught:
        ClientOfPrograms(tmp_path, f"{lines}; exit 1").submit(make_submission(unix_user=""))
    assert type(caught.value) is expected
    assert errors[0].removeprefix("Batch job submission failed: ") in str(caught.value)


ODD = st.one_of(
    st.text(max_size=30),
    st.from_regex(r"[0-9²٣]{1,6000}", fullmatch=True),
    st.sampled_from(
        ["", "nan", "infK", "1e999K", "9" * 30 + "K", "a[1-", "a[0-99999][0-99999]", "CANCELLED by 0", "1:2"]
    ),
)


@settings(max_examples=300, deadline=None)
@given(text=ODD)
def test_odd_fields_are_read_or_refused_as_no_such_text(text: str) -> None:
    for read in (read_time, read_duration_s, read_size_bytes, expand_hosts):
        try:
            read(text)
        except ValueError:
            continue
    read_gres(text)
    count_devices(read_tres(text))


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.lists(ODD, min_size=14, max_size=14), min_size=1, max_size=3))
def test_rows_of_odd_fields_are_read_or_are_no_answer(rows: list[list[str]]) -> None:
    class Printing(CommandRunner):
        def run(self, command: object, **_: object) -> processes.CommandResult:
            words = list(command)  # type: ignore[call-overload]
            delimiter = next((word.split("=", 1)[1] for word in words if word.startswith("--delimiter=")), "")
            columns = 14
            if words[0] == "squeue":
                template = next(word for word in words if word.startswith(("--format=", "--Format=")))
                delimiter, columns = template.removeprefix("--format=")[2:16], 11
            text = "\n".join(delimiter.join(row[:columns]) for row in rows)
            return processes.CommandResult(0, text.encode("utf-8", "replace"), "")

    client = CliClient(Printing(run_as=None, environment={}, timeout_s=1, min_uid=1000))
    try:
        for job in [*client.list_queue(None), *client.list_queue([1])]:
            job.to_status("key")
        for run in client.list_accounting(job_ids=[1]):
            add_up_runs([run], key="key", devices=1)
        client.partitions()
    except SchedulerUnavailable:
        pass  # the one error that callers know
