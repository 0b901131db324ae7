"""Tells where a worker is, so that a record that kills it can be found, and reads around such records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from model.records import Document, Reason, Reject
from pipelines.corpora.checks import reject_document
from pipelines.corpora.chunks import Chunk, Killer, Unit, read_chunks
from pipelines.corpora.lines import RecordPosition
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.reader import find_positions
from pipelines.corpora.sources import SourceReader, open_source, shown_path
from pipelines.runners.fork_server import tell

Stage = Literal["reading", "splitting", "predicting", "writing"]

_END = RecordPosition(-1)
_NOTHING_FOLLOWS = "; what follows in the file can't be read without it"


@dataclass(frozen=True, slots=True)
class Place:
    """A record, or the last one of a chunk.

    Attributes:
        prefix: what the names of its source's parts begin with.
        start: the first record of its unit.
        record_index: its number.
    """

    prefix: str
    start: int
    record_index: int


@dataclass(frozen=True, slots=True)
class Supplied:
    """A unit that a local worker is supplied with.

    Attributes:
        unit: to be scored.
        careful: True to do one thing at a time, so that it is known what a worker did when it died.
    """

    unit: Unit
    careful: bool = False


Told: TypeAlias = tuple[Place | None, Stage]
"""Where a worker is, and what it does there."""


def tell_place(place: Place | None, stage: Stage) -> None:
    """Tells the process that has started this worker, if one has, where it is and what it does there.

    The thread that reads and splits may be some chunks ahead of the one that predicts and writes.
    """
    tell((place, stage), by="reader" if stage in ("reading", "splitting") else "predictor")


def place_in(unit: Unit, record_index: int) -> Place:
    """Returns the place of a unit's record."""
    return Place(unit.prefix, unit.start.record_index, record_index)


def last_place(chunk: Chunk) -> Place | None:
    """Returns the place of a chunk's last record; None if it has none."""
    return place_in(chunk.unit, chunk.items[-1].record_index) if chunk.items else None


def read_around(source: SourceReader, unit: Unit, options: ReadOptions) -> Iterator[Document | Reject]:
    """Yields a document or a reject for each record from a unit's start on, a reject for each of its killers.

    A killer that can't be read is skipped where positions in the file are known. Else the rest of the source is that
    reject.
    """
    known = {killer.record_index: killer for killer in unit.killers}
    records, index = source.records(options, unit.start), unit.start.record_index
    while True:
        killer = known.get(index)
        if killer is not None and killer.unread:
            following = _position_after(unit, options, index)
            message = killer.message if following else f"{killer.message}{_NOTHING_FOLLOWS}"
            yield Reject(shown_path(unit.source), index, Reason.KILLED_WORKER, message)
            if following is None or following is _END:
                return
            source.stream.seek(0)
            records = source.records(options, following)
        else:
            tell_place(place_in(unit, index), "reading")
            item = next(records, None)
            if item is None:
                return
            yield item if killer is None else _reject(item, killer)
        index += 1


def read_one_by_one(
    unit: Unit, options: ReadOptions, index: int, *, size: int, limit: int | None, first: int
) -> Iterator[Chunk]:
    """Yields the records of a unit's chunk, each as a chunk of its own.

    Args:
        unit: what to read.
        options: how to read it.
        index: the chunk's number.
        size: records per chunk.
        limit: use only this many records of the source.
        first: leave out the records before this one.
    """
    begin, end = index * size, (index + 1) * size
    unit = replace(unit, done=frozenset())  # whose numbers are those of larger chunks
    if unit.records is None:
        limit = end if limit is None else min(end, limit)
    else:
        end = min(end, unit.start.record_index + unit.records)
        # As in `cut_source`: only of Parquet, a unit has several chunks.
        start = unit.start if begin == unit.start.record_index else RecordPosition(begin)
        unit = replace(unit, start=start, records=end - begin)
    for chunk in read_chunks(unit, options, size=1, limit=limit, read=read_around):
        if chunk.index >= max(first, begin) and chunk.items:
            yield chunk


def _reject(item: Document | Reject, killer: Killer) -> Reject:
    if isinstance(item, Reject):
        return item
    beginning = item.sections[0].text if item.sections else item.sentences[0]
    return reject_document(item, Reason.KILLED_WORKER, killer.message, excerpt=beginning)


def _position_after(unit: Unit, options: ReadOptions, index: int) -> RecordPosition | None:
    """Returns the position of the record after one, `_END` if it is the last, None if positions are not known."""
    with open_source(unit.source, unit.state) as source:
        found = find_positions(source.stream, unit.source, options, every=index + 1, limit=index + 2)
    if found is None:
        return None
    positions, records = found
    if records <= index + 1:
        return _END
    by_index = {position.record_index: position for position in positions}
    return by_index.get(index + 1, RecordPosition(index + 1))  # in Parquet, a record's number is its position
