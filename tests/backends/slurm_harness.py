"""How the tests drive a real Slurm."""

import shutil
import time
import uuid
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self

from jobs.backends.base import JobStatus, UsageRow
from jobs.backends.slurm import SlurmCliBackend, SlurmRestBackend
from jobs.backends.slurm.backend import SlurmBackend
from jobs.backends.slurm.ssh import SshRunner
from jobs.spec import JobSpec
from jobs.states import JobState
from tests.backends.harness import LONG, BackendHarness, Behaviour, wait_until
from tests.integration.slurm.lab import SlurmLab
from tests.integration.slurm.layout import ACCOUNTS, ALICE, CAROL, MESSAGE_TIMEOUT_S, PORTAL_USER
from tests.integration.slurm.sharing import take_turn

SETTLE_S = 1.0
"""Short, since nothing but the tests of doubt leaves Slurm in doubt; those say what they need."""


class SlurmHarness(BackendHarness):
    """A real Slurm, with a jobs' directory for each test: jobs of other tests are no jobs of the portal's."""

    runs_scripts = True
    minute_s = 1.0
    patience_s = 60.0
    predicts_at_once = False
    can_forbid_requeue: ClassVar[bool] = True
    """Slurmrestd's v0.0.38 reads "requeue" and forgets it."""
    bad_options: ClassVar[tuple[tuple[dict[str, Any], str], ...]] = (
        ({"TYPO": 1}, "TYPO"),
        ({"JOBS_DIRECTORY": None}, "JOBS_DIRECTORY"),
        ({"JOBS_DIRECTORY": "relative"}, "relative"),
        ({"JOBS_DIRECTORY": "/a/../b"}, "JOBS_DIRECTORY"),
        ({"JOBS_DIRECTORY": "/a,b"}, "/a,b"),
        ({"JOBS_DIRECTORY": "/a b"}, "/a b"),
        ({"RUN_AS": "sudo -u {user}"}, "RUN_AS"),
        ({"RUN_AS": ["sudo", "-n"]}, "RUN_AS"),
        ({"RUN_AS": []}, "RUN_AS"),
        ({"ENVIRONMENT": {"A": "b,LD_PRELOAD=/x"}}, "ENVIRONMENT"),
        ({"ENVIRONMENT": {"A B": "c"}}, "A B"),
        ({"ENVIRONMENT": {"A": "b\nc"}}, "ENVIRONMENT"),
        ({"TIMEOUT_S": 0}, "TIMEOUT_S"),
        ({"SETTLE_S": "soon"}, "SETTLE_S"),
        ({"MIN_UID": 0}, "MIN_UID"),
    )
    lab: SlurmLab
    backend: SlurmBackend

    def __init__(self, directory: Path, lab: SlurmLab) -> None:
        self.lab = lab
        super().__init__(directory)

    @abstractmethod
    def open_backend(self, **options: Any) -> SlurmBackend:
        """A new object on the same Slurm, with some options changed."""

    @classmethod
    @contextmanager
    def on(cls, lab: SlurmLab) -> Iterator[Self]:
        """A harness that has the lab for itself."""
        with take_turn(lab):
            harness = cls(lab.layout.jobs / uuid.uuid4().hex, lab)
            yield harness
        harness.close()

    def common_options(self) -> dict[str, Any]:
        """OPTIONS that both backends have."""
        return {"JOBS_DIRECTORY": str(self.directory), "TIMEOUT_S": MESSAGE_TIMEOUT_S + 10, "SETTLE_S": SETTLE_S}

    @property
    def now(self) -> datetime:
        return datetime.now(UTC).replace(microsecond=0)  # Slurm counts in whole seconds

    def make_spec(self, behaviour: Behaviour = LONG, **changes: Any) -> JobSpec:
        return super().make_spec(behaviour, **{"unix_user": ALICE, "slurm_account": ACCOUNTS[ALICE], **changes})

    def submit(self, behaviour: Behaviour, **changes: Any) -> str:
        spec = self.make_spec(behaviour, **changes)
        native_id = self.backend.submit(spec, key=spec.key)
        if spec.time_limit_minutes == 1:
            self._shorten(native_id)
        return native_id

    def _shorten(self, native_id: str) -> None:
        """Bring the end of a job with the shortest limit nearer; Slurm looks every 30 s for jobs past their limit."""
        status = self.wait(native_id, lambda status: status.state is JobState.RUNNING)
        assert status.started_at is not None
        end = datetime.fromtimestamp(time.time() + self.minute_s, UTC)
        self.lab.run("scontrol", "update", f"jobid={native_id}", f"endtime={end:%Y-%m-%dT%H:%M:%S}")

    def submit_script(self, *lines: str, **changes: Any) -> str:
        return self.submit(LONG, script="\n".join(("#!/bin/bash", *lines)) + "\n", **changes)

    def usage(self, native_id: str, since: datetime) -> dict[str, UsageRow]:
        def ask() -> dict[str, UsageRow]:
            rows = {row.native_id: row for row in self.backend.usage(since)}
            return rows if native_id in rows else {}

        found: dict[str, UsageRow] = wait_until(ask, f"accounting of job {native_id}")
        return found

    def read_text(self, native_id: str) -> str:
        chunk = self.backend.read_log(native_id, 0)
        return "" if chunk is None else chunk.data.decode()

    def work_directory(self, native_id: str) -> Path:
        return self.directory / self.status(native_id).key

    def jobs_with(self, key: str) -> list[str]:
        """Ids of all jobs in Slurm's memory that carry a key, refused ones not counted."""
        lines = self.lab.run("squeue", "--noheader", "--states=all", "--format=%A|%T|%N|%k").splitlines()
        rows = [line.split("|", 3) for line in lines if line.count("|") >= 3]  # a test makes a comment with line ends
        return [row[0] for row in rows if row[3] == f"portal:{key}" and not (row[1] == "FAILED" and not row[2])]

    def let_time_pass(self) -> None:
        time.sleep(0.02)

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def is_running(status: JobStatus) -> bool:
    return status.state is JobState.RUNNING


