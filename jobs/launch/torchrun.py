"""PyTorch's torchrun: one agent per node, one worker process per accelerator.

https://docs.pytorch.org/docs/stable/elastic/run.html. One node needs no rendezvous (`--standalone`); more nodes
meet at the first one, through srun with one agent on each. torchrun itself ends at USR1 and USR2; since a
signal ignored at `exec` stays ignored, agents are started ignoring them, and only workers that installed a
handler (to write a checkpoint) see them.
"""

import shlex

from jobs.launch.request import Command, LaunchRequest

_PASSED_TO_WORKERS = frozenset({"USR1", "USR2"})
_FIRST_PORT = 20_000
_PORTS = 10_000
"""Below Linux's ephemeral ports (32768 and up), and other jobs on a shared node get another one."""


def render_torchrun(request: LaunchRequest, entry: Command) -> list[str]:
    """Return the lines that start torchrun with the resources of the request."""
    if request.nodes > 1:
        return _render_many_nodes(request, entry)
    agent = f"torchrun --standalone --nnodes=1 --nproc_per_node={_processes(request)} {shlex.join(entry.argv)}"
    if request.signal_name in _PASSED_TO_WORKERS:
        return _render_forwarding(request.signal_name, agent)
    return [f"exec -- {agent}"]


def _processes(request: LaunchRequest) -> int:
    return max(1, request.devices_per_node)


def _render_forwarding(signal_name: str, agent: str) -> list[str]:
    """Keep bash as the parent: it hands the signal to the workers, which have process groups of their own."""
    return [
        f"trap '' {signal_name}",
        f"{agent} &",
        "agent=$!",
        "signal_workers() {",
        '  local workers=""',
        '  read -r workers < "/proc/$agent/task/$agent/children" || true',
        "  # One word per worker is wanted here.",
        "  # shellcheck disable=SC2086",
        f'  [ -z "$workers" ] || kill -s {signal_name} $workers || true',
        "}",
        f"trap 'interrupted=1; signal_workers' {signal_name}",
        "trap 'interrupted=1; kill -s TERM \"$agent\" || true' TERM",
        "trap 'interrupted=1; kill -s INT \"$agent\" || true' INT",
        "# A trapped signal ends wait early; the agent's own status is what counts.",
        "interrupted=1",
        'while [ -n "$interrupted" ]; do',
        '  interrupted=""',
        "  status=0",
        '  wait "$agent" || status=$?',
        "done",
        'exit "$status"',
    ]


def _render_many_nodes(request: LaunchRequest, entry: Command) -> list[str]:
    on_each_node = 'exec "$@"'
    if request.signal_name in _PASSED_TO_WORKERS:
        on_each_node = f"trap '' {request.signal_name}; {on_each_node}"
    resources = f"--nodes={request.nodes} --ntasks={request.nodes} --ntasks-per-node=1"
    if request.cpus_per_node is not None:
        # Since Slurm 22.05 srun doesn't take this over from sbatch: the agents would get one processor each.
        resources += f" --cpus-per-task={request.cpus_per_node}"
    return [
        ': "${SLURM_JOB_NODELIST:?a job on several nodes needs Slurm, which names them}"',
        'IFS= read -r first_node < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        f"port=$(({_FIRST_PORT} + SLURM_JOB_ID % {_PORTS}))",
        f"exec srun {resources} --kill-on-bad-exit=1 \\",
        f"  bash -c {shlex.quote(on_each_node)} bash \\",
        f"  torchrun --nnodes={request.nodes} --nproc_per_node={_processes(request)} \\",
        '  --rdzv_backend=c10d --rdzv_endpoint="$first_node:$port" --rdzv_id="$SLURM_JOB_ID" \\',
        f"  {shlex.join(entry.argv)}",
    ]
