"""The process that runs one job: claims it, starts its script, enforces its limits, leaves nothing of it behind, and
writes down how it ended. Started detached by `advance_queue`; it needs nobody, so that the portal may stop meanwhile.

    python -m jobs.backends.local.supervisor --state-file FILE --job-id ID --key KEY
"""

import argparse
import contextlib
import logging
import os
import pwd
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import psutil

from jobs.backends.base import SchedulerUnavailable
from jobs.backends.local import store as rows
from jobs.backends.local.advance import advance_queue, claim_if_due, remove_heartbeat, write_heartbeat
from jobs.backends.local.environment import build_environment
from jobs.backends.local.layout import SCRIPT_FILE_NAME, STDOUT_FILE_NAME, WAKE_SIGNAL
from jobs.backends.local.options import LocalOptions, options_from_json
from jobs.backends.local.processes import (
    become_subreaper,
    identify_process,
    kill_all,
    list_descendants,
    signal_all,
)
from jobs.backends.local.store import Claim, JobEnd, Store, StoredJob
from jobs.states import JobState

MIN_SIGNAL_DELAY_S: Final = 1.0
"""The signal before the end comes no sooner than this after the start: a script must first set its trap."""

_KILL_PATIENCE_S: Final = 10.0
_SLURM_OUT_OF_MEMORY: Final = 125  # what Slurm's accounting shows as signal of an OUT_OF_MEMORY job
_SLURM_LAUNCH_FAILURE: Final = 53  # the same, where the working directory or the output couldn't be used

logger = logging.getLogger("supervisor")


