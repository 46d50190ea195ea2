"""Slurm by its commands: sbatch, squeue, sacct, scancel, sinfo. https://slurm.schedmd.com/man_index.html"""

import re
import secrets
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final

from jobs.backends.base import Inventory, PartitionInfo, SchedulerUnavailable, SubmissionRejected
from jobs.backends.slurm.backend import SlurmBackend, SlurmClient, Submission
from jobs.backends.slurm.commands import CommandRunner
from jobs.backends.slurm.directories import STDOUT_FILE
from jobs.backends.slurm.errors import UNSPECIFIED, DuplicateSubmission, is_duplicate, is_unavailability
from jobs.backends.slurm.inventory import ask_commands
from jobs.backends.slurm.options import CliOptions, read_cli_options
from jobs.backends.slurm.probes import CliProbe
from jobs.backends.slurm.processes import CommandResult
from jobs.backends.slurm.records import COMMENT_PREFIX, SlurmJob
from jobs.backends.slurm.ssh import SshRunner
from jobs.backends.slurm.states import is_end, read_exit_status, read_wait_status
from jobs.backends.slurm.text import (
    read_duration_s,
    read_gres,
    read_size_bytes,
    read_time,
    read_tres,
    split_rows,
)
from jobs.spec import MAX_TIME_LIMIT_MINUTES

_MIB: Final = 1024 * 1024
_MAX_LISTED_IDS: Final = 20
"""More jobs than this are not named to squeue: it then reads them all and picks these, slower than all at once."""

_IDS_PER_CALL: Final = 5000
_QUEUE_FIELDS: Final = ("%A", "%T", "%u", "%V", "%S", "%e", "%N", "%r", "%k", "%Z", "%l")
_ACCOUNTING_FIELDS: Final = (
    *("JobIDRaw", "State", "ExitCode", "User", "Submit", "Start", "End", "NodeList", "AllocTRES"),
    *("Comment", "WorkDir", "MaxRSS", "TotalCPU", "ElapsedRaw"),
)
_PARTITION_COLUMNS: Final = {
    "Partition": 100,
    "NodeList": 100,
    "Available": 20,
    "Time": 30,
    "Gres": 300,
    "GresUsed": 500,
}
_EXIT_STATUS_COLUMNS: Final = {"JobID": 20, "exit_code": 20}
_JOB_ID: Final = re.compile(r"\A([1-9][0-9]{0,9})(;[^\n]*)?\n?\Z")
_NUMBER: Final = re.compile(r"\A[0-9]{1,10}\Z")
_REFUSAL: Final = re.compile(r"(?:sbatch: error: (?:Batch job submission failed: )?|allocation failure: )(.+)")
_NOTHING_TO_CANCEL: Final = ("already completing or completed", "Invalid job id specified")
_FORECAST: Final = re.compile(r"^sbatch: Job [0-9]+ to start at ([0-9]{1,12}) ", re.MULTILINE)


class SlurmCliBackend(SlurmBackend):
    """Slurm by its command line, on this machine or by ssh on another. See `CliOptions` for its OPTIONS."""

    _options: CliOptions

    def _read_options(self, options: Mapping[str, Any]) -> CliOptions:
        return read_cli_options(options)

    def _environment(self) -> dict[str, str]:
        environment = {"PATH": self._options.path, "LC_ALL": "C.UTF-8", "SLURM_TIME_FORMAT": "%s", "TZ": "UTC"}
        if self._options.slurm_conf:
            environment["SLURM_CONF"] = self._options.slurm_conf
        return environment

    def _make_runner(self) -> CommandRunner:
        options = self._options
        if options.ssh is None:
            return super()._make_runner()
        return SshRunner(
            options.ssh,
            run_as=options.run_as,
            environment=self._environment(),
            timeout_s=options.timeout_s,
            min_uid=options.min_uid,
        )

    def _make_client(self) -> "CliClient":
        return CliClient(self._runner)


