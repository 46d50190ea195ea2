"""The configuration files of the lab. https://slurm.schedmd.com/slurm.conf.html"""

import os
import secrets
import shutil
import socket
import stat
from pathlib import Path
from typing import Final

from tests.integration.slurm.layout import (
    ALICE,
    BOB,
    BROKER_USER,
    CAROL,
    CLUSTER_NAME,
    DENIED_NAME,
    MAX_SCRIPT_BYTES,
    MESSAGE_TIMEOUT_S,
    PORTAL_USER,
    REST_USER,
    Layout,
    NodeGroup,
)

_CHECKOUT: Final = Path(__file__).resolve().parents[3]
_GUARD: Final = _CHECKOUT / "deploy" / "slurm" / "job_submit.lua"
_SITE_RULE: Final = f"""
local guard = slurm_job_submit
function slurm_job_submit(job_desc, part_list, submit_uid)
    if job_desc.name == "{DENIED_NAME}" then
        slurm.log_user("this name is not allowed here")
        return slurm.ERROR
    end
    return guard(job_desc, part_list, submit_uid)
end
return slurm.SUCCESS
"""
"""What a site may have besides: it refuses in its own words, with the code that most such rules give."""


def has_submit_rules() -> bool:
    """Whether this Slurm was built with rules in Lua."""
    return any(Path("/usr/lib").glob("*/slurm*/job_submit_lua.so"))


def write_configuration(layout: Layout) -> None:
    """Make the directories, keys, device files and configuration files."""
    for name, owner, mode in (
        ("etc", "root", 0o755),
        ("log", "slurm", 0o755),
        ("munge", "munge", 0o755),
        ("mariadb", "mysql", 0o755),
        ("state", "slurm", 0o700),
        ("spool", "root", 0o755),
        ("rest", REST_USER, 0o755),
        ("dev", "root", 0o755),
        ("jobs", "root", 0o711),
        ("tokens", "root", 0o700),
        ("broker", BROKER_USER, 0o755),
    ):
        directory = layout.root / name
        directory.mkdir()
        directory.chmod(mode)
        shutil.chown(directory, owner)
    # Each key is readable by the one user that needs it.
    _write(layout.etc / "munge.key", secrets.token_bytes(1024), owner="munge", mode=0o400)
    _write(layout.jwt_key, secrets.token_bytes(32), owner="slurm", mode=0o600)
    _write_broker(layout)
    devices = {group.partition: _make_devices(layout, group) for group in layout.groups}
    _write(layout.slurm_conf, _slurm_conf(layout).encode())
    _write(layout.etc / "gres.conf", _gres_conf(layout, devices).encode())
    # 22.05 always loads a cgroup plugin in slurmd; the one for v1 does nothing here.
    _write(layout.etc / "cgroup.conf", b"CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nConstrainRAMSpace=no\n")
    if has_submit_rules():
        _write(
            layout.etc / "job_submit.lua",
            (_GUARD.read_text().removesuffix("return slurm.SUCCESS\n") + _SITE_RULE).encode(),
        )
    _write(layout.etc / "slurmdbd.conf", _slurmdbd_conf(layout).encode(), owner="slurm", mode=0o600)


def _write(path: Path, content: bytes, *, owner: str = "root", mode: int = 0o644) -> None:
    path.touch(mode=0o600)
    shutil.chown(path, owner)
    path.write_bytes(content)
    path.chmod(mode)


def _write_broker(layout: Layout) -> None:
    """Install the token broker as the guide says: a copy of its code, a copy of the key, a list."""
    shutil.copytree(_CHECKOUT / "token_broker", layout.broker / "code" / "token_broker")
    _write(layout.broker / "jwt_hs256.key", layout.jwt_key.read_bytes(), owner=BROKER_USER, mode=0o400)
    _write(layout.broker_users, "".join(f"{name}\n" for name in (ALICE, BOB, CAROL)).encode())
    lines = [
        f'socket = "{layout.broker_socket}"',
        # The tests' portal is root, a developer's may be the portal's user.
        f'peers = ["root", "{PORTAL_USER}"]',
        f'socket_group = "{PORTAL_USER}"',
        f'key_file = "{layout.broker}/jwt_hs256.key"',
        f'audit_log = "{layout.broker_audit_log}"',
        f'users_file = "{layout.broker_users}"',
        f'service_users = ["{PORTAL_USER}"]',
        "token_life_s = 300",
    ]
    _write(layout.broker / "broker.toml", ("\n".join(lines) + "\n").encode())


def _make_devices(layout: Layout, group: NodeGroup) -> str:
    """Clones of /dev/null, so that accelerators have indices; "" where none can be made: then they are counted only."""
    if not group.devices_per_node:
        return ""
    for index in range(group.devices_per_node):
        try:
            path = layout.root / "dev" / f"{group.gres_name}{index}"
            if not path.exists():
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            return ""
    return f"{layout.root}/dev/{group.gres_name}[0-{group.devices_per_node - 1}]"


