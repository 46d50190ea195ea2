"""What there is, what a run would cost, and submitting it."""

import json
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from portalctl.client import ApiProblem, Job, PortalClient, PreparedJob, Quote, UnexpectedReply, Unreachable
from portalctl.commands.options import AsJson, session_of
from portalctl.commands.watching import watch_job
from portalctl.jobfile import (
    NO_FILE,
    Source,
    build_estimate,
    build_job,
    describe_problem_place,
    job_schema,
    read_source,
)
from portalctl.output import (
    duration,
    estimate_rows,
    fields_table,
    hours,
    list_table,
    plain,
    print_advice,
)
from portalctl.session import BadInput, Session, SubmissionRefused

Answer = TypeVar("Answer")
File = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A job file; options replace what it says.")]
ProjectOption = Annotated[str | None, typer.Option("--project", "-p", help="Code of the project that pays.")]
PartitionOption = Annotated[str | None, typer.Option("--partition", "-P", help="Its name, or CLUSTER/NAME.")]
ClusterOption = Annotated[str | None, typer.Option("--cluster", "-c", help="Code of the cluster.")]
NodesOption = Annotated[int | None, typer.Option("--nodes", "-N", min=1, help="How many nodes.")]
DevicesOption = Annotated[int | None, typer.Option("--devices-per-node", "-G", min=1, help="Accelerators of each.")]
PresetOption = Annotated[str | None, typer.Option("--preset", help="Model of the workload, by name.")]
TokensOption = Annotated[str | None, typer.Option("--tokens", help="Tokens of the workload, such as 1e9.")]

_OPTION_NAMES = {
    "project": "--project",
    "cluster": "--cluster",
    "partition": "--partition",
    "name": "--name",
    "nodes": "--nodes",
    "devices_per_node": "--devices-per-node",
    "time_limit_minutes": "--time-limit",
    "override_estimate": "--override-estimate",
    "workload": "--preset/--tokens",
}


