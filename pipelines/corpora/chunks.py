"""How an input collection is cut into units of work, and units into chunks of a fixed number of records.

The chunks of a file are the same however it is cut: chunk 3 of 500 records holds the records 1,500 to 1,999, always.
A unit is a run of chunks that one worker reads in order. Plain JSON lines, CSV and TSV are cut into single chunks,
Parquet along its row groups; whatever can only be read from its beginning is one unit.

A chunk's name depends only on its file and its number, never on the runner or on timing, and the last chunk of a file
is marked as the last. So the names of the existing parts tell which files are finished, and which chunks are missing
in others.

A chunk with much text is passed on in pieces, so that memory holds one piece. Each piece makes a part of its own, and
the name of the chunk's last piece says how many there are. Where a piece ends depends on the chunk's records alone.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import PurePosixPath
from typing import Any

from model.records import Document, Reason, Reject
from pipelines.corpora.lines import START, RecordPosition
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.reader import find_positions
from pipelines.corpora.sources import (
    FileState,
    SourceFailure,
    SourceReader,
    describe_other_than_file,
    open_source,
    shown_path,
)

_HASHES = 1 << 64
_PART_NAME = re.compile(
    r"(?P<prefix>part-.+-[0-9a-f]{16})-(?P<index>\d{6,})(-p(?P<piece>\d{3,})(?P<end>-end)?)?(?P<last>-last)?"
)
_MOST_CHARS = 16 * 1024 * 1024  # in a piece of several records
_CHARS_PER_SENTENCE = 100  # what a sentence takes besides its text
_CHARS_PER_NUMBER = 8


@dataclass(frozen=True, slots=True)
class Killer:
    """A record that kills the process that reads or scores it.

    Attributes:
        record_index: its position among the records of its source, from 0.
        message: how the process ended, and what it was doing.
        unread: whether it ends already when it reads the record.
    """

    record_index: int
    message: str
    unread: bool


@dataclass(frozen=True, slots=True)
class Unit:
    """A run of neighbouring chunks of one file, which one worker reads in order.

    Attributes:
        source: the file's path.
        prefix: what the names of its parts begin with.
        split: the split of its documents, if the user has named one.
        start: its first record, which begins a chunk.
        records: how many records it has; None if that is not known before the file is read.
        ends: whether it ends with the file.
        done: the numbers of its finished chunks, which are skipped.
        state: what the file has to look like when it is read; None for anything.
        killers: records of its source that are not to be scored.
    """

    source: str
    prefix: str
    split: str | None = None
    start: RecordPosition = START
    records: int | None = None
    ends: bool = True
    done: frozenset[int] = frozenset()
    state: FileState | None = None
    killers: tuple[Killer, ...] = ()

    def __reduce__(self) -> tuple[type[Unit], tuple[Any, ...]]:
        # There may be a million, and pickling one takes a third of the time that it takes without this.
        known = (self.source, self.prefix, self.split, self.start, self.records, self.ends, self.done, self.state)
        return Unit, (*known, self.killers)

    def chunks(self, size: int) -> range:
        """Returns the numbers of its chunks of `size` records, if it knows its records."""
        assert self.records is not None
        return range(self.start.record_index // size, -(-(self.start.record_index + self.records) // size))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A fixed number of neighbouring records of one source, or a piece of them; its results make one part.

    Attributes:
        unit: where they come from.
        index: the chunk's number within the source, from 0.
        last: whether the source ends with it.
        items: a document or a reject for each record.
        piece: the piece's number within the chunk, from 0.
        ends: whether the chunk ends with this piece.
    """

    unit: Unit
    index: int
    last: bool
    items: tuple[Document | Reject, ...]
    piece: int = 0
    ends: bool = True

    @property
    def name(self) -> str:
        """The name of its part files; no other piece of any chunk has it."""
        piece = "" if self.piece == 0 and self.ends else f"-p{self.piece:03d}{'-end' if self.ends else ''}"
        return f"{self.unit.prefix}-{self.index:06d}{piece}{'-last' if self.last else ''}"