def _gres_conf(layout: Layout, devices: dict[str, str]) -> str:
    lines = ["AutoDetect=off"]
    for group in layout.groups:
        if group.devices_per_node:
            files = devices[group.partition]
            lines.append(
                f"NodeName={','.join(group.node_names())} Name={group.gres_name} Type={group.gres_type}"
                f" Count={group.devices_per_node}{f' File={files}' if files else ''}"
            )
    return "\n".join(lines) + "\n"


def _slurm_conf(layout: Layout) -> str:
    host = socket.gethostname().partition(".")[0]
    names = sorted({group.gres_name for group in layout.groups if group.gres_name})
    tres = [f"gres/{name}" for name in names]
    tres += sorted({f"gres/{group.gres_name}:{group.gres_type}" for group in layout.groups if group.gres_type})
    log = layout.log
    lines = [
        f"ClusterName={CLUSTER_NAME}",
        f"SlurmctldHost={host}(127.0.0.1)",
        "SlurmUser=slurm",
        "AuthType=auth/munge",
        # A requeued job waits for cred_expire + 1 s.
        f"AuthInfo=socket={layout.munge_socket},cred_expire=15",
        "AuthAltTypes=auth/jwt",
        f"AuthAltParameters=jwt_key={layout.jwt_key}",
        "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny",
        f"SlurmctldPort={layout.ports['slurmctld']}",
        f"SlurmctldPidFile={log}/slurmctld.pid",
        f"SlurmctldLogFile={log}/slurmctld.log",
        f"StateSaveLocation={layout.root}/state",
        f"SlurmdPidFile={layout.root}/spool/slurmd-%n.pid",
        f"SlurmdLogFile={log}/slurmd-%n.log",
        f"SlurmdSpoolDir={layout.root}/spool/%n",
        # Believe this file about the size of nodes, not the hardware.
        "SlurmdParameters=config_overrides",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "SwitchType=switch/none",
        "MpiDefault=none",
        "ReturnToService=1",
        "SlurmdTimeout=30",
        "KillWait=2",
        f"MessageTimeout={MESSAGE_TIMEOUT_S}",
        "MinJobAge=300",
        "MaxJobCount=50000",
        "EnforcePartLimits=ALL",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,sched_interval=2,bf_interval=2,"
        f"bf_continue,default_queue_depth=200,max_script_size={MAX_SCRIPT_BYTES}",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "PriorityType=priority/multifactor",
        "PriorityWeightQOS=10000",
        "PriorityWeightAge=1000",
        "PreemptType=preempt/qos",
        "PreemptMode=REQUEUE",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=2",
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={layout.ports['slurmdbd']}",
        # AuthInfo's socket is not used towards slurmdbd.
        f"AccountingStoragePass={layout.munge_socket}",
        "AccountingStorageEnforce=associations,limits,qos",
        f"AccountingStorageTRES={','.join(tres)}",
        "AccountingStoreFlags=job_comment",
        f"GresTypes={','.join(names)}",
    ]
    if has_submit_rules():
        lines.append("JobSubmitPlugins=lua")
    for group in layout.groups:
        gres = f" Gres={group.gres_name}:{group.gres_type}:{group.devices_per_node}" if group.devices_per_node else ""
        lines += [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={layout.ports[name]} CPUs={group.cpus}"
            f" Boards=1 SocketsPerBoard=2 CoresPerSocket={group.cpus // 2} ThreadsPerCore=1"
            f" RealMemory={group.memory_mb}{gres} State=UNKNOWN"
            for name in group.node_names()
        ]
    for number, group in enumerate(layout.groups):
        lines.append(
            f"PartitionName={group.partition} Nodes={','.join(group.node_names())}"
            f" Default={'YES' if number == 0 else 'NO'} MaxTime={group.max_time_limit_minutes}"
            f" DefaultTime=60 DefMemPerCPU=1000 State={group.state}"
        )
    return "\n".join(lines) + "\n"


def _slurmdbd_conf(layout: Layout) -> str:
    return "\n".join(
        [
            "AuthType=auth/munge",
            f"AuthInfo=socket={layout.munge_socket}",
            "AuthAltTypes=auth/jwt",
            f"AuthAltParameters=jwt_key={layout.jwt_key}",
            "DbdHost=localhost",
            "DbdAddr=127.0.0.1",
            f"DbdPort={layout.ports['slurmdbd']}",
            "SlurmUser=slurm",
            f"PidFile={layout.log}/slurmdbd.pid",
            f"LogFile={layout.log}/slurmdbd.log",
            "CommunicationParameters=NoInAddrAny",
            "StorageType=accounting_storage/mysql",
            "StorageHost=localhost",
            "StorageUser=slurm",
            "StoragePass=lab",
            "StorageLoc=slurm_acct_db",
            "",
        ]
    )
