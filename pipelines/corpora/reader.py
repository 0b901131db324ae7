"""Corpora in, documents out: one parser a source format. No Beam and no TensorFlow here.

`read_records` is the whole of it: for every record of a source it yields either a document or the reason why there is
none, in file order, so that records in = documents + rejects, always.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from itertools import accumulate, islice
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from zstandard import ZstdError

from model.records import Document, Reason, Reject
from pipelines.corpora.checks import Problem, RawRecord, check_record
from pipelines.corpora.formats import FORMATS, SourceFormat
from pipelines.corpora.jsonl import jsonl_positions, read_jsonl
from pipelines.corpora.labels import LabelMap
from pipelines.corpora.lines import START, RecordPosition
from pipelines.corpora.medline import read_medline
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.pubmed_rct import read_pubmed_rct
from pipelines.corpora.tables import csv_positions, parquet_groups, read_csv, read_parquet, read_tsv, tsv_positions

__all__ = [
    "FORMATS",
    "START",
    "LabelMap",
    "ReadOptions",
    "RecordPosition",
    "detect_format",
    "find_positions",
    "read_records",
]

_COMPRESSION_SUFFIXES = {".gz", ".bz2", ".zst"}
_SUFFIX_FORMATS: dict[str, SourceFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".xml": "medline",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_STREAM_PARSERS: dict[str, Callable[[io.BufferedReader, ReadOptions], Iterator[RawRecord | Problem]]] = {
    "medline": read_medline,
    "pubmed_rct": read_pubmed_rct,
}
_RANGE_PARSERS: dict[str, Callable[[io.BufferedReader, ReadOptions, RecordPosition], Iterator[RawRecord | Problem]]] = {
    "jsonl": read_jsonl,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
}
_POSITIONS: dict[str, Callable[[io.BufferedReader, ReadOptions], Iterator[RecordPosition]]] = {
    "jsonl": jsonl_positions,
    "csv": csv_positions,
    "tsv": tsv_positions,
}


def detect_format(path: str, head: bytes) -> SourceFormat | None:
    """Returns which of `FORMATS` a source has, by its suffix or else by its first bytes; None if neither tells.

    Args:
        path: the source's name; suffixes of compression are passed over.
        head: the first bytes of the source, decompressed.
    """
    suffixes = [suffix.lower() for suffix in PurePosixPath(path).suffixes]
    while suffixes and suffixes[-1] in _COMPRESSION_SUFFIXES:
        suffixes.pop()
    if suffixes and suffixes[-1] in _SUFFIX_FORMATS:
        return _SUFFIX_FORMATS[suffixes[-1]]
    if head.startswith(b"PAR1"):
        return "parquet"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"{"):
        return "jsonl"
    if start.startswith(b"###"):
        return "pubmed_rct"
    if start.startswith(b"<") and (b"<PubmedArticle" in start or b"<PubmedBookArticle" in start):
        return "medline"
    return None


def read_records(
    stream: BinaryIO, source: str, options: ReadOptions, start: RecordPosition = START
) -> Iterator[Document | Reject]:
    """Yields one document or reject for every record of a source from `start` on, numbered in file order.

    Nothing in the content raises. Where the source breaks off, the records before the break are followed by one
    reject at the position where the next record would have been.

    Args:
        stream: the content, decompressed. Read forwards only, but Parquet needs it seekable. It stays open.
        source: the name that documents and rejects carry.
        options: what to read and where to stop.
        start: where to begin: the beginning, or a position that `find_positions` found.
    """
    record_index = start.record_index
    try:
        for item in _read_items(stream, source, options, start):
            if isinstance(item, Problem):
                yield Reject(source, record_index, item.reason, item.message, item.doc_id, item.beginning)
            else:
                yield check_record(item, source, record_index, options=options)
            record_index += 1
    except (EOFError, OSError, zlib.error, ZstdError) as error:
        message = f"reading broke off after {record_index} records: {error or type(error).__name__}"
        yield Reject(source, record_index, Reason.BROKEN_SOURCE, message)


def find_positions(
    stream: io.BufferedReader, source: str, options: ReadOptions, *, every: int, limit: int | None = None
) -> tuple[list[RecordPosition], int] | None:
    """Returns positions from which parts of a source can be read by themselves, and how many records it has in all.

    None where it can only be read from its beginning: it is compressed, of a format without such positions, has no
    records, or can't be read.

    Args:
        stream: the content, at its beginning.
        source, options: as `read_records` takes them.
        every: records from one position to the next. In Parquet, positions lie near the beginnings of row groups, at
            multiples of this.
        limit: how many records at most are counted, all when None.

    Raises:
        OSError: reading failed.
    """
    format = options.format or detect_format(source, stream.peek())
    if format is None or not stream.seekable():
        return None
    if format == "parquet":
        groups = parquet_groups(stream)
        records = min(sum(groups), limit or sum(groups))
        starts = {-(-end // every) * every for end in (0, *accumulate(groups))}
        return ([RecordPosition(index) for index in sorted(starts) if index < records], records) if records else None
    if format not in _POSITIONS:
        return None
    positions, records = [], 0
    for position in islice(_POSITIONS[format](stream, options), limit):
        if position.record_index % every == 0:
            positions.append(position)
        records += 1
    return (positions, records) if records else None


def _read_items(
    stream: BinaryIO, source: str, options: ReadOptions, start: RecordPosition
) -> Iterator[RawRecord | Problem]:
    buffered = stream if hasattr(stream, "peek") else io.BufferedReader(cast(io.RawIOBase, stream))
    try:
        reader = cast(io.BufferedReader, buffered)
        head = reader.peek()
        format = options.format or detect_format(source, head)
        if not head:
            yield Problem(Reason.UNREADABLE_SOURCE, "the file is empty")
        elif format is None:
            message = f"neither the file's name nor its content tells the format; name one of {', '.join(FORMATS)}"
            yield Problem(Reason.UNREADABLE_SOURCE, message)
        elif format in _RANGE_PARSERS:
            yield from _RANGE_PARSERS[format](reader, options, start)
        else:
            yield from _STREAM_PARSERS[format](reader, options)
    finally:
        if buffered is not stream:
            cast(io.BufferedReader, buffered).detach()  # else it would close the caller's stream
