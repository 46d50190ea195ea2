"""A lab for tests: started by the first that needs it, stopped by the last.

Each worker of pytest-xdist has one of its own, since tests want it for themselves and mostly wait; test sessions that
run side by side on one checkout share them.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Final

import psutil

from tests.integration.slurm.lab import LabError, SlurmLab, directory_of, remove_lab

_CHECKOUT: Final = Path(__file__).resolve().parents[3]
LAB_NAME: Final = (
    f"test-{hashlib.sha256(str(_CHECKOUT).encode()).hexdigest()[:8]}-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
)


@contextmanager
def share_lab() -> Iterator[SlurmLab]:
    """A running lab that others may use at the same time; see `take_turn`. Raises LabError."""
    me = _users() / f"{os.getpid()}-{psutil.Process().create_time()}"
    with _lock("lock"):
        lab = _open_shared() or SlurmLab.create(LAB_NAME)
        me.touch()
    try:
        yield lab
    finally:
        with _lock("lock"):
            me.unlink(missing_ok=True)
            if not _living_users():
                remove_lab(lab.layout.root)


@contextmanager
def take_turn(lab: SlurmLab) -> Iterator[None]:
    """Have the lab for oneself, in working order and with nothing in its queue."""
    with _lock("turn"):
        for name in lab.daemons:
            if lab.process(name) is None:
                lab.start(name)
        lab.cancel_all()
        try:
            yield
        finally:
            lab.cancel_all()


def _open_shared() -> SlurmLab | None:
    """The lab that living processes use; what killed ones have left is in no known state."""
    if not _living_users():
        return None
    try:
        return SlurmLab.open(LAB_NAME)
    except LabError:
        return None


def _living_users() -> list[Path]:
    living = []
    for file in _users().iterdir():
        pid, _, created = file.name.partition("-")
        try:
            is_alive = psutil.Process(int(pid)).create_time() == float(created)
        except (psutil.NoSuchProcess, ValueError):
            is_alive = False
        if is_alive:
            living.append(file)
        else:
            file.unlink(missing_ok=True)
    return living


def _users() -> Path:
    directory = directory_of(f"{LAB_NAME}.users")
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


@contextmanager
def _lock(name: str) -> Iterator[None]:
    with open(directory_of(f"{LAB_NAME}.{name}"), "a") as file:
        flock(file, LOCK_EX)
        yield
