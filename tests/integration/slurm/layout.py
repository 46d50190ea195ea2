"""What the cluster looks like: partitions, people, files, ports. Written down once, used by all others here."""

import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CLUSTER_NAME: Final = "lab"
MESSAGE_TIMEOUT_S: Final = 5
"""How long a client of slurmctld waits for an answer; short, so that tests of silence are short."""

MAX_SCRIPT_BYTES: Final = 300_000
"""Below the portal's own limit, so that Slurm's can be seen."""

DENIED_NAME: Final = "denied-by-a-rule"
"""A job of this name is refused by a rule of the site's."""

CAPPED_QOS: Final = "capped"
CAPPED_DEVICES: Final = 4
"""More accelerators a job are refused with this QOS."""

PORTAL_USER: Final = "slurmlab-portal"
REST_USER: Final = "slurmlab-rest"
BROKER_USER: Final = "slurmlab-broker"
ALICE: Final = "slurmlab-alice"
BOB: Final = "slurmlab-bob"
CAROL: Final = "slurmlab-carol"
"""Has a Unix account, but may use no Slurm account."""

DAVE: Final = "slurmlab-dave"
"""Has a Unix account, but is not on the token broker's list."""

UNIX_USERS: Final = (PORTAL_USER, REST_USER, BROKER_USER, ALICE, BOB, CAROL, DAVE)
ACCOUNTS: Final = {ALICE: "laba", BOB: "labb"}
"""Researchers, and the Slurm account that each may charge."""


@dataclass(frozen=True, kw_only=True)
class NodeGroup:
    """Virtual nodes of one kind, and the partition that they make up."""

    partition: str
    prefix: str
    nodes: int
    gres_name: str = ""
    gres_type: str = ""
    devices_per_node: int = 0
    cpus: int = 64
    memory_mb: int = 500_000
    max_time_limit_minutes: int = 600
    state: str = "UP"

    def node_names(self) -> list[str]:
        """All of them, such as a800-01."""
        return [f"{self.prefix}-{number:02d}" for number in range(1, self.nodes + 1)]


NODE_GROUPS: Final = (
    NodeGroup(partition="gpu-a800", prefix="a800", nodes=2, gres_name="gpu", gres_type="a800", devices_per_node=8),
    NodeGroup(
        partition="ascend910b", prefix="npu", nodes=1, gres_name="npu", gres_type="ascend910b", devices_per_node=8
    ),
    # A partition that takes no jobs.
    NodeGroup(
        partition="closed",
        prefix="h100",
        nodes=1,
        gres_name="gpu",
        gres_type="h100",
        devices_per_node=8,
        state="INACTIVE",
    ),
)


@dataclass(frozen=True)
class Layout:
    """Where everything of one lab is."""

    root: Path
    groups: tuple[NodeGroup, ...] = NODE_GROUPS
    ports: dict[str, int] = field(default_factory=dict)
    """By name of the daemon; those of slurmd by name of the node."""

    @property
    def etc(self) -> Path:
        return self.root / "etc"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def slurm_conf(self) -> Path:
        return self.etc / "slurm.conf"

    @property
    def jwt_key(self) -> Path:
        return self.etc / "jwt_hs256.key"

    @property
    def munge_socket(self) -> Path:
        return self.root / "munge" / "munge.socket"

    @property
    def mariadb_socket(self) -> Path:
        return self.root / "mariadb" / "mariadbd.sock"

    @property
    def jobs(self) -> Path:
        """Where the portal makes the jobs' directories."""
        return self.root / "jobs"

    @property
    def tokens(self) -> Path:
        """Where a broker leaves JSON Web Tokens for the portal."""
        return self.root / "tokens"

    @property
    def broker(self) -> Path:
        """Files of the token broker: its code, configuration, key, list, log and socket."""
        return self.root / "broker"

    @property
    def broker_socket(self) -> Path:
        return self.broker / "socket"

    @property
    def broker_users(self) -> Path:
        return self.broker / "users"

    @property
    def broker_audit_log(self) -> Path:
        return self.broker / "audit.jsonl"

    @property
    def ssh(self) -> Path:
        """Keys and configuration of the ssh server that makes this machine a submit host."""
        return self.root / "ssh"

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['slurmrestd']}"

    @property
    def node_names(self) -> list[str]:
        return [name for group in self.groups for name in group.node_names()]

    def with_free_ports(self) -> "Layout":
        """The same with a free port for each daemon."""
        names = ["slurmctld", "slurmdbd", "slurmrestd", "sshd", *self.node_names]
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
        ports = {name: server.getsockname()[1] for name, server in zip(names, sockets, strict=True)}
        for server in sockets:
            server.close()
        return Layout(self.root, self.groups, ports)
