"""Keeps JSON Web Tokens in the lab's token directory fresh, where a centre has a broker: see docs/admin/slurm.md.

It must run as root, mints for a fixed list of users, and ends with the lab. Nothing else of the lab knows how tokens
come about, so that a broker may take its place.

    python -m tests.integration.slurm.tokens --name default
"""

import argparse
import logging
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from typing import Final

from tests.integration.slurm.lab import CHECKOUT, MARKER, LabError, SlurmLab
from tests.integration.slurm.layout import ALICE, BOB, PORTAL_USER

USERS: Final = (PORTAL_USER, ALICE, BOB)
LIFESPAN_S: Final = 600
RENEW_EVERY_S: Final = 120
_RETRY_S: Final = 2

logger = logging.getLogger(__name__)


def write_tokens(lab: SlurmLab, *, lifespan_s: int = LIFESPAN_S) -> None:
    """Mint one for each user, each whole from the moment that it is there. Raises LabError."""
    for user in USERS:
        token = lab.mint_token(user, lifespan_s=lifespan_s)
        new = lab.layout.tokens / f".{uuid.uuid4().hex}"
        new.touch(mode=0o600)
        new.write_text(token)
        new.replace(lab.layout.tokens / f"{user}.jwt")


def renew_tokens(lab: SlurmLab) -> None:
    """Renew until the lab's directory is gone; only the first such process of a lab does anything."""
    with open(lab.layout.tokens / ".renewing", "a") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return
        while lab.layout.tokens.exists():
            try:
                write_tokens(lab)
            except (LabError, subprocess.TimeoutExpired) as error:  # the controller is away: tokens live long enough
                logger.warning("no tokens now: %s", error)
                time.sleep(_RETRY_S)
            else:
                time.sleep(RENEW_EVERY_S)


def spawn_renewal(lab: SlurmLab) -> "subprocess.Popen[bytes]":
    """The loop above in a process of its own, which ends with the lab's."""
    with (lab.layout.log / "tokens.out").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.integration.slurm.tokens", "--name", lab.name],
            cwd=CHECKOUT,
            env={**os.environ, MARKER: str(lab.layout.root)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@contextmanager
def fresh_tokens(lab: SlurmLab) -> Iterator[None]:
    """Tokens from the first moment to the last."""
    write_tokens(lab)
    process = spawn_renewal(lab)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.integration.slurm.tokens", description=__doc__)
    parser.add_argument("--name", default="default", help="of the lab")
    try:
        renew_tokens(SlurmLab.open(parser.parse_args().name))
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
