"""Three witnesses beside each other: Slurm's queue and accounting, the marks that jobs left, and the portal."""

import tomllib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jobs.launch import STARTED_TWICE_EXIT_CODE
from jobs.states import TERMINAL, JobState
from tests.chaos.clients import Wish
from tests.chaos.kills import Kill
from tests.integration.slurm.lab import SlurmLab

_COLUMNS: Final = ("JobIDRaw", "State", "Submit", "Start", "ElapsedRaw", "AllocTRES", "NodeList", "ExitCode", "WorkDir")
_BLAME_S: Final = (-5.0, 20.0)
"""What happens in these seconds around a controller's SIGKILL may be its doing: jobs that it had just accepted or
started are forgotten, and a node refuses an id that is used again until its credential has run out (`cred_expire`).
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one Slurm job, from accounting. Times are seconds since the epoch, None if there is none."""

    job_id: str
    state: str
    submitted_at: float | None
    started_at: float | None
    elapsed_s: int
    devices: int
    has_nodes: bool
    exit_code: int

    @property
    def is_second_start(self) -> bool:
        """The script found that it had been started before, and did nothing."""
        return self.exit_code == STARTED_TWICE_EXIT_CODE

    @property
    def has_ended(self) -> bool:
        return self.state not in {"PENDING", "RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING"}

    @property
    def was_refused(self) -> bool:
        """The trace of a submission that Slurm answered with an error."""
        return self.state == "FAILED" and not self.has_nodes


@dataclass(frozen=True)
class Mark:
    """The script of a job was here: it "begins" or "ends"."""

    what: str
    job_id: str
    at: float


def jobs_directories(schedulers_file: Path) -> set[Path]:
    """Where the jobs of a portal's clusters work: what Slurm has outside is another portal's."""
    clusters = tomllib.loads(schedulers_file.read_text())
    return {Path(cluster["OPTIONS"]["JOBS_DIRECTORY"]) for cluster in clusters.values()}


def read_accounting(lab: SlurmLab, roots: Collection[Path]) -> dict[str, list[Run]]:
    """Every run that accounting has, by key: the name of the working directory."""
    text = lab.run(
        *("env", "SLURM_TIME_FORMAT=%s", "sacct", "--allocations", "--duplicates", "--allusers", "--noheader"),
        *("--parsable2", "--starttime=now-1days", "--endtime=now", f"--format={','.join(_COLUMNS)}"),
    )
    runs: dict[str, list[Run]] = defaultdict(list)
    for line in text.splitlines():
        job_id, state, submit, start, elapsed, tres, nodes, exit_code, directory = line.split("|")
        counts = dict(item.split("=") for item in tres.split(",") if item)
        run = Run(
            job_id=job_id,
            state=state.split(" ")[0],
            submitted_at=_read_time(submit),
            started_at=_read_time(start),
            elapsed_s=int(elapsed or 0),
            devices=int(counts.get("gres/gpu", 0)),
            has_nodes=nodes not in ("", "None assigned"),
            exit_code=int(exit_code.partition(":")[0] or 0),
        )
        if Path(directory).parent in roots:
            runs[Path(directory).name].append(run)
    return runs


