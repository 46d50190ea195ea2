"""Pieces of a log as text, never cut inside a character."""

import codecs
from dataclasses import dataclass

from jobs.backends.base import OutputChunk

SMALLEST_LIMIT = 16
"""Bytes; more than the longest character (4), so that every call gets on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogText:
    """Text of the bytes from `offset` to `next_offset`; `is_end` says that all there is was read."""

    text: str
    offset: int
    next_offset: int
    size: int
    is_end: bool


def decode_chunk(chunk: OutputChunk, *, is_tail: bool, is_complete: bool) -> LogText:
    """Decode a piece as UTF-8, with U+FFFD for what isn't.

    A character whose last bytes are missing is left for the next call, unless the file `is_complete`. A tail
    (read from somewhere in the middle) starts with the first whole character.
    """
    data, offset = chunk.data, chunk.offset
    if is_tail and offset > 0:
        cut = next((index for index, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)
        data, offset = data[cut:], offset + cut
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    is_final = chunk.is_end and is_complete
    text = decoder.decode(data, final=is_final)
    pending = 0 if is_final else len(decoder.getstate()[0])
    return LogText(
        text=text,
        offset=offset,
        next_offset=offset + len(data) - pending,
        size=chunk.size,
        is_end=chunk.is_end,
    )
