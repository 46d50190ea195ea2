"""Checkpoints that are either complete or not there: written aside, flushed to disk, then renamed."""

import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEEP = 2
_NAME = re.compile(r"\Acheckpoint-(\d{8})\.npz\Z")


class NoReadableCheckpoint(Exception):
    """There are checkpoint files, but none can be read."""


def write_checkpoint(directory: Path, *, step: int, arrays: Mapping[str, NDArray[Any]], state: object) -> Path:
    """Write one checkpoint, then delete all but the newest `KEEP`. `state` is anything JSON can hold."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"checkpoint-{step:08d}.npz"
    unfinished = directory / f".{path.name}.{os.getpid()}.tmp"
    encoded = np.frombuffer(json.dumps(state).encode(), np.uint8)
    try:
        with unfinished.open("wb") as file:
            np.savez(file, allow_pickle=False, state=encoded, **arrays)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    _flush_directory(directory)
    for old in list_checkpoints(directory)[:-KEEP]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints of a directory, oldest step first; what an interrupted write left is none."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.match(path.name))


def read_newest_checkpoint(directory: Path) -> tuple[Path, dict[str, NDArray[Any]], Any] | None:
    """Return path, arrays and state of the newest readable checkpoint; None if there are none at all.

    Raises:
        NoReadableCheckpoint: there are some, all damaged.
    """
    paths = list_checkpoints(directory)
    for path in reversed(paths):
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            state = json.loads(arrays.pop("state").tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue
        return path, arrays, state
    if paths:
        raise NoReadableCheckpoint(f"{directory}: none of the {len(paths)} checkpoints can be read")
    return None


def _flush_directory(directory: Path) -> None:
    """A rename is only sure to outlive a power failure once the directory itself is on disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