class JobRun:
    """One run of one claimed job's script."""

    def __init__(self, job: StoredJob, claim: Claim, *, options: LocalOptions, store: Store, wakeups: int) -> None:
        self._job = job
        self._claim = claim
        self._options = options
        self._store = store
        self._wakeups = wakeups
        self._script: subprocess.Popen[bytes] | None = None
        self._wait_status: int | None = None
        self._cause: JobState | None = None
        self._kill_at = float("inf")
        self._max_rss_bytes = 0
        self._started = time.monotonic()
        self._limit_at = self._started + job.time_limit_s
        lead_s = min(job.spec.signal_lead_s, job.time_limit_s)
        self._signal_at = float("inf")
        if job.spec.signal_name:
            self._signal_at = max(self._limit_at - lead_s, self._started + MIN_SIGNAL_DELAY_S)
        self._next_sample_at = self._started
        self._asked_signals: list[str] = []

    def run(self) -> JobEnd:
        """Start the script, watch it to its end, and kill everything that it left."""
        try:
            self._start()
        except OSError as error:
            logger.error("job %d can't be started: %s", self._job.id, error)
            return self._end(JobState.FAILED, "JobLaunchFailure", exit_signal=_SLURM_LAUNCH_FAILURE)
        if self._script is not None:
            self._watch()
        if not kill_all(list_descendants, patience_s=_KILL_PATIENCE_S, reap=self._reap):
            logger.error("job %d: processes %s can't be killed", self._job.id, list_descendants())
        return self._conclude()

    # The start

    def _start(self) -> None:
        """Make the working directory and start the script in it; a script that can't be executed ends as in a shell."""
        directory = self._options.jobs_directory / self._job.key
        identity = pwd.getpwnam(self._options.run_as) if self._options.run_as else None
        if identity is not None and identity.pw_uid == os.geteuid():
            identity = None  # it is us already; without root even asking for it is refused
        with contextlib.suppress(FileExistsError):  # left over from a queue that was lost
            directory.mkdir(mode=0o700)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            owner = (-1, -1) if identity is None else (identity.pw_uid, identity.pw_gid)
            os.fchown(descriptor, *owner)
            _write_script(descriptor, self._job.spec.script, owner=owner)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            output = os.open(STDOUT_FILE_NAME, flags, 0o600, dir_fd=descriptor)
            os.fchown(output, *owner)
        finally:
            os.close(descriptor)
        try:
            self._script = subprocess.Popen(  # noqa: S603  (running the user's script is the purpose)
                [str(directory / SCRIPT_FILE_NAME)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=directory,
                env=build_environment(self._job, self._options, work_directory=directory),
                start_new_session=True,
                umask=0o077,
                user=None if identity is None else identity.pw_uid,
                group=None if identity is None else identity.pw_gid,
                extra_groups=None if identity is None else os.getgrouplist(identity.pw_name, identity.pw_gid),
            )
        except (OSError, subprocess.SubprocessError) as error:
            os.write(output, f"slurmstepd: error: execve(): {SCRIPT_FILE_NAME}: {error}\n".encode())
            self._wait_status = (127 if isinstance(error, FileNotFoundError) else 126) << 8
        finally:
            os.close(output)

    # The watch

    def _watch(self) -> None:
        while True:
            self._reap()
            if self._wait_status is not None:
                return
            now = time.monotonic()
            if now >= self._next_sample_at:
                self._next_sample_at = now + self._options.poll_s
                self._sample()
                self._look_for_cancel()
                self._look_for_signals()
            if self._asked_signals and now >= self._started + MIN_SIGNAL_DELAY_S:
                self._signal_script(*self._asked_signals)
                self._asked_signals.clear()
            if now >= self._signal_at:
                self._signal_at = float("inf")
                self._signal_script(self._job.spec.signal_name)
            if now >= self._limit_at and self._cause is None:
                self._terminate(JobState.TIMEOUT)
            if now >= self._kill_at:
                return  # what follows kills everything
            next_at = min(self._next_sample_at, self._signal_at, self._kill_at)
            if self._cause is None:
                next_at = min(next_at, self._limit_at)
            if self._asked_signals:
                next_at = min(next_at, self._started + MIN_SIGNAL_DELAY_S)
            self._sleep_until(next_at)

    def _sleep_until(self, moment: float) -> None:
        """Sleep until then, or until a child ended or somebody woke us."""
        ready, _, _ = select.select([self._wakeups], [], [], max(0.0, moment - time.monotonic()))
        if not ready:
            return
        received = os.read(self._wakeups, 4096)
        if signal.SIGTERM in received:
            self._terminate(JobState.NODE_FAIL)
        if WAKE_SIGNAL in received:
            self._look_for_cancel()
            self._look_for_signals()

    def _reap(self) -> None:
        """Take the exit status of every child that ended: the script, and orphans that became ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._script is not None and pid == self._script.pid:
                self._wait_status = status
                self._script.returncode = os.waitstatus_to_exitcode(status)

    def _sample(self) -> None:
        """Note memory and processes; end the job if it took more memory than it asked for."""
        rss_bytes = 0
        seen = []
        processes = list_descendants()
        for process in processes:
            with contextlib.suppress(psutil.Error):
                rss_bytes += process.memory_info().rss
            identity = identify_process(process.pid)
            if identity is not None:
                seen.append((identity.pid, identity.start_ticks))
        self._max_rss_bytes = max(self._max_rss_bytes, rss_bytes)
        try:
            write_heartbeat(self._options, self._claim, seen)
        except OSError as error:
            logger.error("job %d: no heartbeat can be written: %s", self._job.id, error)
        per_node = self._job.spec.memory_bytes_per_node
        if per_node is None or self._cause is not None:
            return
        # The sum of resident sets counts shared pages several times; only where it says "too much", look closely.
        limit_bytes = per_node * self._job.spec.nodes
        if rss_bytes > limit_bytes and _measure_proportional_memory(processes) > limit_bytes:
            self._cause = JobState.OUT_OF_MEMORY
            self._kill_at = 0.0

    def _look_for_cancel(self) -> None:
        try:
            with self._store.read() as connection:
                is_requested = rows.is_cancel_requested(connection, self._job.id, marker=self._job.marker)
        except SchedulerUnavailable as error:
            logger.warning("job %d: %s", self._job.id, error)
            return
        if is_requested:
            self._terminate(JobState.CANCELLED)

    def _look_for_signals(self) -> None:
        """Take what the portal asked to be sent; a script that has just started gets it once its trap is set."""
        try:
            with self._store.read() as connection:
                is_asked = rows.has_signals(connection, self._job.id)
            if is_asked:
                with self._store.write() as connection:
                    self._asked_signals += rows.take_signals(connection, self._job.id)
        except SchedulerUnavailable as error:
            logger.warning("job %d: %s", self._job.id, error)

    def _signal_script(self, *names: str) -> None:
        """As `--signal=B:`: to the script alone, since most programs die of a signal that they don't expect."""
        if self._script is not None:
            # Not yet reaped, so the number is still its own.
            for name in names:
                os.kill(self._script.pid, signal.Signals[f"SIG{name}"])

    def _terminate(self, cause: JobState) -> None:
        """Begin the end: SIGTERM to all, SIGKILL after KILL_WAIT_S."""
        if self._cause is not None:
            return
        self._cause = cause
        self._kill_at = time.monotonic() + self._options.kill_wait_s
        processes = list_descendants()
        signal_all(processes, signal.SIGCONT)  # a stopped process would never get the TERM
        signal_all(processes, signal.SIGTERM)
        try:
            with self._store.write() as connection:
                rows.mark_completing(connection, self._job.id)
        except SchedulerUnavailable as error:  # only for show; the end itself is written until it is written
            logger.warning("job %d: %s", self._job.id, error)

    # The end

    def _conclude(self) -> JobEnd:
        status = self._wait_status if self._wait_status is not None else 0
        exit_code, exit_signal = os.WEXITSTATUS(status), os.WTERMSIG(status) or None
        if self._cause is JobState.OUT_OF_MEMORY:
            return self._end(self._cause, "OutOfMemory", exit_signal=_SLURM_OUT_OF_MEMORY)
        if self._cause is JobState.TIMEOUT:
            return self._end(self._cause, "TimeLimit", exit_code=exit_code, exit_signal=exit_signal)
        if self._cause is JobState.CANCELLED:
            return self._end(self._cause, "Cancelled")
        if self._cause is JobState.NODE_FAIL:
            return self._end(self._cause, "NodeFail")
        if exit_signal is not None:
            return self._end(JobState.FAILED, f"RaisedSignal:{exit_signal}", exit_signal=exit_signal)
        if exit_code:
            return self._end(JobState.FAILED, "NonZeroExitCode", exit_code=exit_code)
        return self._end(JobState.COMPLETED, "")

    def _end(self, state: JobState, reason: str, *, exit_code: int = 0, exit_signal: int | None = None) -> JobEnd:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        # The kernel's figure (in KiB) is exact, but of the largest single process, and not below our own size: a
        # child begins with that. The sampled one is of all processes together.
        own = resource.getrusage(resource.RUSAGE_SELF)
        largest_bytes = used.ru_maxrss * 1024 if used.ru_maxrss > own.ru_maxrss else 0
        return JobEnd(
            state=state,
            reason=reason,
            ended_at=rows.read_clock(),
            elapsed_s=time.monotonic() - self._started,
            exit_code=exit_code,
            exit_signal=exit_signal,
            max_rss_bytes=max(self._max_rss_bytes, largest_bytes) or None,
            cpu_s=used.ru_utime + used.ru_stime if self._script is not None else None,
        )


def _write_script(directory: int, script: str, *, owner: tuple[int, int]) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SCRIPT_FILE_NAME, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(SCRIPT_FILE_NAME, flags, 0o500, dir_fd=directory)
    with open(descriptor, "wb") as file:
        file.write(script.encode())
        os.fchown(descriptor, *owner)


def _measure_proportional_memory(processes: list[psutil.Process]) -> int:
    """Memory of processes with shared pages divided among those that share them (PSS)."""
    total_bytes = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total_bytes += process.memory_full_info().pss
    return total_bytes


def _listen_for_signals() -> int:
    """Let signals wake the loop; the returned descriptor gives their numbers. Handlers end with the script's exec."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for signum in (signal.SIGCHLD, signal.SIGTERM, WAKE_SIGNAL):
        signal.signal(signum, lambda *_: None)
    # A shell starts what runs in the background with these ignored, and the script would inherit that.
    for signum in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_DFL)
    return reader


def _record_end(store: Store, claim: Claim, end: JobEnd) -> None:
    """Write the end, however long the disk is full or the file locked: while we live, the job isn't lost."""
    pause_s = 1.0
    while True:
        try:
            with store.write() as connection:
                if not rows.end_job(connection, claim, end):
                    logger.error("job %d: its end %s was not wanted: the row changed", claim.job_id, end.state)
            return
        except SchedulerUnavailable as error:
            logger.error("job %d: %s", claim.job_id, error)
            if not store.path.exists():
                return  # the whole queue was taken away; nobody will ever ask
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 30.0)


