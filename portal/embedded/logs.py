"""One log of all parts: every line prefixed with the part that wrote it, on the terminal and in logs/all.log."""

import os
import shutil
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from portal.embedded.state import Home

MERGED = "all"
PREFIX_WIDTH = 8
ROTATE_BYTES = 20_000_000
_COLOURS = {"portal": 1, "web": 32, "worker": 36, "beat": 35, "postgres": 34, "valkey": 33, "setup": 90}


class LogFollower:
    """Reads the complete lines that were appended to a file since the last look."""

    def __init__(self, path: Path, *, offset: int) -> None:
        self.path = path
        self.offset = offset

    def read_lines(self) -> list[str]:
        """New complete lines; a line still being written waits for its end."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return []
        if size < self.offset:  # rotated
            self.offset = 0
        if size == self.offset:
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            block = file.read(4_000_000)
        complete = block.rfind(b"\n") + 1
        if complete == 0 and len(block) < 1_000_000:
            return []
        complete = complete or len(block)
        self.offset += complete
        return block[:complete].decode(errors="replace").splitlines()


class MergedLog:
    """Gathers the parts' own log files into all.log and onto a terminal."""

    def __init__(self, home: Home, terminal: IO[str] | None) -> None:
        self.home = home
        self.terminal = terminal
        self.followers: dict[str, LogFollower] = {}
        self._merged = home.log_of(MERGED).open("ab", buffering=0)
        self._is_merged_failing = False

    def follow(self, part: str, *, offset: int) -> None:
        """Show what `part` writes to its log from `offset` on."""
        self.followers.setdefault(part, LogFollower(self.home.log_of(part), offset=offset))

    def say(self, line: str, *, part: str = "portal") -> None:
        """Write one line of the supervisor itself."""
        self._write(part, line)

    def pump(self) -> None:
        """Pass on what the parts have written since the last call."""
        for part, follower in self.followers.items():
            for line in follower.read_lines():
                self._write(part, line)

    def rotate(self) -> None:
        """Copy logs that have grown large to *.log.1 and empty them; they are written in append mode throughout."""
        self.pump()
        for path in (*(follower.path for follower in self.followers.values()), self.home.log_of(MERGED)):
            if path.exists() and path.stat().st_size > ROTATE_BYTES:
                shutil.copyfile(path, path.with_suffix(".log.1"))
                os.truncate(path, 0)

    def close(self) -> None:
        """Pass on the rest and close all.log."""
        self.pump()
        self._merged.close()

    def _write(self, part: str, line: str) -> None:
        text = f"{part:<{PREFIX_WIDTH}} | {line}"
        self._keep(text)
        self._show(text)

    def _keep(self, text: str) -> None:
        try:
            self._merged.write(text.encode() + b"\n")
            self._is_merged_failing = False
        except OSError as error:  # a full disk must not stop the parts; said once, on the terminal
            if not self._is_merged_failing:
                self._is_merged_failing = True
                self._show(f"{'portal':<{PREFIX_WIDTH}} | cannot write {self._merged.name}: {error.strerror}")

    def _show(self, text: str) -> None:
        if self.terminal is None:
            return
        try:
            print(format_line(text, self.terminal), file=self.terminal, flush=True)
        except OSError:  # the terminal is gone (a closed ssh session); all.log goes on
            self.terminal = None


def format_line(text: str, terminal: IO[str]) -> str:
    """A merged line with its prefix coloured, when `terminal` is one and NO_COLOR is unset."""
    if not terminal.isatty() or os.environ.get("NO_COLOR"):
        return text
    prefix, bar, rest = text.partition(" | ")
    return f"\x1b[{_COLOURS.get(prefix.strip(), 37)}m{prefix}{bar}\x1b[0m{rest}"


def read_merged(home: Home, *, part: str | None, last: int, is_following: bool) -> Iterator[str]:
    """The last lines of all.log, only those of `part` if given; then, if following, new ones for ever."""
    path = home.log_of(MERGED)
    follower = LogFollower(path, offset=0)
    past: deque[str] = deque(maxlen=last)
    while lines := follower.read_lines():
        past.extend(line for line in lines if _is_of(line, part))
    yield from past
    while is_following:
        for line in follower.read_lines():
            if _is_of(line, part):
                yield line
        time.sleep(0.2)


def _is_of(line: str, part: str | None) -> bool:
    return part is None or line.split(" | ", 1)[0].strip() == part
