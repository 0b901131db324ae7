"""Lines of a binary stream with a limit on their length, and positions from which reading can start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import BinaryIO, NamedTuple

from model.records import MAX_EXCERPT_BYTES

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DRAIN_BYTES = 1024 * 1024


class RecordPosition(NamedTuple):
    """Where a record begins in a source. Reading can start there.

    Attributes:
        record_index: the record's position among all records of the source, from 0.
        line: the line that it begins on, from 1; formats without lines leave it at 1.
        offset: bytes before that line; formats without lines leave it at 0.
    """

    record_index: int = 0
    line: int = 1
    offset: int = 0


START = RecordPosition()
"""The beginning of a source."""


def every_so_many(
    positions: Iterable[RecordPosition], every: int, limit: int | None
) -> tuple[list[RecordPosition], int]:
    """Returns the positions of the records 0, `every`, 2 `every`, ..., and how many records there are up to a limit."""
    chosen, records = [], 0
    for position in islice(positions, limit):
        if position.record_index % every == 0:
            chosen.append(position)
        records += 1
    return chosen, records


class Line(NamedTuple):
    """One line.

    Attributes:
        number: from 1, blank lines included.
        data: the line without its line end; only the beginning of one that is too long.
        too_long: True if the line is longer than the limit.
        start, end: bytes of the source before the line, and before the next line.
    """

    number: int
    data: bytes
    too_long: bool
    start: int
    end: int


def bounded_lines(stream: BinaryIO, max_bytes: int, *, start: RecordPosition = START) -> Iterator[Line]:
    """Yields every line of `stream`, without a byte order mark; never keeps more than `max_bytes` of one in memory.

    Args:
        stream: positioned at `start`.
        max_bytes: the limit, not counting the line end.
        start: what the numbers and byte counts of the lines begin with.
    """
    room = max_bytes + len(b"\r\n")
    number, begin = start.line - 1, start.offset
    while data := stream.readline(room):
        number += 1
        end = begin + len(data)
        ended = data.endswith(b"\n") or len(data) < room
        data = data.rstrip(b"\r\n")
        if number == 1:
            data = data.removeprefix(BYTE_ORDER_MARK)
        too_long = not ended or len(data) > max_bytes
        if not ended:
            while rest := stream.readline(_DRAIN_BYTES):
                end += len(rest)
                if rest.endswith(b"\n"):
                    break
        yield Line(number, data[:MAX_EXCERPT_BYTES] if too_long else data, too_long, begin, end)
        begin = end