@dataclass(frozen=True, slots=True)
class Finished:
    """Which chunks of one source are finished, by the names of their parts.

    Attributes:
        chunks: their numbers.
        last: the number of the source's last chunk; None until that is finished.
    """

    chunks: Set[int]
    last: int | None = None

    @property
    def whole(self) -> bool:
        """Whether every chunk of the source is finished."""
        return self.last is not None and len(self.chunks) == self.last + 1


NOTHING = Finished(frozenset())
_ONE_CHUNK = Finished(frozenset({0}), 0)
"""Of every small file that is finished: there may be a million."""


def part_prefix(source: str, *identity: str) -> str:
    """Returns what the names of a source's parts begin with.

    Args:
        source: its path.
        identity: what else distinguishes its parts, such as fingerprints of its content and of the job.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(source).name.split(".")[0])[:40] or "input"
    digest = hashlib.sha256("\n".join((source, *identity)).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"part-{stem}-{digest}"


def finished_chunks(names: Iterable[str]) -> dict[str, Finished]:
    """Returns the finished chunks of each source, by the prefix of its parts.

    Args:
        names: of parts, without suffix; names that aren't a part's are ignored.
    """
    found: dict[str, Finished] = {}
    chunks: dict[str, set[int]] = {}
    last: dict[str, int] = {}
    missing: Counter[tuple[str, int]] = Counter()  # pieces, by the chunk's prefix and number
    for match in filter(None, map(_PART_NAME.fullmatch, names)):
        prefix, index = match["prefix"], int(match["index"])
        if match["last"] and index == 0 and match["piece"] is None:
            found[prefix] = _ONE_CHUNK
            continue
        of_source = chunks.setdefault(prefix, set())
        if match["piece"] is None or match["end"]:
            of_source.add(index)
        if match["piece"] is not None:
            missing[prefix, index] += int(match["piece"]) if match["end"] else -1
        if match["last"]:
            last[prefix] = index
    for (prefix, index), pieces in missing.items():
        if pieces:
            chunks[prefix].discard(index)
    for prefix, of_source in chunks.items():
        one = found.get(prefix, NOTHING)
        found[prefix] = Finished(frozenset(of_source | one.chunks), last.get(prefix, one.last))
    return found


def prefix_of(name: str) -> str | None:
    """Returns the prefix of a part's name, or None if the name is not a part's."""
    match = _PART_NAME.fullmatch(name)
    return match["prefix"] if match else None


def cut_source(
    source: str,
    prefix: str,
    options: ReadOptions,
    *,
    size: int,
    limit: int | None = None,
    finished: Finished,
    state: FileState | None = None,
    whole: bool = False,
) -> list[Unit]:
    """Returns the units that hold a file's unfinished chunks.

    Plain files are read once to find where their records begin; of Parquet files, only the footer is read.

    Args:
        source: the file's path.
        prefix: what the names of its parts begin with.
        options: how it is read.
        size: records per chunk.
        limit: use only this many records, from the first on.
        finished: its finished chunks.
        state: what the file has to look like; None for anything.
        whole: True for one unit that is not cut, without opening the file; its chunks are the same.

    Raises:
        SourceFailure: it can't be read, or has changed.
    """
    if finished.whole:
        return []
    stream_unit = Unit(source, prefix, done=frozenset(finished.chunks), state=state)
    if whole or describe_other_than_file(source) is not None:  # reading it will be a reject with the reason
        return [stream_unit]
    with open_source(source, state) as opened:
        found = find_positions(opened.stream, source, options, every=size, limit=limit)
    if found is None:
        return [stream_unit]
    positions, records = found
    units = []
    for position, next_index in zip(
        positions, [*(position.record_index for position in positions[1:]), records], strict=True
    ):
        chunks = range(position.record_index // size, -(-next_index // size))
        missing = [index for index in chunks if index not in finished.chunks]
        for _, run in groupby(enumerate(missing), key=lambda item: item[1] - item[0]):  # neighbours
            indices = [index for _, index in run]
            first, end = indices[0] * size, min((indices[-1] + 1) * size, records)
            # Only Parquet has several chunks between two positions, and there a record's number is its position.
            start = position if first == position.record_index else RecordPosition(first)
            units.append(Unit(source, prefix, start=start, records=end - first, ends=end == records, state=state))
    return units


def unfinished(units: Iterable[Unit], finished: Mapping[str, Finished], *, size: int) -> list[Unit]:
    """Returns the units that are left when more chunks have been finished.

    Args:
        units: as they were.
        finished: the finished chunks of each source, by the prefix of its parts.
        size: records per chunk.
    """
    left = []
    for unit in units:
        of_source = finished.get(unit.prefix, NOTHING)
        done = frozenset(of_source.chunks)
        if not (of_source.whole if unit.records is None else done.issuperset(unit.chunks(size))):
            left.append(replace(unit, done=done))
    return left


def _read(source: SourceReader, unit: Unit, options: ReadOptions) -> Iterator[Document | Reject]:
    return source.records(options, unit.start)


def read_chunks(
    unit: Unit,
    options: ReadOptions,
    *,
    size: int,
    limit: int | None = None,
    read: Callable[[SourceReader, Unit, ReadOptions], Iterator[Document | Reject]] = _read,
) -> Iterator[Chunk]:
    """Yields the chunks of a unit that are not done, in order, piece by piece.

    Every source has a last chunk, an empty one if it has no records. A unit yields all of its chunks even if the
    content of the source is broken; those after its end are empty.

    Args:
        unit: what to read.
        options: how to read it.
        size: records per chunk.
        limit: use only this many records of the source, from the first on.
        read: yields a document or a reject for each record from the unit's start on.

    Raises:
        SourceFailure: the source can't be read, or has changed; no chunk from after the change was yielded.
    """
    if (other := describe_other_than_file(unit.source)) is not None:
        reject = Reject(shown_path(unit.source), 0, Reason.UNREADABLE_SOURCE, other)
        yield from _cut(unit, iter([reject]), size=size, limit=limit)
        return
    with open_source(unit.source, unit.state) as source:
        for chunk in _cut(unit, read(source, unit, options), size=size, limit=limit):
            source.check_unchanged()
            yield chunk


def _cut(unit: Unit, records: Iterator[Document | Reject], *, size: int, limit: int | None) -> Iterator[Chunk]:
    """Yields the chunks of a unit that are not done from its records."""
    stop = limit if unit.records is None else unit.records
    final = None if unit.records is None else (unit.start.record_index + unit.records - 1) // size
    records = islice(records, stop)
    read, broken = 0, False
    index, ahead = unit.start.record_index // size, next(records, None)
    while True:
        items: list[Document | Reject] = []
        piece = count = chars = 0
        while ahead is not None and count < size:
            if index not in unit.done:
                if items and chars + _chars(ahead) > _MOST_CHARS:
                    yield Chunk(unit, index, False, tuple(items), piece, ends=False)
                    items, piece, chars = [], piece + 1, 0
                items.append(ahead)
                chars += _chars(ahead)
            count += 1
            broken = broken or (isinstance(ahead, Reject) and ahead.reason is Reason.BROKEN_SOURCE)
            ahead = next(records, None)
        read += count
        if ahead is None and unit.records is not None and read < unit.records and not broken:
            found = f"{read} records where {unit.records} were when this command began"
            raise SourceFailure(f"{shown_path(unit.source)}: has changed: {found}")
        last = ahead is None if final is None else index == final
        if index not in unit.done:
            yield Chunk(unit, index, last and unit.ends, tuple(items), piece)
        if last:
            return
        index += 1


def _chars(item: Document | Reject) -> int:
    """Returns about how many characters an item takes in memory."""
    if isinstance(item, Reject):
        return len(item.excerpt) + len(item.message)
    texts = [*item.sentences, *(section.text for section in item.sections), *(item.highlights or ())]
    numbers = sum(map(len, item.features or ()))
    return sum(map(len, texts)) + _CHARS_PER_SENTENCE * len(texts) + _CHARS_PER_NUMBER * numbers


def ids_are_shared(shared: int, documents: int) -> bool:
    """Returns True if ids don't identify documents: more than a tenth of them, and ten at least, share theirs."""
    return shared >= 10 and shared * 10 > documents


def position_id(document: Document) -> str:
    """Returns the id of a document whose own id doesn't identify it: source and position."""
    return f"{document.source}#{document.record_index}"


def hash_share(key: str) -> float:
    """Returns a number in [0, 1) that depends only on the key."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / _HASHES
