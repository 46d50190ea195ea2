"""Moves the queue on: ends the jobs of dead supervisors, and starts what can start.

There is no daemon. A job is claimed by its own supervisor, in one transaction that plans again under the lock
and records who the supervisor is; so a launcher that dies at any moment leaves the job waiting, and two
launchers can't start it twice. Whoever touches the queue next tries again.
"""

import json
import logging
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from jobs.backends.local import store as rows
from jobs.backends.local.options import LocalOptions
from jobs.backends.local.partitions import Partition
from jobs.backends.local.processes import (
    MARKER_VARIABLE,
    ProcessIdentity,
    find_leftovers,
    is_alive,
    kill_all,
    spawn_detached,
)
from jobs.backends.local.scheduling import Pool, Reservation, RunningJob, WaitingJob, count_free_devices, plan_queue
from jobs.backends.local.store import Claim, JobEnd, Store, StoredJob
from jobs.states import JobState

BACKFILL_DEPTH: Final = 100
"""How many waiting jobs of a partition are considered for a start (Slurm: bf_max_job_test)."""

RELAUNCH_AFTER_S: Final = 5.0
"""A supervisor that hasn't claimed its job this long after its launch is given up; if it only was slow, no harm."""

_KILL_PATIENCE_S: Final = 5.0

logger = logging.getLogger(__name__)


def advance_queue(store: Store, options: LocalOptions, *, forecast: bool = False) -> dict[int, float]:
    """End what is dead, start what can start. Cheap if there is nothing to do; safe to call from anywhere.

    With `forecast`, returns when each of the first waiting jobs is likely to start (seconds since the epoch), by
    id; without, partitions in which nothing can start aren't planned.

    Raises SchedulerUnavailable.
    """
    _end_jobs_of_dead_supervisors(store, options)
    now = rows.read_clock()
    with store.read() as connection:
        plan = [
            reservation
            for partition in options.partitions.values()
            for reservation in plan_partition(
                connection, partition, kill_wait_s=options.kill_wait_s, now=now, starts_only=not forecast
            )
        ]
    _launch(store, options, [reservation.job_id for reservation in plan if reservation.placements], now=now)
    return {reservation.job_id: reservation.starts_at for reservation in plan}


def _launch(store: Store, options: LocalOptions, startable: list[int], *, now: float) -> None:
    """Launch supervisors, but none for a job for which somebody did so a moment ago."""
    if not startable:
        return
    to_launch = []
    with store.write() as connection:
        for job_id in startable:
            row = connection.execute(
                "UPDATE jobs SET launch_tried_at = ? WHERE id = ? AND state = 'PENDING'"
                " AND (launch_tried_at IS NULL OR launch_tried_at NOT BETWEEN ? AND ?) RETURNING key, marker",
                (now, job_id, now - RELAUNCH_AFTER_S, now),
            ).fetchone()
            if row is not None:
                to_launch.append((job_id, row["key"], row["marker"]))
    for job_id, key, marker in to_launch:
        _launch_supervisor(store, options, job_id=job_id, key=key, marker=marker)


def _launch_supervisor(store: Store, options: LocalOptions, *, job_id: int, key: str, marker: str) -> None:
    arguments = [options.python, "-m", "jobs.backends.local.supervisor"]
    # The key is there for people who read the list of processes.
    arguments += ["--state-file", str(store.path), "--job-id", str(job_id), "--key", key]
    # The marker is in the supervisor's own environment too: between fork and exec, a job's process still has that.
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", MARKER_VARIABLE: marker}
    try:
        spawn_detached(arguments, environment=environment, log=options.supervisor_log)
    except OSError as error:
        # The job keeps waiting and is tried again; a submit that came this far must not fail.
        logger.error("The supervisor of job %d can't be started: %s", job_id, error)


def plan_partition(
    connection: sqlite3.Connection,
    partition: Partition,
    *,
    kill_wait_s: float,
    now: float,
    depth: int = BACKFILL_DEPTH,
    extra: WaitingJob | None = None,
    starts_only: bool = False,
) -> list[Reservation]:
    """The plan for the first `depth` waiting jobs of a partition, and for `extra` as if it had come last.

    With `starts_only` it is empty where too few devices are free for any of them: a full machine with a long
    queue is the usual case, and needs no plan to see that nothing starts.
    """
    if not partition.is_up:
        return []
    waiting = [
        WaitingJob(job_id=row[0], nodes=row[1], devices_per_node=row[2], time_limit_s=row[3])
        for row in connection.execute(
            "SELECT id, nodes, devices_per_node, time_limit_s FROM jobs"
            " WHERE state = 'PENDING' AND partition = ? ORDER BY id LIMIT ?",
            (partition.name, depth),
        )
    ]
    if extra is not None:
        if len(waiting) == depth:
            return []
        waiting.append(extra)
    if not waiting:
        return []
    running = [
        RunningJob(placements=rows.decode_placements(row[0]), ends_at=row[1] + row[2] + kill_wait_s)
        for row in connection.execute(
            "SELECT placements, started_at, time_limit_s FROM jobs"
            " WHERE state IN ('RUNNING', 'COMPLETING') AND partition = ?",
            (partition.name,),
        )
    ]
    pool = Pool(partition.nodes, partition.devices_per_node, partition.jobs_per_node)
    if starts_only:
        free = count_free_devices(pool, running)
        if all(job.nodes * job.devices_per_node > free for job in waiting):
            return []
    return plan_queue(pool, running=running, waiting=waiting, now=now)


