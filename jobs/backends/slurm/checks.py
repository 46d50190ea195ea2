"""Whether a Slurm cluster gives the portal every right and version that it needs."""

import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol
from uuid import uuid4

from jobs.backends.base import PartitionInfo, SchedulerUnavailable, SubmissionRejected
from jobs.backends.checks import Check, Outcome, failed, ok, warning
from jobs.backends.slurm.commands import CommandRunner
from jobs.backends.slurm.configuration_checks import check_accounted, check_configuration
from jobs.backends.slurm.directories import JobDirectories
from jobs.backends.slurm.options import SlurmOptions
from jobs.backends.slurm.probes import Probe, Server
from jobs.backends.slurm.releases import (
    DISTRIBUTION_RELEASES,
    OLDEST,
    SAFE_RELEASES,
    open_advisories,
    parse_release,
)

_CLOCK_WARNING_S: Final = 5.0
_CLOCK_FAILURE_S: Final = 60.0
_BY_HAND: Final = (
    "Look yourself, where scontrol is: scontrol show config | grep -E "
    "'AccountingStorageEnforce|AccountingStoreFlags|EnforcePartLimits|MinJobAge|MessageTimeout|PrivateData'"
)


class Client(Protocol):
    """What is needed of a `SlurmClient`. All methods raise SchedulerUnavailable."""

    def ping(self) -> None: ...

    def partitions(self) -> list[PartitionInfo]: ...

    def list_accounting(self, *, since: datetime | None = None) -> Sequence[object]: ...