class SlurmRestHarness(SlurmHarness):
    name = "slurm.rest"
    forecasts_waiting = False
    can_forbid_requeue = False
    bad_options = (
        *SlurmHarness.bad_options,
        ({"URL": "slurm.example.org"}, "URL"),
        ({"URL": "http://user@host/path"}, "URL"),
        ({"USER": "root"}, "USER"),
        ({"USER": None}, "USER"),
        ({"TOKEN_BROKER": "socket"}, "TOKEN_BROKER"),
        ({"TOKEN_DIRECTORY": "/run/tokens"}, "exactly one of them"),
    )

    def open_backend(self, **options: Any) -> SlurmRestBackend:
        return SlurmRestBackend("slurm", {**self.common_options(), **self.token_options(), **options})

    def token_options(self) -> dict[str, Any]:
        """Where slurmrestd is, and where tokens come from: the token broker."""
        return {**self.rest_options(), "TOKEN_BROKER": str(self.lab.layout.broker_socket)}

    def rest_options(self) -> dict[str, Any]:
        """Where slurmrestd is."""
        return {"URL": self.lab.layout.rest_url, "USER": PORTAL_USER}


class TokenDirectoryHarness(SlurmRestHarness):
    """The same with tokens in files."""

    def __init__(self, directory: Path, lab: SlurmLab) -> None:
        for user in (PORTAL_USER, ALICE, CAROL):
            write_token(lab, user, lab.mint_token(user))
        super().__init__(directory, lab)

    def token_options(self) -> dict[str, Any]:
        return {**self.rest_options(), "TOKEN_DIRECTORY": str(self.lab.layout.tokens)}


def write_token(lab: SlurmLab, user: str, token: str, *, mode: int = 0o600) -> None:
    """As a broker does: whole from the moment that it is there."""
    new = lab.layout.tokens / ".new"
    new.touch(mode=mode)
    new.write_text(token)
    new.chmod(mode)
    new.replace(lab.layout.tokens / f"{user}.jwt")


class SlurmCliHarness(SlurmHarness):
    name = "slurm.cli"

    def open_backend(self, **options: Any) -> SlurmCliBackend:
        slurm_conf = str(self.lab.layout.slurm_conf)
        return SlurmCliBackend("slurm", {**self.common_options(), "SLURM_CONF": slurm_conf, **options})


class SlurmSshHarness(SlurmHarness):
    """The command line of another machine: a real sshd, and a portal that is neither there nor root there."""

    name = "slurm.ssh"
    bad_options = (
        *SlurmHarness.bad_options,
        ({"SSH": "submit.example.org"}, "SSH"),
        ({"SSH": {}}, "HOST"),
        ({"SSH": {"HOST": "-oProxyCommand=x"}}, "HOST"),
        ({"SSH": {"HOST": "submit", "USER": "root"}}, "USER"),
        ({"SSH": {"HOST": "submit", "USER": "portal"}}, "KEY_FILE"),
        ({"SSH": {"HOST": "submit", "USER": "portal", "KEY_FILE": "/k", "KNOWN_HOSTS": None}}, "KNOWN_HOSTS"),
        ({"SSH": {"HOST": "submit", "USER": "portal", "KEY_FILE": "/k k", "KNOWN_HOSTS": "/h"}}, "KEY_FILE"),
        ({"SSH": {"HOST": "submit", "USER": "portal", "PORT": 0}}, "PORT"),
        ({"SSH": {"HOST": "submit", "PASSWORD": "x"}}, "PASSWORD"),
        (
            {
                "SSH": {
                    "HOST": "submit",
                    "USER": "portal",
                    "KEY_FILE": "/k",
                    "KNOWN_HOSTS": "/h",
                    "CONTROL_DIRECTORY": "/" + "a" * 80,
                }
            },
            "CONTROL_DIRECTORY",
        ),
    )
    backend: SlurmCliBackend

    def __init__(self, directory: Path, lab: SlurmLab) -> None:
        # What an operator does: the portal's account there can't make it in a directory of root's.
        directory.mkdir()
        directory.chmod(0o1733)
        shutil.chown(directory, PORTAL_USER)
        super().__init__(directory, lab)

    def ssh_options(self) -> dict[str, Any]:
        layout = self.lab.layout
        return {
            "HOST": "127.0.0.1",
            "PORT": layout.ports["sshd"],
            "USER": PORTAL_USER,
            "KEY_FILE": str(layout.ssh / "portal_key"),
            "KNOWN_HOSTS": str(layout.ssh / "known_hosts"),
            "CONTROL_DIRECTORY": str(layout.ssh / "control"),
        }

    def open_backend(self, **options: Any) -> SlurmCliBackend:
        slurm = {"SLURM_CONF": str(self.lab.layout.slurm_conf), "RUN_AS": ["sudo", "-n", "-u", "{user}", "--"]}
        return SlurmCliBackend("slurm", {**self.common_options(), **slurm, "SSH": self.ssh_options(), **options})

    @property
    def runner(self) -> SshRunner:
        runner = self.backend._runner
        assert isinstance(runner, SshRunner)
        return runner

    def close(self) -> None:
        self.runner.close()
        super().close()
