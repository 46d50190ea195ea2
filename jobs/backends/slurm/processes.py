"""One process, run to its end: with a limit for its time and for what it may print."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Final, cast

from jobs.backends.base import SchedulerUnavailable

MAX_OUTPUT_BYTES: Final = 128 * 1024 * 1024
"""Of one command: 10,000 jobs are 2 MB of text."""

_PIECE_BYTES: Final = 256 * 1024
_KILL_PATIENCE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended and what it printed."""

    exit_code: int
    output: bytes
    errors: str

    @property
    def text(self) -> str:
        """The output; bytes that are no UTF-8, as in somebody's comment, are replaced."""
        return self.output.decode("utf-8", "replace")


def run_to_end(
    words: Sequence[str], *, name: str, input: bytes, environment: Mapping[str, str], timeout_s: float
) -> CommandResult:
    """Start a program with `input` on its standard input and wait for its end; `name` is what messages call it.

    Raises:
        SchedulerUnavailable: it can't be started, prints too much, or ran out of time. It is killed then, with what
            it has started, but may have had its effect.
    """
    try:
        process = subprocess.Popen(  # noqa: S603  # a list of checked words
            list(words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise SchedulerUnavailable(f"{words[0]} can't be started: {error}") from error
    except ValueError as error:  # a NUL in a word
        raise SchedulerUnavailable(f"{name} can't be started: {error}") from error
    try:
        ends_at = time.monotonic() + timeout_s
        output, errors = _exchange(process, input, ends_at=ends_at)
        code = process.wait(timeout=max(0.0, ends_at - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        raise SchedulerUnavailable(f"{name} did not answer within {timeout_s:g} s") from error
    except OverflowError as error:
        raise SchedulerUnavailable(f"{name} printed more than {MAX_OUTPUT_BYTES} bytes") from error
    finally:
        _put_away(process)
    return CommandResult(code, output, errors.decode("utf-8", "replace").strip())


def _put_away(process: subprocess.Popen[bytes]) -> None:
    """Kill what still runs. Sudo and what it started can't be killed: their output is closed, and nobody waits."""
    for stream in _streams(process):
        _close(stream)
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_KILL_PATIENCE_S)


def _streams(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    return cast(tuple[IO[bytes], IO[bytes], IO[bytes]], (process.stdin, process.stdout, process.stderr))


def _exchange(process: subprocess.Popen[bytes], input: bytes, *, ends_at: float) -> tuple[bytes, bytes]:
    """Write and read until the process has closed its output. Raises TimeoutError and OverflowError."""
    stdin, stdout, stderr = _streams(process)
    parts: dict[IO[bytes], list[bytes]] = {stdout: [], stderr: []}
    size, rest = 0, memoryview(input)
    with selectors.DefaultSelector() as selector:
        for stream in parts:
            selector.register(stream, selectors.EVENT_READ)
        if rest:
            os.set_blocking(stdin.fileno(), False)
            selector.register(stdin, selectors.EVENT_WRITE)
        else:
            _close(stdin)
        while selector.get_map():
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            for key, _ in selector.select(left_s):
                if key.fileobj is stdin:
                    rest = _write_some(stdin, rest)
                    if not rest:
                        selector.unregister(stdin)
                        _close(stdin)
                    continue
                piece = os.read(key.fd, _PIECE_BYTES)
                if not piece:
                    selector.unregister(key.fileobj)
                    continue
                size += len(piece)
                if size > MAX_OUTPUT_BYTES:
                    raise OverflowError
                parts[key.fileobj].append(piece)  # type: ignore[index]  # one of the two
    return b"".join(parts[stdout]), b"".join(parts[stderr])


def _write_some(stream: IO[bytes], rest: memoryview) -> memoryview:
    """What remains to be written; nothing if the reader has gone, as one that refuses before it reads does."""
    try:
        return rest[os.write(stream.fileno(), rest[:_PIECE_BYTES]) :]
    except BlockingIOError:
        return rest
    except BrokenPipeError:
        return rest[:0]


def _close(stream: IO[bytes]) -> None:
    with suppress(BrokenPipeError):
        stream.close()