class CliClient(SlurmClient):
    """One process for each question, whatever the number of jobs."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner

    def open_probe(self) -> CliProbe:
        return CliProbe(self._runner)

    def ping(self) -> None:
        answer = self._ask(["scontrol", "ping"])
        if " UP" not in answer:
            raise SchedulerUnavailable(f"No Slurm controller answers: {answer.strip()}")

    def submit(self, submission: Submission) -> int:
        command = ["sbatch", "--parsable", *_submit_options(submission)]
        done = self._runner.run(command, user=submission.user, input=submission.spec.script.encode())
        match = _JOB_ID.match(done.text)
        if done.exit_code or match is None:
            raise _read_refusal(done)
        return int(match[1])

    def forecast(self, submission: Submission) -> datetime | None:
        # Nothing is kept of this; the directory of a job that isn't there yet is not looked at.
        # Without the key: a guard at the controller counts also what is only tried.
        options = [option for option in _submit_options(submission) if not option.startswith("--comment=")]
        command = ["sbatch", "--test-only", *options]
        done = self._runner.run(command, user=submission.user, input=submission.spec.script.encode())
        if done.exit_code and isinstance(refusal := _read_refusal(done), SchedulerUnavailable):
            raise refusal
        match = _FORECAST.search(done.errors)
        return read_time(match[1]) if match else None

    def list_queue(self, job_ids: Collection[int] | None) -> list[SlurmJob]:
        delimiter = _make_delimiter()
        command = ["squeue", "--noheader", "--all", "--states=all", f"--format={delimiter.join(_QUEUE_FIELDS)}"]
        if job_ids is not None and len(job_ids) <= _MAX_LISTED_IDS:
            command.append(f"--jobs={_join(job_ids)}")
        text = self._ask(command, unknown_id_is="")
        try:
            jobs = [_read_queue_row(row) for row in split_rows(text, delimiter=delimiter, columns=len(_QUEUE_FIELDS))]
        except ValueError as error:
            raise SchedulerUnavailable(f"squeue's answer can't be read: {error}") from error
        ended = [job.job_id for job in jobs if is_end(job.state) and (job_ids is None or job.job_id in job_ids)]
        # How jobs ended is asked for those that somebody asked about.
        statuses = self._read_exit_statuses(ended) if job_ids is not None and ended else {}
        return [_with_exit_status(job, statuses[job.job_id]) if job.job_id in statuses else job for job in jobs]

    def _read_exit_statuses(self, job_ids: list[int]) -> dict[int, tuple[int, int | None]]:
        found = {}
        for first in range(0, len(job_ids), _IDS_PER_CALL):
            part = job_ids[first : first + _IDS_PER_CALL]
            columns = ",".join(f"{name}:{width}" for name, width in _EXIT_STATUS_COLUMNS.items())
            command = ["squeue", "--noheader", "--all", "--states=all", f"--jobs={_join(part)}", f"--Format={columns}"]
            for line in self._ask(command, unknown_id_is="").splitlines():
                words = line.split()
                if len(words) == 2 and all(_NUMBER.match(word) for word in words):
                    found[int(words[0])] = read_wait_status(int(words[1]))
        return found

    def list_accounting(
        self, *, job_ids: Collection[int] = (), since: datetime | None = None, user: str = ""
    ) -> list[SlurmJob]:
        delimiter = _make_delimiter()
        command = ["sacct", "--noheader", "--parsable2", f"--delimiter={delimiter}", "--duplicates"]
        command += [f"--format={','.join(_ACCOUNTING_FIELDS)}", f"--user={user}" if user else "--allusers"]
        if since is not None:
            command += [f"--starttime={since:%Y-%m-%dT%H:%M:%S}", "--endtime=now"]
        ids = sorted(job_ids)
        parts = [ids[first : first + _IDS_PER_CALL] for first in range(0, len(ids), _IDS_PER_CALL)]
        runs: list[SlurmJob] = []
        for named in [[f"--jobs={_join(part)}"] for part in parts] or [[]]:
            text = self._ask([*command, *named])
            try:
                runs += _read_runs(list(split_rows(text, delimiter=delimiter, columns=len(_ACCOUNTING_FIELDS))))
            except ValueError as error:
                raise SchedulerUnavailable(f"sacct's answer can't be read: {error}") from error
        return runs

    def cancel(self, job_id: int, *, user: str) -> None:
        # With the user's name: whatever job has the id by now, only a job of the same owner's can end.
        done = self._runner.run(["scancel", f"--user={user}", str(job_id)], user=user)
        if done.exit_code and not any(words in done.errors for words in _NOTHING_TO_CANCEL):
            raise SchedulerUnavailable(f"scancel failed: {done.errors}")

    def signal(self, job_id: int, signal_name: str, *, user: str) -> None:
        # --batch: the script alone, as by --signal=B: before the end.
        command = ["scancel", f"--user={user}", "--batch", f"--signal={signal_name}", str(job_id)]
        done = self._runner.run(command, user=user)
        if done.exit_code and not any(words in done.errors for words in _NOTHING_TO_CANCEL):
            raise SchedulerUnavailable(f"scancel failed: {done.errors}")

    def partitions(self) -> list[PartitionInfo]:
        columns = ",".join(f"{name}:{width}" for name, width in _PARTITION_COLUMNS.items())
        nodes = self._ask(["sinfo", "--noheader", "--all", "--Node", "--sort=#P", f"--Format={columns}"])
        states = "PENDING,CONFIGURING,RUNNING,COMPLETING,SUSPENDED"
        jobs = self._ask(["squeue", "--noheader", "--all", f"--states={states}", "--format=%T|%P"])
        pending: Counter[str] = Counter()
        running: Counter[str] = Counter()
        for line in jobs.splitlines():
            state, _, names = line.partition("|")
            (pending if state in ("PENDING", "CONFIGURING") else running).update(names.split(","))
        rows: dict[str, list[dict[str, str]]] = {}
        for line in nodes.splitlines():
            row = _cut_columns(line, _PARTITION_COLUMNS)
            rows.setdefault(row["Partition"].rstrip("*"), []).append(row)
        try:
            return [
                _read_partition(name, found, pending=pending[name], running=running[name])
                for name, found in rows.items()
            ]
        except ValueError as error:
            raise SchedulerUnavailable(f"sinfo's answer can't be read: {error}") from error

    def inventory(self) -> Inventory:
        return ask_commands(self._ask)

    def _ask(self, command: list[str], *, unknown_id_is: str | None = None) -> str:
        """What a command printed, asked as the portal itself."""
        done = self._runner.run(command)
        if done.exit_code:
            if unknown_id_is is not None and "Invalid job id specified" in done.errors:
                return unknown_id_is
            raise SchedulerUnavailable(f"{command[0]} failed: {done.errors or f'exit code {done.exit_code}'}")
        return done.text


def _submit_options(submission: Submission) -> list[str]:
    """Options of sbatch; they go before the script's own lines, which say the same.

    --export names all that the job gets from here. Slurm adds the user's own login environment and its SLURM_*.
    """
    spec = submission.spec
    options = [
        f"--job-name={spec.name}",
        f"--comment={COMMENT_PREFIX}{spec.key}",
        f"--chdir={submission.directory}",
        f"--partition={spec.partition}",
        f"--nodes={spec.nodes}",
        "--ntasks-per-node=1",
        f"--time={spec.time_limit_minutes}",
        f"--output={STDOUT_FILE}",
        "--open-mode=append",
        "--input=/dev/null",
        "--no-requeue",
        f"--export={','.join(f'{name}={value}' for name, value in submission.environment.items())}",
    ]
    cpus = spec.cpus_per_node
    if spec.gres_name == "cpu":
        # Processors are no generic resource to Slurm.
        cpus = spec.devices_per_node or cpus
        options.append("--gres=none")
    elif spec.devices_per_node:
        kind = f":{spec.gres_type}" if spec.gres_type else ""
        options.append(f"--gres={spec.gres_name}{kind}:{spec.devices_per_node}")
    if cpus is not None:
        options.append(f"--cpus-per-task={cpus}")
    if spec.memory_bytes_per_node is not None:
        options.append(f"--mem={-(-spec.memory_bytes_per_node // _MIB)}M")
    if spec.qos:
        options.append(f"--qos={spec.qos}")
    if spec.slurm_account:
        options.append(f"--account={spec.slurm_account}")
    if spec.signal_name:
        options.append(f"--signal=B:{spec.signal_name}@{spec.signal_lead_s}")
    return options


def _read_refusal(done: CommandResult) -> SchedulerUnavailable | SubmissionRejected:
    """What a failed sbatch means. Only an answer of Slurm's is a refusal; everything else leaves it open."""
    lines = [match[1] for match in map(_REFUSAL.match, done.errors.splitlines()) if match]
    if len(lines) > 1 and lines[-1] == UNSPECIFIED:
        lines.pop()  # a rule of the site's has said why
    words = "; ".join(lines)
    if not lines or not done.exit_code or is_unavailability(words):
        return SchedulerUnavailable(f"sbatch failed: {done.errors or f'exit code {done.exit_code}'}")
    return DuplicateSubmission(words) if is_duplicate(words) else SubmissionRejected(words)


