"""Lines of a binary stream, none longer than a limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from model.records import MAX_EXCERPT_BYTES

_DRAIN_BYTES = 1024 * 1024


class Line(NamedTuple):
    """One line.

    Attributes:
        number: from 1, blank lines included.
        data: the line without its line end; only the beginning of one that is too long.
        too_long: whether the line is longer than the limit.
    """

    number: int
    data: bytes
    too_long: bool


def bounded_lines(stream: BinaryIO, max_bytes: int) -> Iterator[Line]:
    """Yields every line of `stream`, without a byte order mark; never holds more than `max_bytes` of one in memory."""
    room = max_bytes + len(b"\r\n")
    number = 0
    while data := stream.readline(room):
        number += 1
        ended = data.endswith(b"\n") or len(data) < room
        data = data.rstrip(b"\r\n")
        if number == 1:
            data = data.removeprefix(b"\xef\xbb\xbf")
        too_long = not ended or len(data) > max_bytes
        if not ended:
            while (rest := stream.readline(_DRAIN_BYTES)) and not rest.endswith(b"\n"):
                pass
        yield Line(number, data[:MAX_EXCERPT_BYTES] if too_long else data, too_long)