def partitions(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the partitions that you may submit to, with what is free."""
    session = session_of(ctx)
    with session.open() as portal:
        found = list(portal.partitions())
    if as_json:
        session.print_json({"results": found})
        return
    rows = [
        [
            f"{one.cluster}/{one.name}",
            f"{one.accelerator_title}{' (simulated)' if one.is_simulated else ''}",
            f"{one.devices_free}/{one.devices_total}" if one.is_up else "down",
            one.devices_per_node,
            one.jobs_pending,
            duration(one.max_time_limit_minutes * 60),
        ]
        for one in found
    ]
    headings = ["PARTITION", "ACCELERATOR", "FREE", "PER NODE", "WAITING", "LONGEST"]
    console = session.out()
    console.print(list_table(headings, rows, width=console.width, flexible=1, right=(2, 3, 4)))


def presets(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the models that the estimator knows by name."""
    session = session_of(ctx)
    with session.open() as portal:
        found = portal.presets()
    if as_json:
        session.print_json({"results": found})
        return
    rows = [[one.name, f"{one.parameters / 1e9:,.2f}", one.title] for one in found]
    console = session.out()
    console.print(list_table(["PRESET", "BILLION", "TITLE"], rows, width=console.width, flexible=2, right=(1,)))


def schema(ctx: typer.Context) -> None:
    """Print the JSON schema of job files, for editors."""
    print(json.dumps(job_schema(), indent=2))


def estimate(
    ctx: typer.Context,
    file: File = None,
    project: ProjectOption = None,
    partition: PartitionOption = None,
    cluster: ClusterOption = None,
    nodes: NodesOption = None,
    devices_per_node: DevicesOption = None,
    preset: PresetOption = None,
    tokens: TokensOption = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run needs, how long it takes, and what it would hold of the quota. Nothing is stored."""
    session = session_of(ctx)
    source = read_source(file) if file else NO_FILE
    place = _place(project, partition, cluster, nodes, devices_per_node)
    overrides = place | _workload(source, preset, tokens)
    body = build_estimate(source, overrides, _options(overrides))
    with session.open() as portal:
        quote = _with_places(source, overrides, lambda: portal.estimate(body))
    if as_json:
        session.print_json(quote)
    else:
        _show_quote(session, quote)


def submit(
    ctx: typer.Context,
    file: File = None,
    project: ProjectOption = None,
    partition: PartitionOption = None,
    cluster: ClusterOption = None,
    nodes: NodesOption = None,
    devices_per_node: DevicesOption = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Name of the job.")] = None,
    time_limit: Annotated[int | None, typer.Option("--time-limit", "-t", min=1, help="Minutes.")] = None,
    preset: PresetOption = None,
    tokens: TokensOption = None,
    override_estimate: Annotated[
        bool | None, typer.Option("--override-estimate", help="Run even if the estimate says that it doesn't fit.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Idempotency key: submitting again with it makes no second job.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and price; write nothing.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Watch it to its end, and exit as it ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job."""
    session = session_of(ctx)
    source = read_source(file) if file else NO_FILE
    own = {"name": name, "time_limit_minutes": time_limit, "override_estimate": override_estimate}
    overrides = _place(project, partition, cluster, nodes, devices_per_node) | _without_none(own)
    overrides |= _workload(source, preset, tokens)
    body = build_job(source, overrides, _options(overrides))
    with session.open(is_patient=watch) as portal:
        if dry_run:
            prepared = _with_places(source, overrides, lambda: portal.prepare(body))
            if as_json:
                session.print_json(prepared)
            else:
                _show_prepared(session, prepared)
            return
        job = _submit_once(session, portal, source, overrides, body, key)
        _show_submitted(session, portal, job, watched=watch)
        if watch:
            raise typer.Exit(watch_job(session, portal, job.id))


def _submit_once(
    session: Session,
    portal: PortalClient,
    source: Source,
    overrides: Mapping[str, Any],
    body: dict[str, Any],
    key: str | None,
) -> Job:
    """Submit; where it stays unknown what became of it, say how to ask without making a second job."""
    key = key or str(uuid.uuid4())
    try:
        return _with_places(source, overrides, lambda: portal.submit(body, idempotency_key=key))
    except (Unreachable, UnexpectedReply, KeyboardInterrupt):
        words = f"The portal may have taken the job. Submit the same again with --key {key}: that makes no second one."
        session.err().print(words, soft_wrap=True)
        raise


def _show_submitted(session: Session, portal: PortalClient, job: Job, *, watched: bool) -> None:
    if session.as_json:
        if not watched:
            session.print_json(job)
        return
    console = session.err() if watched else session.out()
    limit = "" if job.time_limit_minutes is None else f", at most {duration(job.time_limit_minutes * 60)}"
    console.print(f"{job.id}", soft_wrap=True)
    what = f"{plain(job.name)}: accelerators {job.devices}{limit}. {portal.base_url}/jobs/{job.id}"
    session.err().print(what, soft_wrap=True)


def _show_quote(session: Session, quote: Quote) -> None:
    console, effect = session.out(), quote.quota
    console.print(fields_table(estimate_rows(quote.estimate)))
    held = f"{hours(effect.reserved_hours)} h of {effect.resource_class}"
    if effect.available_hours is not None:
        held += f", of {hours(effect.available_hours)} h available"
    if effect.is_covered is False:
        held += ": not enough"
    limit = duration(effect.suggested_time_limit_minutes * 60)
    if not effect.is_within_partition_limit:
        limit += " (longer than the partition allows)"
    console.print(fields_table([("time limit", limit), ("would hold", held)]))
    print_advice(console, [(one.severity, one.text) for one in quote.estimate.advice])


def _show_prepared(session: Session, prepared: PreparedJob) -> None:
    console = session.out()
    if prepared.estimate is not None:
        console.print(fields_table(estimate_rows(prepared.estimate)))
    rows = [
        ("time limit", duration(prepared.time_limit_minutes * 60)),
        ("would hold", f"{hours(prepared.reserved_hours)} h of {hours(prepared.available_hours)} h available"),
        ("script", f"{len(prepared.script.splitlines())} lines (--json shows it)"),
    ]
    console.print(fields_table(rows))
    print_advice(console, [("warning", one.text) for one in prepared.warnings])


def _place(
    project: str | None, partition: str | None, cluster: str | None, nodes: int | None, devices_per_node: int | None
) -> dict[str, Any]:
    """What the options say of where; CLUSTER/NAME names both."""
    if partition is not None and "/" in partition:
        named, _, partition = partition.partition("/")
        if cluster is not None and cluster != named:
            raise BadInput(f"--partition names the cluster {named}, --cluster {cluster}.")
        cluster = named
    fields = {"project": project, "cluster": cluster, "partition": partition}
    return _without_none({**fields, "nodes": nodes, "devices_per_node": devices_per_node})


def _workload(source: Source, preset: str | None, tokens: str | None) -> dict[str, Any]:
    """The file's workload with another model or another number of tokens."""
    if preset is None and tokens is None:
        return {}
    given = source.fields.get("workload")
    workload = dict(given) if isinstance(given, dict) else {}
    if preset is not None:
        workload["model"] = {"preset": preset}
    if tokens is not None:
        workload["tokens"] = int(tokens.replace("_", "")) if tokens.replace("_", "").isdigit() else tokens
    return {"workload": workload}


def _options(overrides: Mapping[str, Any]) -> dict[str, str]:
    return {name: _OPTION_NAMES[name] for name in overrides}


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _with_places(source: Source, overrides: Mapping[str, Any], call: Callable[[], Answer]) -> Answer:
    """The call's answer; what it refuses is named with its line of the file.

    Raises:
        SubmissionRefused: the portal refused.
    """
    try:
        return call()
    except ApiProblem as problem:
        options = _options(overrides)
        places = {one.name: describe_problem_place(source, one.name, options) for one in problem.invalid_params}
        raise SubmissionRefused(problem, places) from problem


def register(app: typer.Typer) -> None:
    for command in (partitions, presets, estimate, submit, schema):
        app.command()(command)