def _read_queue_row(row: list[str]) -> SlurmJob:
    job_id, word, user, submit, start, end, nodes, reason, comment, directory, limit = row
    limit_s = read_duration_s(limit)
    return SlurmJob(
        job_id=int(job_id),
        user=user,
        word=word,
        work_directory=directory,
        comment="" if comment == "(null)" else comment,
        submitted_at=read_time(submit),
        started_at=read_time(start),
        ended_at=read_time(end),
        reason=reason,
        nodes=nodes,
        time_limit_minutes=None if limit_s is None else int(limit_s) // 60,
    )


def _with_exit_status(job: SlurmJob, status: tuple[int, int | None]) -> SlurmJob:
    values = {name: getattr(job, name) for name in SlurmJob.__slots__}
    return SlurmJob(**{**values, "exit_code": status[0], "exit_signal": status[1]})


def _read_runs(rows: list[list[str]]) -> list[SlurmJob]:
    """The runs in accounting, in its order: each is a line of its own, followed by those of its steps."""
    runs: list[dict[str, Any]] = []
    for row in rows:
        values = dict(zip(_ACCOUNTING_FIELDS, row, strict=True))
        raw_id = values["JobIDRaw"]
        if raw_id.isdigit():
            exit_code, exit_signal = read_exit_status(values["ExitCode"])
            runs.append(
                {
                    "job_id": int(raw_id),
                    "user": values["User"],
                    "word": values["State"],
                    "work_directory": values["WorkDir"],
                    "comment": values["Comment"],
                    "submitted_at": read_time(values["Submit"]),
                    "started_at": read_time(values["Start"]),
                    "ended_at": read_time(values["End"]),
                    "nodes": "" if values["NodeList"] == "None assigned" else values["NodeList"],
                    "exit_code": exit_code,
                    "exit_signal": exit_signal,
                    "elapsed_s": int(values["ElapsedRaw"] or 0),
                    "tres": read_tres(values["AllocTRES"]),
                    "max_rss_bytes": None,
                    "cpu_s": read_duration_s(values["TotalCPU"]),
                }
            )
        elif runs and raw_id.partition(".")[0] == str(runs[-1]["job_id"]):
            size = read_size_bytes(values["MaxRSS"])
            if size is not None:
                runs[-1]["max_rss_bytes"] = max(runs[-1]["max_rss_bytes"] or 0, size)
    return [SlurmJob(**run) for run in runs]


