"""Reading what Slurm's commands print. Pure: text in, values out; ValueError for what is no such text."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

MAX_HOSTS: Final = 100_000
_DURATION: Final = re.compile(
    r"\A(?:(?P<days>[0-9]{1,9})-)?(?:(?:(?P<hours>[0-9]{1,9}):)?(?P<minutes>[0-9]{1,9}):)?(?P<seconds>[0-9]{1,9})\Z"
)
_RANGE: Final = re.compile(r"\A([0-9]{1,9})(?:-([0-9]{1,9}))?\Z")
_SIZE: Final = re.compile(r"\A([0-9]{1,18}(?:\.[0-9]{1,9})?)([KMGTP]?)\Z")


def split_rows(text: str, *, delimiter: str, columns: int) -> Iterator[list[str]]:
    """Rows of `columns` fields, where any field but the first and the last may hold line ends.

    Comments and directories are chosen by users, so a line end must not start a row: rows are counted by
    `delimiter`, which is made up anew for each call and so can't be in anybody's comment.

    Raises:
        ValueError: the text was cut off.
    """
    if not text:
        return
    step = columns - 1
    fields = text.split(delimiter)
    if len(fields) < columns or (len(fields) - 1) % step:
        raise ValueError(f"{len(fields)} fields are no rows of {columns}")
    first = fields[0]
    for start in range(0, len(fields) - 1, step):
        last, _, following = fields[start + step].partition("\n")
        yield [first, *fields[start + 1 : start + step], last]
        first = following


def read_time(text: str) -> datetime | None:
    """A time printed as seconds since the epoch (SLURM_TIME_FORMAT=%s); None for "N/A", "Unknown" and the like."""
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) > 11:  # the year 5138
        raise ValueError(f"{text[:40]!r} is no time")
    return datetime.fromtimestamp(int(text), UTC) if int(text) else None


def read_duration_s(text: str) -> float | None:
    """Seconds of "[days-][[hours:]minutes:]seconds[.fraction]"; None for "UNLIMITED" and the like."""
    whole, _, fraction = text.partition(".")
    match = _DURATION.match(whole)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 86_400 + hours * 3600 + minutes * 60 + seconds + (float(f"0.{fraction}") if fraction else 0.0)


def read_size_bytes(text: str) -> int | None:
    """Bytes of "5376K" or "1.5G"; None for an empty field."""
    if not text:
        return None
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is no size")
    factor = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}[match[2]]
    return int(float(match[1]) * factor)


def read_tres(text: str) -> dict[str, int]:
    """Counts of "cpu=4,mem=10G,gres/gpu=2,gres/gpu:a800=2"; those with a unit are left out."""
    found = {}
    for item in text.split(","):
        name, _, value = item.partition("=")
        if value.isascii() and value.isdigit() and len(value) <= 18:
            found[name] = int(value)
    return found


def count_devices(tres: dict[str, int]) -> int:
    """Accelerators in a set of trackable resources; the entries by type repeat what the others say."""
    plain = sum(count for name, count in tres.items() if name.startswith("gres/") and ":" not in name)
    return plain or sum(count for name, count in tres.items() if name.startswith("gres/"))


def read_gres(text: str) -> list[tuple[str, str, int]]:
    """Name, type and count of each part of "gpu:a800:8(S:0-1),npu:4" or "gpu:a800:2(IDX:0-1)"."""
    found = []
    for item in re.sub(r"\([^()]*\)", "", text).split(","):
        parts = item.split(":")
        if len(parts) < 2 or not parts[0] or not re.fullmatch(r"[0-9]{1,9}", parts[-1]):
            continue
        found.append((parts[0], parts[1] if len(parts) > 2 else "", int(parts[-1])))
    return found


def expand_hosts(text: str) -> tuple[str, ...]:
    """The names in "a800-[01-02,07],login1". Raises ValueError for more than MAX_HOSTS."""
    hosts: list[str] = []
    for item in _split_outside_brackets(text):
        hosts.extend(_expand_item(item, MAX_HOSTS - len(hosts)))
    return tuple(hosts)


def _split_outside_brackets(text: str) -> list[str]:
    return [item for item in re.split(r",(?![^\[]*\])", text) if item]


def _expand_item(item: str, limit: int) -> list[str]:
    head, bracket, rest = item.partition("[")
    if not bracket:
        if limit < 1:
            raise ValueError(f"more than {MAX_HOSTS} hosts")
        return [item]
    inside, _, tail = rest.partition("]")
    names: list[str] = []
    for part in inside.split(","):
        match = _RANGE.match(part)
        if match is None:
            raise ValueError(f"{part!r} is no range of host numbers")
        first, last = int(match[1]), int(match[2] or match[1])
        if last - first >= limit - len(names):
            raise ValueError(f"more than {MAX_HOSTS} hosts")
        names.extend(f"{head}{number:0{len(match[1])}d}" for number in range(first, last + 1))
    ends = _expand_item(tail, limit) if tail else [""]
    if len(names) * len(ends) > limit:
        raise ValueError(f"more than {MAX_HOSTS} hosts")
    return [name + end for name in names for end in ends]
