"""Starting and stopping the daemons, each by its process id."""

import json
import logging
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any, Final

import psutil

from tests.integration.slurm.configuration import write_configuration
from tests.integration.slurm.layout import (
    ACCOUNTS,
    ALICE,
    BROKER_USER,
    CAPPED_DEVICES,
    CAPPED_QOS,
    PORTAL_USER,
    REST_USER,
    UNIX_USERS,
    Layout,
    NodeGroup,
)
from tests.integration.slurm.packages import missing_programs
from tests.integration.slurm.submit_host import SUDOERS, write_ssh_configuration, write_sudo_rule

MARKER: Final = "PORTAL_SLURM_LAB"
"""Environment variable of every process of a lab: its directory. Whatever carries it belongs to that lab."""

CHECKOUT: Final = Path(__file__).resolve().parents[3]
_BASE: Final = Path(tempfile.gettempdir())
_PREFIX: Final = "portal-slurm-"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_USER_COMMENT: Final = "portal slurm lab"
_START_PATIENCE_S: Final = 40.0

logger = logging.getLogger(__name__)


class LabError(Exception):
    """The lab can't be started or used; the words say why."""


class SlurmLab:
    """One Slurm cluster under one directory."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @classmethod
    def create(cls, name: str = "default", *, groups: tuple[NodeGroup, ...] | None = None) -> "SlurmLab":
        """Start a lab, after stopping what a killed one of the same name has left. Raises LabError."""
        if os.geteuid() != 0:
            raise LabError("a Slurm of one's own needs root: its daemons run as users of their own")
        missing = missing_programs()
        if missing:
            raise LabError(f"not installed: {', '.join(missing)}; `python -m tests.integration.slurm up` installs it")
        root = directory_of(name)
        layout = Layout(root) if groups is None else Layout(root, groups)
        try:
            return cls._create_once(layout)
        except LabError as error:
            # A port that was free may have been taken before its daemon came: once more, with others.
            logger.warning("the lab could not be started, and is tried once more: %s", error)
            return cls._create_once(layout)

    @classmethod
    def _create_once(cls, layout: Layout) -> "SlurmLab":
        remove_lab(layout.root)
        layout.root.mkdir(mode=0o755)
        lab = cls(layout.with_free_ports())
        try:
            lab._start_all()
        except BaseException:
            lab.stop_processes()  # the directory stays: its logs say why
            raise
        return lab

    @classmethod
    def open(cls, name: str = "default") -> "SlurmLab":
        """The running lab of this name. Raises LabError."""
        file = directory_of(name) / "lab.json"
        try:
            stored = json.loads(file.read_text())
        except FileNotFoundError:
            raise LabError(f"there is no lab in {file.parent}") from None
        groups = tuple(NodeGroup(**group) for group in stored["groups"])
        return cls(Layout(file.parent, groups, stored["ports"]))

    @property
    def name(self) -> str:
        """By which `open` finds it."""
        return self.layout.root.name.removeprefix(_PREFIX)

    # Commands

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this Slurm needs."""
        return {"PATH": _PATH, "LC_ALL": "C.UTF-8", "TZ": "UTC", "SLURM_CONF": str(self.layout.slurm_conf)}

    def run(self, *command: str, user: str = "root", input: str | None = None, check: bool = True) -> str:
        """Run a command as a Unix user and return what it printed. Raises LabError."""
        done = subprocess.run(
            command,
            env=self.environment,
            cwd="/",
            input=input,
            capture_output=True,
            text=True,
            errors="replace",  # some test's comment is no text
            check=False,
            timeout=60,
            **as_user(user),
        )
        if check and done.returncode:
            raise LabError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def mint_token(self, user: str, *, lifespan_s: int = 3600) -> str:
        """A JSON Web Token for `user`, made as root."""
        answer = self.run("scontrol", "token", f"username={user}", f"lifespan={lifespan_s}")
        return answer.strip().removeprefix("SLURM_JWT=")

    def cancel_all(self) -> None:
        """End every job and wait until none is left."""
        self.run("scancel", "--state=PENDING", check=False)
        deadline = time.monotonic() + 30
        while self.run("squeue", "--noheader", "--format=%i"):
            self.run("scancel", "--state=PENDING", check=False)
            self.run("scancel", "--state=RUNNING", check=False)
            if time.monotonic() > deadline:
                raise LabError(f"jobs don't end:\n{self.run('squeue')}")
            time.sleep(0.05)

    # Daemons

    def start(self, name: str) -> None:
        """Start one daemon and wait until it answers: slurmctld, slurmrestd, … or a node."""
        self._spawn(name)
        self._wait_for(name)

    def start_missing(self) -> None:
        """Start every daemon that doesn't run, on the state that is there."""
        missing = [name for name in self.daemons if self.process(name) is None]
        for name in missing:
            self._spawn(name)
            if name not in self.layout.node_names:
                self._wait_for(name)
        if missing:
            self.wait_for_nodes()

    def stop(self, name: str, *, signal_number: int = signal.SIGTERM) -> None:
        """End one daemon by its process id and wait until it is gone."""
        process = self.process(name)
        if process is not None:
            if name == "sshd":
                _end(process.children(recursive=True))  # connections outlive the listener
            process.send_signal(signal_number)
            if signal_number == signal.SIGTERM:
                _end([process])
            else:
                psutil.wait_procs([process], timeout=10)

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """A daemon that neither answers nor dies."""
        process = self.process(name)
        if process is None:
            raise LabError(f"{name} doesn't run")
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    def process(self, name: str) -> psutil.Process | None:
        """The daemon's process; None if it doesn't run."""
        identity = self._read_processes().get(name)
        if identity is None:
            return None
        try:
            process = psutil.Process(identity[0])
            is_it = process.create_time() == identity[1] and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if is_it else None

    @property
    def daemons(self) -> list[str]:
        names = ["munged", "mariadbd", "slurmdbd", "slurmctld", *self.layout.node_names]
        return [*names, "slurmrestd", "token_broker", "sshd"]

    def stop_processes(self) -> None:
        """End all jobs and daemons of this lab: whatever carries its marker, and their job scripts."""
        _end(_find_processes(self.layout.root))

    def wait_until(self, condition: Callable[[], Any], what: str, *, patience_s: float = _START_PATIENCE_S) -> None:
        """Wait for something. Raises LabError."""
        deadline = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > deadline:
                raise LabError(f"waited {patience_s:.0f} s for {what}; see {self.layout.log}")
            time.sleep(0.05)

    def wait_for_nodes(self) -> None:
        """Wait until every node takes jobs."""

        def are_ready() -> bool:
            states = self.run("sinfo", "--noheader", "--Node", "--format=%T", check=False).split()
            return bool(states) and all(state in {"idle", "mixed", "allocated", "inactive"} for state in states)

        self.wait_until(are_ready, "the nodes to register")

    def _start_all(self) -> None:
        _make_users()
        write_configuration(self.layout)
        write_ssh_configuration(self.layout)
        self._write_processes({})
        self._spawn("munged")
        _run_quietly(
            *("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={self.layout.root}/mariadb/data"),
            *("--auth-root-authentication-method=socket", "--skip-test-db", "--skip-name-resolve"),
            log=self.layout.log / "mariadb-install.log",
        )
        self.start("mariadbd")
        self._wait_for("munged")
        self._sql(
            "CREATE DATABASE slurm_acct_db; CREATE USER slurm@localhost IDENTIFIED BY 'lab';"
            " GRANT ALL ON slurm_acct_db.* TO slurm@localhost;"
        )
        self.start("slurmdbd")
        # Before slurmctld starts: it would not hear of what is added while it registers itself.
        self._add_accounts()
        self._spawn("slurmctld")
        for name in self.layout.node_names:
            (self.layout.root / "spool" / name).mkdir()
            self._spawn(name)
        self._spawn("slurmrestd")
        self._spawn("token_broker")
        self.start("sshd")
        self._wait_for("slurmctld")
        self._wait_for("slurmrestd")
        self._wait_for("token_broker")
        self.wait_for_nodes()
        # Accounting hears of accelerators from slurmctld only.
        limit = f"MaxTRESPerJob=gres/gpu={CAPPED_DEVICES}"
        self.run("sacctmgr", "--immediate", "modify", "qos", CAPPED_QOS, "set", limit)
        stored = {"ports": self.layout.ports, "groups": [asdict(group) for group in self.layout.groups]}
        (self.layout.root / "lab.json").write_text(json.dumps(stored))

    def _sql(self, statements: str) -> None:
        self.run("mariadb", "--no-defaults", f"--socket={self.layout.mariadb_socket}", f"--execute={statements}")

    def _add_accounts(self) -> None:
        lines = ["add cluster lab", "add qos high Priority=1000 Flags=DenyOnLimit", "add qos low Priority=10"]
        lines.append(f"add qos {CAPPED_QOS} Flags=DenyOnLimit")
        lines += ["modify qos high set Preempt=low", "modify qos low set PreemptMode=requeue"]
        for user, account in ACCOUNTS.items():
            lines.append(f"add account {account} Description={account} Organization=lab")
            lines.append(f"add user {user} Account={account} DefaultAccount={account}")
            lines.append(f"modify user {user} set QOS=normal,high,low,{CAPPED_QOS}")
        # The portal sees everybody's jobs also where PrivateData is set; it may not submit for anybody.
        lines += ["add account portal Description=portal Organization=lab"]
        lines += ["add user slurmlab-portal Account=portal AdminLevel=Operator"]
        answer = self.run("sacctmgr", "--immediate", input="\n".join(lines) + "\n", check=False)
        (self.layout.log / "accounts.log").write_text(answer)
        found = self.run("sacctmgr", "--noheader", "--parsable2", "show", "assoc", f"user={ALICE}", "format=account")
        if found.strip() != ACCOUNTS[ALICE]:
            raise LabError(f"the accounts could not be made: {answer}")

    def _spawn(self, name: str) -> None:
        command, user, extra = self._command(name)
        environment = {**self.environment, MARKER: str(self.layout.root), **extra}
        with (self.layout.log / f"{name}.out").open("ab") as output:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=self.layout.root / "rest" if name == "slurmrestd" else "/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **as_user(user),
            )
        # It runs for as long as the lab does; who ends it finds it by its id.
        process.returncode = 0
        identity = [process.pid, psutil.Process(process.pid).create_time()]
        self._write_processes({**self._read_processes(), name: identity})

    def _command(self, name: str) -> tuple[list[str], str, Mapping[str, str]]:
        """Command, user and further environment of a daemon that stays in the foreground."""
        layout = self.layout
        munge, mariadb = layout.root / "munge", layout.root / "mariadb"
        if name == "munged":
            options = [f"--key-file={layout.etc}/munge.key", f"--socket={layout.munge_socket}", "--num-threads=4"]
            files = {"pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "munged.seed"}
            options += [f"--{option}={munge / file}" for option, file in files.items()]
            return ["munged", "--foreground", *options], "munge", {}
        if name == "mariadbd":
            options = [f"--datadir={mariadb}/data", f"--socket={layout.mariadb_socket}", f"--pid-file={mariadb}/pid"]
            options += ["--skip-networking", f"--log-error={mariadb}/error.log", "--skip-log-bin"]
            options += ["--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=64M"]
            options += ["--innodb-lock-wait-timeout=900", "--max-allowed-packet=16M"]
            return ["mariadbd", "--no-defaults", *options], "mysql", {}
        if name == "slurmdbd":
            # Its client library takes the socket from this variable.
            return ["slurmdbd", "-D"], "slurm", {"MYSQL_UNIX_PORT": str(layout.mariadb_socket)}
        if name == "slurmctld":
            return ["slurmctld", "-D"], "slurm", {}
        if name == "slurmrestd":
            # The newest version of this release only, as every older one would be offered, too.
            options = ["-a", "rest_auth/jwt", "-s", "openapi/v0.0.38,openapi/dbv0.0.38", "-t", "8"]
            address = f"127.0.0.1:{layout.ports['slurmrestd']}"
            return ["slurmrestd", "-f", str(layout.slurm_conf), *options, address], REST_USER, {"SLURM_JWT": "daemon"}
        if name == "token_broker":
            # Its own copy of the code and the system's Python, without the portal's packages: as on a cluster.
            command = ["/usr/bin/python3", "-P", "-m", "token_broker", f"{layout.broker}/broker.toml"]
            return command, BROKER_USER, {"PYTHONPATH": str(layout.broker / "code")}
        if name == "sshd":
            # It starts itself anew for each connection, by its whole name.
            return ["/usr/sbin/sshd", "-D", "-e", "-f", str(layout.ssh / "sshd_config")], "root", {}
        return ["slurmd", "-D", "-N", name], "root", {}

    def _wait_for(self, name: str) -> None:
        checks: dict[str, Callable[[], Any]] = {
            "munged": self.layout.munge_socket.exists,
            "mariadbd": lambda: self._answers("mariadb-admin", f"--socket={self.layout.mariadb_socket}", "ping"),
            "slurmdbd": lambda: self._answers("sacctmgr", "--noheader", "show", "cluster"),
            "slurmctld": lambda: self._answers("scontrol", "ping"),
            "slurmrestd": lambda: _is_listening(self.layout.ports["slurmrestd"]),
            "token_broker": lambda: _accepts(self.layout.broker_socket),
            "sshd": lambda: _is_listening(self.layout.ports["sshd"]),
        }
        check = checks.get(name)
        if check is None:  # a slurmd
            self.wait_for_nodes()
            return

        def is_there() -> bool:
            if self.process(name) is None:
                raise LabError(f"{name} has ended; see {self.layout.log}")
            return bool(check())

        self.wait_until(is_there, name)

    def _answers(self, *command: str) -> bool:
        done = subprocess.run(
            command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=60
        )
        return done.returncode == 0

    @property
    def _processes_file(self) -> Path:
        return self.layout.root / "processes.json"

    def _read_processes(self) -> dict[str, list[Any]]:
        processes: dict[str, list[Any]] = json.loads(self._processes_file.read_text())
        return processes

    def _write_processes(self, processes: Mapping[str, Sequence[Any]]) -> None:
        new = self._processes_file.with_suffix(".new")
        new.write_text(json.dumps(processes))
        new.replace(self._processes_file)


def directory_of(name: str) -> Path:
    """Where the lab of this name is."""
    return _BASE / f"{_PREFIX}{name}"


def remove_lab(root: Path) -> None:
    """Stop what runs of a lab, remove its directory, and the Unix users if no other lab is there."""
    _end(_find_processes(root))
    if root.exists():
        if root.is_symlink() or root.stat().st_uid != os.geteuid():
            raise LabError(f"{root} belongs to somebody else")
        shutil.rmtree(root)
    with _lock_users():
        if not any(other.is_dir() and "." not in other.name for other in _BASE.glob(f"{_PREFIX}*")):
            for user in pwd.getpwall():
                if user.pw_gecos == _USER_COMMENT:
                    try:
                        _run_quietly("userdel", user.pw_name)
                    except LabError as error:  # a process of theirs is just ending: the next lab uses or removes them
                        logger.warning("%s", error)
            SUDOERS.unlink(missing_ok=True)


def _make_users() -> None:
    with _lock_users():
        known = {user.pw_name for user in pwd.getpwall()}
        for name in UNIX_USERS:
            if name not in known:
                home = ["--no-create-home", "--home-dir", "/nonexistent", "--user-group"]
                _run_quietly("useradd", *home, "--shell", "/bin/bash", "--comment", _USER_COMMENT, name)
        # Sshd lets nobody in whose password is locked. No password is "*".
        _run_quietly("usermod", "--password", "*", PORTAL_USER)
        write_sudo_rule()


@contextmanager
def _lock_users() -> Iterator[None]:
    with open(_BASE / f"{_PREFIX}users.lock", "a") as file:
        flock(file, LOCK_EX)
        yield


def as_user(name: str) -> dict[str, Any]:
    """Arguments of subprocess that make a process this user's."""
    if name == "root":
        return {}
    # The broker gives its socket to the portal's group.
    groups = [pwd.getpwnam(PORTAL_USER).pw_gid] if name == BROKER_USER else []
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": groups}


def _run_quietly(*command: str, log: Path | None = None) -> None:
    done = subprocess.run(command, env={"PATH": _PATH}, capture_output=True, text=True, check=False, timeout=60)
    if log is not None:
        log.write_text(done.stdout + done.stderr)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stdout}{done.stderr}")


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _is_listening(port: int) -> bool:
    return any(
        connection.laddr.port == port and connection.status == psutil.CONN_LISTEN
        for connection in psutil.net_connections("tcp4")
    )


def _find_processes(root: Path) -> list[psutil.Process]:
    """Daemons by their marker; scripts of jobs, which have a clean environment, by what Slurm puts into it.

    Sshd writes its state over its environment, so it and its connections are found by their command line.
    """
    wanted = {MARKER: str(root), "SLURM_CONF": str(root / "etc" / "slurm.conf")}
    found = []
    for process in psutil.process_iter():
        try:
            environment, command = process.environ(), process.cmdline()
        except (psutil.Error, OSError):
            continue
        if process.pid != os.getpid() and any(environment.get(name) == value for name, value in wanted.items()):
            found.append(process)
        elif any(f"{root}/ssh/sshd_config" in word for word in command):
            found += [*process.children(recursive=True), process]
    return found


def _end(processes: list[psutil.Process]) -> None:
    """SIGTERM, patience, SIGKILL; children of this process are reaped."""
    for process in processes:
        try:
            process.resume()  # a stopped process can't end by SIGTERM
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(processes, timeout=10)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=10)