def _cut_columns(line: str, columns: Mapping[str, int]) -> dict[str, str]:
    values, start = {}, 0
    for name, width in columns.items():
        values[name] = line[start : start + width].strip()
        start += width
    return values


def _read_partition(name: str, rows: list[dict[str, str]], *, pending: int, running: int) -> PartitionInfo:
    if not name or any(not row["NodeList"] for row in rows):
        raise ValueError(f"{rows[0]!r} is no partition")
    limit_s = read_duration_s(rows[0]["Time"])
    gres = [item for row in rows for item in read_gres(row["Gres"])]
    main_name, main_type = (gres[0][0], gres[0][1]) if gres else ("", "")
    per_node = max((count for kind, label, count in gres if (kind, label) == (main_name, main_type)), default=0)
    used = sum(
        count
        for row in rows
        for kind, label, count in read_gres(row["GresUsed"])
        if (kind, label) == (main_name, main_type)
    )
    return PartitionInfo(
        name=name,
        is_up=rows[0]["Available"] == "up",
        nodes=len(rows),
        devices_per_node=per_node,
        gres_name=main_name,
        gres_type=main_type,
        max_time_limit_minutes=MAX_TIME_LIMIT_MINUTES if limit_s is None else max(1, int(limit_s) // 60),
        devices_in_use=used,
        jobs_pending=pending,
        jobs_running=running,
    )


def _make_delimiter() -> str:
    """What stands between fields: new for each call, so that no comment can hold it."""
    return f"|{secrets.token_hex(6)}|"


def _join(job_ids: Collection[int]) -> str:
    return ",".join(map(str, sorted(job_ids)))