class SlurmChecks:
    """One look at one cluster. Nothing is changed but for an empty directory that comes and goes."""

    def __init__(
        self,
        *,
        options: SlurmOptions,
        client: Client,
        runner: CommandRunner,
        directories: JobDirectories,
        probe: Probe,
        poll_interval_s: float,
    ) -> None:
        self._options = options
        self._client = client
        self._runner = runner
        self._directories = directories
        self._probe = probe
        self._poll_interval_s = poll_interval_s
        self._partitions: list[PartitionInfo] = []

    def run(self, *, as_user: str) -> Iterator[Check]:
        """Every check in turn, those first on which others rest."""
        tokens = list(self._probe.check_tokens(as_user))
        yield from tokens
        controller = self._check_controller()
        yield controller
        if controller.outcome is Outcome.OK:
            yield from self._guard("version", self._check_version)
            yield from self._guard("partitions", self._check_partitions)
            yield from self._guard("accounting", self._check_accounting)
            yield from self._guard("configuration", self._check_configuration)
        yield from self._guard("jobs directory", self._check_jobs_directory)
        if not as_user:
            yield warning("researcher", "Not tried: doing something as a researcher.", "Give --as NAME.")
        else:
            yield from self._check_researcher(as_user, is_up=controller.outcome is Outcome.OK)

    def _guard(self, name: str, check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
        try:
            yield from check()
        except SchedulerUnavailable as error:
            yield failed(name, str(error), "Put right what it names, and check again.")

    def _check_jobs_directory(self) -> Iterator[Check]:
        if self._runner.is_local:
            return check_jobs_directory(Path(self._options.jobs_directory))
        return check_remote_directory(self._options.jobs_directory, self._runner)

    def _check_controller(self) -> Check:
        try:
            self._client.ping()
        except SchedulerUnavailable as error:
            return failed(
                "controller", str(error), f"{self._probe.remedy_for_silence} What rests on it was not checked."
            )
        return ok("controller", "The controller answers.")

    def _check_version(self) -> Iterator[Check]:
        server = self._probe.read_server()
        release = parse_release(server.release)
        if release is None:
            yield warning("version", f"{server.daemon} tells no release: {server.release!r}.", "Look yourself.")
        else:
            yield check_support(server, release)
            yield check_holes(server, release)
        if server.interface:
            yield ok("interface", f"slurmrestd offers {server.interface}, which the portal reads.")
        yield check_clock(server)

    def _check_partitions(self) -> Iterator[Check]:
        self._partitions = self._client.partitions()
        names = [info.name for info in self._partitions if info.is_up]
        if names:
            yield ok("partitions", f"These take jobs: {', '.join(sorted(names))}.")
        else:
            yield failed("partitions", "No partition takes jobs.", "Set one up (scontrol update partition).")

    def _check_accounting(self) -> Iterator[Check]:
        try:
            self._client.list_accounting(since=datetime.now(UTC))
            name, level = self._probe.read_identity()
        except SchedulerUnavailable as error:
            yield failed(
                "accounting",
                f"slurmdbd can't be asked: {error}",
                "Start slurmdbd; without it ended jobs wait to be charged.",
            )
            return
        yield ok("accounting", "slurmdbd answers.")
        yield self._check_sight(name, level)

    def _check_sight(self, name: str, level: str) -> Check:
        """Whether the portal sees the jobs of others."""
        conf = self._probe.read_configuration()
        if level in ("Operator", "Administrator"):
            if level == "Administrator" and name != "root":
                return warning(
                    "sight",
                    f"{name} has AdminLevel=Administrator in Slurm, more than the portal needs.",
                    f"sacctmgr modify user {name} set AdminLevel=Operator",
                )
            return ok("sight", f"The portal is {name} in Slurm and sees everybody's jobs (AdminLevel={level}).")
        remedy = f"sacctmgr modify user {name} set AdminLevel=Operator (it gives no right to submit for others)"
        if conf is None:
            return warning(
                "sight", f"{name} has AdminLevel={level or 'none'}: where PrivateData is set it sees no jobs.", remedy
            )
        hidden = sorted({"jobs", "usage", "all"} & {word.strip() for word in conf.get("PrivateData", "").split(",")})
        if hidden:
            return failed("sight", f"PrivateData={','.join(hidden)} hides others' jobs from {name}.", remedy)
        return ok("sight", f"The portal is {name} in Slurm; PrivateData hides no jobs from it.")

    def _check_configuration(self) -> Iterator[Check]:
        conf = self._probe.read_configuration()
        gres_names = {info.gres_name for info in self._partitions}
        if conf is None:
            yield check_accounted(self._probe.read_accounted(), gres_names)
            yield warning("configuration", "slurmrestd doesn't show slurm.conf.", _BY_HAND)
            return
        yield from check_configuration(
            conf, self._options, gres_names=gres_names, poll_interval_s=self._poll_interval_s
        )

    def _check_researcher(self, user: str, *, is_up: bool) -> Iterator[Check]:
        try:
            account = self._runner.find_user(user)
        except SubmissionRejected as error:
            yield failed(
                "researcher", str(error), "Make the account on the portal's machine, too, with the same number."
            )
            return
        key = f"check-{uuid4().hex}"
        try:
            self._directories.make(account, key)
            self._directories.forget(key, user=user)
            yield ok("researcher", f"A directory was made and removed as {user}.")
        except SchedulerUnavailable as error:
            yield failed("researcher", str(error), "See RUN_AS, the sudo rule and the rights of JOBS_DIRECTORY.")
        if is_up:
            yield self._try_submission(user)

    def _try_submission(self, user: str) -> Check:
        partition = next((info.name for info in self._partitions if info.is_up), "")
        try:
            return ok("submission", f"{self._probe.try_as(user, partition=partition)}.")
        except SubmissionRejected as error:
            remedy = f"See that {user} has an account in Slurm: sacctmgr show assoc user={user}"
            return failed("submission", f"Slurm would refuse a job of {user}'s: {error}", remedy)
        except SchedulerUnavailable as error:
            return failed("submission", str(error), "See RUN_AS and the sudo rule, or the token for this user.")


def check_support(server: Server, release: tuple[int, int, int]) -> Check:
    """Whether the portal was ever tried with it."""
    oldest = f"{OLDEST[0]}.{OLDEST[1]:02d}"
    if release[:2] < OLDEST:
        return failed(
            "version",
            f"{server.daemon} is Slurm {server.release}; the portal was never tried with anything before {oldest}.",
            "Update Slurm.",
        )
    newer = "" if release[:2] == OLDEST else f" (newer than {oldest}, against which the tests run)"
    return ok("version", f"{server.daemon} is Slurm {server.release}{newer}.")


def check_holes(server: Server, release: tuple[int, int, int]) -> Check:
    """Whether it has known holes, as far as its number tells."""
    holes = open_advisories(release)
    if not holes:
        return ok("security", f"Slurm {server.release} has the fixes of every advisory that the portal knows.")
    names = "; ".join(advisory.names for advisory in holes)
    number = f"{release[0]}.{release[1]:02d}.{release[2]}"
    if number in DISTRIBUTION_RELEASES:
        return warning(
            "security",
            f"Slurm {server.release} as its developers published it lacks the fixes of {names}. "
            f"{DISTRIBUTION_RELEASES[number]} mends it without a new number: it can't be told from here.",
            "Compare the package (dpkg -s slurmctld, its changelog) with the distribution's security tracker.",
        )
    return failed(
        "security", f"Slurm {server.release} lacks the fixes of {names}.", f"Update to {SAFE_RELEASES}, or later."
    )


def check_clock(server: Server) -> Check:
    """Whether the controller and this machine agree on the time."""
    if server.clock is None:
        return warning("clock", "The controller's clock can't be read.", "Compare the two clocks yourself.")
    difference_s = abs(time.time() - server.clock)
    found = f"The controller's clock and this one differ by {difference_s:.0f} s."
    if difference_s > _CLOCK_FAILURE_S:
        return failed("clock", found, "Set both by NTP: tokens and munge fail, and jobs are looked for at wrong times.")
    if difference_s > _CLOCK_WARNING_S:
        return warning("clock", found, "Set both by NTP.")
    return ok("clock", found)


def check_jobs_directory(path: Path) -> Iterator[Check]:
    """Whether jobs can get directories there, and nobody else can put them away or list them."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError as error:
        yield _say_missing(str(path), error.strerror or str(error), own_uid=os.geteuid())
        return
    yield judge_directory(str(path), status.st_mode, status.st_uid, own_uid=os.geteuid()) or _check_writable(path)


def check_remote_directory(path: str, runner: CommandRunner) -> Iterator[Check]:
    """The same on the machine that the runner reaches. Raises SchedulerUnavailable."""
    own = runner.run(["id", "-u"])
    if own.exit_code or not own.text.strip().isdigit():
        raise SchedulerUnavailable(f"id -u: {own.errors or own.text.strip()}")
    own_uid = int(own.text)
    status = runner.run(["stat", "--format=%f %u", "--", path])
    words = status.text.split()
    if status.exit_code or len(words) != 2:
        yield _say_missing(path, status.errors.rpartition(": ")[2], own_uid=own_uid)
        return
    problem = judge_directory(path, int(words[0], 16), int(words[1]), own_uid=own_uid)
    if problem is None and runner.run(["test", "-w", path]).exit_code:
        problem = failed("jobs directory", f"Nothing can be written in {path}.", "See its owner and file system.")
    yield problem or _say_good(path)


def judge_directory(path: str, status_mode: int, owner_uid: int, *, own_uid: int) -> Check | None:
    """What is wrong with a file's kind, mode and owner as those of the jobs' directory; None if nothing is."""
    mode = stat.S_IMODE(status_mode)
    chmod = f"chmod {_mode_wanted(own_uid):04o} {path}"
    if not stat.S_ISDIR(status_mode):
        return failed("jobs directory", f"{path} is no directory.", f"Put it away, then: {_make_line(path, own_uid)}")
    if owner_uid not in (0, own_uid):
        return failed(
            "jobs directory", f"{path} belongs to user {owner_uid}.", f"chown it to the portal's user; {chmod}"
        )
    if mode & 0o022 and not mode & stat.S_ISVTX:
        words = f"{path} has mode {mode:04o}: others can put away or replace jobs' directories."
    elif own_uid != 0 and not mode & 0o022:
        words = f"{path} has mode {mode:04o}: researchers can make no directory in it."
    elif not mode & 0o001 and not mode & 0o010:
        words = f"{path} has mode {mode:04o}: researchers can't reach their jobs."
    elif mode & 0o004:
        return warning("jobs directory", f"{path} has mode {mode:04o}: everybody can list the jobs in it.", chmod)
    else:
        return None
    return failed("jobs directory", words, chmod)


def _mode_wanted(own_uid: int) -> int:
    return 0o711 if own_uid == 0 else 0o1733


def _make_line(path: str, own_uid: int) -> str:
    return f"install -d -m {_mode_wanted(own_uid):04o} -o $(id -un) {path}"


def _say_missing(path: str, why: str, *, own_uid: int) -> Check:
    remedy = f"As the portal's user: {_make_line(path, own_uid)}"
    return failed("jobs directory", f"{path} can't be used: {why.strip()}.", remedy)


def _say_good(path: str) -> Check:
    return ok("jobs directory", f"{path} is the portal's, and has the right mode.")


def _check_writable(path: Path) -> Check:
    attempts = path / ".attempts"
    place = attempts if attempts.exists() else path
    try:
        with tempfile.NamedTemporaryFile(prefix=".check-", dir=place):
            pass
    except OSError as error:
        return failed(
            "jobs directory", f"Nothing can be written in {place}: {error.strerror}.", "See its owner and file system."
        )
    return _say_good(str(path))
