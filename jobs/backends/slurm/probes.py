"""What the two ways of talking to Slurm can tell an administrator of the cluster."""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

from jobs.backends.base import SchedulerUnavailable, SubmissionRejected
from jobs.backends.checks import Check, failed, ok, warning
from jobs.backends.slurm.commands import CommandRunner
from jobs.backends.slurm.errors import is_unavailability
from jobs.backends.slurm.tokens import TokenRefused, TokenSource, read_expiry, read_owner

LONG_LIFE_S: Final = 3600.0
_SETTING: Final = re.compile(r"^(\w+)\s*= (.*)$", re.MULTILINE)
_AS_OF: Final = re.compile(r"^Configuration data as of (\d+)", re.MULTILINE)
_INTERFACE: Final = re.compile(r"v\d+\.\d+\.\d+")
_SBATCH_SAYS: Final = ("sbatch: error:", "allocation failure:")
"""Other words, such as sudo's, are not Slurm's refusal."""

_SCRIPT: Final = b"#!/bin/sh\ntrue\n"


class AskRest(Protocol):
    """How slurmrestd is asked: an answer without errors, asked as `user`. Raises SchedulerUnavailable."""

    def __call__(self, part: str, path: str, *, user: str) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Server:
    """The release that a daemon tells of itself, which daemon, and the controller's clock (seconds since the epoch).

    `interface` is the version of slurmrestd's interface that was used; "" on the command line.
    """

    daemon: str
    release: str
    clock: float | None
    interface: str = ""


class Probe(ABC):
    """All methods raise SchedulerUnavailable."""

    remedy_for_silence: ClassVar[str]
    """What to do if the controller can't be asked."""

    @abstractmethod
    def read_server(self) -> Server:
        """Who answers."""

    @abstractmethod
    def read_configuration(self) -> Mapping[str, str] | None:
        """slurm.conf as the controller has it; None where it can't be seen."""

    @abstractmethod
    def read_accounted(self) -> set[str]:
        """What accounting counts, such as cpu and gres/gpu; only where slurm.conf can't be seen."""

    @abstractmethod
    def read_identity(self) -> tuple[str, str]:
        """Who the portal is in Slurm, and with which AdminLevel; "" if accounting doesn't know it."""

    @abstractmethod
    def try_as(self, user: str, *, partition: str) -> str:
        """Do as much of a submission as leaves nothing behind; in words, what was done. Raises SubmissionRejected."""

    def check_tokens(self, user: str) -> Iterator[Check]:
        """Whether tokens for the portal and, if given, for `user` can be had, and live shortly."""
        return iter(())


class CliProbe(Probe):
    """By scontrol, sacctmgr and sbatch."""

    remedy_for_silence = (
        "See that slurmctld runs, that this machine reaches it, that munge runs on both with one key, and that "
        "SLURM_CONF and PATH are right."
    )

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner
        self._printed = ""

    def read_server(self) -> Server:
        conf = self.read_configuration()
        match = _AS_OF.search(self._printed)
        return Server("slurmctld", conf.get("SLURM_VERSION", ""), float(match[1]) if match else None)

    def read_configuration(self) -> Mapping[str, str]:
        self._printed = self._ask("scontrol", "show", "config")
        return {name: value.strip() for name, value in _SETTING.findall(self._printed)}

    def read_accounted(self) -> set[str]:
        words = self._ask("sacctmgr", "--noheader", "--parsable2", "show", "tres", "format=Type,Name").splitlines()
        return {"/".join(part for part in line.split("|") if part) for line in words}

    def read_identity(self) -> tuple[str, str]:
        name = self._ask("id", "-un").strip()
        if name == "root":
            return name, "Administrator"
        words = ["sacctmgr", "--noheader", "--parsable2", "show", "user", f"name={name}", "format=AdminLevel"]
        return name, self._ask(*words).strip()

    def try_as(self, user: str, *, partition: str) -> str:
        words = ["sbatch", "--test-only", "--export=NONE", "--chdir=/", "--output=/dev/null"]
        words += [f"--partition={partition}", "--nodes=1", "--time=1"]
        done = self._runner.run(words, user=user, input=_SCRIPT)
        if done.exit_code:
            said = done.errors or f"it ended with {done.exit_code}, without a word"
            if is_unavailability(said) or not any(sign in said for sign in _SBATCH_SAYS):
                raise SchedulerUnavailable(f"sbatch can't be run as {user}: {said}")
            raise SubmissionRejected(said)
        return f"sbatch --test-only as {user}, in partition {partition}, was taken"

    def _ask(self, *command: str) -> str:
        done = self._runner.run(command)
        if done.exit_code:
            raise SchedulerUnavailable(f"{' '.join(command)}: {done.errors or done.text.strip()}")
        return done.text


