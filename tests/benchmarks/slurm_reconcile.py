"""Following many pending jobs of a real Slurm, beside the one bulk question alone."""

import subprocess
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import httpx
from django.utils import timezone

from accounts.models import Cluster
from jobs.backends.slurm import SlurmCliBackend, SlurmRestBackend
from jobs.backends.slurm.backend import SlurmBackend
from jobs.models import Job, JobSegment
from jobs.services import launching, reconcile
from jobs.spec import JobSpec
from jobs.states import JobState
from tests.benchmarks.measure import describe_load, latency_row, measure_alternately, print_table, read_size
from tests.benchmarks.population import BenchmarkCentre, analyze, copy_rows
from tests.integration.slurm.lab import SlurmLab
from tests.integration.slurm.layout import ACCOUNTS, ALICE, PORTAL_USER

_SQUEUE_FIELDS = "%A|%T|%u|%V|%S|%e|%N|%r|%k|%Z|%D"


def measure_reconciliation(lab: SlurmLab, pending: int) -> None:
    """Print how long a round takes in which nothing has changed."""
    rest, cli = _open_backends(lab)
    centre = BenchmarkCentre()
    template = centre.make_template()
    start = time.monotonic()
    cluster = _fill(rest, template, pending)
    print(f"\n{pending} jobs submitted in {time.monotonic() - start:.0f} s")
    native_ids = list(JobSegment.objects.filter(cluster=cluster, ended_at=None).values_list("native_id", flat=True))

    def follow(backend: SlurmBackend) -> None:
        reconcile.reconcile_cluster(cluster, backend, now=timezone.now, lost_after_s=300)

    token = {"X-SLURM-USER-NAME": PORTAL_USER, "X-SLURM-USER-TOKEN": lab.mint_token(PORTAL_USER)}
    client = httpx.Client(base_url=lab.layout.rest_url, headers=token, timeout=60)
    command = ["squeue", "--noheader", "--all", "--states=all", f"--format={_SQUEUE_FIELDS}"]
    for backend in (cli, rest):
        follow(backend)
    rounds = read_size("ROUNDS", 7)
    seconds = measure_alternately(
        {
            "bare squeue of all fields": partial(
                subprocess.run, command, env=lab.environment, check=True, capture_output=True
            ),
            "poll, slurm.cli": lambda: cli.poll(native_ids),
            "reconcile, slurm.cli": lambda: follow(cli),
            "bare GET /jobs": lambda: client.get("/slurm/v0.0.38/jobs").raise_for_status().read(),
            "poll, slurm.rest": lambda: rest.poll(native_ids),
            "reconcile, slurm.rest": lambda: follow(rest),
        },
        rounds=rounds,
    )
    changed = Job.objects.filter(partition__cluster=cluster).exclude(state=JobState.PENDING).exclude(pk=template.pk)
    if changed.exists():
        raise SystemExit(f"{changed.count()} of {pending} pending jobs are not followed")
    names = list(seconds)
    rows = [latency_row(name, seconds[name], seconds[names[number // 3 * 3]]) for number, name in enumerate(names)]
    print_table(
        f"slurm: one round over {len(native_ids)} pending jobs, nothing changed ({describe_load()})",
        ["", "p50 ms", "p95 ms", "× bare"],
        rows,
    )


def _open_backends(lab: SlurmLab) -> tuple[SlurmRestBackend, SlurmCliBackend]:
    """Both on the same directory of jobs."""
    common = {"JOBS_DIRECTORY": f"{lab.layout.jobs}/reconcile", "TIMEOUT_S": 60}
    options = {"URL": lab.layout.rest_url, "USER": PORTAL_USER, "TOKEN_BROKER": str(lab.layout.broker_socket)}
    return (
        SlurmRestBackend("slurm-rest", {**common, **options}),
        SlurmCliBackend("slurm-cli", {**common, "SLURM_CONF": str(lab.layout.slurm_conf)}),
    )


def _fill(backend: SlurmBackend, template: Job, pending: int) -> Cluster:
    """Copies of the template, pending in the database and in Slurm, by the same ids."""
    cluster = template.partition.cluster
    segment = template.segments.get()
    copy_rows(
        Job,
        pending,
        where={"id": template.pk},
        changes={"id": "gen_random_uuid()", "name": "'copy-' || n", "state": "'PENDING'", "started_at": "NULL"},
    )
    spec = replace(
        launching.build_job_spec(template, segment),
        partition="gpu-a800",
        unix_user=ALICE,
        slurm_account=ACCOUNTS[ALICE],
        devices_per_node=1,
        time_limit_minutes=60,
    )
    # The template itself is the in-memory scheduler's: it is not followed.
    Job.objects.filter(pk=template.pk).update(state=JobState.CANCELLED, ended_at=timezone.now())
    JobSegment.objects.filter(pk=segment.pk).update(ended_at=timezone.now(), accounted_at=timezone.now())
    ids = list(Job.objects.exclude(pk=template.pk).values_list("pk", flat=True))
    with ThreadPoolExecutor(8) as pool:
        native_ids = list(pool.map(partial(_submit, backend, spec), ids))
    now = timezone.now()
    JobSegment.objects.bulk_create(
        [
            JobSegment(
                job_id=job_id,
                number=1,
                cluster=cluster,
                key=f"{job_id}-1",
                native_id=native_id,
                first_attempt_at=now,
                accepted_at=now,
                time_limit_minutes=60,
            )
            for job_id, native_id in zip(ids, native_ids, strict=True)
        ],
        batch_size=2000,
    )
    analyze()
    return cluster


def _submit(backend: SlurmBackend, spec: JobSpec, job_id: uuid.UUID) -> str:
    key = f"{job_id}-1"
    return backend.submit(replace(spec, key=key), key=key)