def claim_if_due(
    store: Store, options: LocalOptions, job_id: int, *, supervisor: ProcessIdentity
) -> tuple[Claim, StoredJob] | None:
    """Claim a waiting job for `supervisor` if the plan, made again under the lock, lets it start now.

    Raises SchedulerUnavailable.
    """
    with store.write() as connection:
        job = rows.load_job(connection, job_id)
        if job is None or job.state is not JobState.PENDING or job.spec.partition not in options.partitions:
            return None
        now = rows.read_clock()
        partition = options.partitions[job.spec.partition]
        plan = plan_partition(connection, partition, kill_wait_s=options.kill_wait_s, now=now)
        reservation = next((item for item in plan if item.job_id == job_id and item.placements), None)
        if reservation is None:
            connection.execute("UPDATE jobs SET launch_tried_at = NULL WHERE id = ?", (job_id,))
            return None
        claim = Claim(job_id=job_id, marker=job.marker, supervisor=supervisor, started_at=now)
        node_names = tuple(partition.node_name(node) for node in reservation.nodes)
        rows.claim_job(
            connection, claim, placements=reservation.placements, node_names=node_names, job_uid=options.job_uid
        )
        return claim, replace(job, state=JobState.RUNNING, placements=reservation.placements, node_names=node_names)


def find_first_waiting(connection: sqlite3.Connection, partitions: Mapping[str, Partition]) -> Mapping[str, int]:
    """For each partition that is up, the id of its first waiting job.

    That one waits for resources, the others for their turn.
    """
    return {
        row[0]: row[1]
        for row in connection.execute("SELECT partition, min(id) FROM jobs WHERE state = 'PENDING' GROUP BY partition")
        if row[0] in partitions and partitions[row[0]].is_up
    }


def _end_jobs_of_dead_supervisors(store: Store, options: LocalOptions) -> None:
    with store.read() as connection:
        claims = rows.load_claims(connection)
    for claim in claims:
        if is_alive(claim.supervisor):
            continue
        heartbeat = _heartbeat_path(options, claim)
        known = _read_heartbeat(options, claim)
        if not kill_all(partial(find_leftovers, claim.marker, known=known), patience_s=_KILL_PATIENCE_S):
            # Its devices are not free while its processes live. The next pass tries again.
            logger.error("Job %d: its supervisor is dead, and its processes can't be killed", claim.job_id)
            continue
        now = rows.read_clock()
        try:
            last_seen_at = heartbeat.stat().st_mtime
        except FileNotFoundError:
            last_seen_at = claim.started_at
        end = JobEnd(
            state=JobState.NODE_FAIL,
            reason="NodeFail",
            ended_at=now,
            # Not until now: the machine may have been off for days, which nobody should pay for.
            elapsed_s=max(min(last_seen_at, now) - claim.started_at, 0.0),
        )
        with store.write() as connection:
            is_ours = rows.end_job(connection, claim, end)
        if is_ours:
            heartbeat.unlink(missing_ok=True)


def write_heartbeat(options: LocalOptions, claim: Claim, processes: list[tuple[int, int]]) -> None:
    """Keep which processes (pid, start ticks) the supervisor saw; the file's time says when it lived last.

    Raises OSError.
    """
    path = _heartbeat_path(options, claim)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(processes), encoding="ascii")
    new.replace(path)


def remove_heartbeat(options: LocalOptions, claim: Claim) -> None:
    """The job has ended and that is written. Raises OSError."""
    _heartbeat_path(options, claim).unlink(missing_ok=True)


def _heartbeat_path(options: LocalOptions, claim: Claim) -> Path:
    return options.heartbeats_directory / str(claim.job_id)


def _read_heartbeat(options: LocalOptions, claim: Claim) -> list[ProcessIdentity]:
    """The processes that the job's supervisor saw last; empty if it never wrote any."""
    try:
        pairs = json.loads(_heartbeat_path(options, claim).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):  # a power cut can leave an empty file; after it no process is left either
        return []
    return [ProcessIdentity(pid, start_ticks, claim.supervisor.boot_id) for pid, start_ticks in pairs]