class RestProbe(Probe):
    """By slurmrestd."""

    remedy_for_silence = (
        "See that slurmrestd and slurmctld run, and that URL is right. Where it says 'Unspecified error', Slurm "
        "doesn't take the token: the broker's key is not Slurm's, it is another user's, or the clocks differ."
    )

    def __init__(self, ask: AskRest, *, user: str, tokens: TokenSource) -> None:
        self._ask = ask
        self._user = user
        self._tokens = tokens

    def read_server(self) -> Server:
        answer = self._ask("slurm", "diag", user=self._user)
        meta = answer.get("meta") or {}
        slurm = meta.get("Slurm") or meta.get("slurm") or {}
        at = (answer.get("statistics") or {}).get("req_time")
        number = at.get("number") if isinstance(at, dict) else at
        interface = _INTERFACE.search(str(meta.get("plugin") or ""))
        return Server(
            "slurmrestd",
            str(slurm.get("release") or ""),
            float(number) if isinstance(number, int | float) else None,
            interface[0] if interface else "one that it doesn't name",
        )

    def read_configuration(self) -> None:
        return None

    def read_accounted(self) -> set[str]:
        answer = self._ask("slurmdb", "tres", user=self._user)
        items = answer.get("TRES") or answer.get("tres") or []
        return {"/".join(str(part) for part in (item.get("type"), item.get("name")) if part) for item in items}

    def read_identity(self) -> tuple[str, str]:
        answer = self._ask("slurmdb", f"user/{self._user}", user=self._user)
        level = next((item.get("administrator_level") for item in answer.get("users") or []), "")
        return self._user, str(level[0] if isinstance(level, list) and level else level or "")

    def try_as(self, user: str, *, partition: str) -> str:
        answer = self._ask("slurm", f"partition/{partition}", user=user)
        if not answer.get("partitions"):
            raise SubmissionRejected(f"There is no partition {partition} for {user}.")
        return f"Slurm takes a token for {user} (this interface can't try a submission)"

    def check_tokens(self, user: str) -> Iterator[Check]:
        for name in dict.fromkeys((self._user, user) if user else (self._user,)):
            yield self._check_token(name)

    def _check_token(self, name: str) -> Check:
        try:
            token = self._tokens.token_for(name)
            left_s, owner = read_expiry(token) - time.time(), read_owner(token)
        except TokenRefused as error:
            return failed("tokens", str(error), f"If {name} shall use the portal: put the name on the broker's list.")
        except SchedulerUnavailable as error:
            return failed(
                "tokens", str(error), "Start the token broker, and see who may reach its socket; its log says more."
            )
        if owner != name:
            return failed("tokens", f"The token for {name} is one for {owner}.", "Put the broker's files right.")
        if left_s > LONG_LIFE_S:
            return warning(
                "tokens",
                f"The token for {name} lives for {left_s / 3600:.1f} h more: who steals it has it for so long.",
                "Let the broker make tokens for 300 s (token_life_s).",
            )
        return ok("tokens", f"There is a token for {name}; it lives for {left_s:.0f} s.")