def run_job(store: Store, job_id: int) -> None:
    """Claim the job, run it to its end, and move the queue on. Does nothing if the job can't be claimed."""
    wakeups = _listen_for_signals()
    become_subreaper()
    with store.read() as connection:
        settings = rows.read_setting(connection, "options")
    identity = identify_process(os.getpid())
    if settings is None or identity is None:
        raise SchedulerUnavailable(f"The state file {store.path} holds no options.")
    options = options_from_json(settings)
    claimed = claim_if_due(store, options, job_id, supervisor=identity)
    if claimed is None:
        return
    claim, job = claimed
    end = JobRun(job, claim, options=options, store=store, wakeups=wakeups).run()
    _record_end(store, claim, end)
    remove_heartbeat(options, claim)
    with store.read() as connection:  # the settings may have changed since
        settings = rows.read_setting(connection, "options") or settings
    advance_queue(store, options_from_json(settings))


def main(arguments: list[str]) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m jobs.backends.local.supervisor", description=__doc__)
    parser.add_argument("--state-file", type=Path, required=True)
    parser.add_argument("--job-id", type=int, required=True)
    parser.add_argument("--key", required=True)
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    os.umask(0o077)
    with contextlib.suppress(PermissionError):  # already a session's leader
        os.setsid()
    try:
        run_job(Store(given.state_file, lock_wait_s=60.0), given.job_id)
    except SchedulerUnavailable as error:
        logger.error("job %d (%s): %s", given.job_id, given.key, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