def read_queue(lab: SlurmLab, roots: Collection[Path]) -> dict[str, list[tuple[str, str]]]:
    """What the controller has in memory: ids and states by key."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for line in lab.run("squeue", "--noheader", "--all", "--states=all", "--format=%A|%T|%N|%Z").splitlines():
        job_id, state, nodes, directory = line.split("|")
        if Path(directory).parent in roots and (state != "FAILED" or nodes):
            found[Path(directory).name].append((job_id, state))
    return found


def _read_time(text: str) -> float | None:
    return float(text) if text.isdigit() else None


@dataclass
class Audit:
    """What was found, and what must not be."""

    lab: SlurmLab
    roots: Collection[Path]
    marks: Mapping[str, list[Mark]]
    jobs: Mapping[str, dict[str, Any]]
    wishes: list[Wish]
    kills: list[Kill]
    mended: set[str]
    """Ids of jobs that an operator had to end in accounting."""
    kills_controller_hard: bool
    """One that is asked to end saves what it knows, and is to blame for nothing."""

    def __post_init__(self) -> None:
        self.problems: list[str] = []
        self.seen: Counter[str] = Counter()
        """Things that Slurm itself does when its controller dies, and that are no fault of the portal's."""

    def check(self) -> None:
        """Fill `problems` and `seen`."""
        accounting, queue = read_accounting(self.lab, self.roots), read_queue(self.lab, self.roots)
        keys = {f"{job_id}-1": job for job_id, job in self.jobs.items()}
        for key, job in keys.items():
            self._check_job(key, job, accounting.get(key, []), queue.get(key, []))
        self._check_wishes()
        for key in self.marks.keys() - keys.keys():
            self.problems.append(f"{key} ran, and is no job of the portal's: {self.marks[key]}")
        for key in (accounting.keys() | queue.keys()) - keys.keys():
            self.problems.append(f"Slurm has {key!r}, which is no job of the portal's")

    def _check_wishes(self) -> None:
        names = Counter(job["name"] for job in self.jobs.values())
        self.problems += [f"{name}: {count} jobs for one idempotency key" for name, count in names.items() if count > 1]
        for wish in self.wishes:
            if wish.problem:
                self.problems.append(f"{wish.name}: {wish.problem}")
            elif wish.job_id and wish.job_id not in self.jobs:
                self.problems.append(f"{wish.name}: {wish.job_id} was accepted and is not there")
            elif not wish.job_id and wish.name in names:
                self.seen["the client never heard of its job, which ran"] += 1
            elif not wish.job_id and not wish.gives_up:
                self.problems.append(f"{wish.name}: its client neither has a job nor gave up")

    def _check_job(self, key: str, job: dict[str, Any], runs: list[Run], queued: list[tuple[str, str]]) -> None:
        wish = next(wish for wish in self.wishes if wish.name == job["name"])
        where = f"{job['name']} ({key}, {wish.cluster})"
        if job["state"] == JobState.LOST and self._was_controller_killed(
            near=[run.started_at or 0.0 for run in runs] + [mark.at for mark in self.marks[key]]
        ):
            self.seen["had begun when its controller died and forgot it: LOST, for people to look at"] += 1
            return
        if job["state"] not in TERMINAL or job["charged_s"] is None:
            state = f"{job['state']} {job['reason']}, charged {job['charged_s']}"
            self.problems.append(f"{where} is stuck: {state}; {runs}, {queued}, {self.marks[key]}")
            return
        known = {job_id for job_id, _ in queued}
        real = [run for run in runs if not run.was_refused and (run.has_ended or run.job_id in known)]
        self._blame_for_loss(where, [run for run in runs if not run.was_refused and run not in real])
        ids = {run.job_id for run in real} | known
        if len(ids) != 1:
            self.problems.append(f"{where} is {len(ids)} jobs of Slurm's: {sorted(ids)}, {runs}")
            return
        if len(real) > 1:
            self.seen["requeued by Slurm"] += 1
        real = self._without_what_came_after_the_charge(job, real)
        if self._is_changed_after_the_charge(key, job, wish, real):
            self.seen["accounting changed after the charge by a controller that came back with an old state"] += 1
            return
        self._check_outcome(where, key, job, wish, real)
        charge_s = sum(run.elapsed_s for run in real) * wish.devices
        if job["charged_s"] != charge_s and ids & self.mended:
            self.seen["accounting was mended by hand after the charge"] += 1
        elif job["charged_s"] != charge_s:
            self.problems.append(f"{where} was charged {job['charged_s']} s; accounting says {charge_s} s: {real}")
        if any(run.devices != wish.devices for run in real if run.elapsed_s):
            self.problems.append(f"{where} had other devices than {wish.devices}: {real}")

    def _without_what_came_after_the_charge(self, job: dict[str, Any], real: list[Run]) -> list[Run]:
        """A controller's death may bring an ended and charged job back; its script refuses, within a second."""
        before = [run for run in real if not run.is_second_start]
        if before and len(before) < len(real) and job["state"] == before[-1].state:
            self.seen["started again by Slurm after its end was charged; the script refused"] += 1
            return before
        return real

    def _is_changed_after_the_charge(self, key: str, job: dict[str, Any], wish: Wish, real: list[Run]) -> bool:
        """A job ended, was told so and charged; then its killed controller believed once more that it runs.

        The marks say who is right: it ran once, ended as expected, and was charged for that time to a second or two.
        """
        marks = self.marks[key]
        if [mark.what for mark in marks] != ["begins", "ends"] or not self._was_controller_killed(near=[marks[0].at]):
            return False
        ran_s = marks[1].at - marks[0].at
        is_end_as_expected = job["state"] == ("FAILED" if wish.exit_code else "COMPLETED")
        is_charge_of_the_run = abs(job["charged_s"] - ran_s * wish.devices) <= 2 * wish.devices
        return is_end_as_expected and is_charge_of_the_run and real[-1].state == "TIMEOUT"

    def _check_outcome(self, where: str, key: str, job: dict[str, Any], wish: Wish, real: list[Run]) -> None:
        """The job's end, and that its script ran once; for what its controller's death did, Slurm's word counts."""
        expected = "FAILED" if wish.exit_code else "COMPLETED"
        last = real[-1].state if real else "nothing"
        begins = [mark for mark in self.marks[key] if mark.what == "begins"]
        ends = len(self.marks[key]) - len(begins)
        told = f"{where} ended as {last}, expected {expected}; {self.marks[key]}, {real}"
        if real and real[-1].is_second_start and job["state"] == expected and (len(begins), ends) == (1, 1):
            self.seen["accounting knows a second start alone, which the script refused; the first was lost to it"] += 1
        elif job["state"] != last:
            self.problems.append(f"{job['state']} in the portal: {told}")
        elif len(begins) > 1:
            # Whoever started it again, and whatever Slurm calls that, the script must have refused.
            self.problems.append(f"ran {len(begins)} times: {told}")
        elif last == expected and (len(begins), ends) == (1, 1):
            return
        elif not self._was_controller_killed(
            near=[run.started_at or 0.0 for run in real] + [mark.at for mark in begins]
        ):
            self.problems.append(told)
        elif last != expected:
            self.seen[f"Slurm ended a job as {last} when its controller died at its start"] += 1
        else:
            self.problems.append(told)

    def _blame_for_loss(self, where: str, lost: Iterable[Run]) -> None:
        for run in lost:
            if self._was_controller_killed(near=[run.submitted_at or 0.0]):
                self.seen["acknowledged by Slurm, lost with its controller, and submitted again"] += 1
            else:
                self.problems.append(
                    f"{where}: accounting has an unfinished job that the controller doesn't know: {run}"
                )

    def _was_controller_killed(self, *, near: Iterable[float]) -> bool:
        kills = [kill.at for kill in self.kills if self.kills_controller_hard and kill.kind.startswith("slurmctld")]
        return any(_BLAME_S[0] <= moment - kill <= _BLAME_S[1] for moment in near for kill in kills)


def read_marks(file: Path) -> dict[str, list[Mark]]:
    """What the jobs' scripts left, by key."""
    marks: dict[str, list[Mark]] = defaultdict(list)
    for line in file.read_text().splitlines():
        key, what, job_id, at = line.split()
        marks[key].append(Mark(what, job_id, float(at)))
    return marks
